"""Trains prompts on sentences, without a single image (arXiv 2403.01209, 2211.12739)."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovml_deploy.models.prompt_tuned import PromptTunedHead, local_logits
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.pipelines.agreement import mean_average_precision
from ovml_deploy.runtime.learned_tokens import BRANCHES
from ovml_deploy.training.config import PromptTrainConfig
from ovml_deploy.training.sentences import SentenceFeatures
from ovml_deploy.training.trainer import Row, Surroundings, Trainer

_AT_ONCE = 256


@dataclass(frozen=True)
class SentenceData:
    """Sentences as the text tower sees them, with targets int8 ``[S, K]``; some are held out."""

    features: SentenceFeatures
    targets: np.ndarray
    train: np.ndarray
    val: np.ndarray

    @classmethod
    def split(
        cls, features: SentenceFeatures, targets: np.ndarray, fraction: float, seed: int
    ) -> "SentenceData":
        """Hold out a ``fraction`` at random."""
        order = np.random.default_rng([seed, len(targets)]).permutation(len(targets))
        held_out = min(round(fraction * len(order)), len(order) - 1)
        return cls(features, targets, np.sort(order[held_out:]), np.sort(order[:held_out]))

    def fingerprint(self) -> str:
        """Return a hash of sentences, targets and which are held out."""
        digest = hashlib.sha256(self.features.whole.numpy().data)
        for array in (self.targets, self.train, self.val):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


class PromptTrainer(Trainer):
    """Trains a prompt-tuned head: AdamW on the learned tokens, and a cosine schedule.

    Every step takes a batch of sentences and some of the labels, half of them labels of the batch;
    only these labels' prompts go through the text tower.
    """

    final = "prompts.pt"

    def __init__(
        self,
        model: TaggingModel,
        data: SentenceData,
        config: PromptTrainConfig,
        around: Surroundings,
    ) -> None:
        head = model.head
        assert isinstance(head, PromptTunedHead)
        super().__init__(
            model,
            config,
            around,
            steps=math.ceil(len(data.train) / config.batch_size),
            fingerprint=data.fingerprint(),
            labels={"tuned": head.config.labels},
        )
        self.head, self.data, self.config = head, data, config
        model.backbone.to(self.device)
        self.prompts = head.prompts(model.backbone, head.config.labels, model.templates[0])
        self.optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=0.0)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, config.epochs)
        self._order = np.empty(0, dtype=np.int64)
        self._every = np.arange(len(head.config.labels))
        self._gain = model.backbone.logit_scale / config.scale
        self._offsets = {} if config.loss == "ranking" else self._start_offsets()

    def _before_training(self) -> None:
        """Measure the words it starts from: they may turn out to be the best."""
        self.head.eval()
        if (found := self._evaluate()) is not None:
            figures, score = found
            self._keep_if_best(score, figures)
            self.reporter.line(f"before training: val mAP {score:.4f}")

    def _start_epoch(self) -> None:
        random = np.random.default_rng([self.config.seed, self.position.epoch])
        self._order = random.permutation(self.data.train)

    def _step(self, step: int) -> Tensor:
        start = step * self.config.batch_size
        chosen = self._order[start : start + self.config.batch_size]
        targets = self.data.targets[chosen]
        labels = self._choose_labels(targets, [self.config.seed, self.position.epoch, step])
        whole, parts = self._embed(labels)
        logits = self._logits(chosen, whole, parts)
        wanted = torch.from_numpy(targets[:, labels]).to(self.device)
        losses = [self.loss(self._as_odds(logits, branch), wanted) for branch in self._used]
        return torch.stack(losses).sum()

    def _as_odds(self, logits: dict[str, Tensor], branch: str) -> Tensor:
        """What a classification loss needs and an order loss does not: a scale and an offset."""
        if self.config.loss == "ranking":
            return logits[branch]
        return self._gain * logits[branch] + self._offsets[branch]

    @torch.no_grad()
    def _start_offsets(self) -> dict[str, float]:
        """Offsets with which, before training, labels are as likely as they are frequent."""
        chosen = self.data.train[:_AT_ONCE]
        labels = self._every[:_AT_ONCE]
        share = float((self.data.targets[chosen][:, labels] == 1).mean())
        share = min(max(share, 1e-3), 0.5)
        return {
            branch: math.log(share / (1 - share)) - self._gain * float(logits.mean())
            for branch, logits in self._logits(chosen, *self._embed(labels)).items()
        }

    @property
    def _used(self) -> tuple[str, ...]:
        branches = self.head.config.branches
        return BRANCHES if branches == "both" else (branches,)

    def _choose_labels(self, targets: np.ndarray, seed: list[int]) -> np.ndarray:
        count, wanted = targets.shape[1], self.config.labels_per_step
        if count <= wanted:
            return np.arange(count)
        random = np.random.default_rng(seed)
        shown = random.permutation(np.flatnonzero((targets == 1).any(axis=0)))[: wanted // 2]
        others = random.permutation(np.setdiff1d(np.arange(count), shown))
        return np.sort(np.concatenate([shown, others[: wanted - len(shown)]]))

    def _embed(self, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the labels' global and local embeddings, each ``[K, D]``."""
        ids = [ids for label in labels for ids in self.prompts[2 * label : 2 * label + 2]]
        embeddings = self.head.encode_prompts(self.model.backbone, ids).float()
        whole, parts = embeddings.chunk(len(BRANCHES), dim=1)
        return F.normalize(whole, dim=-1), F.normalize(parts, dim=-1)

    def _logits(self, chosen: np.ndarray, whole: Tensor, parts: Tensor) -> dict[str, Tensor]:
        """Return the logits ``[B, K]`` of sentences, by branch."""
        features, tokens, real = self.data.features.batch(torch.from_numpy(chosen))
        tokens, real = tokens.to(self.device), real.to(self.device)
        scale, temperature = self.config.scale, self.config.text_temperature
        cosines = tokens @ parts.T
        return {
            "global": scale * (features.to(self.device) @ whole.T),
            "local": local_logits(cosines, scale, temperature, real),
        }

    @torch.no_grad()
    def _evaluate(self) -> tuple[Row, float] | None:
        """mAP of all labels over the sentences that are held out."""
        if not len(self.data.val):
            return None
        every = self._every
        embedded = [self._embed(every[i : i + _AT_ONCE]) for i in range(0, len(every), _AT_ONCE)]
        whole, parts = (torch.cat(some) for some in zip(*embedded, strict=True))
        scores = []
        for start in range(0, len(self.data.val), _AT_ONCE):
            self.stop.check()
            logits = self._logits(self.data.val[start : start + _AT_ONCE], whole, parts)
            scores.append(torch.stack([logits[branch] for branch in self._used]).mean(dim=0))
        targets = self.data.targets[self.data.val]
        score = mean_average_precision(torch.cat(scores).cpu().numpy(), targets)
        return {"val_map": score}, score
