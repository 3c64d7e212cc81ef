"""C++ cleans and tokenizes as the Python runtime does, or says that it does not."""

import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from bundles import edit_manifest, rehash
from cpp import built, run
from tokenizers import Tokenizer

from ovml_deploy import assets
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.prompt_tokenizer import PromptTokenizer
from ovml_deploy.templates import QKS_TEMPLATES, fill

_PLAIN = (
    *(
        "cat",
        "Hard Hat",
        "traffic light, 3-way",
        "hunter's cap",
        "don't walk sign",
        "x-ray (medical)",
    ),
    *("C++", "rock & roll", "AT&T", "R&B, M&M's", "under_score", "2024", "1,000,000", "a" * 200),
    *("many words " * 60, "  outer  space  ", "I'LL we've they're I'm he'd", "'s 't", "~!@#$%^*()"),
    *(
        "caf\u00e9",
        "\u0441\u043e\u0431\u0430\u043a\u0430",
        "\u732b\u3068\u72ac",
        "na\u00efve \u00df",
    ),
    *(
        "\u03a3\u039f\u03a6\u039f\u03a3",
        "\u00c9vian",
        "\ud55c\uad6d\uc5b4",
        "\u0e2a\u0e27\u0e31\u0e2a",
    ),
    *("<start_of_text> x <end_of_text>", "[CLS] [MASK]x[SEP]", "<end_of_text", "a<start_of_text>b"),
    *("YOU'RE IT'S He'D i'LL", "<START_OF_TEXT> <End_Of_Text>"),
)

_REFUSED = (
    *("AT&amp;T  logo", "&lt;b&gt;", "fish &chips;", "&#39;", "it\u2019s", "\U0001f600 face"),
    *("\ufb01sh tank", "cafe\u0301", "\uff21\uff22", "sch\u00c3\u00b6n", "1\u00bd", "a\u00a0b"),
)


@pytest.fixture(scope="module")
def tool() -> Path:
    return built() / "tests" / "tokens"


def in_cpp(tool: Path, bundle: Path, texts: list[str]) -> list[list[int] | str]:
    done = run(tool, bundle, stdin="\n".join(texts).encode() + b"\n")
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    return [line if line.startswith("error") else [*map(int, line.split())] for line in lines]


def in_python(bundle: Path, texts: list[str]) -> list[list[int]]:
    opened = Bundle.open(bundle)
    return PromptTokenizer(Tokenizer.from_file(str(bundle / "tokenizer.json")), opened.text)(texts)


@pytest.fixture(scope="module", params=["mini", "clip", "clip that keeps case", "older clip"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "mini":
        return assets.MINI
    tiny = request.getfixturevalue("tiny_bundle")
    if request.param == "clip":
        return tiny
    folder = Path(shutil.copytree(tiny, tmp_path_factory.mktemp("bundles") / "bundle"))
    edit_manifest(folder, lambda manifest: manifest["text"].update(clean="whitespace"))
    if request.param == "older clip":  # words were split with their case, which open_clip ignores
        path = folder / "tokenizer.json"
        before = path.read_text().replace("(?i:", "").replace("'d)|[", "'d|[")
        assert before != path.read_text()
        path.write_text(before)
        rehash(folder, "tokenizer.json")
    return folder


def made_up(count: int) -> list[str]:
    """Texts of random words and characters of many scripts."""
    random = np.random.default_rng(11)
    letters = [chr(c) for c in range(0x20, 0x7F) if chr(c) != "&"]
    far = [
        chr(c)
        for c in range(0xA0, 0x3000)
        if unicodedata.category(chr(c)) in ("Lu", "Ll", "Lo", "Mn", "Mc")
    ]
    far += [chr(c) for c in range(0x4E00, 0x9FA5, 97)] + [chr(c) for c in range(0xAC00, 0xD7A3, 53)]
    texts = []
    for i in range(count):
        alphabet = letters if i % 2 else far
        words = [
            "".join(random.choice(alphabet, random.integers(1, 9)))
            for _ in range(random.integers(1, 6))
        ]
        texts.append(" ".join(words))
    return texts


def test_ids_are_the_same(tool: Path, bundle: Path) -> None:
    texts = [
        *_PLAIN,
        *(fill(t, label) for t in QKS_TEMPLATES for label in ("Traffic Light", "dog's 2")),
    ]
    found = in_cpp(tool, bundle, texts)
    for text, ours, python in zip(texts, found, in_python(bundle, texts), strict=True):
        assert ours == python, text


def test_made_up_texts_get_the_same_ids_or_are_refused(tool: Path, bundle: Path) -> None:
    texts = made_up(3000)
    read = {"ascii": 0, "far": 0}
    found = in_cpp(tool, bundle, texts)
    for text, ours, python in zip(texts, found, in_python(bundle, texts), strict=True):
        if not isinstance(ours, str):
            read["ascii" if text.isascii() else "far"] += 1
            assert ours == python, [hex(ord(c)) for c in text]
    assert read["ascii"] == 1500
    assert read["far"] > 100  # words of several scripts are refused more often than real ones


def test_every_letter_gets_the_same_ids_or_is_refused(tool: Path, bundle: Path) -> None:
    texts = [f"a{chr(c)}b" for c in range(0xA0, 0x30000) if not 0x3500 < c < 0x9F00 or c % 50 == 0]
    texts = [text for text in texts if unicodedata.category(text[1])[0] in "LM"]
    found = in_cpp(tool, bundle, texts)
    assert sum(not isinstance(ours, str) for ours in found) > 0.5 * len(texts)
    for text, ours, python in zip(texts, found, in_python(bundle, texts), strict=True):
        assert isinstance(ours, str) or ours == python, hex(ord(text[1]))


def test_what_only_python_cleans_is_refused(tool: Path, bundle: Path) -> None:
    for text, found in zip(_REFUSED, in_cpp(tool, bundle, [*_REFUSED]), strict=True):
        assert isinstance(found, str), text
        assert "vocab build" in found
    assert "UTF-8" in run(tool, bundle, stdin=b"caf\xe9\n").stdout.decode()


def test_every_word_of_the_embedded_vocabulary(tool: Path) -> None:
    from ovml_deploy.runtime.vocabulary import load_named

    labels = [*load_named(Bundle.open(assets.MINI), "words").labels]
    assert len(labels) > 1000
    assert in_cpp(tool, assets.MINI, labels) == in_python(assets.MINI, labels)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t["model"].update(type="Unigram"), "Unigram"),
        (lambda t: t["normalizer"].update(type="Precompiled"), "Precompiled"),
        (lambda t: t["pre_tokenizer"].update(type="Metaspace"), "Metaspace"),
        (lambda t: t["post_processor"].update(type="RobertaProcessing"), "RobertaProcessing"),
        (lambda t: t["added_tokens"][0].update(lstrip=True), "lstrip"),
    ],
)
def test_an_unknown_tokenizer_is_named(tool: Path, tmp_path: Path, change, named: str) -> None:
    folder = shutil.copytree(assets.MINI, tmp_path / "bundle")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    change(tokenizer)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    rehash(folder, "tokenizer.json")
    done = run(tool, folder, stdin=b"cat\n")
    assert done.returncode != 0
    assert named in done.stderr.decode()


def test_cleaning_in_every_way(tool: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    for clean in ("lower", "whitespace", "canonicalize"):
        edit_manifest(folder, lambda manifest, clean=clean: manifest["text"].update(clean=clean))
        texts = [*_PLAIN]
        assert in_cpp(tool, folder, texts) == in_python(folder, texts), clean
