"""Checkpoints: a head with a reference to its backbone, or everything in one file.

The file is a ``torch.save`` of plain values and tensors. Reading it runs no code
(``ovml_deploy.models.weights_file``). Wrappers of training frameworks around it are removed.
"""

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovml_deploy.errors import CheckpointError
from ovml_deploy.files import write_atomically
from ovml_deploy.models.backbone import LOCAL_DIR, Backbone, BackboneSpec, model_config
from ovml_deploy.models.fitting import check_finite, load_state
from ovml_deploy.models.heads import Head, ZeroShotHead
from ovml_deploy.models.inert import contains_inert
from ovml_deploy.models.official import load_official
from ovml_deploy.models.prompt_tuned import PromptConfig, PromptTunedHead
from ovml_deploy.models.qks import QKSConfig, QKSHead
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.models.weights_file import read_weights_file, refuse_object
from ovml_deploy.models.wrappers import CLIP, QKS, clean_names, find_state, nested

FORMAT = "ovml-deploy/checkpoint"
VERSION = 1

_PREFIX = re.compile(r"(.*?)(?:head|backbone)\.")
_TEXT_FILES = (".json", ".txt", ".jinja")


def save_checkpoint(
    path: str | Path,
    model: TaggingModel,
    *,
    labels: Mapping[str, Sequence[str]] | None = None,
    include_backbone: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write ``model`` to ``path``, whole or not at all.

    ``labels``: named label lists ("seen", "unseen"); default: the model's own.
    ``include_backbone``: put the backbone's configuration, tokenizer and weights inside; otherwise
    its files are named relative to the checkpoint where they lie below its folder. ``extra``: plain
    values and tensors kept beside the model (a trainer's state).
    Raises CheckpointError for a backbone that names no weights.
    """
    spec = model.backbone.spec.relative_to(Path(path).parent)
    if not include_backbone and not spec.has_weights:
        raise CheckpointError(
            f"The backbone {spec.name!r} names no weights, so a reference to it would lose them. "
            "Put it inside: include_backbone=True."
        )
    state = {f"head.{name}": value for name, value in model.head.state_dict().items()}
    files: dict[str, str] = {}
    if include_backbone:
        inner = model.backbone.model.state_dict()
        state |= {f"backbone.{name}": value for name, value in inner.items()}
        files = dict(model.backbone.files or _backbone_files(model.backbone))
    content = {
        "format": FORMAT,
        "version": VERSION,
        "head": {"kind": model.head.kind, "settings": model.head.settings()},
        "backbone": asdict(spec),
        "backbone_files": files,
        "templates": list(model.templates),
        "labels": {name: list(some) for name, some in (labels or model.labels).items()},
        "state_dict": {name: value.detach().cpu().clone() for name, value in state.items()},
        "extra": dict(extra or {}),
    }
    with write_atomically(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(
    path: str | Path,
    backbone: str | None = None,
    pretrained: str | None = None,
    weights: str = "auto",
) -> TaggingModel:
    """Read a checkpoint of ours, or one of the official QKS release.

    ``backbone`` and ``pretrained`` replace the reference in the file; an official checkpoint holds
    its CLIP weights and needs ``backbone`` only, the name of their architecture. ``weights``: which
    weights of a file that also holds their moving average, see ``wrappers.find_state``.
    Raises CheckpointError.
    """
    content = read_checkpoint(path, weights)
    if content.get("format") != FORMAT:
        return load_official(content, backbone, str(path))
    spec = BackboneSpec(**content["backbone"]).found_from(Path(path).parent)
    state: dict[str, Tensor] = content["state_dict"]
    check_finite(state, path)
    inner = _with_prefix(state, "backbone.")
    if backbone is not None or pretrained is not None:
        loaded = Backbone.load(BackboneSpec(backbone or spec.name, pretrained), weights=weights)
    elif inner:
        loaded = _embedded_backbone(spec, content["backbone_files"], inner)
    else:
        loaded = Backbone.load(spec, weights=weights)
    head = build_head(content["head"]["kind"], content["head"]["settings"])
    load_state(head, _with_prefix(state, "head."), f"{path}: its head does not fit its settings")
    try:
        head.check_fits(loaded)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    model = TaggingModel(loaded, head, content["templates"]).eval()
    model.labels = content["labels"]
    return model


def read_checkpoint(path: str | Path, weights: str = "auto") -> dict[str, Any]:
    """Return a checkpoint's content as plain values and tensors, without wrappers around it.

    Either a checkpoint of this project (``"format"`` in it), or the tensors of an official one.
    Raises CheckpointError.
    """
    content = read_weights_file(path)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{str(path)!r} holds a {type(content).__name__}, not a checkpoint of this project or "
            "a state dict of the official QKS release."
        )
    ours = nested(content, "format", FORMAT)
    if ours is None:
        return _official_state(content, path, weights)
    if ours.get("version") != VERSION:
        raise CheckpointError(
            f"{str(path)!r} has checkpoint version {ours.get('version')!r}; this release reads "
            f"version {VERSION}."
        )
    if contains_inert(ours):
        raise CheckpointError(
            f"{str(path)!r} holds Python objects inside the checkpoint, and reading them could run "
            "code, so it was refused. Save it again with plain values only."
        )
    ours = {**ours, "state_dict": _without_wrappers(ours.get("state_dict"))}
    _check_content(ours, path)
    return ours


def _official_state(content: dict[str, Any], path: str | Path, weights: str) -> dict[str, Any]:
    """Return the tensors of an official checkpoint; say what other weights are."""
    state = find_state(content, QKS, path, weights)
    if state is not None:
        return dict(state)
    if find_state(content, CLIP, path, weights) is not None:
        raise CheckpointError(
            f"{str(path)!r} holds the weights of a CLIP model and no head. For a zero-shot bundle: "
            f"--backbone NAME --pretrained {path}, without --ckpt."
        )
    for value in content.values():
        refuse_object(path, value)
    raise CheckpointError(
        f"{str(path)!r} is neither a checkpoint of this project nor a state dict of the "
        "official QKS release (no 'query_tokens' in it)."
    )


def _without_wrappers(state: Any) -> Any:
    """Remove what wrappers put before the names "head. ..." and "backbone. ..."."""
    if not isinstance(state, Mapping):
        return state
    cleaned = clean_names(state)
    prefix = next((m[1] for name in cleaned if (m := _PREFIX.match(name))), "")
    return {name.removeprefix(prefix): value for name, value in cleaned.items()}


def build_head(kind: str, settings: Mapping[str, Any]) -> Head:
    """Return an untrained head of a kind ("qks", "prompt-tuned", "zero-shot") and settings."""
    try:
        if kind == QKSHead.kind:
            return QKSHead(QKSConfig(**settings))
        if kind == PromptTunedHead.kind:
            return PromptTunedHead(PromptConfig(**_with_tuples(settings)))
        if kind == ZeroShotHead.kind:
            return ZeroShotHead(**settings)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"Bad settings of the {kind!r} head: {error}") from error
    known = ", ".join(head.kind for head in (QKSHead, PromptTunedHead, ZeroShotHead))
    raise CheckpointError(f"Unknown head {kind!r}; this release knows {known}.")


def _with_tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}


def _backbone_files(backbone: Backbone) -> dict[str, str]:
    """The text files from which open_clip can build the backbone again without its weights."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = model_config(backbone.spec.name)
        text = dict(config["text_cfg"])
        if backbone.text.hugging_face:
            backbone.text.tower.config.save_pretrained(folder)
            text["hf_model_name"] = "."
        if hasattr(backbone.tokenizer, "save_pretrained"):
            backbone.tokenizer.save_pretrained(folder)
            text["hf_tokenizer_name"] = "."
        described = {
            "model_cfg": {**config, "text_cfg": text},
            "preprocess_cfg": backbone.preprocessing.to_config(),
        }
        (folder / "open_clip_config.json").write_text(json.dumps(described))
        return {f.name: f.read_text("utf-8") for f in folder.iterdir() if f.suffix in _TEXT_FILES}


def _embedded_backbone(
    spec: BackboneSpec, files: Mapping[str, str], state: Mapping[str, Tensor]
) -> Backbone:
    with tempfile.TemporaryDirectory() as name:
        for file, text in files.items():
            # Only text that is read as data; a tokenizer may bring .py files, which would run.
            if Path(file).name != file or Path(file).suffix not in _TEXT_FILES:
                raise CheckpointError(f"The checkpoint holds a file it should not: {file!r}.")
            (Path(name) / file).write_text(text, "utf-8")
        backbone = Backbone.load(BackboneSpec(LOCAL_DIR + name), load_weights=False)
    load_state(backbone.model, state, "The backbone inside does not fit its configuration")
    backbone.spec, backbone.files = spec, files
    return backbone


def _check_content(content: Mapping[str, Any], path: str | Path) -> None:
    """Refuse a file whose parts have other types than :func:`save_checkpoint` writes."""
    head, spec = content.get("head"), content.get("backbone")
    state, files = content.get("state_dict"), content.get("backbone_files")
    fits = (
        isinstance(head, dict)
        and isinstance(head.get("kind"), str)
        and isinstance(head.get("settings"), dict)
        and isinstance(spec, dict)
        and set(spec) == {"name", "pretrained"}
        and isinstance(spec["name"], str)
        and isinstance(spec["pretrained"], str | None)
        and _is_dict_of(state, Tensor)
        and _is_dict_of(files, str)
        and isinstance(content.get("templates"), list)
        and all(isinstance(template, str) for template in content["templates"])
    )
    if not fits:
        raise CheckpointError(f"{str(path)!r} is damaged: parts of it are missing or misshapen.")


def _is_dict_of(value: Any, kind: type) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(item, kind) for name, item in value.items()
    )


def _with_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
