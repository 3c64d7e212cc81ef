"""Whole training runs on a tiny CLIP: they learn, survive any end, and refuse what is wrong."""

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.metrics import average_precision_score

from ovml_deploy.errors import CheckpointError, DataError, DeviceError, UsageError
from ovml_deploy.models.checkpoint import load_checkpoint, read_checkpoint
from ovml_deploy.runtime.images import open_image
from ovml_deploy.training import qks
from ovml_deploy.training.data import read_dataset
from ovml_deploy.training.qks_run import TrainResult, train_qks
from ovml_deploy.training.reporting import Reporter

pytestmark = pytest.mark.usefixtures("one_thread")

#: 5 epochs of 6 steps; a checkpoint after every third step.
SHORT = {
    "layers": 1,
    "queries": 3,
    "epochs": 5,
    "batch_size": 16,
    "lr": 3e-3,
    "views": 2,
    "val_fraction": 0.2,
    "loss": "bce",
    "top_k": 3,
    "checkpoint_every": 3,
}

#: Dies in the third epoch with that epoch's best.pt written and its last.pt not yet in place.
KILLED_RUN = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from ovml_deploy.training.qks_run import train_qks

replace, saved = os.replace, []

def replace_or_die(source, target):
    saved.append(str(target).endswith("last.pt"))
    if sum(saved) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = replace_or_die
train_qks(**json.loads(sys.argv[1]))
"""


@dataclass
class Trainer:
    """Starts runs with common settings; keeps what they said."""

    spec: Any
    data: Path
    cache: Path
    said: str = ""

    def arguments(self, out: Path, **changes: Any) -> dict[str, Any]:
        common = {"data": self.data, "out": out, "cache": self.cache, "backbone": self.spec.name}
        return {**common, "pretrained": self.spec.pretrained, **SHORT, **changes}

    def __call__(self, out: Path, **changes: Any) -> TrainResult:
        stream = StringIO()
        reporter = Reporter(Console(file=stream, width=500))
        try:
            return train_qks(**self.arguments(out, **changes), reporter=reporter)
        finally:
            self.said = stream.getvalue()


@pytest.fixture(scope="module")
def train(wordy_clip: Any, discs: Any, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    data = discs.write_csv("train.csv", range(120))
    return Trainer(wordy_clip, data, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def undisturbed(train: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of SHORT that nothing interrupted."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert not train(out).interrupted
    torch.set_num_threads(before)
    return out


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path)["state_dict"]


def assert_same_run(first: Path, second: Path) -> None:
    for name in ("last.pt", "best.pt", "qks.pt"):
        one, other = weights(first / name), weights(second / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name
    assert (first / "log.csv").read_text() == (second / "log.csv").read_text()


def log(out: Path) -> list[dict[str, float]]:
    with open(out / "log.csv", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_a_run_learns_and_its_checkpoint_tags_images(
    train: Trainer, discs: Any, tmp_path: Path
) -> None:
    val = discs.write_csv("val.csv", range(120, 160))
    out = tmp_path / "run"
    result = train(out, val=val, epochs=30, views=1, queries=4, plateau_patience=100)
    rows = log(out)
    assert len(rows) == 30
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 4
    targets = read_dataset(val).targets(read_dataset(train.data).labels)
    random = np.random.default_rng(0)
    chance = [
        average_precision_score(targets, random.normal(size=targets.shape)) for _ in range(50)
    ]
    assert max(chance) < 0.65 < 0.8 < result.metrics["seen_map"] == max(r["seen_map"] for r in rows)

    model = load_checkpoint(out / "qks.pt")
    labels = read_checkpoint(out / "qks.pt")["labels"]["seen"]
    assert labels == list(read_dataset(train.data).labels)
    pixels = [model.backbone.preprocessing(open_image(path)) for path in discs.paths[120:160]]
    with torch.inference_mode():
        features = model.encode(torch.from_numpy(np.stack(pixels)))
        logits = model.match(features, model.embed_labels(labels))[0].numpy()
    assert average_precision_score(targets, logits) == pytest.approx(
        result.metrics["seen_map"], abs=0.01
    )


@pytest.mark.parametrize("loss", ["asl", "ranking"])
def test_every_loss_goes_down(train: Trainer, tmp_path: Path, loss: str) -> None:
    train(tmp_path / "run", loss=loss, epochs=10)
    rows = log(tmp_path / "run")
    assert rows[-1]["train_loss"] < 0.7 * rows[0]["train_loss"]


def test_a_killed_run_resumes_to_the_same_weights(
    train: Trainer, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = json.dumps(train.arguments(out), default=str)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, arguments], capture_output=True, text=True
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    position = read_checkpoint(out / "last.pt")["extra"]["trainer"]["position"]
    assert (position["epoch"], position["step"]) == (2, 3)
    assert not (out / "qks.pt").exists()
    assert list(out.glob(".last.pt.*.part"))
    assert not train(out, resume=True).interrupted
    assert_same_run(undisturbed, out)
    assert not list(out.glob(".*.part"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_says_how_to_go_on_and_does(
    train: Trainer,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    step, calls = torch.optim.AdamW.step, []

    def signalled(self: Any, *arguments: Any, **keywords: Any) -> None:
        step(self, *arguments, **keywords)
        calls.append(1)
        if len(calls) == 20:
            signal.raise_signal(number)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", signalled)
        result = train(out)
    assert result.interrupted
    assert len(calls) == 20
    assert "--resume" in train.said
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert not train(out, resume=True).interrupted
    assert_same_run(undisturbed, out)


def test_a_stop_during_validation(
    train: Trainer, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = qks.QKSTrainer._scores

    def stopped(self: qks.QKSTrainer, examples: Any) -> np.ndarray:
        if self.position.epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return scores(self, examples)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(qks.QKSTrainer, "_scores", stopped)
        assert train(out).interrupted
    assert len(log(out)) == 2
    train(out, resume=True)
    assert_same_run(undisturbed, out)


def test_more_epochs_continue_a_finished_run(
    train: Trainer, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train(out, epochs=2)
    train(out, epochs=5, resume=True, checkpoint_every=0)
    assert_same_run(undisturbed, out)
    train(out, resume=True)  # nothing left to do
    assert_same_run(undisturbed, out)


def test_a_run_is_not_overwritten_nor_continued_as_another(
    train: Trainer, undisturbed: Path, discs: Any
) -> None:
    before = weights(undisturbed / "last.pt")
    with pytest.raises(UsageError, match="already holds a training run"):
        train(undisturbed)
    with pytest.raises(CheckpointError, match=r"trained with lr = 0\.003, not 0\.1"):
        train(undisturbed, resume=True, lr=0.1)
    other = discs.write_csv("other.csv", range(100))
    with pytest.raises(CheckpointError, match="other data, labels or backbone weights"):
        train(undisturbed, resume=True, data=other)
    after = weights(undisturbed / "last.pt")
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_damaged_images_are_left_out_and_listed(train: Trainer, discs: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    lines = [
        f"{path},{'|'.join(names)}" for path, names in zip(discs.paths, discs.labels, strict=True)
    ]
    lines = [f"{tmp_path}/bad.png,red", *lines[:30], f"{tmp_path}/absent.png,blue"]
    data = tmp_path / "data.csv"
    data.write_text("\n".join(["image_path,posi_labels", *lines]))
    out = tmp_path / "run"
    result = train(out, data=data, epochs=1)
    assert result.unreadable == (tmp_path / "bad.png", tmp_path / "absent.png")
    listed = (out / "unreadable.txt").read_text().splitlines()
    assert len(listed) == 2
    assert "bad.png" in listed[0]
    assert "2 images cannot be read" in train.said
    assert "24 images to train, 6 to validate" in train.said


def test_unseen_labels_are_evaluated_and_never_trained_on(
    train: Trainer, discs: Any, tmp_path: Path
) -> None:
    (tmp_path / "unseen.txt").write_text("white\npurple\n")
    val = discs.write_csv("val.csv", range(120, 160))
    common = {"unseen": tmp_path / "unseen.txt", "val": val, "epochs": 2, "views": 1}
    result = train(tmp_path / "a", **common)
    assert {"seen_map", "zsl_map", "gzsl_map", "zsl_f1@3", "gzsl_p@3"} <= result.metrics.keys()
    assert "4 seen and 2 unseen labels" in train.said
    labels = read_checkpoint(tmp_path / "a" / "qks.pt")["labels"]
    assert labels["unseen"] == ["white", "purple"]
    assert not set(labels["seen"]) & set(labels["unseen"])
    # the same images without any word of the unseen labels give the same weights
    hidden = discs.folder / "hidden.csv"
    text = train.data.read_text().replace("white", "").replace("purple", "")
    while "||" in text:
        text = text.replace("||", "|")
    hidden.write_text(text.replace(",|", ",").replace("|,", ","))
    train(tmp_path / "b", data=hidden, **common)
    first, second = weights(tmp_path / "a" / "last.pt"), weights(tmp_path / "b" / "last.pt")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_without_validation_the_training_loss_decides(train: Trainer, tmp_path: Path) -> None:
    result = train(tmp_path / "run", val_fraction=0, epochs=3)
    rows = log(tmp_path / "run")
    assert set(rows[0]) == {"epoch", "lr", "train_loss"}
    assert result.metrics["train_loss"] == min(row["train_loss"] for row in rows)


def test_the_learning_rate_falls_on_a_plateau_also_across_a_resume(
    train: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qks.QKSTrainer, "_evaluate", lambda self: ({"seen_map": 0.5}, 0.5))
    common = {"plateau_patience": 1, "plateau_factor": 0.5, "lr": 1e-3}
    train(tmp_path / "run", epochs=2, **common)
    train(tmp_path / "run", epochs=5, resume=True, **common)
    assert [row["lr"] for row in log(tmp_path / "run")] == [1e-3, 1e-3, 1e-3, 5e-4, 5e-4]


def test_every_epoch_takes_each_image_once_in_an_order_of_its_own(
    train: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[np.ndarray, np.ndarray]] = []

    def noted(self: qks.QKSTrainer, step: int) -> torch.Tensor:
        rows = self._order[step * 16 : step * 16 + 16]
        steps.append((rows, self._views[rows]))
        return torch.zeros((), requires_grad=True)

    monkeypatch.setattr(qks.QKSTrainer, "_step", noted)
    train(tmp_path / "run", epochs=2, views=3)
    assert [len(rows) for rows, _ in steps] == [16] * 12
    first, second = (np.concatenate([r for r, _ in steps[n : n + 6]]) for n in (0, 6))
    assert sorted(first) == sorted(second) == list(range(96))
    assert not np.array_equal(first, second)
    counts = np.bincount(np.concatenate([views for _, views in steps]))
    assert len(counts) == 3
    assert counts.min() > 40


def test_a_checkpoint_with_its_backbone_inside(train: Trainer, tmp_path: Path) -> None:
    train(tmp_path / "run", epochs=1, include_backbone=True)
    state = weights(tmp_path / "run" / "qks.pt")
    assert any(name.startswith("backbone.") for name in state)
    assert not any(name.startswith("backbone.") for name in weights(tmp_path / "run" / "last.pt"))


def test_a_loss_that_is_not_finite_ends_the_run(train: Trainer, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"loss became .* Start again with a lower --lr"):
        train(tmp_path / "run", lr=1e30)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"device": "warp"}, DeviceError, "'warp' cannot be used"),
        ({"loss": "hinge"}, UsageError, "--loss must be one of"),
        ({"epochs": 0}, UsageError, "--epochs must be a whole number >= 1, not 0"),
        ({"batch_size": 2.5}, UsageError, "--batch-size must be a whole number"),
        ({"lr": -1.0}, UsageError, "--lr must be a positive"),
        ({"top_k": ()}, UsageError, "--top-k must be"),
        ({"data": "absent.csv"}, DataError, "no data file"),
        ({"backbone": "ViT-Z-99"}, CheckpointError, "ViT-Z-99"),
    ],
)
def test_bad_settings(
    train: Trainer, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_data_without_a_positive(train: Trainer, discs: Any, tmp_path: Path) -> None:
    data = discs.folder / "negative.csv"
    data.write_text("image_path,posi_labels,nega_labels\n0.png,,red\n1.png,,blue\n")
    with pytest.raises(DataError, match="None of the 1 readable training images has a positive"):
        train(tmp_path / "run", data=data)


@pytest.mark.parametrize("tower", ["tiny_resnet", "tiny_siglip", "tiny_cnn", "tiny_hf"])
def test_every_kind_of_backbone_trains(
    train: Trainer, discs: Any, tmp_path: Path, request: pytest.FixtureRequest, tower: str
) -> None:
    spec = request.getfixturevalue(tower)
    data = discs.write_csv("few.csv", range(24))
    out = tmp_path / "run"
    train(out, data=data, backbone=spec.name, pretrained=spec.pretrained, epochs=2, views=1)
    model = load_checkpoint(out / "qks.pt")
    start = model.backbone.initial_projection()
    assert model.head.proj.shape == start.shape
    assert 0 < (model.head.proj - start).abs().max().item() < 0.1  # began there, and was trained
