"""Prompt-tuned models as bundles: every branch agrees with PyTorch, also for labels of no tuning."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

import export.verify
from export.graphs import export_encoder, export_matcher
from export.learned import example_words
from export.onnx import export_bundle, main
from ovml_deploy.commandline import run
from ovml_deploy.errors import LabelError
from ovml_deploy.models.backbone import Backbone, BackboneSpec
from ovml_deploy.models.checkpoint import save_checkpoint
from ovml_deploy.models.prompt_tuned import PromptTunedHead
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.runtime.backends import create_backend
from ovml_deploy.runtime.bundle import TEXT_ENCODER, Bundle
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.text_encoder import TextEncoder
from ovml_deploy.runtime.verify import failures, verify
from ovml_deploy.training.config import PromptTrainConfig
from ovml_deploy.training.prompts_run import new_model

LOGITS = ["logits", "global_logits", "local_logits"]
OUTPUTS = ["features", *LOGITS, "text_features", "label_embeddings"]
#: tuned; of no tuning; of no tuning in each group
WORDS = {"dog": None, "red bench": None, "bench": "animals", "car": "plants", "the car": "things"}


def require_agreement(bundle: Bundle, sizes: int = 20) -> None:
    worst = bundle.manifest["parity"]["worst"]
    assert [row["output"] for row in worst] == OUTPUTS
    for row in worst:
        assert row["relative_error"] <= 1e-5, row
        if row["output"] in LOGITS:
            assert (row["sizes"], row["top_labels_equal"]) == (sizes, True)
    logits = [f for f in bundle.manifest["parity"]["figures"] if f["output"] in LOGITS]
    assert any(figure["max_error"] > 0 for figure in logits), "compared with itself"


def require_labels(model: TaggingModel, encoder: TextEncoder) -> None:
    """Label embeddings of every kind are PyTorch's, and no two of them are the same."""
    groups = {label: group for label, group in WORDS.items() if group is not None}
    expected = model.embed_labels([*WORDS], groups).numpy()
    found = encoder.embed(WORDS)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= 1e-5
    parts = found.reshape(2 * len(WORDS), -1)
    np.testing.assert_allclose(np.linalg.norm(parts, axis=1), 1, rtol=1e-5)
    assert len(np.unique(parts.round(3), axis=0)) == len(parts)


@pytest.fixture(params=["tiny_clip", "tiny_resnet", "tiny_siglip", "tiny_hf"])
def exported(request, make_model, tmp_path: Path) -> tuple[TaggingModel, Path]:
    """A model of a causal, a fixed-length or a masked text tower, and its bundle."""
    if request.param == "tiny_clip":
        return request.getfixturevalue("tuned_model"), request.getfixturevalue("tuned_bundle")
    model = make_model(request.getfixturevalue(request.param), "prompt-tuned")
    export_bundle(model, tmp_path / "bundle", {"tuned": model.head.config.labels})
    return model, tmp_path / "bundle"


def test_every_tower_becomes_a_bundle(exported, pictures) -> None:
    model, path = exported
    bundle = Bundle.open(path)
    require_agreement(bundle)
    dims = model.backbone.embed_dim
    positions = model.backbone.positions
    expected = {"features": 1 + positions, "embedding": dims, "label": 2 * dims}
    assert bundle.manifest["dims"] == expected
    assert (bundle.head, bundle.label_dim) == ("prompt-tuned", 2 * dims)
    assert bundle.learned_tokens == model.head.learned_tokens(model.backbone)
    assert "labels" not in bundle.manifest["head"]["settings"]
    assert failures(verify(path)) == []
    tagger = Tagger.load(path)
    require_labels(model, tagger.text_encoder)
    # through files, words and labels; and which position it was
    vocabulary = tagger.use_vocabulary(WORDS)
    pixels = torch.from_numpy(np.stack([tagger._pixels(path) for path in pictures]))
    with torch.no_grad():
        labels = torch.from_numpy(vocabulary.embeddings.copy())
        logits, winners = model.match(model.encode(pixels), labels)
    scale = float(logits.abs().max())
    for row, won, picture in zip(logits.numpy(), winners.numpy(), pictures, strict=True):
        tags = {tag.label: tag for tag in tagger.tag(picture, top_k=None)}
        found = [tags[label].logit for label in WORDS]
        np.testing.assert_allclose(found, row, atol=1e-4 * scale)
        assert [tags[label].query for label in WORDS] == [*won]
        assert min(won) >= 1


def test_the_tuned_labels_are_the_default_vocabulary(tuned_model, tuned_bundle: Path) -> None:
    vocabulary = Tagger.load(tuned_bundle).vocabulary
    assert vocabulary.name == "tuned"
    assert vocabulary.labels == tuned_model.head.config.labels
    expected = tuned_model.embed_labels(vocabulary.labels).numpy()
    np.testing.assert_array_equal(vocabulary.embeddings, expected)


def test_the_cnn_tower_as_graphs(make_model, tiny_cnn, tmp_path: Path) -> None:
    """Its random weights cost digits in float32, PyTorch's as well: both are held to float64."""
    model = make_model(tiny_cnn, "prompt-tuned")
    export_encoder(model, tmp_path / "encoder.onnx")
    export_matcher(model, tmp_path / "matcher.onnx")
    encoder, matcher = (run_graph(tmp_path / f"{n}.onnx") for n in ("encoder", "matcher"))
    exact = copy.deepcopy(model).double()
    mean, std = exact.backbone.mean, exact.backbone.std
    labels = model.embed_labels(["cat", "a boat", "dog"])
    for batch in (1, 3):
        pixels = torch.from_numpy(export.verify.example_images(batch, (64, 64)))
        with torch.no_grad():
            images = (pixels.permute(0, 3, 1, 2).double() - mean) / std
            features = exact.head(exact.backbone.image_tokens(images))
            expected = model.head.outputs(features.float(), labels)
        found = encoder({"pixels": pixels.numpy()})["features"]
        assert np.abs(found - features.numpy()).max() <= 1e-5 * features.abs().max()
        outputs = matcher({"features": features.float().numpy(), "labels": labels.numpy()})
        for name in LOGITS:
            wanted = expected[name].numpy()
            assert np.abs(outputs[name] - wanted).max() <= 1e-5 * np.abs(wanted).max()
        np.testing.assert_array_equal(outputs["winners"], expected["winners"])


@pytest.mark.parametrize("branch", ["global", "local"])
def test_a_single_branch_may_make_the_logits(tuned_model, tmp_path: Path, branch: str) -> None:
    """Then two outputs are one value, and each must still be there by its name."""
    model = copy.deepcopy(tuned_model)
    model.head.config = dataclasses.replace(model.head.config, branches=branch)
    export_matcher(model, tmp_path / "matcher.onnx")
    path = tmp_path / "matcher.onnx"
    shapes = {v.name: v.shape for v in onnxruntime.InferenceSession(path).get_outputs()}
    assert shapes == {name: ["batch", "labels"] for name in [*LOGITS, "winners"]}
    features = F.normalize(torch.randn(3, 17, 32), dim=-1)
    labels = model.embed_labels(["cat", "a boat"])
    outputs = run_graph(path)({"features": features.numpy(), "labels": labels.numpy()})
    expected = model.head.outputs(features, labels)
    for name, value in outputs.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(outputs["logits"], outputs[f"{branch}_logits"])


def test_pooling_reads_the_end_of_text_and_no_learned_token(tuned_model, tuned_bundle) -> None:
    """CLIP pools at the greatest id; those of learned tokens are greater than any."""
    tokens = Bundle.open(tuned_bundle).learned_tokens
    (name,) = tuned_model.backbone.token_ids(["a boat"])
    ids = tokens.prompt(name, 1, "things")
    assert max(ids) >= tokens.first_id > max(name)
    found = run_graph(tuned_bundle / TEXT_ENCODER)({"token_ids": np.array([ids, ids])})[
        "text_features"
    ]
    clip = tuned_model.backbone.model
    table = torch.cat([clip.token_embedding.weight, tuned_model.head.rows()])
    with torch.no_grad():
        hidden = table[ids] + clip.positional_embedding[: len(ids)]
        mask = clip.attn_mask[: len(ids), : len(ids)]
        hidden = clip.ln_final(clip.transformer(hidden[None], attn_mask=mask))
        expected = hidden[0, ids.index(name[-1])] @ clip.text_projection
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[0], found[1])


def test_without_shared_and_group_tokens_a_new_label_is_its_name(
    tuned_model, tmp_path: Path, monkeypatch
) -> None:
    """There are no rows to ship then; tuned labels have their own tokens all the same."""
    monkeypatch.setattr(export.verify, "BATCHES", (2,))
    monkeypatch.setattr(export.verify, "LABEL_COUNTS", (2,))
    config = dataclasses.replace(tuned_model.head.config, shared=0, grouped=0)
    head = PromptTunedHead(config, tuned_model.head.projection)
    model = TaggingModel(tuned_model.backbone, head, ("{}",)).eval()
    bundle = export_bundle(model, tmp_path / "bundle")
    require_labels_of_name(model, TextEncoder(bundle, create_backend("cpu")))


def run_graph(path: Path) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def require_labels_of_name(model: TaggingModel, encoder: TextEncoder) -> None:
    found = encoder.embed(["cat", "a boat"])
    np.testing.assert_allclose(found, model.embed_labels(["cat", "a boat"]).numpy(), atol=1e-5)
    name = F.normalize(model.backbone.text_features(["a boat"]), dim=-1)[0].numpy()
    np.testing.assert_allclose(found[1], np.concatenate([name, name]), atol=1e-5)


@pytest.fixture(scope="module")
def checkpoint(tuned_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "prompts.pt"
    labels = {"tuned": tuned_model.head.config.labels}
    save_checkpoint(path, tuned_model, include_backbone=True, labels=labels)
    return path


def test_the_command(checkpoint: Path, tuned_bundle: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert run(main, "onnx", ["--ckpt", str(checkpoint), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    for name in OUTPUTS:
        assert f"\n  {name} " in shown
    bundle = Bundle.open(out)
    assert bundle.manifest["files"] == Bundle.open(tuned_bundle).manifest["files"]
    assert bundle.default_vocabulary == "tuned"


def test_the_command_takes_groups(checkpoint: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(export.verify, "BATCHES", (2,))
    monkeypatch.setattr(export.verify, "LABEL_COUNTS", (2,))
    words = tmp_path / "yard.txt"
    command = ["--ckpt", str(checkpoint), "--out", str(tmp_path / "out"), "--vocab", str(words)]
    words.write_text("cat\nforklift\tvehicles\n")
    assert run(main, "onnx", command) == 1
    assert "no group 'vehicles'. The groups of this model are: animals, " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    words.write_text("cat\nforklift\tthings\n")
    assert run(main, "onnx", command) == 0
    tagger = Tagger.load(tmp_path / "out")
    assert tagger.vocabulary.labels == ("cat", "forklift")
    grouped = tagger.make_vocabulary({"cat": None, "forklift": "things"})
    assert tagger.vocabulary.id == grouped.id


def test_examples_are_tuned_new_and_new_in_a_group(tuned_model) -> None:
    words = example_words(tuned_model.head)
    first, second, third = [*words.items()][:3]
    tuned, groups = tuned_model.head.config.labels, tuned_model.head.config.groups
    assert first[0] in tuned
    assert second[0] not in tuned
    assert third[0] not in tuned
    assert (first[1], second[1]) == (None, None)
    assert third[1] in groups


def test_labels_that_could_not_be_read_again_are_refused(tuned_model, tmp_path: Path) -> None:
    model = copy.deepcopy(tuned_model)
    names = ("animals", "a\nb", "things")
    model.head.config = dataclasses.replace(model.head.config, groups=names)
    with pytest.raises(LabelError, match="unprintable"):
        export_bundle(model, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["RN50-quickgelu", "ViT-B-16-quickgelu"])
def test_towers_of_real_sizes(name: str, tmp_path: Path, monkeypatch) -> None:
    """Random weights; fewer batches than an export tries, which benchmarks/fidelity.py does."""
    monkeypatch.setattr(export.verify, "BATCHES", (1, 2))
    torch.manual_seed(0)
    backbone = Backbone.load(BackboneSpec(name), load_weights=False)
    groups = {"animals": ("cat", "dog"), "things": ("red car",)}
    model = new_model(backbone, PromptTrainConfig(), ("cat", "red car", "dog"), groups).eval()
    bundle = export_bundle(model, tmp_path / "bundle")
    assert bundle.features_per_image == {"RN50-quickgelu": 50, "ViT-B-16-quickgelu": 197}[name]
    require_agreement(bundle, sizes=8)
