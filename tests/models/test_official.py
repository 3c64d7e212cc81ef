"""Checkpoints in the layout of the official QKS release, with random weights."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones import CONFIGS, randomise
from qks_reference import qks_features, qks_logits
from torch import Tensor
from vit_reference import vit_tokens

from ovml_deploy.errors import CheckpointError
from ovml_deploy.models.backbone import Backbone, BackboneSpec
from ovml_deploy.models.checkpoint import load_checkpoint, save_checkpoint
from ovml_deploy.models.official import load_official
from ovml_deploy.models.qks import QKSConfig, QKSHead
from ovml_deploy.templates import QKS_TEMPLATES

BIG = "ViT-B-16-quickgelu"

State = dict[str, Tensor]


def official_state(
    clip: State, layers: int, queries: int, *, prefix: str = "", unused: bool, half: bool
) -> State:
    """A state dict as the release writes it, around a CLIP's own."""
    width, embed_dim = clip["visual.proj"].shape
    heads, inner = width // 64, 4 * width
    head = QKSHead(QKSConfig(width, embed_dim, layers, queries, heads, inner))
    randomise(head, seed=layers)
    state = {f"clip_model.{name}": value for name, value in clip.items() if name != "visual.proj"}
    state |= head.state_dict()
    if unused:
        state["clip_model.input_resolution"] = torch.tensor(224)
        state["clip_model.context_length"] = torch.tensor(77)
        state["clip_model.vocab_size"] = torch.tensor(49408)
        state["net.embeddings.position_ids"] = torch.arange(512)[None]
        state["net.embeddings.word_embeddings.weight"] = torch.zeros(10, width)
        state["net.embeddings.position_embeddings.weight"] = torch.zeros(10, width)
        for i in range(layers):
            at = f"net.encoder.layer.{i}"
            state[f"{at}.intermediate.dense.weight"] = torch.zeros(8, width)
            state[f"{at}.intermediate.dense.bias"] = torch.zeros(8)
            state[f"{at}.output.dense.weight"] = torch.zeros(width, 8)
            state[f"{at}.output.dense.bias"] = torch.zeros(width)
            state[f"{at}.output.LayerNorm.weight"] = torch.ones(width)
            state[f"{at}.output.LayerNorm.bias"] = torch.zeros(width)
    if half:
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    return {prefix + name: value for name, value in state.items()}


def independent_logits(state: State, images: Tensor, labels: np.ndarray, heads: int) -> np.ndarray:
    """Logits from a state dict by the references alone."""
    plain = {k.removeprefix("module.").removeprefix("clip_model."): v for k, v in state.items()}
    tokens = vit_tokens(plain, images, heads).numpy()
    weights = {k: v.float().numpy() for k, v in plain.items() if not k.startswith("visual.")}
    return qks_logits(qks_features(weights, tokens, heads), labels)[0]


@pytest.fixture(scope="module")
def tiny(make_backbone: Callable[..., Any]) -> tuple[str, State]:
    """The name and the weights of a small CLIP with QuickGELU."""
    spec = make_backbone("tiny-openai", {**CONFIGS["tiny-clip"], "quick_gelu": True}, seed=3)
    return spec.name, torch.load(spec.pretrained, weights_only=True)


@pytest.fixture(scope="module")
def big() -> State:
    """The weights of a random ViT-B/16 CLIP."""
    model = Backbone.load(BackboneSpec(BIG), load_weights=False).model
    randomise(model.visual, seed=4)
    return model.state_dict()


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("unused", [False, True])
@pytest.mark.parametrize("half", [False, True])
@torch.no_grad()
def test_small_checkpoints(tiny, tmp_path: Path, prefix: str, unused: bool, half: bool) -> None:
    name, clip = tiny
    state = official_state(clip, 3, 5, prefix=prefix, unused=unused, half=half)
    torch.save(state, tmp_path / "official.pth")
    model = load_checkpoint(tmp_path / "official.pth", name)
    assert model.templates == QKS_TEMPLATES
    assert (model.head.config.layers, model.head.config.queries) == (3, 5)
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    labels = torch.randn(6, 32)
    logits, _ = model.match(model.encode(pixels), labels)
    # the tiny ViT has two heads of 32; the head's are 64 wide
    images = model.backbone.normalise(pixels)
    plain = {k.removeprefix("module.").removeprefix("clip_model."): v for k, v in state.items()}
    tokens = vit_tokens(plain, images, 2).numpy()
    weights = {k: v.float().numpy() for k, v in plain.items()}
    expected, _ = qks_logits(qks_features(weights, tokens, 1), labels.numpy())
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-4, rtol=1e-4)
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(("layers", "queries"), [(2, 5), (7, 12)])
@torch.no_grad()
def test_vit_b_16_checkpoints(big: State, tmp_path: Path, layers: int, queries: int) -> None:
    """The sizes of the release, in half precision; the larger one prefixed, with unused parts."""
    large = layers == 7
    prefix = "module." if large else ""
    state = official_state(big, layers, queries, prefix=prefix, unused=large, half=True)
    torch.save(state, tmp_path / "official.pth")
    model = load_checkpoint(tmp_path / "official.pth", BIG)
    (tmp_path / "official.pth").unlink()
    assert model.head.config == QKSConfig(768, 512, layers, queries, 12, 3072)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randn(20, 512, generator=generator) / 512**0.5
    logits, _ = model.match(model.encode(pixels), labels)
    expected = independent_logits(state, model.backbone.normalise(pixels), labels.numpy(), 12)
    assert np.abs(expected).max() > 0.1
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-4)


def test_label_embeddings_come_from_the_clip_inside(tiny) -> None:
    name, clip = tiny
    model = load_official(
        official_state(clip, 1, 2, unused=False, half=False), name, "official.pth"
    )
    reference = copy.deepcopy(model.backbone.model)
    reference.load_state_dict(clip)
    texts = [template.replace("{}", "cat") for template in QKS_TEMPLATES]
    with torch.no_grad():
        expected = reference.encode_text(model.backbone.tokenizer(texts)).mean(dim=0)
    torch.testing.assert_close(model.embed_labels(["cat"])[0], expected, rtol=1e-4, atol=1e-5)


def test_an_imported_model_can_be_saved_whole(tiny, tmp_path: Path) -> None:
    name, clip = tiny
    state = official_state(clip, 2, 3, unused=True, half=False)
    model = load_official(state, name, "official.pth")
    with pytest.raises(CheckpointError, match="include_backbone=True"):
        save_checkpoint(tmp_path / "qks.pt", model)
    save_checkpoint(tmp_path / "qks.pt", model, include_backbone=True)
    again = load_checkpoint(tmp_path / "qks.pt")
    pixels = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(again.encode(pixels), model.encode(pixels))


def test_a_visual_projection_that_is_there_is_kept(tiny) -> None:
    name, clip = tiny
    state = official_state(clip, 1, 2, unused=False, half=False)
    state["clip_model.visual.proj"] = clip["visual.proj"]
    model = load_official(state, name, "official.pth")
    assert torch.equal(model.backbone.model.visual.proj, clip["visual.proj"])
    assert not torch.equal(model.head.proj, clip["visual.proj"])


def test_the_architecture_must_be_named(tiny, tmp_path: Path) -> None:
    torch.save(official_state(tiny[1], 1, 2, unused=False, half=False), tmp_path / "official.pth")
    with pytest.raises(CheckpointError, match="--backbone ViT-B-16-quickgelu"):
        load_checkpoint(tmp_path / "official.pth")


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("ViT-B-16", "with QuickGELU.*'ViT-B-16-quickgelu'"),
        ("ViT-B/16", "with QuickGELU.*'ViT-B-16-quickgelu'"),
        ("ViT-B-61", "knows no model 'ViT-B-61'"),
        ("/nonexistent/tiny.json", "does not exist"),
    ],
)
def test_wrong_architectures_are_refused(tiny, backbone: str, message: str) -> None:
    state = official_state(tiny[1], 1, 2, unused=False, half=False)
    with pytest.raises(CheckpointError, match=message):
        load_official(state, backbone, "official.pth")


def test_a_configuration_without_quickgelu_is_refused(tiny, tiny_clip) -> None:
    state = official_state(tiny[1], 1, 2, unused=False, half=False)
    with pytest.raises(CheckpointError, match=r'with QuickGELU.*"quick_gelu": true'):
        load_official(state, tiny_clip.name, "official.pth")


FIRST = "net.encoder.layer.0"


@pytest.mark.parametrize(
    ("removed", "added", "message"),
    [
        ("net.embeddings.LayerNorm.bias", {}, "LayerNorm.bias"),
        ("clip_model.ln_final.weight", {}, "ln_final.weight"),
        (f"{FIRST}.intermediate_query.dense.weight", {}, "intermediate_query"),
        ("", {"net.mystery": torch.zeros(2)}, "net.mystery"),
        ("", {"clip_model.mystery": torch.zeros(2)}, "mystery"),
        ("", {"net.encoder.layer.5.attention.self.query.weight": torch.zeros(2)}, "layers"),
        ("", {"proj": torch.zeros(64)}, r"proj must be \[W, D\]"),
        ("", {"query_tokens": torch.zeros(2, 64)}, "query_tokens"),
        ("", {"proj": torch.zeros(64, 48)}, "does not fit"),
        ("", {"epoch": 3}, "'epoch' is a int, not a tensor"),
    ],
)
def test_wrong_tensors_are_refused(tiny, removed: str, added: dict, message: str) -> None:
    name, clip = tiny
    state: dict[str, Any] = official_state(clip, 2, 2, unused=False, half=False)
    state = {key: value for key, value in state.items() if key != removed} | added
    with pytest.raises(CheckpointError, match=message):
        load_official(state, name, "official.pth")
