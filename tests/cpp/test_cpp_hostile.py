"""Damaged and hostile bundles get an exit code and a message, never a crash: also under ASan and UBSan."""

import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import change_arrays, edit_manifest, rehash
from cpp import SOURCES, built, run

from ovml_deploy import assets

SANITIZED = ("tag_image", "pixels", "tokens", "fuzz_safetensors", "fuzz_bundle", "fuzz_image")
ESCAPES = ("../outside", "/etc/passwd", "vocabularies/../../outside", "a\0b", "x" * 5000)


@pytest.fixture(scope="module", params=["test", "asan"])
def tool(request: pytest.FixtureRequest) -> Path:
    if request.param == "test":
        return built() / "tag_image"
    return built("asan", *SANITIZED) / "tag_image"


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def refused(tool: Path, bundle: Path, says: str, *options: str) -> None:
    """Assert exit code 1, one line of explanation, and no word of a sanitizer."""
    image = assets.sample_photographs()[0]
    done = run(tool, "--bundle", bundle, *options, image)
    text = done.stderr.decode("utf-8", "replace")
    assert done.returncode == 1, (done.returncode, text[-3000:])
    assert "error: " in text, text  # after what OpenVINO's own readers may have said
    assert says in text, text
    assert done.stdout == b""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "no JSON object"),
        (b"{}", "does not describe a bundle"),
        (b"[" * 100_000, "levels deep"),
        (b'{"a":' * 50_000, "levels deep"),
        (b'{"format": "ovml-deploy/bundle", "version": 2}', "another version"),
        (b'{"format": "ovml-deploy/bundle", "version": 1}', "'files'"),
        (b" " * (17 << 20), "at most 16777216"),
    ],
)
def test_a_damaged_manifest(tool: Path, bundle: Path, content: bytes, says: str) -> None:
    (bundle / "bundle.json").write_bytes(content)
    refused(tool, bundle, says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m["dims"].update(embedding=10**15), "'embedding' is 1000000000000000"),
        (lambda m: m["dims"].update(embedding=-1), "'embedding' is -1"),
        (lambda m: m["dims"].update(embedding=2**64 - 1), "'embedding'"),
        (lambda m: m["dims"].update(embedding=1e400), "JSON"),
        (lambda m: m["dims"].update(features="12"), "'features'"),
        (lambda m: m["dims"].update(label=7), "another width"),
        (lambda m: m["preprocessing"].update(size=[10**9, 10**9]), "size"),
        (lambda m: m["preprocessing"].update(size=[0, 0]), "size"),
        (lambda m: m["preprocessing"].update(resize_mode="fold"), "fold"),
        (lambda m: m["text"].update(context_length=2**40), "context_length"),
        (lambda m: m["text"].update(clean="bleach"), "bleach"),
        (lambda m: m["head"].update(activation="tanh"), "tanh"),
        (lambda m: m.update(templates=[]), "templates"),
        (lambda m: m.update(templates=["{} {}"]), "template"),
        (lambda m: m.update(precision="fp1"), "fp1"),
        (lambda m: m["files"].pop("matcher.onnx"), "matcher.onnx"),
        (lambda m: m["files"]["matcher.onnx"].pop("sha256"), "sha256"),
        (lambda m: m["files"]["matcher.onnx"].update(bytes=-5), "bytes"),
        (lambda m: m.update(learned_tokens={"first_id": 1}), "'lead'"),
        (lambda m: m.update(default_vocabulary="../../x"), "no vocabulary '../../x'"),
        (lambda m: m.update(default_vocabulary=7), "default_vocabulary"),
    ],
)
def test_nonsense_in_the_manifest(tool: Path, bundle: Path, change: Callable, says: str) -> None:
    edit_manifest(bundle, change)
    refused(tool, bundle, says)


@pytest.mark.parametrize("name", ESCAPES)
def test_no_path_leaves_the_bundle(tool: Path, bundle: Path, name: str) -> None:
    (bundle.parent / "outside").write_text("secret")
    entry = {"sha256": "0" * 64, "bytes": 6}
    edit_manifest(bundle, lambda manifest: manifest["files"].update({name: entry}))
    refused(tool, bundle, "lies outside it")


def test_no_link_leaves_the_bundle(tool: Path, bundle: Path) -> None:
    shutil.copy(bundle / "encoder.onnx", bundle.parent / "outside.onnx")
    (bundle / "encoder.onnx").unlink()
    (bundle / "encoder.onnx").symlink_to(bundle.parent / "outside.onnx")
    refused(tool, bundle, "lies outside it")
    (bundle / "encoder.onnx").unlink()
    (bundle / "encoder.onnx").symlink_to(bundle / "encoder.onnx")
    refused(tool, bundle, "encoder.onnx")


@pytest.mark.parametrize("name", ["encoder.onnx", "matcher.onnx", "golden.safetensors"])
def test_a_changed_or_absent_file(tool: Path, device: str, bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    on = ("--device", device)
    (bundle / name).write_bytes(content)
    refused(tool, bundle, f"{name} was changed after export", *on)
    (bundle / name).write_bytes(content[:-1])
    refused(tool, bundle, f"{name} was changed after export", *on)
    (bundle / name).unlink()
    refused(tool, bundle, f"{name} is missing", *on)


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype: str, shape: list[int], *offsets: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [*offsets]}


MALFORMED = [
    b"",
    b"1234567",
    struct.pack("<Q", 2**63) + b"{}",
    struct.pack("<Q", 100) + b"{}",
    safetensors("{"),
    safetensors("[" * 10_000),
    safetensors([]),
    safetensors({"a": tensor("F32", [2**40, 2**40], 0, 4)}, b"1234"),
    safetensors({"a": tensor("F32", [2**62], 0, 2**64 - 1)}, b"1234"),
    safetensors({"a": tensor("F32", [1], 4, 0)}, b"1234"),
    safetensors({"a": tensor("F32", [1], -4, 0)}, b"1234"),
    safetensors({"a": tensor("F32", [2], 0, 8)}, b"1234"),
    safetensors({"a": tensor("F32", [1], 0, 4)}, b"12345678"),
    safetensors({"a": tensor("X9", [1], 0, 4)}, b"1234"),
    safetensors({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 2, 6)}, b"123456"),
    safetensors({"a": 7}),
    safetensors({"__metadata__": {"format": 7}}),
    safetensors({"__metadata__": {"format": "ovml-deploy/vocabulary"}}),
]


@pytest.mark.parametrize("content", MALFORMED)
def test_a_malformed_vocabulary(bundle: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "words.safetensors").write_bytes(content)
    path = str(tmp_path / "words.safetensors")
    refused(built() / "tag_image", bundle, "words.safetensors", "--vocab", path)


def test_malformed_vocabularies_under_the_sanitizers(tmp_path: Path) -> None:
    for number, content in enumerate(MALFORMED):
        (tmp_path / str(number)).write_bytes(content)
    reader = built("asan", *SANITIZED) / "fuzz" / "fuzz_safetensors"
    done = run(reader, tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == f"{len(MALFORMED)} inputs\n"


def test_a_vocabulary_that_was_changed_or_cut(tool: Path, bundle: Path) -> None:
    path = bundle / "vocabularies" / "others.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(tool, bundle, "readable safetensors", "--vocab", "others")
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(tool, bundle, "was changed", "--vocab", "others")


def test_one_of_another_model(tool: Path, bundle: Path) -> None:
    words = assets.MINI / "vocabularies" / "words.safetensors"
    refused(tool, bundle, "another text encoder", "--vocab", str(words))


def test_a_graph_that_is_none(tool: Path, device: str, bundle: Path) -> None:
    (bundle / "matcher.onnx").write_bytes(b"no graph")
    rehash(bundle, "matcher.onnx")
    engine = {"openvino": "OpenVINO", "cpu": "ONNX Runtime"}[device]
    refused(tool, bundle, f"{engine} cannot load", "--device", device)


def test_a_device_that_gives_other_answers(tool: Path, device: str, bundle: Path) -> None:
    """The golden features are another image's."""

    def swap(arrays: dict) -> None:
        arrays["features"] = arrays["features"][::-1]

    change_arrays(bundle, "golden.safetensors", swap)
    refused(tool, bundle, "does not reproduce PyTorch", "--device", device)


def test_bad_images_are_bad_items(tool: Path, device: str, bundle: Path, tmp_path: Path) -> None:
    good = assets.sample_photographs()[0]
    names = ("a.jpg", "b.png", "c.jpg")
    for name, content in zip(
        names, (b"", b"\x89PNG\r\n\x1a\n", good.read_bytes()[:5000]), strict=True
    ):
        (tmp_path / name).write_bytes(content)
    damaged = (tmp_path / name for name in names)
    done = run(tool, "--bundle", bundle, "--device", device, *damaged, good, tmp_path)
    assert done.returncode == 3, done.stderr.decode()
    assert len(done.stderr.splitlines()) == 4
    assert all(line.startswith(b"failed: ") for line in done.stderr.splitlines())
    assert str(good).encode() in done.stdout


def test_the_corpus_under_the_sanitizers() -> None:
    folder = built("asan", *SANITIZED)
    for kind in ("safetensors", "bundle", "image"):
        done = run(folder / "fuzz" / f"fuzz_{kind}", SOURCES / "fuzz" / "corpus" / kind)
        assert done.returncode == 0, done.stderr.decode()


def test_tools_of_the_readers_under_the_sanitizers(tmp_path: Path) -> None:
    folder = built("asan", *SANITIZED)
    images = assets.sample_photographs()
    done = run(folder / "tests" / "pixels", assets.MINI / "bundle.json", *images)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.count(b"ok ") >= len(images)
    done = run(folder / "tests" / "tokens", assets.MINI, stdin="cat\ncaf\u00e9\n&amp;\n".encode())
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.splitlines()[0] == b"101 4937 102 "


def test_the_style_is_clang_format_s() -> None:
    if not shutil.which("clang-format"):
        pytest.skip("the style is not checked without Debian's clang-format")
    files = [path for end in ("cpp", "h", "c") for path in SOURCES.rglob(f"*.{end}")]
    done = subprocess.run(
        ["clang-format", "--dry-run", "--Werror", *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
