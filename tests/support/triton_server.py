"""Starts a real Triton, of the package nvidia-pytriton, on a repository of ours."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

_FACTS = """
import importlib.util, json, sys, sysconfig
found = importlib.util.find_spec("pytriton")
print(json.dumps([found.submodule_search_locations[0], sysconfig.get_path("purelib"),
                  sys.base_prefix, sysconfig.get_config_var("LIBDIR"), sysconfig.get_python_version()]))
"""


@contextmanager
def running(python: str, repository: Path, folder: Path) -> Iterator[int]:
    """Yield the gRPC port of a Triton that serves a repository, whose graphs Python runs.

    ``python``: of an environment with nvidia-pytriton, onnxruntime, and a NumPy below 2, with whose
    arrays the Python backend of that package deals.
    """
    printed = subprocess.run([python, "-c", _FACTS], check=True, capture_output=True, text=True)
    package, packages, prefix, libraries, version = json.loads(printed.stdout)
    server = Path(package) / "tritonserver"
    backends = folder / "backends"
    shutil.copytree(server / "backends", backends)
    shutil.copy(
        server / "python_backend_stubs" / version / "triton_python_backend_stub",
        backends / "python",
    )
    in_python(shutil.copytree(repository, folder / "models"))
    http, grpc = _free_ports(2)
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{packages}/nvidia_pytriton.libs:{libraries}",
        "PYTHONHOME": prefix,
        "OVML_TRITON_PACKAGES": packages,
    }
    ports = [f"--http-port={http}", f"--grpc-port={grpc}", "--allow-metrics=false"]
    local = ["--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--exit-timeout-secs=5"]
    places = [f"--model-repository={folder / 'models'}", f"--backend-directory={backends}"]
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [server / "bin/tritonserver", *places, *ports, *local],
            env=environment,
            stdout=file,
            stderr=file,
        )
        try:
            _wait(process, f"http://127.0.0.1:{http}/v2/health/ready", log)
            yield grpc
        finally:
            process.terminate()
            process.wait()


def in_python(repository: Path) -> None:
    """Put the Python backend in ONNX Runtime's place; all else stays as it was written."""
    script = Path(__file__).with_name("triton_graph.py")
    for path in repository.glob("*/config.pbtxt"):
        text = path.read_text()
        if 'platform: "onnxruntime_onnx"' not in text:
            continue
        text = text.replace('platform: "onnxruntime_onnx"', 'backend: "python"')
        path.write_text(re.sub('default_model_filename: ".*"\n', "", text))
        shutil.copy(script, path.parent / "1" / "model.py")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    while True:  # the test's own timeout ends it
        try:
            with urlopen(url) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            pass
        if process.poll() is not None:
            raise RuntimeError(f"Triton ended: {log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.1)
