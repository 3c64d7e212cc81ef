"""Evaluation of a bundle: its figures are those of the tagger's logits, and torch is not needed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ovml_deploy.cli import main
from ovml_deploy.errors import DataError
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.training.bootstrap import bootstrap_evaluation
from ovml_deploy.training.data import Split, make_split, read_dataset
from ovml_deploy.training.evaluation import evaluate_bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]):
    """A function that runs the command in this process and gives its code, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return code, shown.out, shown.err

    return run


def test_figures_are_those_of_the_logits(official: Path, tiny_tagger: Tagger) -> None:
    data = read_dataset(official / "NUS-WIDE:test")
    split = make_split(data, None, ("purple", "white", "yellow"))
    tiny_tagger.use_vocabulary(["boat", "cat"])  # and not these
    report = evaluate_bundle(tiny_tagger, data, split, (1, 2), resamples=20, batch_size=3)
    vocabulary = tiny_tagger.make_vocabulary(split.labels)
    features = tiny_tagger.encode([str(record.path) for record in data.records])
    logits, targets = tiny_tagger.match(features, vocabulary), data.targets(split.labels)
    assert (report.images, report.failed) == (7, ())
    assert list(report.parts) == ["seen", "zsl", "gzsl"]
    for name, columns in (("seen", slice(3)), ("zsl", slice(3, 6)), ("gzsl", slice(6))):
        expected = bootstrap_evaluation(logits[:, columns], targets[:, columns], (1, 2), 20)
        part = report.parts[name]
        assert part.labels == len(split.labels[columns])
        assert part.images == int((targets[:, columns] == 1).any(axis=1).sum())
        for metric, interval in part.metrics.items():
            assert vars(interval) == pytest.approx(vars(expected[metric]), nan_ok=True)
    assert tiny_tagger.vocabulary.labels == ("boat", "cat")


def test_without_unseen_labels_there_is_one_part(official: Path, tiny_tagger: Tagger) -> None:
    data = read_dataset(official / "VOC2007:test")
    report = evaluate_bundle(tiny_tagger, data, make_split(data, None), resamples=5)
    assert list(report.parts) == ["all"]
    assert report.parts["all"].labels == 3


def test_bad_images_are_left_out_and_listed(
    official: Path, tiny_tagger: Tagger, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(official / "coco", tmp_path / "coco"))
    whole = read_dataset(f"{folder}:val2014")
    whole.records[1].path.unlink()
    whole.records[4].path.write_text("<html>no such page</html>")
    split = make_split(whole, None)
    report = evaluate_bundle(tiny_tagger, whole, split, resamples=5, batch_size=4)
    assert report.images == 6
    assert [str(whole.records[i].path) in report.failed[n] for n, i in enumerate((1, 4))] == [
        True
    ] * 2
    good = [0, 2, 3, 5, 6, 7]
    kept = type(whole)(whole.source, tuple(whole.records[i] for i in good), whole.labels, True)
    assert (
        report.parts == evaluate_bundle(tiny_tagger, kept, split, resamples=5, batch_size=4).parts
    )
    for record in whole.records:
        record.path.unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"None of the 8 images can be read\. The first: .*no such"):
        evaluate_bundle(tiny_tagger, whole, split)


def test_data_without_these_labels(official: Path, tiny_tagger: Tagger) -> None:
    with pytest.raises(DataError, match=r"No image of .*VOC2007:test.* has one of the labels"):
        evaluate_bundle(tiny_tagger, read_dataset(official / "VOC2007:test"), Split(("cow",)))


def test_progress_is_told(official: Path, tiny_tagger: Tagger) -> None:
    told: list[tuple[str, int]] = []

    def track(items, total, what):
        told.append((what, total))
        yield from items

    labels: list[tuple[int, int]] = []
    data = read_dataset(official / "VOC2007:test")
    split = Split(("red", "green", "a word never encoded before"))
    evaluate_bundle(
        tiny_tagger,
        data,
        split,
        resamples=2,
        track=track,
        progress=lambda done, total: labels.append((done, total)),
    )
    assert told == [("tagging", 8), ("intervals", 1)]
    assert labels[-1][0] == labels[-1][1] >= 1


def test_the_command_prints_a_table(cli, official: Path, tiny_bundle: Path) -> None:
    arguments = ("evaluate", f"{official}/NUS-WIDE:test", "--engine", tiny_bundle)
    concepts = official / "NUS-WIDE" / "ConceptsList" / "Concepts81.txt"
    code, out, err = cli(*arguments, "--unseen", concepts, "--top-k", "1,2", "--resamples", 20)
    assert (code, err) == (0, "")
    assert "7 images; percent, with 95% bootstrap intervals" in out
    header, *rows = [re.split(" {2,}", line.strip()) for line in out.splitlines()[2:]]
    assert header == ["seen", "ZSL", "GZSL"]
    cells = {row[0]: row[1:] for row in rows}
    assert list(cells) == ["labels", "images", "mAP", "P@1", "R@1", "F1@1", "P@2", "R@2", "F1@2"]
    data = read_dataset(official / "NUS-WIDE:test")
    split = make_split(data, None, ("purple", "white", "yellow"))
    parts = evaluate_bundle(Tagger.load(tiny_bundle), data, split, (1, 2), resamples=20).parts
    assert cells["labels"] == ["3", "3", "6"]
    assert cells["images"] == [str(part.images) for part in parts.values()]
    assert cells["mAP"] == [str(part.metrics["map"]) for part in parts.values()]
    assert cells["F1@2"] == [str(part.metrics["f1@2"]) for part in parts.values()]


def test_the_command_prints_json_and_says_what_failed(
    cli, official: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(official / "OpenImages", tmp_path / "oi"))
    next((folder / "test").iterdir()).unlink()
    code, out, err = cli(
        "evaluate", "--data", f"{folder}:test", "--engine", tiny_bundle, "--json", "--resamples", 9,
        "--seen", folder / "classes-trainable.txt", "--unseen", folder / "unseen.txt",
    )  # fmt: skip
    assert code == 3
    assert err.count("failed: ") == 1
    assert "no such file" in err
    found = json.loads(out)
    assert found["images"] == 7
    assert len(found["failed"]) == 1
    assert [found["parts"][name]["labels"] for name in ("seen", "zsl", "gzsl")] == [3, 2, 5]
    value = found["parts"]["seen"]["metrics"]["map"]
    assert 0 < value["low"] <= value["value"] <= value["high"] <= 1


def test_the_command_writes_null_where_nothing_can_be_measured(
    cli, official: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "d.csv").write_text("image_path,posi_labels,nega_labels\na.jpg,cat,dog\n")
    shutil.copy(next((official / "OpenImages" / "test").iterdir()), tmp_path / "a.jpg")
    (tmp_path / "unseen.txt").write_text("dog\n")
    code, out, _ = cli(
        "evaluate", tmp_path / "d.csv", "--engine", tiny_bundle, "--json",
        "--unseen", tmp_path / "unseen.txt",
    )  # fmt: skip
    assert code == 0
    metrics = json.loads(out)["parts"]["zsl"]["metrics"]
    assert metrics["map"] == {"value": None, "low": None, "high": None}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--top-k", "0"), 2, "--top-k must be at least 1"),
        (("--top-k", "x"), 2, "'x' is not a whole number"),
        (("--resamples", "0"), 2, "--resamples must be"),
        (("--resamples", "9" * 12), 2, "resamples is 999999999999; for "),
        (("--batch-size", "0"), 2, "--batch-size must be"),
        (("--images", "absent"), 1, "no image folder 'absent'"),
        (("--unseen", "absent.txt"), 1, "no file of unseen labels 'absent.txt'"),
        (("--engine", "absent"), 1, "'absent' is not a bundle"),
    ],
)
def test_bad_options(
    cli, official: Path, tiny_bundle: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    default = () if "--engine" in arguments else ("--engine", tiny_bundle)
    found, out, err = cli("evaluate", f"{official}/VOC2007:test", *default, *arguments)
    assert (found, out) == (code, "")
    assert message in err


def test_the_command_needs_no_torch(official: Path, tiny_bundle: Path) -> None:
    heavy = ("torch", "torchvision", "open_clip", "timm", "transformers", "onnx", "sklearn")
    code = f"import sys\nfor name in {heavy}: sys.modules[name] = None\n"
    code += "from ovml_deploy.cli import main; sys.exit(main())"
    arguments = ["evaluate", f"{official}/VOC2007:test", "--engine", str(tiny_bundle), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    assert np.isfinite(json.loads(done.stdout)["parts"]["all"]["metrics"]["map"]["value"])
