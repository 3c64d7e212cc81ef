"""Default outputs of commands: never in the package folder, nor where links of a bundle lead."""

import json
from pathlib import Path

import pytest

import export.quantize
import export.tensorrt
from ovml_deploy import assets
from ovml_deploy.cli import main
from ovml_deploy.commandline import run as run_command
from ovml_deploy.errors import BundleError
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.vocabulary import Vocabulary

PACKAGE = Path(assets.__file__).parents[1]


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Path:
    """A user with an empty home folder, and the package's files before and after."""
    for name in ("OVML_CACHE", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("cat\ncoffee\n")
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def unchanged():
    before = state()
    yield
    assert state() == before


def state() -> dict[Path, tuple[int, int]]:
    """Size and time of all files of the package but Python's own caches."""
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns)
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_results_of_verify_are_in_the_users_cache(home: Path, capsys) -> None:
    name = f"{Bundle.open(assets.MINI).manifest_hash}.json"
    file = home / ".cache" / "ovml-deploy" / "verified" / name
    assert run("verify", "--device", "cpu") == 0
    assert f"written: {file}" in capsys.readouterr().out
    assert json.loads(file.read_text())["entries"][0]["goldens"]["passed"]


def test_vocabularies_of_the_embedded_model_are_saved_for_the_user(home: Path, capsys) -> None:
    assert run("vocab", "build", "words.txt", "--name", "mine") == 0
    file = home / ".local/share/ovml-deploy/vocabularies/mini/mine.safetensors"
    identity = Vocabulary.load(file).id
    assert f"{file}: 2 labels, id {identity}" in capsys.readouterr().out
    assert run("vocab", "list") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "mine",
        "words",
    ]
    assert run("vocab", "show", "mine") == 0
    assert capsys.readouterr().out == "cat\ncoffee\n"
    photograph = next(path for path in assets.sample_photographs() if path.stem == "cat")
    assert run("tag", photograph, "--vocab", "mine", "--format", "csv") == 0
    assert ",cat," in capsys.readouterr().out
    assert run("info") == 0
    assert "mine, words" in capsys.readouterr().out


def test_a_vocabulary_is_replaced_only_where_that_is_asked_for(home: Path, capsys) -> None:
    build = ("vocab", "build", "words.txt", "--name", "mine")
    assert run(*build) == 0
    Path("words.txt").write_text("rocket")
    capsys.readouterr()
    assert run(*build) == 1
    assert "exists. Replace it with --overwrite" in capsys.readouterr().err
    assert run("vocab", "show", "mine") == 0
    assert capsys.readouterr().out == "cat\ncoffee\n"
    assert run(*build, "--overwrite") == 0
    assert run("vocab", "show", "mine") == 0
    assert capsys.readouterr().out.endswith("\nrocket\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("build", "words.txt"),  # the name of one that ships
        ("build", "words.txt", "--name", "words", "--overwrite"),
        ("build", "words.txt", "--out", assets.MINI / "vocabularies" / "mine.safetensors"),
        ("calibrate", "words", "--data", "absent"),
        ("calibrate", assets.MINI / "vocabularies" / "words.safetensors", "--data", "absent"),
    ],
)
def test_what_ships_is_not_changed(home: Path, capsys, arguments: tuple[object, ...]) -> None:
    assert run("vocab", *arguments) == 2
    shown = capsys.readouterr().err
    assert "lies in the installed package, which is never changed" in shown
    assert "with --out" in shown
    assert ("another --name" in shown) == ("build" in arguments and "--out" not in arguments)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (export.quantize.main, ("--images", "absent")),
        (export.tensorrt.main, ("--target", "sm89")),
        (export.tensorrt.main, ("--out", assets.MINI / "new" / "x.plan")),
    ],
)
def test_exports_of_the_embedded_model_name_a_place(
    home: Path, capsys, command, arguments: tuple[object, ...]
) -> None:
    line = ["--bundle", str(assets.MINI), *map(str, arguments)]
    assert run_command(command, "export", line) == 2
    assert "Name another place with --out" in capsys.readouterr().err


def test_a_vocabulary_of_another_model_hides_no_other(home: Path, tiny_bundle, capsys) -> None:
    """As after an update of the embedded model."""
    assert run("vocab", "build", "words.txt", "--name", "mine") == 0
    folder = home / ".local/share/ovml-deploy/vocabularies/mini"
    stray = Path(tiny_bundle) / "vocabularies" / "few.safetensors"
    (folder / "few.safetensors").write_bytes(stray.read_bytes())
    capsys.readouterr()
    assert run("vocab", "list") == 3
    shown = capsys.readouterr()
    assert [line.split()[0] for line in shown.out.splitlines()[1:]] == ["mine", "words"]
    assert "failed: The vocabulary 'few' was made for another text encoder" in shown.err
    assert run("tag", assets.sample_photographs()[0], "--vocab", "mine") == 0


@pytest.mark.parametrize("name", ["engine.plan", "engine.matcher.plan", "engine.json"])
def test_a_link_in_a_bundle_directs_no_plan(bundle_copy: Path, tmp_path: Path, name: str) -> None:
    (bundle_copy / name).symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match=f"names '{name}', which lies outside it"):
        export.tensorrt.build_plan(Bundle.open(bundle_copy))
    assert not (tmp_path / "outside").exists()
