"""State dicts inside the wrappers of training frameworks, and their clean tensor names.

Lightning, timm, DataParallel, torch.compile and research code wrap a state dict in dictionaries
(``{"state_dict": ..., "model_ema": ...}``) and prefix its names (``module._orig_mod.model.``), in any
order. One tensor with a known name shows where the state dict is and which prefix it has.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ovml_deploy.errors import CheckpointError
from ovml_deploy.models.weights_file import refuse_object

logger = logging.getLogger(__name__)

CHOICES = ("auto", "ema", "model")

_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_DEPTH = 4
#: Names under which training scripts store a state dict, the usual ones first.
_USUAL = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "ema",
    "model_ema",
)


@dataclass(frozen=True)
class Kind:
    """A kind of state dict. ``anchor``: a tensor that it has; ``beside``: names found beside it."""

    name: str
    anchor: str
    beside: tuple[str, ...]


QKS = Kind("an official QKS state dict", "query_tokens", ("proj",))
CLIP = Kind("a CLIP state dict", "logit_scale", ("visual.", "image_encoder."))


@dataclass(frozen=True)
class Found:
    """A state dict in a file. ``place``: its keys and prefix, as "model_ema: module.".

    ``others``: names of tensors beside it that have another prefix, such as a loss's.
    """

    place: str
    state: dict[str, Tensor]
    others: tuple[str, ...] = ()

    @property
    def is_ema(self) -> bool:
        """Whether its place names an exponential moving average of weights."""
        return "ema" in re.split(r"[^a-z0-9]+|_", self.place.lower())


def find_state(
    content: Any, kind: Kind, path: str | Path, weights: str = "auto"
) -> dict[str, Tensor] | None:
    """Return the state dict of ``kind`` in a file's content with clean names, or None.

    ``weights``: where a file holds both a model and its moving average, "ema" or "model"; "auto"
    takes the average, which is meant for evaluation, and logs it. Raises CheckpointError for
    several state dicts of one sort, and where the chosen sort is absent.
    """
    found = [one for place, value in _mappings(content) for one in _of_kind(kind, place, value)]
    if not found:
        return None
    averages = [one for one in found if one.is_ema]
    plain = [one for one in found if not one.is_ema]
    chosen = {"ema": averages, "model": plain, "auto": averages or plain}[weights]
    if not chosen:
        sort = (
            "a moving average (EMA)" if weights == "ema" else "other weights than a moving average"
        )
        raise CheckpointError(f"{str(path)!r} holds no {sort.removeprefix('a ')}; omit --weights.")
    if len(chosen) > 1:
        places = ", ".join(repr(one.place) for one in chosen)
        raise CheckpointError(
            f"{str(path)!r} holds several sets of weights: {places}. Save the one to use in a file of "
            "its own: torch.save(state_dict, path)."
        )
    if averages and plain:
        other = "model" if chosen[0].is_ema else "ema"
        logger.warning(
            "%r holds a model and its moving average (EMA); %r is used. For the other: --weights %s",
            *(str(path), chosen[0].place, other),
        )
    elif others := chosen[0].others:
        logger.warning(
            "%r: tensors outside %r are not used: %s%s.",
            *(str(path), chosen[0].place, ", ".join(others[:3]), ", ..." if others[3:] else ""),
        )
    return chosen[0].state


def any_state(content: Any, path: str | Path) -> dict[str, Tensor]:
    """Return the first state dict under a usual name, with clean names, whatever its kind is.

    Raises CheckpointError where the file holds none, for example a pickled model.
    """
    while isinstance(content, Mapping):
        inner = next((content[name] for name in _USUAL if name in content), None)
        refuse_object(path, inner)
        if not isinstance(inner, Mapping):
            break
        content = inner
    tensors = _clean(content) if isinstance(content, Mapping) else {}
    if not tensors:
        raise CheckpointError(
            f"{str(path)!r} holds a {type(content).__name__}, and no state dict. Save one: "
            "torch.save(model.state_dict(), path)."
        )
    return tensors


def nested(content: Any, key: str, value: Any) -> Mapping[str, Any] | None:
    """Return the outermost mapping of a file whose ``key`` is ``value``, or None."""
    return next((part for _, part in _mappings(content) if part.get(key) == value), None)


def clean_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict without the parts of names that wrappers insert."""
    return {
        ".".join(part for part in str(name).split(".") if part not in _WRAPPERS): value
        for name, value in state.items()
    }


def _mappings(content: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Mapping]]:
    """Yield all mappings of a file with their places, the outermost first."""
    if not isinstance(content, Mapping) or depth > _DEPTH:
        return
    yield place, content
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _mappings(value, f"{place}.{key}".removeprefix("."), depth + 1)


def _of_kind(kind: Kind, place: str, content: Mapping[str, Any]) -> Iterator[Found]:
    tensors = _clean(content)
    for anchor in sorted(name for name in tensors if name.split(".")[-1] == kind.anchor):
        prefix = anchor.removesuffix(kind.anchor)
        inside = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if any(name.startswith(kind.beside) for name in inside):
            shown = f"{place}: {prefix}" if place and prefix else place or prefix
            others = tuple(name for name in tensors if not name.startswith(prefix))
            yield Found(shown, inside, others)


def _clean(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {k: v for k, v in clean_names(state).items() if isinstance(v, Tensor)}
