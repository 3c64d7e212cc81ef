"""Folders of the user, and commands without any."""

import logging
import os
import pwd
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ovml_deploy import user_folders
from ovml_deploy.errors import DataError
from ovml_deploy.runtime.label_cache import LabelCache
from ovml_deploy.training.knowledge.answer_cache import AnswerCache
from ovml_deploy.user_folders import (
    NoFolderError,
    cache_file,
    cache_folder,
    data_folder,
    go_on_without_cache,
)

FOLDERS = {"XDG_CACHE_HOME": cache_folder, "XDG_DATA_HOME": data_folder}


@pytest.fixture
def no_folders(monkeypatch) -> None:
    """Neither HOME nor another variable names a folder."""
    for name in ("OVML_CACHE", "HOME", *FOLDERS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(user_folders, "_reported", set())


@pytest.fixture
def no_home(no_folders: None, monkeypatch) -> None:
    """The user has no entry in the password database, either."""

    def absent(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", absent)


def test_where_the_folders_are(no_folders: None, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "ovml-deploy"
    assert data_folder() == tmp_path / ".local" / "share" / "ovml-deploy"
    for variable, folder in FOLDERS.items():
        monkeypatch.setenv(variable, str(tmp_path / "xdg"))
        assert folder() == tmp_path / "xdg" / "ovml-deploy"
        monkeypatch.setenv(variable, "relative")  # to be ignored, says the XDG specification
        assert folder().is_relative_to(tmp_path / (".cache" if "CACHE" in variable else ".local"))
    monkeypatch.setenv("OVML_CACHE", str(tmp_path / "chosen"))
    assert cache_folder() == tmp_path / "chosen"
    monkeypatch.setenv("OVML_CACHE", "~/chosen")
    assert cache_folder() == tmp_path / "chosen"
    assert not (tmp_path / "xdg").exists()


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_a_user_without_a_home(no_home: None, monkeypatch, caplog, home: str | None) -> None:
    if home is not None:
        monkeypatch.setenv("HOME", home)
    with pytest.raises(NoFolderError, match="set OVML_CACHE to a folder that can be written"):
        cache_folder()
    with pytest.raises(NoFolderError, match="set XDG_DATA_HOME to a folder"):
        data_folder()
    with caplog.at_level(logging.WARNING):
        assert cache_file("probes", "x.json") is None
        cache = LabelCache("a", "b")
        cache.put({})
        assert cache.get(["cat"]) == {}
    (message,) = [record.getMessage() for record in caplog.records]  # once a process
    assert message.startswith("Nothing is cached: the user has no home folder (HOME is ")
    assert "OVML_CACHE" in message
    with pytest.raises(DataError, match=r"set OVML_CACHE .* or name a folder with --cache"):
        AnswerCache("http://localhost", "a model")  # an answer that is paid for must be kept


def test_a_cache_that_fails_is_reported_once(no_home: None, tmp_path: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        for kind in ("labels", "probes", "labels"):
            go_on_without_cache(OSError("disk full"), tmp_path / kind / "x")
        go_on_without_cache(OSError("disk full"), tmp_path / "another" / "labels" / "x")
    first, second = [record.getMessage() for record in caplog.records]
    assert f"{tmp_path / 'labels' / 'x'} cannot be written (disk full)" in first
    assert "set OVML_CACHE to another folder" in first
    assert str(tmp_path / "another") in second


@pytest.fixture(scope="module")
def as_nobody(tmp_path_factory: pytest.TempPathFactory):
    """A function that runs the command as a user without a name, who may read all and write nothing."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv to become a user without a password entry")
    rights = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
    prefix = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", *rights]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("setpriv cannot drop privileges here")
    folder = tmp_path_factory.mktemp("nobody")

    def run(home: str | None, *arguments: object) -> "subprocess.CompletedProcess[str]":
        variables = {"PATH": os.environ["PATH"], "OVML_DEVICE": "cpu"}
        if home is not None:
            variables["HOME"] = home
        return subprocess.run(
            [*prefix, sys.executable, "-m", "ovml_deploy.cli", *map(str, arguments)],
            cwd=folder,
            env={**variables, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.mark.parametrize("home", [None, "/nonexistent"])
def test_tagging_goes_on_without_a_cache(
    as_nobody, tiny_bundle: Path, pictures, home: str | None
) -> None:
    done = as_nobody(home, "tag", pictures[0], "--engine", tiny_bundle, "--labels", "cat,dog")
    assert done.returncode == 0, done.stderr
    assert re.search(r"cat \d\.\d\d  dog \d", done.stdout)
    assert done.stderr.count("OVML_CACHE") == 1
    assert "Traceback" not in done.stderr


def test_other_commands_go_on_without_a_home(as_nobody, tiny_bundle: Path, tmp_path: Path) -> None:
    done = as_nobody(None, "verify", "--engine", tiny_bundle, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert (
        "not stored: the user has no home folder (HOME is not set); set OVML_CACHE" in done.stdout
    )
    done = as_nobody(None, "doctor", "--engine", tiny_bundle)
    assert done.returncode == 1
    assert "The user has no home folder, and so no cache folder." in done.stdout
    (tmp_path / "labels.txt").write_text("cat")
    done = as_nobody(None, "vocab", "build", tmp_path / "labels.txt", "--name", "x")
    assert done.returncode == 2
    assert "set XDG_DATA_HOME" in done.stderr
    assert "name a file with --out" in done.stderr
