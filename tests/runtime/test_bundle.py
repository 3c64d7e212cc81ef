import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from ovml_deploy import assets
from ovml_deploy.errors import BundleError, OvmlError
from ovml_deploy.files import sha256_file
from ovml_deploy.runtime.backends import create_backend
from ovml_deploy.runtime.bundle import (
    ENCODER,
    GOLDEN,
    MATCHER,
    TEXT_ENCODER,
    TOKENIZER,
    TUNED,
    Bundle,
)
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.verify import verify

FILES = [ENCODER, MATCHER, TEXT_ENCODER, TOKENIZER, GOLDEN]


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "bundle.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["", *FILES, "bundle.json", "vocabularies/few.safetensors"])
def test_a_bundle_is_named_by_its_folder_or_a_file(tiny_bundle: Path, name: str) -> None:
    engine = tiny_bundle / name
    folder = tiny_bundle if "/" not in name else None
    if folder:
        assert Bundle.open(engine).path == tiny_bundle.resolve()
        assert Bundle.open(str(engine)).head == "qks"
    else:
        with pytest.raises(BundleError, match="not a bundle"):
            Bundle.open(engine)


def test_what_it_knows(tiny_bundle: Path, tiny_model) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert (bundle.embed_dim, bundle.features_per_image) == (32, 3)
    assert (bundle.activation, bundle.normalises_labels) == ("sigmoid", False)
    assert bundle.templates == tiny_model.templates
    assert bundle.preprocessing == tiny_model.backbone.preprocessing
    assert bundle.text.context_length == 77
    assert bundle.attention_grid == tiny_model.attention_grid == (4, 4)
    assert bundle.default_vocabulary == "few"
    with pytest.raises(BundleError, match=r"lists no file 'qks\.plan'"):
        bundle.file("qks.plan")


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_found(bundle_copy: Path, name: str) -> None:
    path = bundle_copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} was changed after export: its SHA-256"):
        verify(bundle_copy)


def test_a_changed_vocabulary_is_found(bundle_copy: Path) -> None:
    path = bundle_copy / "vocabularies/few.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(OvmlError, match=r"few\.safetensors' was changed after it was written"):
        Tagger.load(bundle_copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(bundle_copy: Path, name: str) -> None:
    (bundle_copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing. Copy the whole bundle folder"):
        verify(bundle_copy)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", "link/x"])
def test_a_path_that_climbs_out_is_refused(bundle_copy: Path, name: str) -> None:
    (bundle_copy.parent / "secret").write_text("s")
    (bundle_copy / "link").symlink_to(bundle_copy.parent)
    edit(bundle_copy, lambda m: m["files"].update({name: {"sha256": "", "bytes": 1}}))
    with pytest.raises(BundleError, match=r"lies outside it\. Do not use this bundle"):
        Bundle.open(bundle_copy)


@pytest.mark.parametrize("name", [ENCODER, "vocabularies/few.safetensors"])
def test_a_link_that_leads_out_is_refused(bundle_copy: Path, name: str) -> None:
    outside = shutil.move(bundle_copy / name, bundle_copy.parent / "outside")
    (bundle_copy / name).symlink_to(outside)
    with pytest.raises(BundleError, match="lies outside it"):
        Tagger.load(bundle_copy)


@pytest.mark.parametrize("location", ["../weights.bin", "ABSOLUTE"])
def test_weights_outside_the_bundle_are_refused(bundle_copy: Path, location: str) -> None:
    """ONNX can name a file for its weights; it may not lie outside the bundle."""
    weights = bundle_copy.parent / "weights.bin"
    weights.write_bytes(bytes(4 * 32))
    tensor = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[32], data_location=TensorProto.EXTERNAL
    )
    name = str(weights) if location == "ABSOLUTE" else location
    tensor.external_data.add(key="location", value=name)
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [32]) for n in "xy"]
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", info[:1], info[1:], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = bundle_copy / ENCODER
    path.write_bytes(model.SerializeToString())
    listed = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    edit(bundle_copy, lambda m: m["files"].update({ENCODER: listed}))
    with pytest.raises(BundleError, match="ONNX Runtime cannot load"):
        Tagger.load(bundle_copy)


def test_a_file_that_is_no_graph_is_refused(bundle_copy: Path) -> None:
    graph = bundle_copy / "encoder.onnx"
    graph.write_bytes(b"<html>not found</html>")
    manifest = json.loads((bundle_copy / "bundle.json").read_text())
    manifest["files"]["encoder.onnx"]["sha256"] = sha256_file(graph)
    (bundle_copy / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="ONNX Runtime cannot load"):
        create_backend("cpu").load(Bundle.open(bundle_copy), "encoder.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("\udc80", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ("[]", "does not describe a bundle of this project"),
        ('{"format": "something"}', "does not describe"),
    ],
)
def test_a_broken_manifest_is_named(bundle_copy: Path, content: str, message: str) -> None:
    (bundle_copy / "bundle.json").write_text(content, "utf-8", errors="surrogateescape")
    with pytest.raises(BundleError, match=f"bundle.json {message}"):
        Bundle.open(bundle_copy)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    for engine in (tmp_path, tmp_path / "absent", "qks.plan"):
        with pytest.raises(BundleError, match=r"is not a bundle: there is no bundle\.json.*export"):
            Bundle.open(engine)


@pytest.mark.parametrize(
    "key",
    [
        "head",
        "preprocessing",
        "dims",
        "text",
        "templates",
        "files",
        "head/kind",
        "head/activation",
        "head/normalises_labels",
        "preprocessing/size",
        "dims/embedding",
        "dims/features",
        "text/clean",
        f"files/{GOLDEN}",
        f"files/{ENCODER}/sha256",
        f"files/{ENCODER}/bytes",
    ],
)
def test_a_missing_key_is_named(bundle_copy: Path, key: str) -> None:
    *parents, last = key.split("/")

    def remove(manifest: dict[str, Any]) -> None:
        for parent in parents:
            manifest = manifest[parent]
        del manifest[last]

    edit(bundle_copy, remove)
    with pytest.raises(BundleError, match=last):
        Bundle.open(bundle_copy)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "has bundle version 2; this release reads version 1"),
        ("files", ["encoder.onnx"], "incomplete"),
        ("files", {"encoder.onnx": "abc"}, "incomplete"),
        ("templates", "a {}", "no list of templates"),
        ("templates", [], "no list of templates"),
        ("templates", ["a photo"], "template 'a photo'"),
        ("dims", {"embedding": 0, "features": 1}, "dimension below 1"),
        ("dims", {"embedding": "x", "features": 1}, "incomplete"),
        ("attention_grid", [4, 0], r"an attention grid of \(4, 0\)"),
        ("attention_grid", [4, "4"], "an attention grid of"),
        ("attention_grid", [4, 4, 4], "incomplete"),
        ("attention_grid", 16, "incomplete"),
        ("head", {"kind": "qks", "activation": "relu", "normalises_labels": True}, "'relu'"),
        ("preprocessing", {"size": [1, 2, 3]}, "incomplete"),
        (
            "text",
            {
                "context_length": "77",
                "any_length": True,
                "needs_mask": False,
                "pad_id": 0,
                "clean": "lower",
            },
            "context_length = '77'",
        ),
    ],
)
def test_a_wrong_value_is_named(bundle_copy: Path, key: str, value: object, message: str) -> None:
    edit(bundle_copy, lambda m: m.update({key: value}))
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle_copy)


WRONG_TOKENS: list[tuple[dict[str, object], str]] = [
    ({"first_id": 0}, "learned tokens from id 0"),
    ({"first_id": "49408"}, "from id '49408'"),
    ({"first_id": 2**70}, "from id 118"),
    ({"first_id": True}, "from id True"),
    ({"lead": -1}, "lead = -1"),
    ({"lead": 77}, "learned tokens"),
    ({"shared": 10**12}, "learned tokens"),
    ({"shared": 1.0}, r"shared = 1\.0"),
    ({"grouped": None}, "grouped = None"),
    ({"groups": ["a", "a"]}, "groups of labels: .*repeats"),
    ({"groups": ["a", ""]}, "groups of labels: .*empty"),
    ({"groups": ["a", 5]}, "groups of labels: .*5, a int"),
    ({"groups": ["a", " b"]}, "outer space"),
    ({"groups": "ab"}, "without a list of groups"),
    ({"surplus": 1}, "surplus"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_TOKENS)
def test_wrong_learned_tokens_are_named(tuned_copy: Path, change, message: str) -> None:
    edit(tuned_copy, lambda m: m["learned_tokens"].update(change))
    with pytest.raises(BundleError, match=f"is incomplete .*{message}"):
        Bundle.open(tuned_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["learned_tokens"].pop("lead"), "lead"),
        (lambda m: m.update(learned_tokens=[1]), "incomplete"),
        (lambda m: m.pop("learned_tokens"), "labels of 64 dimensions"),
        (lambda m: m["dims"].pop("label"), "labels of 32 dimensions"),
        (lambda m: m["dims"].update(label=0), "dimension below 1"),
        (lambda m: m["dims"].update(label="x"), "incomplete"),
        (lambda m: m["files"].pop(TUNED), r"lists no tuned\.safetensors"),
    ],
)
def test_a_prompt_tuned_bundle_must_be_whole(tuned_copy: Path, change, message: str) -> None:
    edit(tuned_copy, change)
    with pytest.raises(BundleError, match=message):
        Bundle.open(tuned_copy)


@pytest.mark.skipif(not (assets.MINI / "bundle.json").is_file(), reason="no embedded model here")
def test_a_bundle_of_an_earlier_release_is_what_it_was() -> None:
    """The embedded one: no label width, no learned tokens, no golden label embeddings."""
    bundle = Bundle.open(assets.MINI)
    assert (bundle.label_dim, bundle.learned_tokens) == (bundle.embed_dim, None)
    files = [bundle.manifest["files"][name]["sha256"] for name in (TEXT_ENCODER, TOKENIZER)]
    text = json.dumps([*files, bundle.manifest["text"]], sort_keys=True)
    assert bundle.text_hash == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert bundle.text_hash == "27e1912bc48bca2c"  # of the text tower, whichever head is on it
    assert {found.output for found in verify(assets.MINI)} >= {"logits", "text_features"}


def test_hashes_name_the_text_encoder_and_the_prompts(bundle_copy: Path) -> None:
    before = Bundle.open(bundle_copy)
    edit(bundle_copy, lambda m: m["templates"].reverse())
    turned = Bundle.open(bundle_copy)
    assert turned.prompt_hash != before.prompt_hash
    assert turned.text_hash == before.text_hash
    edit(bundle_copy, lambda m: m["files"][TOKENIZER].update({"sha256": "0"}))
    assert Bundle.open(bundle_copy).text_hash != before.text_hash


def test_the_graphs_are_plain_files(tiny_bundle: Path) -> None:
    """Nothing is stored outside the files that the manifest lists."""
    for path in tiny_bundle.glob("*.onnx"):
        model = onnx.load(path, load_external_data=False)
        assert not any(t.external_data for t in model.graph.initializer)
