"""Names of cached features: a hash of everything that decides their values."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from torch import nn

from ovml_deploy.models.backbone import Backbone
from ovml_deploy.models.tagging import TaggingModel

#: Counts up when the way features are made changes, so that older caches are not read.
VERSION = 1

_DIGITS = 32


def image_key(
    backbone: Backbone, paths: Sequence[Path], *, views: int, seed: int, dtype: str
) -> str:
    """Return the name of the image features of ``paths``, 32 hexadecimal digits.

    It covers the image tower (structure and weights), the preprocessing, every file's path, size
    and time, the views and their seed, and the stored type.
    """
    tower = backbone.model.visual
    assert isinstance(tower, nn.Module)
    return _digest(
        [
            "images",
            VERSION,
            backbone.spec.name,
            weights_hash(tower),
            asdict(backbone.preprocessing),
            [views, seed if views > 1 else None, dtype],
        ],
        (json.dumps([str(path.absolute()), *_stamp(path)]) for path in paths),
    )


def label_key(model: TaggingModel, labels: Sequence[str]) -> str:
    """Return the name of the embeddings of ``labels``: text tower, prompt pool and labels."""
    settings = ["labels", VERSION, model.backbone.spec.name, weights_hash(model.backbone.model)]
    return _digest([*settings, list(model.templates), model.head.normalises_labels], labels)


def weights_hash(module: nn.Module) -> str:
    """Return a SHA-256 over a module's structure, names and values of its tensors."""
    digest = hashlib.sha256(repr(module).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _stamp(path: Path) -> list[int | None]:
    try:
        status = path.stat()
    except OSError:
        return [None]
    return [status.st_size, status.st_mtime_ns]


def _digest(settings: list[object], lines: Iterable[str]) -> str:
    digest = hashlib.sha256(json.dumps(settings).encode())
    for line in lines:
        digest.update(b"\n" + json.dumps(line).encode())
    return digest.hexdigest()[:_DIGITS]
