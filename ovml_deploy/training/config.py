"""The settings of training runs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

from ovml_deploy.errors import UsageError
from ovml_deploy.models.prompt_tuned import BRANCH_CHOICES
from ovml_deploy.training.features import DTYPES
from ovml_deploy.training.losses import LossName
from ovml_deploy.training.metrics import DEFAULT_TOP_K

#: May change when a run is resumed: they do not alter what a step does.
_FREE_ON_RESUME = frozenset({"epochs", "device", "checkpoint_every"})
_LOSSES = get_args(LossName)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a QKS run; the defaults are the paper's for NUS-WIDE (arXiv 2401.01181).

    ``views``: versions of each training image, the plain one included; each epoch takes one at
    random. ``checkpoint_every``: steps between checkpoints inside an epoch, 0 for none.
    ``plateau_*``: ReduceLROnPlateau on the validation score. ``val_fraction``: share of the
    training images kept for validation where there is no validation file. Raises UsageError.
    """

    epochs: int = 20
    batch_size: int = 64
    lr: float = 1e-5
    weight_decay: float = 1e-4
    loss: str = "asl"
    layers: int = 7
    queries: int = 12
    views: int = 2
    seed: int = 0
    device: str = "auto"
    val_fraction: float = 0.1
    checkpoint_every: int = 1000
    plateau_patience: int = 2
    plateau_factor: float = 0.1
    top_k: tuple[int, ...] = DEFAULT_TOP_K
    feature_dtype: str = "float16"

    def __post_init__(self) -> None:
        values = asdict(self)
        _require_whole(values, 1, "epochs", "batch_size", "layers", "queries", "views")
        _require_whole(values, 0, "checkpoint_every", "plateau_patience", "seed")
        _require_common(values)
        _require(values, "weight_decay", self.weight_decay >= 0, "a number >= 0")
        _require(values, "plateau_factor", 0 < self.plateau_factor < 1, "in (0, 1)")
        _require(values, "feature_dtype", self.feature_dtype in DTYPES, f"one of {DTYPES}")
        whole = all(isinstance(k, int) and k >= 1 for k in self.top_k)
        _require(
            values,
            "top_k",
            whole and bool(self.top_k),
            "one or more whole numbers >= 1, such as 3,5",
        )

    def settled(self) -> dict[str, Any]:
        """Return, as plain values, the settings that may not change when a run is resumed."""
        return _settled({**asdict(self), "top_k": list(self.top_k)})


@dataclass(frozen=True)
class PromptTrainConfig:
    """Settings of a run that tunes prompts (arXiv 2403.01209, 2211.12739).

    ``shared``, ``grouped``, ``specific``: tokens for all labels, for a group's, for each label's
    own. ``branches``: both, global or local. ``scale``: the papers' s in training;
    ``text_temperature``: their tau for sentences, ``temperature`` the one for images.
    ``labels_per_step``: how many labels' prompts are encoded in a step. ``val_fraction``: share of
    the sentences that are held out to choose the epoch by. Raises UsageError.
    """

    epochs: int = 10
    batch_size: int = 128
    lr: float = 2e-3
    loss: str = "ranking"
    shared: int = 4
    grouped: int = 3
    specific: int = 1
    branches: str = "both"
    scale: float = 4.0
    temperature: float = 40.0
    text_temperature: float = 50.0
    labels_per_step: int = 64
    val_fraction: float = 0.1
    seed: int = 0
    device: str = "auto"
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        values = asdict(self)
        _require_whole(values, 1, "epochs", "batch_size")
        _require_whole(values, 0, "shared", "grouped", "specific", "checkpoint_every", "seed")
        _require_whole(values, 2, "labels_per_step")
        _require_common(values)
        for name in ("scale", "temperature", "text_temperature"):
            _require(values, name, values[name] > 0, "a positive number")
        tokens = self.shared + self.grouped + self.specific
        _require(values, "shared", tokens > 0, "at least 1 where --grouped and --specific are 0")
        _require(values, "branches", self.branches in BRANCH_CHOICES, f"one of {BRANCH_CHOICES}")

    def settled(self) -> dict[str, Any]:
        """Return, as plain values, the settings that may not change when a run is resumed."""
        return _settled(asdict(self))


def _settled(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _FREE_ON_RESUME}


def _require_common(values: Mapping[str, Any]) -> None:
    _require(values, "lr", values["lr"] > 0, "a positive number")
    _require(values, "val_fraction", 0 <= values["val_fraction"] < 1, "in [0, 1)")
    _require(values, "loss", values["loss"] in _LOSSES, f"one of {_LOSSES}")


def _require_whole(values: Mapping[str, Any], least: int, *names: str) -> None:
    for name in names:
        value = values[name]
        whole = isinstance(value, int) and not isinstance(value, bool)
        _require(values, name, whole and value >= least, f"a whole number >= {least}")


def _require(values: Mapping[str, Any], name: str, fulfilled: bool, wanted: str) -> None:
    if not fulfilled:
        flag = "--" + name.replace("_", "-")
        raise UsageError(f"{flag} must be {wanted}, not {values[name]!r}.")
