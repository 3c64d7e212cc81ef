"""Runs the commands and snippets of docs/cpp.md, as typed, on the embedded model."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cpp import SOURCES, built, onnxruntime_root, require_onnxruntime, require_toolchain
from shell import ROOT, run, run_snippet

from ovml_deploy import assets
from ovml_deploy.runtime.telemetry import import_openvino

TEXT = (ROOT / "docs" / "cpp.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
LINES = [line for kind, text in BLOCKS if kind == "bash" for line in text.strip().splitlines()]

pytestmark = pytest.mark.skipif(
    not (assets.MINI / "bundle.json").exists(), reason="the embedded model is not built"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks as the root of a checkout after ``make cpp``."""
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "build").mkdir()
    (folder / "build" / "cpp").symlink_to(built())
    for name in ("cpp_examples", "ovml_deploy"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "photos").mkdir()
    for sample in assets.sample_photographs():
        shutil.copy(sample, folder / "photos")
    return folder


def block(kind: str) -> str:
    (text,) = [text for found, text in BLOCKS if found == kind]
    return text


def test_every_tag_image_line_runs(world: Path) -> None:
    lines = [line for line in LINES if line.startswith("build/cpp/tag_image")]
    assert len(lines) == 3
    outputs = []
    for line in lines:
        done = run(line, world)
        assert done.returncode == 0, (line, done.stderr)
        outputs.append(done.stdout)
    assert "photos/cat.jpg  domestic cat" in outputs[0]
    assert {len(value["tags"]) for value in json.loads(outputs[1])} == {1}
    assert "Siamese cat" not in outputs[2]


def test_make_cpp_builds_what_the_text_names() -> None:
    assert "make cpp" in LINES
    wheel = Path(import_openvino().__file__).parent
    folder = built()
    command = ["make", "cpp", f"OPENVINO={wheel}", f"CPP_BUILD={folder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("libovml.a", "libovml_readers.a", "libovml.so", "tag_image"):
        assert (folder / name).exists()
        assert f"`{name}`" in TEXT


def test_cmake_finds_onnx_runtime(tmp_path: Path) -> None:
    require_toolchain()
    require_onnxruntime()
    (line,) = [line for line in LINES if "ONNXRUNTIME_ROOT" in line]
    typed = line.replace("build/cpp", str(tmp_path))
    done = run(typed.replace("/opt/onnxruntime", str(onnxruntime_root())), ROOT)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Devices built in: .*cpu", done.stdout)


def test_the_packages_are_those_that_make_test_installs() -> None:
    (line,) = [line for line in LINES if line.startswith("apt-get")]
    makefile = (ROOT / "Makefile").read_text()
    for package in line.split()[3:]:
        assert package in makefile


def test_the_cpp_example_runs(world: Path) -> None:
    assert block("cpp") == (SOURCES / "example.cpp").read_text()
    assert block("cmake") in (SOURCES / "CMakeLists.txt").read_text()
    done = run("build/cpp/example ovml_deploy/assets/mini photos/cat.jpg", world)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("photos/cat.jpg: cat 0.9")
    done = run("build/cpp/example nowhere photos/cat.jpg", world)
    assert done.returncode == 2
    assert "is not a bundle" in done.stderr


def test_the_python_snippet_runs(world: Path) -> None:
    done = run_snippet(block("python"), world, "cpu", "openvino")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cat 0.9")


def test_the_fuzzers_build_and_run(tmp_path: Path) -> None:
    """In the checkout, where ``build/fuzz`` stays, so that a second run is quick."""
    require_toolchain()
    if not shutil.which("clang++"):
        pytest.skip("the fuzzers are not built without Debian's clang")
    lines = [line for line in LINES if "fuzz" in line]
    assert len(lines) == 3
    for line in lines:
        typed = line.replace("-max_total_time=300", "-runs=2000")
        done = run(typed.replace("build/corpus", str(tmp_path)), ROOT)
        assert done.returncode == 0, (line, done.stdout[-3000:], done.stderr[-3000:])
    assert "DONE" in done.stderr
