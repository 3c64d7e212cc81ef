"""The telemetry of packages is off, the user's choices are kept, and the host program is undisturbed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from shell import ROOT

from ovml_deploy.runtime.telemetry import HUB_VARIABLE, ORT_VARIABLE, RAY_VARIABLE

pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")

PRIVACY = (ROOT / "docs" / "privacy.md").read_text("utf-8")

#: A package in place of openvino_telemetry that writes down its use and sends nothing.
_RECORDER = """
class Telemetry:
    def __init__(self, *arguments, **options): pass
    def send_event(self, *event): print("event", *event)
"""


def in_a_process(code: str, home: Path, **variables: str) -> list[str]:
    """Run code with an empty home and a recorder of OpenVINO's telemetry; return its output lines."""
    package = home / "packages" / "openvino_telemetry"
    (package / "backend").mkdir(parents=True)
    (package / "__init__.py").write_text(_RECORDER)
    (package / "backend" / "__init__.py").touch()
    (package / "backend" / "backend_ga4.py").touch()
    paths = os.pathsep.join([str(package.parent), str(ROOT)])
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": paths, **variables}
    imports = "import os, sys\nfrom ovml_deploy.runtime.telemetry import *\n"
    done = subprocess.run(
        [sys.executable, "-c", imports + code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_recorder_sees_a_plain_import(tmp_path: Path) -> None:
    assert in_a_process("import openvino", tmp_path) == ["event ov import general_import"]


def test_openvino_sends_nothing(tmp_path: Path) -> None:
    assert in_a_process("print(import_openvino().__name__)", tmp_path) == ["openvino"]


@pytest.mark.parametrize("before", [False, True], ids=["not imported", "imported before"])
def test_the_host_program_can_still_import_openvino_telemetry(tmp_path: Path, before: bool) -> None:
    first = "import openvino_telemetry as own\n" if before else ""
    code = first + (
        "import_openvino(); print('openvino_telemetry' in sys.modules)\n"
        "import openvino_telemetry as later; later.Telemetry().send_event('of the host')\n"
    )
    last = "print(own is later)" if before else ""
    expected = [str(before), "event of the host", *(["True"] if before else [])]
    assert in_a_process(code + last, tmp_path) == expected


def test_an_openvino_that_the_host_program_has_imported_is_taken_as_it_is(tmp_path: Path) -> None:
    code = "import openvino; print(import_openvino() is openvino)"
    assert in_a_process(code, tmp_path) == ["event ov import general_import", "True"]


@pytest.mark.parametrize(
    ("choice", "events"), [("1", ["event ov import general_import"]), ("0", []), ("", [])]
)
def test_the_choice_made_with_opt_in_out_is_kept(
    tmp_path: Path, choice: str, events: list[str]
) -> None:
    (tmp_path / "intel").mkdir()
    (tmp_path / "intel" / "openvino_telemetry").write_text(choice)
    assert in_a_process("import_openvino()", tmp_path) == events


def test_openvino_is_imported_once_by_many_threads(tmp_path: Path) -> None:
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    jobs = [pool.submit(import_openvino) for _ in range(8)]\n"
        "print(len({id(job.result()) for job in jobs}), 'openvino_telemetry' in sys.modules)"
    )
    assert in_a_process(code, tmp_path) == ["1 False"]


@pytest.mark.parametrize("value", ["0", "", "1"])
def test_variables_that_the_user_has_set_are_kept(tmp_path: Path, value: str) -> None:
    names = ["ORT_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED", "HF_HUB_DISABLE_TELEMETRY"]
    code = (
        "silence_onnxruntime(); silence_ray(); silence_hugging_face()\n"
        f"print(*(repr(os.environ[name]) for name in {names}))"
    )
    assert in_a_process(code, tmp_path, **dict.fromkeys(names, value)) == [
        " ".join([repr(value)] * 3)
    ]


def test_onnxruntime_is_silenced_for_children_too_before_it_is_imported(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    code = (
        "sys.addaudithook(lambda event, values: event == 'import' and values[0] == 'onnxruntime' "
        "and print(os.environ.get('ORT_DISABLE_TELEMETRY')))\n"
        "import_onnxruntime()"
    )
    assert in_a_process(code, tmp_path)[0] == "1"
    assert not (tmp_path / ".cache" / "Microsoft").exists()


def test_importing_the_package_changes_nothing(tmp_path: Path) -> None:
    code = (
        "before = dict(os.environ); import ovml_deploy.runtime.tagger; print(before == os.environ)"
    )
    assert in_a_process(code, tmp_path) == ["True"]


def test_the_models_silence_hugging_face_before_it_is_imported(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="the extra 'export' is not installed")
    code = (
        "import ovml_deploy.models, huggingface_hub.constants as constants\n"
        "print(constants.HF_HUB_DISABLE_TELEMETRY)"
    )
    assert in_a_process(code, tmp_path) == ["True"]


def test_the_snippet_of_the_document_runs(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    (snippet,) = re.findall(r"```python\n(.*?)```", PRIVACY, re.DOTALL)
    names = ["onnxruntime", "openvino"]
    assert (
        in_a_process(f"{snippet}\nfor name in {names}: print(globals()[name].__name__)", tmp_path)
        == names
    )


def test_the_document_names_each_variable() -> None:
    for variable, value in ((ORT_VARIABLE, 1), (HUB_VARIABLE, 1), (RAY_VARIABLE, 0)):
        assert f"| `{variable}={value}` | `{variable}={1 - value}` |" in PRIVACY


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_plain_import_of_an_engine_is_refused_by_the_style(name: str) -> None:
    pytest.importorskip("ruff", reason="the extra 'dev' is not installed")
    command = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--quiet"]
    plain = ["--stdin-filename", "ovml_deploy/runtime/new.py", "-"]
    code = f"import {name}\n"
    refused = subprocess.run(
        [*command, *plain], input=code, cwd=ROOT, capture_output=True, text=True
    )
    assert "TID251" in refused.stdout
    ours = subprocess.run(
        [*command, "ovml_deploy", "export", "benchmarks"], cwd=ROOT, capture_output=True, text=True
    )
    assert ours.returncode == 0, ours.stdout


def test_a_crash_of_the_probe_leaves_no_core(tmp_path: Path) -> None:
    code = (
        "import resource; from ovml_deploy.runtime.backends.probe import _leave_no_core\n"
        "_leave_no_core(); print(resource.getrlimit(resource.RLIMIT_CORE)[0] <= 1)\n"
    )
    assert in_a_process(code, tmp_path) == ["True"]
