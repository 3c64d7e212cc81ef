"""Reads checkpoints of the official QKS release (arXiv 2401.01181): plain state dicts.

Such a file holds ``clip_model.*`` (OpenAI's CLIP, without its visual projection), ``proj``,
``query_tokens`` and ``net.*``. Sizes are read from the tensors; heads are 64 wide, as in BERT.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ovml_deploy.errors import CheckpointError
from ovml_deploy.models.activation import require_quickgelu
from ovml_deploy.models.backbone import Backbone, BackboneSpec, model_config, registered_name
from ovml_deploy.models.fitting import architectures_of, check_finite, load_state
from ovml_deploy.models.qks import QKSConfig, QKSHead
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.templates import QKS_TEMPLATES

_HEAD_WIDTH = 64
_CLIP = "clip_model."
_LAYER = re.compile(r"net\.encoder\.layer\.(\d+)\.")
#: Parts that the release's shared BERT code carries and the query path never runs.
_UNUSED = re.compile(
    r"net\.encoder\.layer\.\d+\.(intermediate|output)\."
    r"|net\.embeddings\.(word_embeddings|position_embeddings|token_type_embeddings|position_ids)"
    r"|net\.pooler\."
    r"|clip_model\.(input_resolution|context_length|vocab_size)$"
)


def load_official(content: Mapping[str, Any], backbone: str | None, path: str) -> TaggingModel:
    """Build the model of an official state dict on the architecture ``backbone``.

    Raises CheckpointError for a missing or wrong architecture, for missing, unknown or misshapen
    tensors, and for values that are not finite.
    """
    if backbone is None:
        raise CheckpointError(
            f"{path!r} is an official QKS state dict, which does not name its CLIP. Name it: "
            "--backbone ViT-B-16-quickgelu."
        )
    state = {k: v for k, v in content.items() if not _UNUSED.match(k)}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path!r}: {name!r} is a {type(value).__name__}, not a tensor.")
        state[name] = value.float()
    check_finite(state, path)
    model_config(backbone)  # refuses unknown names
    require_quickgelu(registered_name(backbone), True, f"CLIP weights in {path!r} (OpenAI's)")
    head = QKSHead(_config(state, path))
    clip = {k.removeprefix(_CLIP): v for k, v in state.items() if k.startswith(_CLIP)}
    loaded = Backbone.load(BackboneSpec(backbone), load_weights=False)
    # QKS replaces the visual projection by its own, which starts as CLIP's.
    clip.setdefault("visual.proj", state["proj"])
    rest = {k: v for k, v in state.items() if not k.startswith(_CLIP)}
    what = f"{path!r} does not fit {backbone!r} and the official layout"
    load_state(loaded.model, clip, what, _remedy(clip))
    load_state(head, rest, what)
    return TaggingModel(loaded, head, QKS_TEMPLATES).eval()


def _config(state: Mapping[str, Tensor], path: str) -> QKSConfig:
    layers = {int(match[1]) for name in state if (match := _LAYER.match(name))}
    first = "net.encoder.layer.0.intermediate_query.dense.weight"
    if layers != set(range(len(layers))) or first not in state:
        raise CheckpointError(
            f"{path!r} has layers {sorted(layers)}; a whole stack from 0 with {first!r} is needed."
        )
    if state["proj"].ndim != 2 or state["query_tokens"].ndim != 3:
        raise CheckpointError(
            f"{path!r}: proj must be [W, D] and query_tokens [1, M, W]; they are "
            f"{list(state['proj'].shape)} and {list(state['query_tokens'].shape)}."
        )
    width, embed_dim = state["proj"].shape
    return QKSConfig(
        width=width,
        embed_dim=embed_dim,
        layers=len(layers),
        queries=state["query_tokens"].shape[1],
        attention_heads=max(1, width // _HEAD_WIDTH),
        intermediate=state[first].shape[0],
    )


def _remedy(clip: Mapping[str, Tensor]) -> str:
    alike = [name for name in architectures_of(clip) if name.endswith("-quickgelu")]
    return f"Its sizes are those of {', '.join(alike)}; name it with --backbone." if alike else ""
