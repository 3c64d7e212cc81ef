"""Prompts tuned on sentences: they learn, survive any end, and refuse what is wrong."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones import load
from rich.console import Console

from ovml_deploy.cli import main
from ovml_deploy.errors import DataError, LabelError, UsageError
from ovml_deploy.models.checkpoint import load_checkpoint, read_checkpoint
from ovml_deploy.models.prompt_tuned import PromptTunedHead
from ovml_deploy.training import prompts
from ovml_deploy.training.config import PromptTrainConfig
from ovml_deploy.training.interrupt import RunInterruptedError, StopRequest
from ovml_deploy.training.knowledge.file import (
    SHARES,
    Category,
    Knowledge,
    Relation,
    Sentence,
    write_knowledge,
)
from ovml_deploy.training.prompts_run import new_model, read_sentences, train_prompts
from ovml_deploy.training.reporting import Reporter
from ovml_deploy.training.trainer import Surroundings

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("animal", "cat", "dog", "car", "bench", "tree")
SHORT = {"epochs": 3, "batch_size": 16, "lr": 1e-2, "labels_per_step": 4, "val_fraction": 0.25}


@pytest.fixture(scope="module")
def knowledge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 sentences on six categories, two of which are kinds of a third."""
    random = np.random.default_rng(0)
    sentences = []
    while len(sentences) < 96:
        shown = [str(name) for name in random.choice(NAMES, random.integers(1, 4), replace=False)]
        text = "a photo of a " + " and a ".join(shown)
        ordered = tuple(name for name in NAMES if name in shown)
        sentences.append(Sentence(text, ordered))
    categories = tuple(
        Category(name, broader=("animal",) if name in ("cat", "dog") else ()) for name in NAMES
    )
    relations = (Relation("cat", "dog", SHARES), Relation("bench", "tree", SHARES))
    path = tmp_path_factory.mktemp("knowledge") / "knowledge.json"
    write_knowledge(Knowledge("hand", categories, relations, tuple(sentences)), path)
    return path


@pytest.fixture
def tune(knowledge: Path, tiny_clip: Any) -> Any:
    def run(out: Path, **changes: Any) -> tuple[Any, str]:
        stream = StringIO()
        result = train_prompts(
            knowledge=changes.pop("knowledge", knowledge),
            backbone=tiny_clip.name,
            pretrained=tiny_clip.pretrained,
            out=out,
            reporter=Reporter(Console(file=stream, width=500)),
            **(SHORT | changes),
        )
        return result, stream.getvalue()

    return run


def test_a_run_learns_and_writes_what_it_used(tune: Any, tmp_path: Path) -> None:
    result, said = tune(tmp_path / "run")
    start = float(said.split("before training: val mAP ")[1].split()[0])
    assert result.metrics["val_map"] > start + 0.05
    assert result.checkpoint == tmp_path / "run" / "prompts.pt"
    model = load_checkpoint(result.checkpoint)
    assert isinstance(model.head, PromptTunedHead)
    assert model.labels == {"tuned": list(NAMES)}
    groups = json.loads((tmp_path / "run" / "groups.json").read_text())
    assert sorted(name for group in groups.values() for name in group) == sorted(NAMES)
    assert any({"cat", "dog"} <= set(group) for group in groups.values())
    assert model.head.config.groups == tuple(groups)
    for name, group in zip(NAMES, model.head.config.group_of, strict=True):
        assert name in groups[model.head.config.groups[group]]


def test_the_backbone_stays_as_it_was(tune: Any, tiny_clip: Any, tmp_path: Path) -> None:
    result, _ = tune(tmp_path / "run", epochs=1)
    before, after = load(tiny_clip).model, load_checkpoint(result.checkpoint).backbone.model
    other = after.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in before.state_dict().items())


def test_an_interrupted_run_ends_with_the_same_weights(
    tune: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(tmp_path / "whole")
    checks: list[None] = []
    check = StopRequest.check

    def stopped(self: StopRequest) -> None:
        checks.append(None)
        self.requested = len(checks) == 12  # some step of the second epoch
        check(self)

    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "check", stopped)
        result, said = tune(tmp_path / "parts")
    assert result.interrupted
    assert "--resume" in said
    with pytest.raises(UsageError, match="already holds a training run"):
        tune(tmp_path / "parts")
    result, _ = tune(tmp_path / "parts", resume=True)
    assert not result.interrupted
    one, other = (
        read_checkpoint(tmp_path / name / "prompts.pt")["state_dict"] for name in ("whole", "parts")
    )
    assert all(torch.equal(one[key], other[key]) for key in one)
    logs = [(tmp_path / name / "log.csv").read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_an_interruption_before_the_first_epoch_loses_nothing(
    tune: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self: StopRequest) -> None:
        raise RunInterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "check", stopped)
        result, said = tune(tmp_path / "run")
    assert result.interrupted
    assert "--resume" in said
    assert not tune(tmp_path / "run", resume=True)[0].interrupted


@pytest.mark.parametrize("branch", ["global", "local"])
def test_a_branch_that_is_left_out_does_not_learn(branch: str, tune: Any, tmp_path: Path) -> None:
    result, _ = tune(tmp_path / "run", branches=branch, val_fraction=0.0)
    head = load_checkpoint(result.checkpoint).head
    used, unused = (0, 1) if branch == "global" else (1, 0)
    assert head.config.branches == branch
    # both began alike
    start = new_tokens(load_checkpoint(result.checkpoint))
    assert torch.equal(head.shared[unused], start.shared[unused])
    assert not torch.equal(head.shared[used], start.shared[used])


def new_tokens(model: Any) -> PromptTunedHead:
    head = PromptTunedHead(model.head.config, model.head.projection)
    head.start_from_words(model.backbone)
    return head


def test_shared_tokens_only_is_tai_dpt(tune: Any, tmp_path: Path) -> None:
    result, _ = tune(tmp_path / "run", grouped=0, specific=0, epochs=1)
    head = load_checkpoint(result.checkpoint).head
    assert head.rows().shape == (2 * 4, head.config.text_width)


@pytest.mark.parametrize("loss", ["bce", "asl"])
def test_other_losses_learn_too(loss: str, tune: Any, tmp_path: Path) -> None:
    result, said = tune(tmp_path / "run", loss=loss)
    start = float(said.split("before training: val mAP ")[1].split()[0])
    assert result.metrics["val_map"] > start


def test_labels_of_a_step(tiny_clip: Any, tmp_path: Path) -> None:
    config = PromptTrainConfig(labels_per_step=4, grouped=0)
    around = Surroundings(tmp_path, torch.device("cpu"), Reporter(), StopRequest())
    names = [f"cat {number}" for number in range(20)]
    sentences = tuple(Sentence(f"a {name}", (name,)) for name in names)
    known = Knowledge("hand", tuple(map(Category, names)), (), sentences)
    model = new_model(load(tiny_clip), config, names, {"other": names})
    data = read_sentences(model.backbone, known, names, config, around)
    trainer = prompts.PromptTrainer(model, data, config, around)
    targets = np.zeros((2, 20), dtype=np.int8)
    targets[0, 3] = targets[1, [7, 8, 9]] = 1
    for step in range(20):
        chosen = trainer._choose_labels(targets, [0, 0, step])
        assert len(set(chosen)) == 4
        assert len({3, 7, 8, 9} & set(chosen)) >= 2
        assert np.array_equal(chosen, trainer._choose_labels(targets, [0, 0, step]))


def test_only_some_labels(tune: Any, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("tree\ncat\n")
    result, _ = tune(tmp_path / "run", labels=labels, epochs=1)
    assert load_checkpoint(result.checkpoint).labels == {"tuned": ["tree", "cat"]}


def test_groups_can_be_given(tune: Any, tmp_path: Path) -> None:
    groups = {"living": ["animal", "cat", "dog", "tree"], "made": ["car", "bench"]}
    (tmp_path / "groups.json").write_text(json.dumps(groups))
    result, _ = tune(tmp_path / "run", groups=tmp_path / "groups.json", epochs=1)
    head = load_checkpoint(result.checkpoint).head
    assert head.config.groups == ("living", "made")
    assert head.config.group_of == (0, 0, 0, 1, 1, 0)
    assert json.loads((tmp_path / "run" / "groups.json").read_text()) == groups


def test_knowledge_of_other_categories_is_refused(tune: Any, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("tree\nforklift\n")
    with pytest.raises(DataError, match=r"for other categories: it lacks 'forklift'.*knowledge "):
        tune(tmp_path / "run", labels=labels)


def test_groups_of_other_categories_are_refused(tune: Any, tmp_path: Path) -> None:
    (tmp_path / "groups.json").write_text(json.dumps({"living": ["cat", "forklift"]}))
    with pytest.raises(DataError, match="'forklift'"):
        tune(tmp_path / "run", groups=tmp_path / "groups.json")


def test_tokens_that_do_not_fit_are_refused(tune: Any, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"'animal' has \d+ tokens.*reads 77"):
        tune(tmp_path / "run", shared=80)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"shared": 0, "grouped": 0, "specific": 0}, "--shared must be at least 1"),
        ({"branches": "most"}, "--branches must be one of"),
        ({"loss": "hinge"}, "--loss must be one of"),
        ({"labels_per_step": 1}, "--labels-per-step must be a whole number >= 2"),
        ({"temperature": 0.0}, "--temperature must be a positive number"),
        ({"epochs": 0}, "--epochs must be a whole number >= 1"),
    ],
)
def test_bad_settings_are_refused(change: Any, complaint: str, tune: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=complaint):
        tune(tmp_path / "run", **change)


def test_the_command(knowledge: Path, tiny_clip: Any, tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text(
        f'backbone = "{tiny_clip.name}"\npretrained = "{tiny_clip.pretrained}"\n'
        f'knowledge = "{knowledge}"\nepochs = 5\ninclude-backbone = true\n'
    )
    out = tmp_path / "run"
    arguments = ["train", "prompts", "--config", str(settings), "--out", str(out)]
    assert main([*arguments, "--epochs", "1", "--branches", "global"]) == 0
    content = read_checkpoint(out / "prompts.pt")
    assert content["head"]["settings"]["branches"] == "global"
    assert any(name.startswith("backbone.") for name in content["state_dict"])
    assert len((out / "log.csv").read_text().splitlines()) == 2


def test_the_command_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "prompts", "--backbone", "ViT-B-16"]) == 2
    assert "--knowledge" in capsys.readouterr().err
