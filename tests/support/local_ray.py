"""A Ray of this machine alone, for tests of what runs on several."""

import atexit
import functools
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_ATTEMPTS = 3
_STARTS_WITHIN = 100  # seconds; Ray's own 30 are too few where other tests use both cores


@contextmanager
def local_ray(cpus: int, variables: Mapping[str, str], **options: Any) -> Iterator[None]:
    """Start Ray, with environment ``variables`` for its workers, and end it.

    Skips where its processes do not start, and says what they wrote.
    """
    import ray

    home = Path(tempfile.mkdtemp(prefix="ray"))  # a short path, for sockets
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(_token()))  # or it makes one at home
        for patience in (
            "RAY_gcs_server_port_wait_time_s",
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S",
            "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S",
        ):
            patch.setenv(patience, str(_STARTS_WITHIN))
        for attempt in range(_ATTEMPTS):
            try:
                ray.init(
                    address="local",  # and not one that is found running here
                    num_cpus=cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    object_store_memory=100 << 20,
                    runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", **variables}},
                    _temp_dir=str(home / str(attempt)),
                    **options,
                )
                break
            except Exception as error:  # of many kinds, none of them ours
                ray.shutdown()
                if attempt == _ATTEMPTS - 1:
                    pytest.skip(f"Ray does not start here: {error}\n{_logs(home)}")
        try:
            yield
        finally:
            ray.shutdown()
            shutil.rmtree(home, ignore_errors=True)


@functools.cache
def _token() -> Path:
    """What Ray's processes know each other by. Ray reads it once a process, so there is one."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "token"
    path.write_text(secrets.token_hex(32))
    return path


def _logs(home: Path) -> str:
    texts = []
    for path in sorted(home.glob("*/session_2*/logs/*")):
        if path.is_file() and path.stat().st_size:
            end = path.read_text(errors="replace").splitlines()[-10:]
            texts.append("\n".join([f"-- {os.path.relpath(path, home)}", *end]))
    return "\n".join(texts)
