"""What all trainers of heads share: epochs, checkpoints, the log, stopping and going on.

A run can be killed at any step and resumed: ``last.pt`` holds the head, the optimizer, the
schedule, the random state and the position in the epoch. The order of an epoch comes from the seed
and the epoch's number alone. On a CPU the resumed run ends with the very weights of an undisturbed
one.
"""

import csv
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ovml_deploy.errors import CheckpointError, OvmlError, UsageError
from ovml_deploy.files import write_atomically
from ovml_deploy.models.checkpoint import read_checkpoint, save_checkpoint
from ovml_deploy.models.fitting import check_finite, load_state
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.training.interrupt import RunInterruptedError, StopRequest
from ovml_deploy.training.losses import make_loss
from ovml_deploy.training.reporting import Reporter

LAST, BEST, LOG = "last.pt", "best.pt", "log.csv"

Row = dict[str, float]


class Config(Protocol):
    """What a trainer asks of its settings."""

    @property
    def epochs(self) -> int:
        """Passes over the training data."""

    @property
    def lr(self) -> float:
        """The learning rate at the start."""

    @property
    def loss(self) -> str:
        """The loss's name."""

    @property
    def checkpoint_every(self) -> int:
        """Steps between checkpoints inside an epoch; 0 for none."""

    def settled(self) -> dict[str, Any]:
        """Return, as plain values, the settings that may not change when a run is resumed."""


@dataclass(frozen=True)
class Surroundings:
    """Where a run writes and computes, whom it tells, and who may stop it."""

    out: Path
    device: torch.device
    reporter: Reporter
    stop: StopRequest

    def say_how_to_resume(self, what: str) -> None:
        """Tell a person who interrupted the run how to go on."""
        self.reporter.line(f"Interrupted. {what} Run the same command with --resume to go on.")


@dataclass(frozen=True)
class TrainResult:
    """How a run ended. ``checkpoint`` is None if it was interrupted; then it can be resumed.

    ``metrics`` is the log's row of the best epoch, ``best_epoch`` counts from 1 (0: before the
    first), ``unreadable`` are the images that were left out.
    """

    checkpoint: Path | None
    best_epoch: int
    metrics: Row
    unreadable: tuple[Path, ...] = ()

    @property
    def interrupted(self) -> bool:
        """Whether the run stopped before its last epoch, on request."""
        return self.checkpoint is None


@dataclass
class Position:
    """Where a run stands; ``step`` counts the steps done in ``epoch``."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best_score: float = -math.inf
    best_epoch: int = 0
    history: list[Row] = field(default_factory=list)


class Trainer(ABC):
    """Trains ``model``'s head; writes ``last.pt``, ``best.pt`` and ``log.csv`` into a folder."""

    final: ClassVar[str]  # the file of the best epoch's weights

    optimizer: torch.optim.Optimizer
    scheduler: Any  # torch's schedules share no interface

    def __init__(
        self,
        model: TaggingModel,
        config: Config,
        around: Surroundings,
        *,
        steps: int,
        fingerprint: str,
        labels: Mapping[str, Sequence[str]],
    ) -> None:
        """``steps`` are those of an epoch; ``fingerprint`` names the data, ``labels`` are saved."""
        self.model, self.settings, self.out, self.around = model, config, around.out, around
        self.device, self.reporter, self.stop = around.device, around.reporter, around.stop
        self.steps, self.fingerprint, self.labels = steps, fingerprint, labels
        model.head.to(self.device)
        self.loss = make_loss(config.loss)
        self.amp = self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(enabled=self.amp)
        self.position = Position()

    @abstractmethod
    def _start_epoch(self) -> None:
        """Choose the order of the epoch, from the seed and the epoch's number alone."""

    @abstractmethod
    def _step(self, step: int) -> Tensor:
        """Return the loss of the epoch's step ``step``."""

    @abstractmethod
    def _evaluate(self) -> tuple[Row, float] | None:
        """Return figures for the log and the score to choose by; None without validation data."""

    def _before_training(self) -> None:  # noqa: B027
        """Do what a new run begins with."""

    def _follow_schedule(self, score: float) -> None:
        """Set the next epoch's learning rate."""
        self.scheduler.step()

    def run(self) -> bool:
        """Train to the last epoch; False if a stop was asked for (all is saved by then)."""
        try:
            if not self.position.epoch and not self.position.step:
                self._before_training()
            while self.position.epoch < self.settings.epochs:
                self._train_epoch()
                self._finish_epoch()
        except RunInterruptedError:
            self.save()
            return False
        return True

    def finish(self, include_backbone: bool) -> TrainResult:
        """Train to the end, and write the final checkpoint unless a stop was asked for."""
        finished = self.run()
        best = self.position.best_epoch
        metrics = self.position.history[best - 1] if best else {}
        if not finished:
            self.around.say_how_to_resume(
                f"{self.out / LAST} is in epoch {self.position.epoch + 1}."
            )
            return TrainResult(None, best, metrics)
        final = self.out / self.final
        self.write_best(include_backbone)
        which = f"the weights of epoch {best}, the best" if best else "as it began, which was best"
        self.reporter.line(f"{final}: {which}.")
        return TrainResult(final, best, metrics)

    def save(self) -> None:
        """Write ``last.pt``: the head and all that is needed to go on."""
        state = {
            "config": self.settings.settled(),
            "data": self.fingerprint,
            "position": asdict(self.position),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.amp else None,
        }
        self._save_model(LAST, {"trainer": state})

    def resume(self) -> None:
        """Go back to the state in ``last.pt``. Raises CheckpointError if that run was another."""
        path = self.out / LAST
        content = read_checkpoint(path)
        state = content["extra"].get("trainer")
        if state is None:
            raise CheckpointError(f"{str(path)!r} holds no state of a training run.")
        self._require_same(path, state)
        check_finite(content["state_dict"], path)
        load_state(self.model.head, _head_state(content), f"{str(path)!r} does not fit this model")
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if state["scaler"]:  # empty where the run was on a CPU until now
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if self.amp and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.position = Position(**state["position"])
        self._write_log()

    def write_best(self, include_backbone: bool) -> None:
        """Put the best epoch's weights into the model, and write it without a trainer's state."""
        content = read_checkpoint(self.out / BEST)
        self.model.head.load_state_dict(_head_state(content))
        self.model.eval()
        self._save_model(self.final, content["extra"], include_backbone)

    def _train_epoch(self) -> None:
        position, every = self.position, self.settings.checkpoint_every
        self._start_epoch()
        self.model.head.train()
        title = f"epoch {position.epoch + 1}/{self.settings.epochs}"
        with self.reporter.track(title, self.steps) as tell:
            tell(position.step)
            while position.step < self.steps:
                self.stop.check()
                position.loss_sum += self._learn(self._step(position.step))
                position.step += 1
                tell(1)
                if every and position.step % every == 0 and position.step < self.steps:
                    self.save()

    def _learn(self, loss: Tensor) -> float:
        value = float(loss.detach())
        if not math.isfinite(value):
            raise OvmlError(
                f"The loss became {value} in epoch {self.position.epoch + 1}, step "
                f"{self.position.step + 1}. Start again with a lower --lr than {self.settings.lr}."
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return value

    def _finish_epoch(self) -> None:
        position = self.position
        loss, lr = position.loss_sum / self.steps, self.optimizer.param_groups[0]["lr"]
        row: Row = {"epoch": position.epoch + 1, "lr": lr, "train_loss": loss}
        self.model.head.eval()
        figures, score = self._evaluate() or ({}, -loss)
        row |= figures
        self._follow_schedule(score)
        position.history.append(row)
        position.epoch, position.step, position.loss_sum = position.epoch + 1, 0, 0.0
        # Before last.pt: a kill in between repeats this epoch and writes the same again.
        self._keep_if_best(score, row)
        self.save()
        self._write_log()
        self.reporter.line(_summary(row, self.settings.epochs))

    def _keep_if_best(self, score: float, metrics: Row) -> None:
        position = self.position
        if score > position.best_score:
            position.best_score, position.best_epoch = score, position.epoch
            self._save_model(BEST, {"epoch": position.epoch, "metrics": metrics})

    def _save_model(
        self, name: str, extra: Mapping[str, Any], include_backbone: bool = False
    ) -> None:
        save_checkpoint(
            self.out / name,
            self.model,
            labels=self.labels,
            include_backbone=include_backbone,
            extra=extra,
        )

    def _write_log(self) -> None:
        history = self.position.history
        with write_atomically(self.out / LOG) as part, open(part, "w", newline="") as file:
            writer = csv.DictWriter(file, list(history[0]) if history else ["epoch"])
            writer.writeheader()
            writer.writerows(history)

    def _require_same(self, path: Path, state: Mapping[str, Any]) -> None:
        now = self.settings.settled()
        for name, then in state["config"].items():
            if now.get(name) != then:
                raise CheckpointError(
                    f"{str(path)!r} was trained with {name} = {then!r}, not {now.get(name)!r}. "
                    "Resume with that value, or train into another --out."
                )
        if state["data"] != self.fingerprint:
            raise CheckpointError(
                f"{str(path)!r} was trained on other data, labels or backbone weights than "
                "these. Bring those back, or train into another --out."
            )


def goes_on(out: Path, resume: bool) -> bool:
    """Whether a run in ``out`` is to be continued. Raises UsageError if it would be overwritten."""
    exists = (out / LAST).is_file()
    if exists and not resume:
        raise UsageError(
            f"{str(out)!r} already holds a training run. Add --resume to continue it, or name "
            "another --out."
        )
    return exists


def remove_torn_files(out: Path, final: str) -> None:
    """Remove what a kill in the middle of a checkpoint left: files as large as the checkpoint."""
    for name in (LAST, BEST, final):
        for file in out.glob(f".{name}.*.part"):
            file.unlink(missing_ok=True)


def _head_state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = content["state_dict"]
    return {k.removeprefix("head."): v for k, v in state.items() if k.startswith("head.")}


def _summary(row: Row, epochs: int) -> str:
    figures = ", ".join(
        f"{name.replace('_map', ' mAP')} {value:.4f}"
        for name, value in row.items()
        if name == "train_loss" or name.endswith("_map")
    )
    return f"epoch {row['epoch']:.0f}/{epochs}: {figures}, lr {row['lr']:g}"
