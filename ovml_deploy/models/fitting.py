"""Checks of a state dict before it is loaded: finite values, and names and shapes that fit."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from ovml_deploy.errors import CheckpointError

_SHOWN = 3


def check_finite(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise CheckpointError naming the tensors that hold NaN or infinite values."""
    bad = [
        name
        for name, value in state.items()
        if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]
    if bad:
        value = state[bad[0]]
        what = "NaN" if bool(value.isnan().any()) else "infinite"
        count = int((~torch.isfinite(value)).sum())
        raise CheckpointError(
            f"{str(path)!r} has {what} weights in {len(bad)} tensors: {shown(bad)}; "
            f"{count:,} of {value.numel():,} values of the first. Its training diverged, or float16 "
            "overflowed; use an earlier checkpoint."
        )


def load_state(module: nn.Module, state: Mapping[str, Tensor], what: str, remedy: str = "") -> None:
    """Load a state dict whole. Raises CheckpointError "``what`` ..." with counts and examples."""
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    shapes = [
        f"{name!r} is {list(state[name].shape)} in the file and {list(own[name].shape)} in the model"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    parts = [f"{len(missing)} tensors are missing ({shown(missing)})"] if missing else []
    parts += [f"{len(unknown)} are unknown ({shown(unknown)})"] if unknown else []
    if shapes:
        parts.append(f"{len(shapes)} have another shape ({shapes[0]})")
    if parts:
        raise CheckpointError(f"{what}: {'; '.join(parts)}.{remedy and ' ' + remedy}")
    module.load_state_dict(dict(state))


def shown(names: Sequence[str]) -> str:
    """Return the first names, and that there are more."""
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more


def architectures_of(state: Mapping[str, Tensor]) -> list[str]:
    """Return open_clip's ViT models with the sizes of a CLIP state dict, or nothing."""
    names = ("visual.conv1.weight", "token_embedding.weight", "text_projection")
    tensors = [state.get(name, state.get(f"text.{name}")) for name in names]
    if any(tensor is None or tensor.ndim < 2 for tensor in tensors):
        return []
    patches, words, projection = (tensor.shape for tensor in tensors if tensor is not None)
    sizes = (patches[0], patches[-1], words[1], projection[1])
    layers = len({name.split(".")[3] for name in state if name.startswith(_BLOCKS)})
    return [n for n in open_clip.list_models() if _sizes(n) == (*sizes, layers)]


_BLOCKS = "visual.transformer.resblocks."


def _sizes(name: str) -> tuple[object, ...]:
    config = open_clip.get_model_config(name)
    vision, text = config["vision_cfg"], config["text_cfg"]
    towers = (vision.get("width"), vision.get("patch_size"), text.get("width"))
    return (*towers, config["embed_dim"], vision.get("layers"))
