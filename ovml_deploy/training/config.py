"""The settings of a QKS training run."""

from dataclasses import asdict, dataclass
from typing import Any, get_args

from ovml_deploy.errors import UsageError
from ovml_deploy.training.features import DTYPES
from ovml_deploy.training.losses import LossName
from ovml_deploy.training.metrics import DEFAULT_TOP_K

#: May change when a run is resumed: they do not alter what a step does.
_FREE_ON_RESUME = frozenset({"epochs", "device", "checkpoint_every"})
_AT_LEAST = {
    "epochs": 1,
    "batch_size": 1,
    "layers": 1,
    "queries": 1,
    "views": 1,
    "checkpoint_every": 0,
    "plateau_patience": 0,
    "seed": 0,
}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run; the defaults are the paper's for NUS-WIDE (arXiv 2401.01181).

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
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"{_flag(name)} must be a whole number >= {least}, not {value!r}.")
        self._require("lr", self.lr > 0, "a positive number")
        self._require("weight_decay", self.weight_decay >= 0, "a number >= 0")
        self._require("val_fraction", 0 <= self.val_fraction < 1, "in [0, 1)")
        self._require("plateau_factor", 0 < self.plateau_factor < 1, "in (0, 1)")
        self._require("loss", self.loss in get_args(LossName), f"one of {get_args(LossName)}")
        self._require("feature_dtype", self.feature_dtype in DTYPES, f"one of {DTYPES}")
        whole = all(isinstance(k, int) and k >= 1 for k in self.top_k)
        self._require(
            "top_k", whole and bool(self.top_k), "one or more whole numbers >= 1, such as 3,5"
        )

    def settled(self) -> dict[str, Any]:
        """Return, as plain values, the settings that may not change when a run is resumed."""
        values = {**asdict(self), "top_k": list(self.top_k)}
        return {name: value for name, value in values.items() if name not in _FREE_ON_RESUME}

    def _require(self, name: str, fulfilled: bool, wanted: str) -> None:
        if not fulfilled:
            raise UsageError(f"{_flag(name)} must be {wanted}, not {getattr(self, name)!r}.")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
