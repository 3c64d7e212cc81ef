"""Weights files of CLIP models, read and loaded into open_clip's modules."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from open_clip.convert import convert_state_dict
from open_clip.model import (
    convert_to_custom_text_state_dict,
    resize_pos_embed,
    resize_text_pos_embed,
)
from torch import Tensor, nn

from ovml_deploy.models.activation import require_quickgelu
from ovml_deploy.models.fitting import architectures_of, check_finite, load_state
from ovml_deploy.models.inert import is_torchscript, torchscript_mentions
from ovml_deploy.models.weights_file import read_weights_file, refuse_other_files
from ovml_deploy.models.wrappers import CLIP, any_state, find_state

#: Facts that OpenAI's archives keep as tensors.
_FACTS = ("input_resolution", "context_length", "vocab_size")
_QUICKGELU = "1.702"  # its constant, in the code of an archive
_NUMPY = (".npz", ".npy")  # big_vision's, which open_clip reads itself
_LAYOUT_OF_TRANSFORMERS = "vision_model."


def is_weights_file(pretrained: str | None) -> bool:
    """Whether ``pretrained`` is a file that :func:`load_clip_weights` reads, not a tag of open_clip.

    Raises CheckpointError for a path that does not exist, or is no file of weights.
    """
    if pretrained is None or Path(pretrained).suffix in _NUMPY:
        return False
    path = Path(pretrained)
    if (
        path.exists()
        or "/" in pretrained
        or path.suffix in (".pt", ".pth", ".ckpt", ".safetensors")
    ):
        refuse_other_files(path)
        return True
    return False


def load_clip_weights(
    model: nn.Module, path: str, backbone: str, name: str, weights: str = "auto"
) -> None:
    """Load a weights file into an open_clip model, whatever wrappers it came in.

    ``backbone``: the model as the user named it; ``name``: as open_clip knows it. ``weights``: see
    ``wrappers.find_state``. Raises CheckpointError where the file holds no weights of this
    architecture or activation.
    """
    content = read_weights_file(path)
    state = find_state(content, CLIP, path, weights)
    if state is None:
        state = any_state(content, path)
    openai = [state.pop(fact, None) is not None for fact in _FACTS]
    if is_torchscript(path):
        # plain attributes of an archive's modules, which are no parameters
        state = {k: v for k, v in state.items() if not k.endswith("attn_mask")}
        openai.append(torchscript_mentions(path, _QUICKGELU))
    if any(openai):
        require_quickgelu(name, True, f"weights {path!r} (OpenAI's)")
    check_finite(state, path)
    load_state(
        model,
        _adapt(model, state),
        f"The weights {path!r} do not fit the backbone {backbone!r}",
        _remedy(state, name),
    )


def refuse_folder(folder: Path) -> None:
    """Raise CheckpointError where weights in an open_clip folder are Git LFS pointers or the like."""
    for file in sorted(folder.glob("open_clip*")):
        if file.suffix in (".bin", ".safetensors", ".pt", ".pth"):
            refuse_other_files(file)


def _adapt(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict in this model's layout, as open_clip's own loader makes it."""
    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):
        own = getattr(model, name, None)
        if own is not None and name in state and state[name].numel() == own.numel():
            state[name] = state[name].reshape(own.shape)
    if getattr(model, "logit_bias", None) is not None and "logit_scale" in state:
        state.setdefault("logit_bias", torch.zeros_like(state["logit_scale"]))
    position_ids = "text.transformer.embeddings.position_ids"
    if position_ids not in model.state_dict():
        state.pop(position_ids, None)
    for resize in (resize_pos_embed, resize_text_pos_embed):
        with suppress(Exception):  # wrong shapes are reported afterwards, all of them at once
            resize(state, model)
    return state


def _remedy(state: Mapping[str, Tensor], name: str) -> str:
    if any(key.startswith(_LAYOUT_OF_TRANSFORMERS) for key in state):
        return (
            "The file is in the layout of Hugging Face transformers; use the model's open_clip "
            "weights."
        )
    alike = [other for other in architectures_of(state) if other != name]
    if alike:
        return (
            f"The sizes in the file are those of {', '.join(alike[:4])}; name it with --backbone."
        )
    return "Name the architecture that the weights were trained with: --backbone."
