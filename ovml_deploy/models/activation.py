"""Refuses weights trained with QuickGELU in a model built without it, and the reverse.

Such a model loads, runs, and tags wrongly, so it is the first thing to check.
"""

import open_clip
from open_clip.pretrained import get_pretrained_cfg

from ovml_deploy.errors import CheckpointError

_SUFFIX = "-quickgelu"


def check_activation(name: str, pretrained: str | None) -> None:
    """Raise CheckpointError where ``pretrained`` is a tag whose weights need another activation."""
    if pretrained is None:
        return
    tag = get_pretrained_cfg(name, pretrained)
    if tag:
        require_quickgelu(name, bool(tag.get("quick_gelu", False)), f"weights {pretrained!r}")
    elif (sibling := _sibling_with(name, pretrained)) is not None:
        raise CheckpointError(
            f"The weights {pretrained!r} are not for {name!r}: they were trained "
            f"{'with' if sibling.endswith(_SUFFIX) else 'without'} QuickGELU. "
            f"Use the model {sibling!r}."
        )


def require_quickgelu(name: str, needed: bool, what: str) -> None:
    """Raise CheckpointError unless model ``name`` has QuickGELU exactly if it is ``needed``.

    ``name`` is one that open_clip itself knows, so not the path of a configuration.
    """
    config = open_clip.get_model_config(name)
    if config is None or bool(config.get("quick_gelu", False)) == needed:
        return
    trained = "with" if needed else "without"
    sibling = _sibling(name, needed)
    remedy = (
        f"Use the model {sibling!r}."
        if sibling in open_clip.list_models()
        else f'Set "quick_gelu": {str(needed).lower()} in its configuration.'
    )
    raise CheckpointError(
        f"The {what} were trained {trained} QuickGELU, and the model {name!r} was not made so: it "
        f"would load and tag wrongly. {remedy}"
    )


def _sibling_with(name: str, tag: str) -> str | None:
    sibling = _sibling(name, not name.endswith(_SUFFIX))
    return sibling if get_pretrained_cfg(sibling, tag) else None


def _sibling(name: str, quickgelu: bool) -> str:
    return name.removesuffix(_SUFFIX) + (_SUFFIX if quickgelu else "")
