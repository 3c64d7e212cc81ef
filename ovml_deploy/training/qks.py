"""Trains a QKS head on cached features of a frozen backbone (arXiv 2401.01181).

A run can be killed at any step and resumed: ``last.pt`` holds the head, the optimizer, the
schedule, the random state and the position in the epoch. The order of an epoch comes from the seed
and the epoch's number alone. On a CPU the resumed run ends with the very weights of an undisturbed
one.
"""

import csv
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovml_deploy.errors import CheckpointError, OvmlError
from ovml_deploy.files import write_atomically
from ovml_deploy.models.checkpoint import read_checkpoint, save_checkpoint
from ovml_deploy.models.qks import QKSHead
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.training.config import TrainConfig
from ovml_deploy.training.examples import Examples, TrainingData
from ovml_deploy.training.interrupt import RunInterruptedError, StopRequest
from ovml_deploy.training.losses import make_loss
from ovml_deploy.training.metrics import evaluate_split
from ovml_deploy.training.reporting import Reporter

LAST, BEST, FINAL, LOG = "last.pt", "best.pt", "qks.pt", "log.csv"

Row = dict[str, float]


@dataclass
class _Position:
    """Where a run stands; ``step`` counts the steps done in ``epoch``."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best_score: float = -math.inf
    best_epoch: int = 0
    history: list[Row] = field(default_factory=list)


class QKSTrainer:
    """Trains ``model``'s head; writes ``last.pt``, ``best.pt`` and ``log.csv`` into ``out``."""

    def __init__(
        self,
        model: TaggingModel,
        data: TrainingData,
        config: TrainConfig,
        out: Path,
        *,
        device: torch.device,
        reporter: Reporter,
        stop: StopRequest,
    ) -> None:
        assert isinstance(model.head, QKSHead)
        self.model, self.data, self.config, self.out = model, data, config, out
        self.device, self.reporter, self.stop = device, reporter, stop
        self.head = model.head.to(device)
        self.embeddings = data.embeddings.to(device)
        self.loss = make_loss(config.loss)
        self.optimizer = torch.optim.AdamW(
            self.head.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer,
            mode="max",
            threshold_mode="abs",
            factor=config.plateau_factor,
            patience=config.plateau_patience,
        )
        self.amp = device.type == "cuda"
        self.scaler = torch.amp.GradScaler(enabled=self.amp)
        self.position = _Position()
        self.steps = math.ceil(len(data.train.images) / config.batch_size)

    def run(self) -> bool:
        """Train to the last epoch; False if a stop was asked for (all is saved by then)."""
        try:
            while self.position.epoch < self.config.epochs:
                self._train_epoch()
                self._finish_epoch()
        except RunInterruptedError:
            self.save()
            return False
        return True

    def save(self) -> None:
        """Write ``last.pt``: the head and all that is needed to go on."""
        state = {
            "config": self.config.settled(),
            "data": self.data.fingerprint(),
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
        try:
            self.head.load_state_dict(_head_state(content))
        except RuntimeError as error:
            raise CheckpointError(f"{str(path)!r} does not fit this model: {error}") from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if state["scaler"]:  # empty where the run was on a CPU until now
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if self.amp and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.position = _Position(**state["position"])
        self._write_log()

    def write_best(self, name: str, include_backbone: bool) -> None:
        """Put the best epoch's weights into the model, and write it without a trainer's state."""
        content = read_checkpoint(self.out / BEST)
        self.head.load_state_dict(_head_state(content))
        self.model.eval()
        self._save_model(name, content["extra"], include_backbone)

    def _train_epoch(self) -> None:
        position, config = self.position, self.config
        random = np.random.default_rng([config.seed, position.epoch])
        order = random.permutation(len(self.data.train.images))
        views = random.integers(0, self.data.train.cache.views, len(order))
        self.head.train()
        with self.reporter.track(f"epoch {position.epoch + 1}/{config.epochs}", self.steps) as tell:
            tell(position.step)
            while position.step < self.steps:
                self.stop.check()
                start = position.step * config.batch_size
                rows = order[start : start + config.batch_size]
                position.loss_sum += self._step(rows, views[rows])
                position.step += 1
                tell(1)
                every = config.checkpoint_every
                if every and position.step % every == 0 and position.step < self.steps:
                    self.save()

    def _step(self, rows: np.ndarray, views: np.ndarray) -> float:
        train, seen = self.data.train, len(self.data.split.seen)
        logits = self._logits(train.cache.tokens(train.images[rows], views), self.embeddings[:seen])
        targets = torch.from_numpy(train.targets[rows, :seen]).to(self.device)
        loss = self.loss(logits, targets)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise OvmlError(
                f"The loss became {value} in epoch {self.position.epoch + 1}, step "
                f"{self.position.step + 1}. Start again with a lower --lr than {self.config.lr}."
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return value

    def _logits(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Tokens ``[B, N, W]`` -> logits float32 ``[B, K]``; only the stack itself runs in AMP."""
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.amp):
            features = self.head(tokens.to(self.device))
        return self.head.match(features.float(), labels)[0]

    @torch.inference_mode()
    def _scores(self, examples: Examples) -> np.ndarray:
        self.head.eval()
        size, parts = self.config.batch_size, []
        with self.reporter.track("validation", len(examples.images)) as tell:
            for start in range(0, len(examples.images), size):
                self.stop.check()
                images = examples.images[start : start + size]
                parts.append(self._logits(examples.cache.tokens(images), self.embeddings).cpu())
                tell(len(images))
        return torch.cat(parts).numpy()

    def _finish_epoch(self) -> None:
        position = self.position
        loss, lr = position.loss_sum / self.steps, self.optimizer.param_groups[0]["lr"]
        row: Row = {"epoch": position.epoch + 1, "lr": lr, "train_loss": loss}
        score = -loss
        if self.data.val is not None:
            metrics = self._evaluate(self.data.val)
            row |= metrics
            # unseen labels take no part in choosing, unless there is nothing else to go by
            score = metrics["seen_map"]
            score = metrics.get("gzsl_map", score) if math.isnan(score) else score
        self.scheduler.step(score)
        position.history.append(row)
        position.epoch, position.step, position.loss_sum = position.epoch + 1, 0, 0.0
        if score > position.best_score:
            position.best_score, position.best_epoch = score, position.epoch
            # Before last.pt: a kill in between repeats this epoch and writes the same again.
            self._save_model(BEST, {"epoch": position.epoch, "metrics": row})
        self.save()
        self._write_log()
        self.reporter.line(_summary(row, self.config.epochs))

    def _evaluate(self, examples: Examples) -> Row:
        parts = evaluate_split(
            self._scores(examples), examples.targets, len(self.data.split.seen), self.config.top_k
        )
        row: Row = {}
        for name, part in parts.items():
            row |= part.as_row(name)
        return row

    def _save_model(
        self, name: str, extra: Mapping[str, Any], include_backbone: bool = False
    ) -> None:
        split = self.data.split
        save_checkpoint(
            self.out / name,
            self.model,
            labels={"seen": split.seen, "unseen": split.unseen},
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
        now = self.config.settled()
        for name, then in state["config"].items():
            if now.get(name) != then:
                raise CheckpointError(
                    f"{str(path)!r} was trained with {name} = {then!r}, not {now.get(name)!r}. "
                    "Resume with that value, or train into another --out."
                )
        if state["data"] != self.data.fingerprint():
            raise CheckpointError(
                f"{str(path)!r} was trained on other images, labels or backbone weights than "
                "these. Bring those back, or train into another --out."
            )


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
