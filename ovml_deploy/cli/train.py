"""``ovml-deploy train ...``."""

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ovml_deploy.commandline import (
    INTERRUPTED,
    command,
    count,
    counts,
    flag,
    needs_extra,
    number,
)
from ovml_deploy.errors import UsageError

Types = Mapping[str, Callable[[str], Any]]

_COMMON: Types = {
    "epochs": count,
    "batch_size": count,
    "lr": number,
    "val_fraction": number,
    "seed": count,
    "checkpoint_every": count,
    "include_backbone": flag,
    "resume": flag,
}
_QKS: Types = {
    **_COMMON,
    "layers": count,
    "queries": count,
    "weight_decay": number,
    "views": count,
    "top_k": counts,
}
_PROMPTS: Types = {
    **_COMMON,
    "shared": count,
    "grouped": count,
    "specific": count,
    "scale": number,
    "temperature": number,
    "text_temperature": number,
    "labels_per_step": count,
}


def read_settings(path: str | Path, options: set[str], types: Types) -> dict[str, Any]:
    """Read options from a TOML file, each checked as on the command line. Raises UsageError."""
    import tomllib  # takes a while, and few commands need it

    source = Path(path)
    try:
        values = tomllib.loads(source.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"The settings {str(source)!r} cannot be read: {error}.") from error
    settings = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in options:
            raise UsageError(
                f"{str(source)!r} sets {key!r}, which is no option. The options are: "
                f"{', '.join(sorted(options))}."
            )
        try:
            settings[name] = types.get(name, str)(_as_typed(value))
        except UsageError as error:
            raise UsageError(f"{str(source)!r}, {key}: {error}") from error
    return settings


def _as_typed(value: Any) -> str:
    """A value of TOML as one would type it on the command line."""
    if isinstance(value, list):
        return ",".join(_as_typed(item) for item in value)
    if not isinstance(value, (str, int, float)):  # bool is an int
        raise UsageError(f"{value!r} is neither text, a number, true or false, nor a list.")
    return str(value)


def _with_config(
    types: Types,
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Let the option ``config`` name a file of the others; what the caller gives wins."""

    def decorate(function: Callable[..., int]) -> Callable[..., int]:
        signature = inspect.signature(function)
        options = set(signature.parameters) - {"self", "config"}

        @functools.wraps(function)
        def configured(*args: Any, **kwargs: Any) -> int:
            bound = signature.bind(*args, **kwargs).arguments
            given = {name: value for name, value in bound.items() if value is not None}
            file = given.get("config")
            settings = {} if file is None else read_settings(file, options, types)
            return function(**{**settings, **given})

        return configured

    return decorate


def _named(values: Mapping[str, Any], *required: str) -> dict[str, Any]:
    """A command's arguments without self and config. Raises UsageError for a missing one."""
    for name in required:
        if values[name] is None:
            raise UsageError(f"Name --{name}, on the command line or in the --config file.")
    return {name: value for name, value in values.items() if name not in ("self", "config")}


class Train:
    """Train a head on a frozen backbone (needs the 'train' extra)."""

    @command(**_QKS)
    @_with_config(_QKS)
    def qks(
        self,
        data: str | None = None,
        backbone: str | None = None,
        *,
        config: str | None = None,
        out: str = "runs/qks",
        pretrained: str | None = None,
        val: str | None = None,
        images: str | None = None,
        val_images: str | None = None,
        unseen: str | None = None,
        seen: str | None = None,
        cache: str | None = None,
        loss: str = "asl",
        layers: int = 7,
        queries: int = 12,
        epochs: int = 20,
        batch_size: int = 64,
        lr: float = 1e-5,
        weight_decay: float = 1e-4,
        views: int = 2,
        val_fraction: float = 0.1,
        top_k: tuple[int, ...] = (3, 5),
        seed: int = 0,
        device: str = "auto",
        feature_dtype: str = "float16",
        checkpoint_every: int = 1000,
        include_backbone: bool = False,
        resume: bool = False,
    ) -> int:
        """Train a QKS head (arXiv 2401.01181) on images with labels; writes OUT/qks.pt.

        Args:
            data: a CSV, a COCO instances JSON, or FOLDER:PART in an official layout, as VOC2007:test
            backbone: an open_clip model, a local-dir: folder, or a model configuration
            config: a TOML file of these options, such as recipes/nus-wide.toml; those on the
                command line win
            out: where checkpoints, log and features go
            pretrained: the backbone's weights: a tag of open_clip or a file
            val: validation data; default: a share of the training images (val_fraction)
            images: the folder relative image paths start from; default: where the data have them
            val_images: the same for the validation data
            unseen: a label file, of those to keep out of training, for ZSL and GZSL figures
            seen: a label file, of those to train on; default: the data's other labels
            cache: the folder of backbone features; default: OUT/features
            loss: asl, bce or ranking
            layers: depth of the query stack
            queries: number of query tokens
            epochs: passes over the training images
            batch_size: images a step
            lr: learning rate of AdamW
            weight_decay: of AdamW
            views: versions kept of each training image, the plain one included
            val_fraction: share of images kept for validation where there is no --val
            top_k: precision, recall and F1 are logged at these numbers of tags
            seed: of everything random
            device: auto, cpu or cuda
            feature_dtype: float16 or float32, for the cached features
            checkpoint_every: steps between checkpoints inside an epoch; 0 for none
            include_backbone: put the backbone inside qks.pt
            resume: go on where an interrupted run stopped
        """
        chosen = _named(locals(), "data", "backbone")
        with needs_extra("train"):
            from ovml_deploy.training.qks_run import train_qks
        return INTERRUPTED if train_qks(**chosen).interrupted else 0

    @command(**_PROMPTS)
    @_with_config(_PROMPTS)
    def prompts(
        self,
        knowledge: str | None = None,
        backbone: str | None = None,
        *,
        config: str | None = None,
        out: str = "runs/prompts",
        pretrained: str | None = None,
        labels: str | None = None,
        groups: str | None = None,
        loss: str = "ranking",
        branches: str = "both",
        shared: int = 4,
        grouped: int = 3,
        specific: int = 1,
        epochs: int = 10,
        batch_size: int = 128,
        lr: float = 2e-3,
        labels_per_step: int = 64,
        scale: float = 4.0,
        temperature: float = 40.0,
        text_temperature: float = 50.0,
        val_fraction: float = 0.1,
        seed: int = 0,
        device: str = "auto",
        checkpoint_every: int = 1000,
        include_backbone: bool = False,
        resume: bool = False,
    ) -> int:
        """Tune prompts on text alone (arXiv 2403.01209); writes OUT/prompts.pt.

        Args:
            knowledge: a file that 'ovml-deploy knowledge' wrote
            backbone: an open_clip model, a local-dir: folder, or a model configuration
            config: a TOML file of these options; those on the command line win
            out: where checkpoints, log and groups go
            pretrained: the backbone's weights: a tag of open_clip or a file
            labels: a label file; default: all categories of the knowledge
            groups: a JSON file {"group": ["label", ...]}; default: found by clustering, and written
                to OUT/groups.json
            loss: ranking (the paper's order loss), bce or asl
            branches: both, global or local
            shared: tokens that all labels share; with grouped and specific 0, this is TaI-DPT
            grouped: tokens that the labels of a group share
            specific: tokens of each label's own
            epochs: passes over the sentences
            batch_size: sentences a step
            lr: learning rate of AdamW at the start of its cosine
            labels_per_step: labels whose prompts are encoded in a step
            scale: the papers' s, in training; the bundle's is the backbone's own
            temperature: the papers' tau for images
            text_temperature: the papers' tau for sentences
            val_fraction: share of the sentences held out, to choose the epoch by
            seed: of everything random
            device: auto, cpu or cuda
            checkpoint_every: steps between checkpoints inside an epoch; 0 for none
            include_backbone: put the backbone inside prompts.pt
            resume: go on where an interrupted run stopped
        """
        chosen = _named(locals(), "knowledge", "backbone")
        with needs_extra("train"):
            from ovml_deploy.training.prompts_run import train_prompts
        return INTERRUPTED if train_prompts(**chosen).interrupted else 0
