"""Writes the towers and the bridge as an open_clip custom model folder."""

import json
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor, nn

from ovml_deploy.errors import BundleError
from ovml_deploy.files import write_atomically
from ovml_deploy.models.backbone import LOCAL_DIR, Backbone, BackboneSpec
from ovml_deploy.models.rounding import round_to_float16_
from ovml_deploy.runtime.bundle import ENCODER, TEXT_ENCODER, Bundle
from ovml_deploy.training.mini.towers import (
    PIXEL_MEAN,
    PIXEL_STD,
    TIMM_NAME,
    load_image_tower_weights,
    read_text_tower,
    round_image_tower_,
    round_text_tower_,
)

EMBED_DIM = 384
IMAGE_SIZE = 224
_CONTEXT_LENGTH = 64

_CONFIG = {
    "model_cfg": {
        "embed_dim": EMBED_DIM,
        "vision_cfg": {
            "timm_model_name": TIMM_NAME,
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "timm_proj_bias": True,
            "image_size": IMAGE_SIZE,
        },
        "text_cfg": {
            "hf_model_name": ".",
            "hf_tokenizer_name": ".",
            "hf_pooler_type": "mean_pooler",
            "hf_proj_type": "mlp",
            "hf_model_pretrained": False,
            "context_length": _CONTEXT_LENGTH,
        },
    },
    "preprocess_cfg": {
        "mean": PIXEL_MEAN,
        "std": PIXEL_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


def start_folder(folder: Path) -> Backbone:
    """Write configuration and tokenizer into ``folder``; build the backbone with its two towers.

    The towers are rounded, the projections yet to be learned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text_weights = read_text_tower(folder)
    image_weights = load_image_tower_weights()
    (folder / "open_clip_config.json").write_text(json.dumps(_CONFIG, indent=2), "utf-8")
    backbone = Backbone.load(BackboneSpec(f"{LOCAL_DIR}{folder}"), load_weights=False)
    trunk, transformer = backbone.model.visual.trunk, backbone.model.text.transformer
    _load(trunk, image_weights)
    _load(transformer, text_weights)
    round_image_tower_(trunk)
    round_text_tower_(transformer)
    return backbone


def _load(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load what ``module`` has; the packages carry a classifier and a pooler besides."""
    module.load_state_dict({name: weights[name] for name in module.state_dict()})


@torch.no_grad()
def finish_folder(
    folder: Path,
    backbone: Backbone,
    image_projection: Tensor,
    image_mean: Tensor,
    text_projection: nn.Sequential,
) -> None:
    """Put the projections in, rounded to float16's values, and write the weights.

    A picture's feature x ``[C]`` becomes ``(x - image_mean) @ image_projection``.
    """
    projection = backbone.model.visual.head.proj
    projection.weight.copy_(image_projection.T)
    round_to_float16_(projection.weight)
    projection.bias.copy_(-projection.weight @ image_mean)
    for parameter in text_projection.parameters():
        round_to_float16_(parameter)
    backbone.model.text.proj = text_projection
    _write_weights(folder, backbone)


@torch.no_grad()
def restore_folder(folder: Path, bundle: Path) -> None:
    """Write the backbone of an exported mini bundle: the towers, and the projections in its graphs.

    Raises BundleError where they are not in it.
    """
    backbone = start_folder(folder)
    model = backbone.model
    opened = Bundle.open(bundle)
    for graph, module, prefix in (
        (ENCODER, model.visual.head.proj, "model.backbone.model.visual.head.proj."),
        (TEXT_ENCODER, model.text.proj, "tower.proj."),
    ):
        stored = _initializers(opened.file(graph))
        for name, parameter in module.named_parameters():
            value = stored.get(prefix + name)
            if value is None or value.shape != parameter.shape:
                raise BundleError(
                    f"{bundle} does not hold the weight {prefix + name} of an embedded model. Name a "
                    "bundle that 'make mini' made."
                )
            parameter.copy_(torch.from_numpy(value))
    _write_weights(folder, backbone)


def _initializers(graph: Path) -> dict[str, np.ndarray]:
    """The graph's weights by their PyTorch names, float32; those stored as int8 are left out."""
    tensors = onnx.load(graph).graph.initializer
    arrays = {tensor.name.partition("::"): numpy_helper.to_array(tensor) for tensor in tensors}
    return {
        name: array.astype(np.float32)
        for (name, _, form), array in arrays.items()
        if form in ("", "float16")
    }


def _write_weights(folder: Path, backbone: Backbone) -> None:
    state = {name: tensor.contiguous() for name, tensor in backbone.model.state_dict().items()}
    with write_atomically(folder / "open_clip_model.safetensors") as path:
        save_file(state, path, metadata={"format": "pt"})
