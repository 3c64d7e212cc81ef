"""Tiny backbones of every kind, with seeded random weights, made once per session."""

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# torch and open_clip are imported inside: the runtime's tests must also run without them.

TEMPLATES = ("a photo of a {}.", "there is a {} in the scene.")
VOCABULARIES = {
    "few": ("cat", "dog", "red car", "tree", "person"),
    "others": ("boat", "2024", "traffic light", "small bench"),
}

_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
_VIT = {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 32, "layers": 2}
_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "the", "cat", "dog"]
_WORDS += ["car", "there", "is", "in", "scene", ".", "##s", "##er", "red", "small", "bench"]

CONFIGS: dict[str, dict[str, Any]] = {
    "tiny-clip": {"embed_dim": 32, "quick_gelu": False, "vision_cfg": _VIT, "text_cfg": _TEXT},
    "tiny-resnet": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
        "text_cfg": _TEXT,
    },
    "tiny-map": {  # the shape of SigLIP: attention pooling, a bias, text read at its last position
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit",
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            **_TEXT,
            "context_length": 16,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
        },
    },
    "tiny-cnn": {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 64,
            "timm_model_name": "test_efficientnet",
            "timm_pool": "avg",
            "timm_proj": "linear",
        },
        "text_cfg": _TEXT,
    },
    "tiny-average": {  # the shape of CLIPA: patches averaged, then the LayerNorm
        "embed_dim": 32,
        "vision_cfg": {**_VIT, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": {**_TEXT, "context_length": 16, "no_causal_mask": True, "pool_type": "last"},
    },
}


@pytest.fixture(scope="session")
def make_backbone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A function (name, config, seed) -> BackboneSpec of files with random weights."""
    import torch

    torch.set_num_threads(2)

    def make(name: str, config: dict[str, Any], seed: int = 0) -> Any:
        from ovml_deploy.models.backbone import Backbone, BackboneSpec

        folder = tmp_path_factory.mktemp(name)
        config_file, weights = folder / f"{name}.json", folder / "weights.pt"
        config_file.write_text(json.dumps(config))
        spec = BackboneSpec(str(config_file), str(weights))
        model = Backbone.load(spec, load_weights=False).model
        randomise(model, seed)
        torch.save(model.state_dict(), weights)
        return spec

    return make


def randomise(model: Any, seed: int) -> None:
    """Give every parameter and statistic a value of its own, so that none can be forgotten."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or name in ("logit_scale", "logit_bias"):
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(noise.abs() + 0.5)
            elif tensor.ndim > 1:
                gain = 2.0 if tensor.ndim == 4 else 1.0  # or a deep CNN forgets its input
                tensor.copy_(noise * gain * tensor[0].numel() ** -0.5)
            elif "mask" not in name:
                tensor.add_(noise * 0.1)


@functools.cache
def load(spec: Any) -> Any:
    """A backbone, loaded once: it is frozen, so tests may share it (and must not change it)."""
    from ovml_deploy.models.backbone import Backbone

    return Backbone.load(spec)


@pytest.fixture(scope="session")
def tiny_clip(make_backbone: Callable[..., Any]) -> Any:
    """A CLIP with a ViT: tokens are 17 x 64, the shared space has 32 dimensions."""
    return make_backbone("tiny-clip", CONFIGS["tiny-clip"])


@pytest.fixture(scope="session")
def tiny_resnet(make_backbone: Callable[..., Any]) -> Any:
    """A CLIP with a ModifiedResNet and its attention pool."""
    return make_backbone("tiny-resnet", CONFIGS["tiny-resnet"])


@pytest.fixture(scope="session")
def tiny_siglip(make_backbone: Callable[..., Any]) -> Any:
    """SigLIP's shape: a timm ViT with attention pooling, non-causal text, a logit bias."""
    return make_backbone("tiny-map", CONFIGS["tiny-map"])


@pytest.fixture(scope="session")
def tiny_cnn(make_backbone: Callable[..., Any]) -> Any:
    """A timm CNN with average pooling and a linear projection."""
    return make_backbone("tiny-cnn", CONFIGS["tiny-cnn"])


@pytest.fixture(scope="session")
def tiny_average(make_backbone: Callable[..., Any]) -> Any:
    """A ViT that averages its patches (CLIPA)."""
    return make_backbone("tiny-average", CONFIGS["tiny-average"])


@pytest.fixture(scope="session")
def tiny_hf(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with a ViT, a Hugging Face BERT (mean-pooled) and a WordPiece tokenizer."""
    return make_hf_folder(tmp_path_factory.mktemp("tiny-hf") / "model")


def make_hf_folder(folder: Path) -> Any:
    """Write an open_clip folder whose text tower is a Hugging Face model; return its spec."""
    import torch
    from transformers import BertConfig, BertTokenizerFast

    from ovml_deploy.models.backbone import Backbone, BackboneSpec

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(_WORDS))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    BertConfig(
        vocab_size=len(_WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    ).save_pretrained(folder)
    text = {
        "hf_model_name": ".",
        "hf_tokenizer_name": ".",
        "hf_proj_type": "linear",
        "hf_pooler_type": "mean_pooler",
        "context_length": 24,
    }
    model = {"embed_dim": 32, "vision_cfg": _VIT, "text_cfg": text}
    preprocess = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model, "preprocess_cfg": preprocess})
    )
    spec = BackboneSpec(f"local-dir:{folder}")
    inner = Backbone.load(spec, load_weights=False).model
    randomise(inner, 5)
    torch.save(inner.state_dict(), folder / "open_clip_pytorch_model.bin")
    return spec


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """The shared photographs, which are never committed; skips where they are absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "photos"
    found = sorted(folder.glob("*.jpg")) if folder.is_dir() else []
    if not found:
        pytest.skip("../shared/photos is absent (photographs that may not be committed)")
    return found


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests out of the user's label cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVML_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """A function (spec, kind) -> TaggingModel with a small seeded head."""

    def make(spec: Any, kind: str = "qks", templates: tuple[str, ...] = TEMPLATES) -> Any:
        import torch

        from ovml_deploy.models.backbone import Backbone
        from ovml_deploy.models.heads import ZeroShotHead
        from ovml_deploy.models.qks import QKSConfig, QKSHead
        from ovml_deploy.models.tagging import TaggingModel

        backbone = Backbone.load(spec)
        if kind == "zero-shot":
            head: Any = ZeroShotHead(backbone.logit_scale, backbone.logit_bias)
        else:
            torch.manual_seed(0)
            sizes = {"layers": 2, "queries": 3, "attention_heads": 2, "intermediate": 64}
            config = QKSConfig(backbone.width, backbone.embed_dim, **sizes)
            head = QKSHead(config, backbone.initial_projection())
            randomise(head, 1)
            _fit_tokens(head, backbone)
        return TaggingModel(backbone, head, templates).eval()

    return make


def _fit_tokens(head: Any, backbone: Any) -> None:
    """Scale a random head to its tokens, or its attention saturates and float32 is not enough."""
    import torch

    with torch.no_grad():
        pixels = torch.randint(0, 256, (2, *backbone.preprocessing.size, 3), dtype=torch.uint8)
        scale = backbone.image_tokens(backbone.normalise(pixels)).std()
        for layer in head.net.encoder.layer:
            for part in (layer.crossattention.self.key, layer.crossattention.self.value):
                part.weight /= scale


@pytest.fixture(scope="session")
def tiny_model(make_model: Callable[..., Any], tiny_clip: Any) -> Any:
    """The PyTorch model of ``tiny_bundle``."""
    return make_model(tiny_clip)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported QKS bundle with two vocabularies. Never change it: take ``bundle_copy``."""
    from export.onnx import export_bundle

    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    export_bundle(tiny_model, folder, VOCABULARIES)
    return folder


@pytest.fixture
def bundle_copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of ``tiny_bundle`` that may be damaged."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def tiny_tagger(tiny_bundle: Path) -> Any:
    """A fresh Tagger of ``tiny_bundle`` with its default vocabulary."""
    from ovml_deploy.runtime.tagger import Tagger

    return Tagger.load(tiny_bundle)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six different image files of odd sizes in one folder."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(3)
    paths = []
    for index, size in enumerate([(40, 61), (32, 32), (90, 33), (50, 50), (35, 70), (64, 48)]):
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        paths.append(folder / f"picture{index}.{'png' if index % 2 else 'jpg'}")
        Image.fromarray(coarse).resize(size).save(paths[-1])
    return paths
