"""The exported tokenizer gives open_clip's ids, for thousands of texts of every kind."""

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from export.tokenizer import check_tokenizer, export_tokenizer, text_settings
from ovml_deploy.errors import ExportError
from ovml_deploy.models.backbone import Backbone
from ovml_deploy.runtime.prompt_tokenizer import PromptTokenizer
from ovml_deploy.templates import QKS_TEMPLATES, fill

ODD = (
    "",
    " ",
    "\u00a0\u2003 spaces \t of\nmany kinds ",
    "!!! ... ?! -- '' \"quoted\" (x) [y] {z} <b>bold</b> a/b a\\b #1 @home 100% $5 ^ ~ `",
    "don't I'm we'll they've she'd it's o'clock rock'n'roll 'tis",
    "&amp; &amp;amp; &lt;b&gt; &nbsp; &#233; AT&T",
    "caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m \ufb01sh \u00bd x\u00b2 \u2122",
    "\u732b\u3068\u72ac \ud55c\uad6d\uc5b4 \u0421\u043e\u0431\u0430\u043a\u0430 \u05db\u05dc\u05d1",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 family \U0001f1e9\U0001f1ea",
    "\u0130stanbul STRASSE stra\u00dfe \u03a3\u03a3 \u01c5",
    "zero\u200bwidth soft\u00adhyphen \ufeffbom",
    "schÃ¶n (twice encoded)",
    "\x00\x07\x1b[31mred\x7f",
    "word " * 100,
    "x" * 300,
    "1 22 333 4444 3.14 1e9 ½ ٣ Ⅷ",
    "a <start_of_text> b <end_of_text>",
    "HUNTER'S CAP, YOU'RE I'LL he\u2019D it'\u017f <START_OF_TEXT> <End_Of_Text>",
)


def plain_ids(backbone: Backbone, ours: PromptTokenizer, texts: list[str]) -> None:
    """Compare padded ids with open_clip's own, all texts at once."""
    if not texts:
        return
    expected = backbone.tokenizer(texts).numpy()
    found = np.full_like(expected, text_settings(backbone).pad_id)
    for row, ids in zip(found, ours(texts), strict=True):
        row[: len(ids)] = ids
    wrong = np.flatnonzero((found != expected).any(axis=1))
    assert not len(wrong), [texts[i] for i in wrong[:5]]


def config_with(cleaning: str) -> dict[str, Any]:
    text = {"width": 32, "heads": 1, "layers": 1, "tokenizer_kwargs": {"clean": cleaning}}
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 32, "layers": 1}
    return {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}


Case = tuple[Backbone, PromptTokenizer]


@pytest.fixture(scope="module", params=["lower", "whitespace", "canonicalize", "wordpiece"])
def case(request, make_backbone: Callable, tmp_path_factory) -> Case:
    """CLIP's byte pairs with each kind of cleaning, and BERT's WordPiece."""
    if request.param == "wordpiece":
        spec = request.getfixturevalue("tiny_hf")
    else:
        spec = make_backbone(f"tiny-{request.param}", config_with(request.param))
    backbone = Backbone.load(spec)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    export_tokenizer(backbone, path)
    return backbone, PromptTokenizer(Tokenizer.from_file(str(path)), text_settings(backbone))


def test_the_whole_vocabulary_as_words(case: Case) -> None:
    """Every piece of CLIP's 49,408 as a word of its own, and in a prompt."""
    backbone, ours = case
    words = [w.removesuffix("</w>") for w in getattr(backbone.tokenizer, "encoder", WORDPIECES)]
    words = [word for word in words if not word.startswith("<")]
    sample = words[:: max(1, len(words) // 8000)]
    plain_ids(backbone, ours, sample)
    plain_ids(
        backbone, ours, [f"A photo of the {a}{b}." for a, b in zip(sample, words[1:], strict=False)]
    )


WORDPIECES = ("cat", "dogs", "redder", "car bench", "unknown", "a photo of the cat .", "CAT")


def test_prompts_and_odd_texts(case: Case) -> None:
    backbone, ours = case
    labels = ("traffic light", "Hunter's cap", "jack-o'-lantern", "T-shirt", "{} braces")
    plain_ids(backbone, ours, [fill(t, label) for t in QKS_TEMPLATES for label in labels])
    plain_ids(backbone, ours, list(ODD))


def is_plain(text: str) -> bool:
    """Neither a letter so new that only open_clip's `regex` knows it, nor U+0345, which that
    takes for a letter where case is ignored."""
    return not any(unicodedata.category(c) == "Cn" or c == "\u0345" for c in text)


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=120))
def test_any_text(case: Case, text: str) -> None:
    backbone, ours = case
    texts = [text, f"a photo of a {text}.", text.upper()]
    plain_ids(backbone, ours, [t for t in texts if is_plain(backbone.tokenizer.clean_fn(t))])


def test_a_wrong_tokenizer_is_found(tiny_clip, tmp_path: Path) -> None:
    backbone = Backbone.load(tiny_clip)
    path = tmp_path / "tokenizer.json"
    export_tokenizer(backbone, path)
    text = path.read_text("utf-8")
    assert text.count('"invert": true') == 1
    path.write_text(text.replace('"invert": true', '"invert": false'), "utf-8")
    with pytest.raises(ExportError, match="reads 'hunter cap' as"):
        check_tokenizer(backbone, path, ["hunter cap"])


def _clean_unknown(text: str) -> str:
    return text


@pytest.mark.parametrize(
    ("name", "attribute", "value", "message"),
    [
        ("tiny_clip", "clean_fn", _clean_unknown, "cleans text with"),
        ("tiny_hf", "strip_sep_token", True, "strip_sep_token"),
        ("tiny_hf", "tokenizer", object(), "object has no fast version"),
    ],
)
def test_what_cannot_be_carried_over_is_refused(
    request, tmp_path, name: str, attribute: str, value: object, message: str
) -> None:
    backbone = Backbone.load(request.getfixturevalue(name))
    setattr(backbone.tokenizer, attribute, value)
    with pytest.raises(ExportError, match=message):
        export_tokenizer(backbone, tmp_path / "tokenizer.json")


def test_an_unknown_tokenizer_is_refused(tiny_clip, tmp_path: Path) -> None:
    backbone = Backbone.load(tiny_clip)
    backbone.tokenizer = object()
    with pytest.raises(ExportError, match="object is not supported"):
        export_tokenizer(backbone, tmp_path / "tokenizer.json")
