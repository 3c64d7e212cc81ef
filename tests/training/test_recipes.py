"""docs/recipes.md and recipes/*.toml: every command parses, and those of this project run."""

import re
import shlex
from collections.abc import Callable
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any

import fire
import pytest

from ovml_deploy.cli import Commands, main
from ovml_deploy.cli.train import _QKS, Train, read_settings
from ovml_deploy.commandline import Job
from ovml_deploy.errors import UsageError
from ovml_deploy.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
OPTIONS = set(signature(Train.qks).parameters) - {"self", "config"}
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "docs/recipes.md").read_text(), re.M | re.S)
LINES = [line for block in BLOCKS for line in block.splitlines()]
OWN = [line for line in LINES if line.startswith("ovml-deploy ")]

#: What a test cannot have: hours. Weights of a hub are replaced, too.
FASTER = {"layers": 1, "queries": 2, "epochs": 1, "val-fraction": 0.4, "batch-size": 8}

pytestmark = pytest.mark.usefixtures("one_thread")


def parse(component: Any, arguments: list[str]) -> Any:
    """What Fire makes of a command line, without running it."""
    return fire.Fire(component, arguments, name="test", serialize=lambda _: None)


def test_there_is_something_to_test() -> None:
    assert len(OWN) >= 9
    assert {path.name for path in RECIPES} == {"nus-wide.toml", "open-images.toml"}
    assert {line.split()[0] for line in LINES} == {"ovml-deploy", "python"}


@pytest.mark.parametrize("line", LINES)
def test_commands_parse(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "ovml-deploy":
        component, arguments = Commands(), words[1:]
    else:
        from export.onnx import main as export

        assert words[:3] == ["python", "-m", "export.onnx"]
        component, arguments = export, words[3:]
    assert isinstance(parse(component, arguments), Job)
    with pytest.raises(SystemExit):
        parse(component, [*arguments, "--no-such-option", "1"])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipes_are_valid_settings(path: Path) -> None:
    settings = read_settings(path, OPTIONS, _QKS)
    names = {field.name for field in fields(TrainConfig)}
    TrainConfig(**{name: value for name, value in settings.items() if name in names})
    assert (settings["backbone"], settings["pretrained"]) == ("ViT-B-16-quickgelu", "openai")


def test_recipes_are_the_papers() -> None:
    """DESIGN section 5, "QKS"."""
    for name, layers, queries, loss, top_k in (
        ("nus-wide", 7, 12, "asl", (3, 5)),
        ("open-images", 8, 22, "bce", (10, 20)),
    ):
        found = read_settings(ROOT / "recipes" / f"{name}.toml", OPTIONS, _QKS)
        assert (found["layers"], found["queries"], found["loss"]) == (layers, queries, loss)
        assert (found["lr"], found["weight_decay"], found["batch_size"]) == (1e-5, 1e-4, 64)
        assert found["top_k"] == top_k


@pytest.fixture
def world(official: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: Any) -> Path:
    """A folder as the recipes find it, with a tiny bundle under every name they export to."""
    (tmp_path / "data").symlink_to(official)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "build").mkdir()
    for name in set(re.findall(r"--out build/(\S+)", "\n".join(LINES))):
        (tmp_path / "build" / name).symlink_to(tiny_bundle)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", [line for line in OWN if " evaluate " in line])
def test_evaluations_run(line: str, world: Path, capsys: Any) -> None:
    assert main([*shlex.split(line)[1:], "--resamples", "5"]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[2].split() == (
        ["seen", "ZSL", "GZSL"] if "--unseen" in line else ["all"]
    )
    assert "mAP" in shown


@pytest.mark.parametrize("line", [line for line in OWN if " train " in line])
def test_trainings_run(line: str, world: Path, tiny_clip: Any, tiny_resnet: Any) -> None:
    spec = tiny_resnet if "RN50" in line else tiny_clip
    values = {"backbone": spec.name, "pretrained": spec.pretrained, **FASTER}
    for option in values:
        line = re.sub(rf" --{option} \S+", "", line)
    options = [f"--{option}={value}" for option, value in values.items()]
    assert main([*shlex.split(line)[1:], *options]) == 0
    out = re.search(r"--out (\S+)", line)
    assert out is not None
    from ovml_deploy.models.checkpoint import load_checkpoint

    labels = load_checkpoint(world / out[1] / "qks.pt").labels
    if "OpenImages" in line:
        assert labels["seen"] == ["Red, disc", "Green, disc", "Blue, disc"]
    else:
        assert labels["seen"] == ["red", "green", "blue"]
    assert not labels["unseen"]


@pytest.fixture
def settings(tmp_path: Path) -> Callable[[str], Path]:
    """A function that writes a settings file."""

    def write(text: str) -> Path:
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def trained_with(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What ``train_qks`` is called with, in place of a training."""
    from ovml_deploy.training import qks_run as run

    calls: list[dict[str, Any]] = []

    def note(**arguments: Any) -> run.TrainResult:
        calls.append(arguments)
        return run.TrainResult(Path("qks.pt"), 1, {}, ())

    monkeypatch.setattr(run, "train_qks", note)
    return calls


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(
    settings: Callable[[str], Path], trained_with: list[dict[str, Any]]
) -> None:
    path = settings(
        'data = "d.csv"\nbackbone = "b"\nlayers = 3\nqueries = 5\nlr = 1\n'
        'top-k = [1, 2]\nresume = true\ninclude_backbone = true\nloss = "bce"\n'
    )
    # 7 is the default of --layers: given on the command line, it wins all the same
    line = ["train", "qks", "--config", str(path), "--layers", "7", "--noresume", "--val", "v.csv"]
    assert main(line) == 0
    (found,) = trained_with
    assert {name: found[name] for name in ("data", "backbone", "val", "loss")} == {
        "data": "d.csv", "backbone": "b", "val": "v.csv", "loss": "bce",
    }  # fmt: skip
    assert (found["layers"], found["queries"], found["lr"], found["epochs"]) == (7, 5, 1.0, 20)
    assert found["top_k"] == (1, 2)
    assert (found["resume"], found["include_backbone"]) == (False, True)
    assert "config" not in found


def test_without_a_file_all_is_as_before(trained_with: list[dict[str, Any]]) -> None:
    assert main(["train", "qks", "d.csv", "b", "--epochs", "2"]) == 0
    assert (trained_with[0]["data"], trained_with[0]["backbone"]) == ("d.csv", "b")
    assert (trained_with[0]["epochs"], trained_with[0]["layers"]) == (2, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer = 3", "sets 'layer', which is no option. The options are: backbone,"),
        ('config = "other.toml"', "sets 'config', which is no option"),
        ("layers = 3.5", "layers: '3.5' is not a whole number"),
        ('lr = "fast"', "lr: 'fast' is not a number"),
        ("resume = 1", "resume: This option is a switch"),
        ("loss = {name = 1}", "loss: {'name': 1} is neither text"),
        ("layers = ", "cannot be read"),
        ('data = "d.csv"', "Name --backbone, on the command line or in the --config file"),
        ("", "Name --data"),
    ],
)
def test_bad_settings_files(
    settings: Callable[[str], Path], text: str, message: str, capsys: Any
) -> None:
    assert main(["train", "qks", "--config", str(settings(text))]) == 2
    assert message in capsys.readouterr().err


def test_a_settings_file_that_is_absent_or_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.toml.* cannot be read"):
        read_settings(tmp_path / "absent.toml", OPTIONS, _QKS)
    (tmp_path / "latin.toml").write_bytes('data = "caf\xe9"'.encode("latin1"))
    with pytest.raises(UsageError, match="cannot be read"):
        read_settings(tmp_path / "latin.toml", OPTIONS, _QKS)


def test_the_documented_layouts_are_the_tested_ones(official: Path) -> None:
    text = (ROOT / "docs/recipes.md").read_text()
    for layout in ("NUS-WIDE", "OpenImages", "coco", "VOC2007"):
        assert f"data/{layout}/" in text
        assert (official / layout).is_dir()
    for name in ("classes-trainable.txt", "unseen.txt"):
        assert (official / "OpenImages" / name).is_file()
