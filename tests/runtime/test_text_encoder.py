"""Label embeddings without torch equal PyTorch's; prompts are encoded at their own length."""

from pathlib import Path

import numpy as np
import pytest
import torch

from export.graphs import export_text_encoder
from export.tokenizer import export_tokenizer, text_settings
from ovml_deploy.errors import BundleError, LabelError
from ovml_deploy.files import sha256_file
from ovml_deploy.runtime.backends import create_backend
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.text_encoder import TextEncoder

LABELS = ["cat", "a small red bench in the scene", "Dogs", "{} braces", "x" * 256, "\u732b"]


class Recorder:
    """The CPU backend, keeping the inputs that its graphs were given."""

    def __init__(self) -> None:
        self.inputs: list[dict[str, np.ndarray]] = []

    def load(self, bundle: Bundle, name: str, exact: bool = False):
        graph = create_backend("cpu").load(bundle, name)

        def recorded(inputs):
            self.inputs.append(inputs)
            return graph(inputs)

        return recorded


class TextBundle(Bundle):
    """The text half of a bundle, which is all that a TextEncoder asks for."""

    @classmethod
    def of(cls, model, folder: Path) -> "TextBundle":
        export_text_encoder(model, folder / "text_encoder.onnx")
        export_tokenizer(model.backbone, folder / "tokenizer.json")
        settings = text_settings(model.backbone)
        files = {
            path.name: {"sha256": sha256_file(path), "bytes": path.stat().st_size}
            for path in folder.iterdir()
        }
        manifest = {
            "head": {"kind": "qks", "normalises_labels": model.head.normalises_labels},
            "dims": {"embedding": model.backbone.embed_dim},
            "templates": list(model.templates),
            "text": vars(settings),
            "files": files,
        }
        return cls(folder, manifest)


@pytest.fixture(scope="module", params=["tiny_clip", "tiny_siglip", "tiny_hf"])
def towers(request, make_model, tmp_path_factory):
    """A causal tower, one of fixed length, one with a mask; each normalised and not."""
    spec = request.getfixturevalue(request.param)
    models = {kind: make_model(spec, kind) for kind in ("qks", "zero-shot")}
    folder = tmp_path_factory.mktemp(request.param)
    bundles = {"qks": TextBundle.of(models["qks"], folder)}
    manifest = {**bundles["qks"].manifest, "head": {"kind": "zero-shot", "normalises_labels": True}}
    bundles["zero-shot"] = TextBundle(folder, manifest)
    return request.param, models, bundles


@pytest.mark.parametrize("kind", ["qks", "zero-shot"])
def test_embeddings_equal_pytorchs(towers, kind: str) -> None:
    _, models, bundles = towers
    with torch.no_grad():
        expected = models[kind].embed_labels(LABELS).numpy()
    found = TextEncoder(bundles[kind], create_backend("cpu")).embed(LABELS)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    unit = np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5
    assert unit == (kind == "zero-shot")


def test_prompts_are_encoded_at_their_own_length(towers) -> None:
    name, _, bundles = towers
    recorder = Recorder()
    encoder = TextEncoder(bundles["qks"], recorder)
    features = encoder.features(["a cat", "a photo of the dog in the scene"])
    (inputs,) = recorder.inputs
    length = {"tiny_clip": 10, "tiny_siglip": 16, "tiny_hf": 10}[name]
    assert inputs["token_ids"].shape == (2, length)
    assert ("attention_mask" in inputs) == (name == "tiny_hf")
    if name == "tiny_hf":
        np.testing.assert_array_equal(inputs["attention_mask"].sum(axis=1), [4, 10])
    alone = np.concatenate([encoder.features([text]) for text in ("a cat", "a photo of the dog")])
    np.testing.assert_allclose(features[0], alone[0], atol=1e-4)
    assert recorder.inputs[1]["token_ids"].shape[1] == {"tiny_siglip": 16}.get(name, 4)


def test_texts_of_like_length_share_a_batch(towers) -> None:
    """Many prompts, given in any order, come back in that order."""
    name, _, bundles = towers
    recorder = Recorder()
    encoder = TextEncoder(bundles["qks"], recorder)
    texts = [f"{'red ' * (i % 12)}cat {i}" for i in range(300)]
    features = encoder.features(texts)
    assert [len(inputs["token_ids"]) for inputs in recorder.inputs] == [128, 128, 44]
    lengths = [inputs["token_ids"].shape[1] for inputs in recorder.inputs]
    assert lengths == sorted(lengths)
    assert (lengths[0] < lengths[-1]) == (name != "tiny_siglip")
    for index in (0, 11, 155, 299):
        np.testing.assert_allclose(features[index], encoder.features([texts[index]])[0], atol=1e-4)


def test_no_texts_give_no_features(towers) -> None:
    encoder = TextEncoder(towers[2]["qks"], create_backend("cpu"))
    assert encoder.features([]).shape[0] == 0


def test_a_vocabulary_carries_its_makers_hashes(towers) -> None:
    bundle = towers[2]["qks"]
    encoder = TextEncoder(bundle, create_backend("cpu"))
    vocabulary = encoder.vocabulary([" cat ", "dog"], "pets")
    assert (vocabulary.name, vocabulary.labels) == ("pets", ("cat", "dog"))
    assert (vocabulary.text_hash, vocabulary.prompt_hash) == (bundle.text_hash, bundle.prompt_hash)
    vocabulary.check_fits(bundle)
    with pytest.raises(LabelError, match="repeats"):
        encoder.vocabulary(["cat", "cat "])


def test_a_broken_tokenizer_is_named(towers, tmp_path: Path) -> None:
    bundle = towers[2]["qks"]
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "text_encoder.onnx").write_bytes((bundle.path / "text_encoder.onnx").read_bytes())
    listed = {p.name: {"sha256": sha256_file(p), "bytes": 1} for p in tmp_path.iterdir()}
    broken = TextBundle(tmp_path, {**bundle.manifest, "files": listed})
    with pytest.raises(BundleError, match=r"tokenizer\.json is not a tokenizer"):
        TextEncoder(broken, create_backend("cpu"))
