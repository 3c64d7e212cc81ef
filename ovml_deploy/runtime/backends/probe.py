"""Tries a precision in a child process first, as a crash in native code cannot be caught.

On some CPUs an engine's kernels for a lower precision end the process by a signal. One example:
OpenVINO 2026.4 in bfloat16 divides by zero on weights that are stored as int8. The outcome is
remembered for the model, the engine's version and the CPU, so the child runs once.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from ovml_deploy.errors import DeviceError
from ovml_deploy.files import write_atomically
from ovml_deploy.runtime.bundle import ENCODER, Bundle
from ovml_deploy.runtime.cpu import cpu_name
from ovml_deploy.user_folders import cache_file, go_on_without_cache

_BATCHES = (1, 2, 8)
_GRAPHS = (
    2  # raise it when an engine is given other graphs: outcomes stored before are then ignored
)
_BY_SIGNAL = "was ended by"
_LONGEST = 300  # seconds; compiling a large model takes a few


def require_survival(bundle: Bundle, device: str, precision: str, version: str) -> None:
    """Raise DeviceError where running the encoder in ``precision`` ends the process."""
    encoder = bundle.manifest["files"][ENCODER]["sha256"]
    facts = [device, precision, version, cpu_name(), encoder, _GRAPHS]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    memory = cache_file("probes", f"{key}.json")
    death = None if memory is None else _recall(memory)
    if death is None:
        death = _try(bundle, precision)
        if memory is not None:
            _remember(memory, death)
    if death:
        raise DeviceError(
            f"Device {device!r} in {precision} cannot run {bundle.path} on this CPU ({cpu_name()}): a "
            f"trial in a process of its own {death}. Choose --precision fp32, or another --device."
        )


def _try(bundle: Bundle, precision: str) -> str:
    """Return how the child ended, "" where it ended well."""
    command = [sys.executable, "-m", __name__, str(bundle.path), precision]
    # the modules of this process, and none of the folder that it happens to be run in
    own = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_LONGEST,
            check=False,
            env={**os.environ, **own},
        )
    except subprocess.TimeoutExpired:
        return f"took longer than {_LONGEST} s"
    if done.returncode < 0:
        return f"{_BY_SIGNAL} {signal.Signals(-done.returncode).name}"
    return f"failed: {done.stderr.strip()[-300:]}" if done.returncode else ""


def _recall(memory: Path) -> str | None:
    try:
        return str(json.loads(memory.read_text("utf-8"))["death"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(memory: Path, death: str) -> None:
    # SIGKILL is somebody's, or a lack of memory; and what failed in any other way may not again
    if death and (not death.startswith(_BY_SIGNAL) or death.endswith(signal.Signals.SIGKILL.name)):
        return
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(memory) as temporary:
            Path(temporary).write_text(json.dumps({"death": death}), "utf-8")
    except OSError as error:
        go_on_without_cache(error, memory)  # it is only tried again


def _leave_no_core() -> None:
    """Keep the crash that may follow from being dumped.

    With a limit of 1 byte, Linux writes no core file and calls no crash handler.
    """
    with suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0 if hard == 0 else 1, hard))


def _child(engine: str, precision: str) -> None:
    import numpy as np

    from ovml_deploy.runtime.backends.openvino import OpenVINO

    _leave_no_core()
    bundle = Bundle.open(engine)
    encoder = OpenVINO(precision, bundle.precision).compile(bundle.inside(ENCODER))
    for batch in _BATCHES:
        encoder({"pixels": np.zeros((batch, *bundle.preprocessing.size, 3), dtype=np.uint8)})
    sys.stdout.flush()
    os._exit(0)  # what happens at exit is not what was tried


if __name__ == "__main__":
    _child(*sys.argv[1:])
