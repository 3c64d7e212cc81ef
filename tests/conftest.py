"""Tiny backbones, models and bundles, made once per session."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from backbones import CONFIGS, TUNED, make_hf_folder, randomise

from ovml_deploy.runtime.telemetry import silence_hugging_face, silence_onnxruntime

silence_onnxruntime()  # tests import it directly, too
silence_hugging_face()

# torch and open_clip are imported inside: the runtime's tests must also run without them.

TEMPLATES = ("a photo of a {}.", "there is a {} in the scene.")
VOCABULARIES = {
    "few": ("cat", "dog", "red car", "tree", "person"),
    "others": ("boat", "2024", "traffic light", "small bench"),
}


@pytest.fixture(scope="session")
def make_backbone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A function (name, config, seed) -> BackboneSpec of files with random weights."""
    import torch

    torch.set_num_threads(1)

    def make(name: str, config: dict[str, Any], seed: int = 0) -> Any:
        from ovml_deploy.models.backbone import Backbone, BackboneSpec

        folder = tmp_path_factory.mktemp(name)
        config_file, weights = folder / f"{name}.json", folder / "weights.pt"
        config_file.write_text(json.dumps(config))
        spec = BackboneSpec(str(config_file), str(weights))
        torch.manual_seed(seed)  # whatever tests ran before
        model = Backbone.load(spec, load_weights=False).model
        randomise(model, seed)
        torch.save(model.state_dict(), weights)
        return spec

    return make


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


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """The shared photographs, which are never committed; skips where they are absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "photos"
    found = sorted(folder.glob("*.jpg")) if folder.is_dir() else []
    if not found:
        pytest.skip("../shared/photos is absent (photographs that may not be committed)")
    return found


@pytest.fixture(scope="session", autouse=True)
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests out of the user's folders, and on the device that every machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVML_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        patch.setenv("OVML_DEVICE", "cpu")
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test alone: copies of a bundle share what ``verify`` stores."""
    monkeypatch.setenv("OVML_CACHE", str(tmp_path / "own-cache"))
    return tmp_path / "own-cache"


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
        if kind == "prompt-tuned":
            return TaggingModel(backbone, _prompt_tuned(backbone), ("{}",)).eval()
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


def _prompt_tuned(backbone: Any) -> Any:
    """A head tuned for TUNED whose learned tokens all differ."""
    import torch

    from ovml_deploy.models.prompt_tuned import PromptConfig, PromptTunedHead

    groups = tuple(sorted(set(TUNED.values())))
    config = PromptConfig.for_backbone(
        backbone,
        labels=tuple(TUNED),
        groups=groups,
        group_of=tuple(groups.index(group) for group in TUNED.values()),
        shared=3,
        grouped=2,
        specific=2,
    )
    torch.manual_seed(0)
    head = PromptTunedHead(config, backbone.initial_projection())
    head.start_from_words(backbone)
    spread = backbone.text.token_embedding.weight.std()
    with torch.no_grad():
        for tokens in head.parameters():
            tokens.add_(torch.randn_like(tokens) * spread)
    return head


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


@pytest.fixture(scope="session")
def tuned_model(make_model: Callable[..., Any], tiny_clip: Any) -> Any:
    """The PyTorch model of ``tuned_bundle``."""
    return make_model(tiny_clip, "prompt-tuned")


@pytest.fixture(scope="session")
def tuned_bundle(tuned_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported prompt-tuned bundle. Never change it: take ``tuned_copy``."""
    from export.onnx import export_bundle

    folder = tmp_path_factory.mktemp("bundles") / "prompts"
    export_bundle(tuned_model, folder, {"tuned": tuple(TUNED)})
    return folder


@pytest.fixture
def tuned_copy(tuned_bundle: Path, tmp_path: Path) -> Path:
    """A copy of ``tuned_bundle`` that may be damaged."""
    return Path(shutil.copytree(tuned_bundle, tmp_path / "prompts"))


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
