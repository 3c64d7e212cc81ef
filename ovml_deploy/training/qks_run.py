"""``ovml-deploy train qks``: from data files to ``qks.pt``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovml_deploy.files import write_atomically
from ovml_deploy.models.backbone import Backbone, BackboneSpec
from ovml_deploy.models.qks import QKSConfig, QKSHead
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.templates import QKS_TEMPLATES
from ovml_deploy.training.cache_key import label_key
from ovml_deploy.training.config import TrainConfig
from ovml_deploy.training.data import (
    Dataset,
    Split,
    make_split,
    read_dataset,
    read_seen,
    read_unseen,
)
from ovml_deploy.training.devices import choose_device, fork_random
from ovml_deploy.training.examples import Examples, TrainingData
from ovml_deploy.training.features import BuildOptions, FeatureCache, build_features
from ovml_deploy.training.interrupt import RunInterruptedError, StopRequest
from ovml_deploy.training.qks import QKSTrainer
from ovml_deploy.training.reporting import Reporter
from ovml_deploy.training.trainer import (
    Surroundings,
    TrainResult,
    goes_on,
    remove_torn_files,
)

UNREADABLE = "unreadable.txt"

_HEAD_WIDTH = 64
_LABELS_AT_ONCE = 64


def train_qks(
    *,
    data: str | Path,
    backbone: str,
    out: str | Path,
    pretrained: str | None = None,
    val: str | Path | None = None,
    images: str | Path | None = None,
    val_images: str | Path | None = None,
    unseen: str | Path | None = None,
    seen: str | Path | None = None,
    cache: str | Path | None = None,
    loss: str = "asl",
    layers: int = 7,
    queries: int = 12,
    epochs: int = 20,
    batch_size: int = 64,
    lr: float = 1e-5,
    weight_decay: float = 1e-4,
    views: int = 2,
    val_fraction: float = 0.1,
    plateau_patience: int = 2,
    plateau_factor: float = 0.1,
    top_k: int | Sequence[int] = (3, 5),
    seed: int = 0,
    device: str = "auto",
    feature_dtype: str = "float16",
    checkpoint_every: int = 1000,
    include_backbone: bool = False,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Train a QKS head and write ``out/qks.pt`` (the best epoch), a log and resumable state.

    ``data`` and ``val``: official CSV, COCO JSON or FOLDER:PART; ``images`` and ``val_images``
    (default: ``images``): where relative paths start (default: the data file's folder, or where the
    layout has them). ``unseen``: text file of labels to keep out of training; ``seen``: one of those
    to train on. ``cache``: folder of features (default: ``out/features``).
    The others: see TrainConfig. Ctrl-C saves and returns. Raises OvmlError of any kind for input
    that cannot be used.
    """
    config = TrainConfig(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        loss=loss,
        layers=layers,
        queries=queries,
        views=views,
        seed=seed,
        device=device,
        val_fraction=val_fraction,
        checkpoint_every=checkpoint_every,
        plateau_patience=plateau_patience,
        plateau_factor=plateau_factor,
        top_k=(top_k,) if isinstance(top_k, int) else tuple(top_k),
        feature_dtype=feature_dtype,
    )
    folder = Path(out)
    continued = goes_on(folder, resume)
    train_set = read_dataset(data, images)
    val_set = read_dataset(val, val_images if val_images is not None else images) if val else None
    held_back, wanted = read_unseen(unseen) if unseen else (), read_seen(seen) if seen else None
    split = make_split(train_set, val_set, held_back, wanted)
    around = Surroundings(folder, choose_device(device), reporter or Reporter(), StopRequest())
    preparation = _Preparation(config, around, Path(cache) if cache else folder / "features")
    remove_torn_files(folder, QKSTrainer.final)
    loaded = Backbone.load(BackboneSpec(backbone, pretrained))
    with around.stop, fork_random(around.device):
        model = _new_model(loaded, config)
        try:
            prepared, unreadable = preparation.run(model, train_set, val_set, split)
        except RunInterruptedError:
            around.say_how_to_resume("The features are kept as far as they are computed.")
            return TrainResult(None, 0, {})
        trainer = QKSTrainer(model, prepared, config, around)
        if continued:
            trainer.resume()
        _introduce(prepared, around)
        return replace(trainer.finish(include_backbone), unreadable=unreadable)


@dataclass(frozen=True)
class _Preparation:
    config: TrainConfig
    around: Surroundings
    cache: Path

    def run(
        self, model: TaggingModel, train_set: Dataset, val_set: Dataset | None, split: Split
    ) -> tuple[TrainingData, tuple[Path, ...]]:
        """Compute or fetch all features; return them, and the images that cannot be read."""
        model.backbone.to(self.around.device)
        train = self._features(model.backbone, train_set, self.config.views)
        examples = Examples.readable(train, train_set.targets(split.labels))
        unreadable = _reasons(train_set, train)
        val_examples: Examples | None
        if val_set is not None:
            val = self._features(model.backbone, val_set, 1)
            val_examples = Examples.readable(val, val_set.targets(split.labels))
            unreadable |= _reasons(val_set, val)
        else:
            examples, val_examples = examples.split(self.config.val_fraction, self.config.seed)
        embeddings = self._embed(model, split)
        model.backbone.to("cpu")  # its work is done
        self._list_unreadable(unreadable)
        return TrainingData(examples, val_examples, split, embeddings), tuple(unreadable)

    def _features(self, backbone: Backbone, dataset: Dataset, views: int) -> FeatureCache:
        paths = [record.path for record in dataset.records]
        options = BuildOptions(views, self.config.seed, self.config.feature_dtype)
        with self.around.reporter.track(f"features of {dataset.source.name}", len(paths)) as tell:
            return build_features(
                backbone, paths, self.cache, options, check=self.around.stop.check, advance=tell
            )

    def _embed(self, model: TaggingModel, split: Split) -> Tensor:
        """Return label embeddings ``[K, D]``, from the cache if they are there."""
        file = self.cache / f"labels-{label_key(model, split.labels)}.npy"
        if not file.is_file():
            embeddings = self._compute_embeddings(model, split.labels)
            with write_atomically(file) as temporary, open(temporary, "wb") as opened:
                np.save(opened, embeddings)
        return torch.from_numpy(np.load(file))

    def _compute_embeddings(self, model: TaggingModel, labels: Sequence[str]) -> np.ndarray:
        parts = []
        with self.around.reporter.track("label embeddings", len(labels)) as tell:
            for start in range(0, len(labels), _LABELS_AT_ONCE):
                self.around.stop.check()
                some = labels[start : start + _LABELS_AT_ONCE]
                parts.append(model.embed_labels(some).float().cpu().numpy())
                tell(len(some))
        return np.concatenate(parts)

    def _list_unreadable(self, reasons: Mapping[Path, str]) -> None:
        if not reasons:
            return
        file = self.around.out / UNREADABLE
        with write_atomically(file) as temporary:
            temporary.write_text("".join(f"{reason}\n" for reason in reasons.values()), "utf-8")
        self.around.reporter.line(
            f"{len(reasons)} images cannot be read and are left out; see {file}."
        )


def _introduce(data: TrainingData, around: Surroundings) -> None:
    validation = f"{len(data.val.images)} to validate" if data.val else "no validation"
    around.reporter.line(
        f"{len(data.train.images)} images to train, {validation}; {len(data.split.seen)} seen "
        f"and {len(data.split.unseen)} unseen labels; {around.device}."
    )


def _reasons(dataset: Dataset, cache: FeatureCache) -> dict[Path, str]:
    return {dataset.records[index].path: reason for index, reason in cache.unreadable.items()}


def _new_model(backbone: Backbone, config: TrainConfig) -> TaggingModel:
    widest = max(1, backbone.width // _HEAD_WIDTH)
    sizes = QKSConfig(
        width=backbone.width,
        embed_dim=backbone.embed_dim,
        layers=config.layers,
        queries=config.queries,
        attention_heads=next(n for n in range(widest, 0, -1) if backbone.width % n == 0),
        intermediate=4 * backbone.width,
    )
    torch.manual_seed(config.seed)
    return TaggingModel(backbone, QKSHead(sizes, backbone.initial_projection()), QKS_TEMPLATES)
