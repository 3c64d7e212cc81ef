"""Trains a QKS head on cached features of a frozen backbone (arXiv 2401.01181)."""

import math

import numpy as np
import torch
from torch import Tensor

from ovml_deploy.models.qks import QKSHead
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.training.config import TrainConfig
from ovml_deploy.training.examples import Examples, TrainingData
from ovml_deploy.training.metrics import evaluate_split
from ovml_deploy.training.trainer import Row, Surroundings, Trainer


class QKSTrainer(Trainer):
    """Trains a QKS head: AdamW, and a learning rate that falls on a plateau."""

    final = "qks.pt"

    def __init__(
        self, model: TaggingModel, data: TrainingData, config: TrainConfig, around: Surroundings
    ) -> None:
        assert isinstance(model.head, QKSHead)
        super().__init__(
            model,
            config,
            around,
            steps=math.ceil(len(data.train.images) / config.batch_size),
            fingerprint=data.fingerprint(),
            labels={"seen": data.split.seen, "unseen": data.split.unseen},
        )
        self.head, self.data, self.config = model.head, data, config
        self.embeddings = data.embeddings.to(self.device)
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
        self._order = self._views = np.empty(0, dtype=np.int64)

    def _start_epoch(self) -> None:
        train = self.data.train
        random = np.random.default_rng([self.config.seed, self.position.epoch])
        self._order = random.permutation(len(train.images))
        self._views = random.integers(0, train.cache.views, len(self._order))

    def _step(self, step: int) -> Tensor:
        train, seen = self.data.train, len(self.data.split.seen)
        start = step * self.config.batch_size
        rows = self._order[start : start + self.config.batch_size]
        tokens = train.cache.tokens(train.images[rows], self._views[rows])
        logits = self._logits(tokens, self.embeddings[:seen])
        return self.loss(logits, torch.from_numpy(train.targets[rows, :seen]).to(self.device))

    def _logits(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Tokens ``[B, N, W]`` -> logits float32 ``[B, K]``; only the stack itself runs in AMP."""
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.amp):
            features = self.head(tokens.to(self.device))
        return self.head.match(features.float(), labels)[0]

    @torch.inference_mode()
    def _scores(self, examples: Examples) -> np.ndarray:
        size, parts = self.config.batch_size, []
        with self.reporter.track("validation", len(examples.images)) as tell:
            for start in range(0, len(examples.images), size):
                self.stop.check()
                images = examples.images[start : start + size]
                parts.append(self._logits(examples.cache.tokens(images), self.embeddings).cpu())
                tell(len(images))
        return torch.cat(parts).numpy()

    def _evaluate(self) -> tuple[Row, float] | None:
        examples, seen = self.data.val, len(self.data.split.seen)
        if examples is None:
            return None
        scores = self._scores(examples)
        row: Row = {}
        for name, part in evaluate_split(scores, examples.targets, seen, self.config.top_k).items():
            row |= part.as_row(name)
        # unseen labels take no part in choosing, unless there is nothing else to go by
        score = row["seen_map"]
        return row, row.get("gzsl_map", score) if math.isnan(score) else score

    def _follow_schedule(self, score: float) -> None:
        self.scheduler.step(score)
