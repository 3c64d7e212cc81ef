"""Results of ``verify`` on this machine, read before a backend is chosen.

They are kept in the user's cache, in one file for each bundle (by the hash of its manifest), with an
entry for each backend, precision, engine version and processor. A bundle's own folder is neither
written nor read.
"""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from math import inf
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovml_deploy.files import locked, write_atomically
from ovml_deploy.runtime.backends import PLAN, Backend
from ovml_deploy.runtime.backends.base import ON_CPU
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.cpu import cpu_name
from ovml_deploy.runtime.gpus import find_driver
from ovml_deploy.runtime.plans import Plan
from ovml_deploy.runtime.telemetry import import_onnxruntime, import_openvino
from ovml_deploy.runtime.threads import available_cpus
from ovml_deploy.user_folders import cache_file, cache_folder

if TYPE_CHECKING:
    from ovml_deploy.runtime.speed import Speed

#: The folder in the user's cache.
VERIFIED = "verified"
FORMAT = "ovml-deploy/verified"
VERSION = 1

#: The parts of an entry, each from its last run.
GOLDENS, IMAGES, SPEED = "goldens", "images", "speed"

RANKED = 8  #: images of a call, of the speed that counts


def failed_gate(bundle: Bundle, backend: Backend) -> str | None:
    """Return why ``verify`` found this backend wanting here, None where it did not, or never ran.

    What the bundle says of a precision holds on every machine.
    """
    if (known := bundle.failed_gate.get(backend.precision)) is not None:
        return f"{bundle.path} does not keep its tags in {backend.precision}: {known}"
    if not (entries := _read(bundle)):
        return None
    entry = _find(entries, _key(backend.device, backend.precision))
    if entry is None:
        return None
    with suppress(AttributeError, KeyError, TypeError):  # a file of another making says nothing
        parts = [entry[name] for name in (GOLDENS, IMAGES) if name in entry]
        failed = [f"{reason} (on {part['date']})" for part in parts for reason in part["failed"]]
        if failed:
            return (
                f"{backend.description} failed 'ovml-deploy verify' on {bundle.path}: "
                f"{'; '.join(failed)}. Choose another --device or --precision, or verify it again."
            )
    return None


def record(
    bundle: Bundle,
    backend: Backend,
    part: str,
    figures: Mapping[str, Any],
    failed: Sequence[str],
) -> Path:
    """Write one part (GOLDENS or IMAGES) of a backend's entry and return the file.

    ``failed``: the reasons why it is not to be used, if any. Raises OSError where the user has no
    cache folder, or it cannot be written.
    """
    date = datetime.now(UTC).date().isoformat()
    found = {"date": date, "passed": not failed, "failed": list(failed), **figures}
    new = {"backend": backend.description, part: found}
    return _write(bundle, {(backend.device, backend.precision): new})


def record_speeds(bundle: Bundle, speeds: Sequence["Speed"]) -> Path:
    """Write what one run measured, for :func:`fastest_first`, and return the file. Raises OSError."""
    run = {"run": datetime.now(UTC).isoformat(timespec="seconds"), "threads": available_cpus()}
    new: dict[tuple[str, str], dict[str, Any]] = {}
    for speed in speeds:
        if speed.refused is None:
            took = {str(size): ms for size, ms in speed.milliseconds.items()}
            found = {"backend": speed.description, SPEED: {**run, "ms_an_image": took}}
        else:
            found = {SPEED: {**run, "refused": speed.refused}}
        new[speed.device, speed.precision] = found
    return _write(bundle, new)


def fastest_first(bundle: Bundle, pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """Sort (device, precision) by speed, where one run has measured all of them on this machine.

    Else they stay as they are, and as lazy as they were.
    """
    entries = _read(bundle)
    if not any(SPEED in entry for entry in entries):
        return pairs
    pairs = [*pairs]
    try:
        found = [_find(entries, _key(*pair))[SPEED] for pair in pairs]
        runs = {(speed["run"], speed["threads"]) for speed in found}
        if len(runs) != 1 or found[0]["threads"] != available_cpus():
            return pairs
        ranks = [
            inf if "refused" in speed else float(speed["ms_an_image"][str(RANKED)])
            for speed in found
        ]
    except (KeyError, TypeError, ValueError):  # not measured, or of another making
        return pairs
    return [pair for _, pair in sorted(zip(ranks, pairs, strict=True), key=itemgetter(0))]


def _write(bundle: Bundle, new: Mapping[tuple[str, str], Mapping[str, Any]]) -> Path:
    """Add what was found of (device, precision) to their entries; return the file."""
    path = cache_folder() / VERIFIED / _name(bundle)
    with locked(path.with_suffix(".lock")):
        entries = _read(bundle)
        for pair, found in new.items():
            _add(entries, _key(*pair), found)
        value = {
            "format": FORMAT,
            "version": VERSION,
            "bundle": str(bundle.path),
            "entries": entries,
        }
        with write_atomically(path) as temporary:
            temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return path


def _add(entries: list[Any], key: Mapping[str, str], found: Mapping[str, Any]) -> None:
    entry = _find(entries, key)
    if entry is None:
        entry = dict(key)
        entries.append(entry)
    passed = any(found[part]["passed"] for part in (GOLDENS, IMAGES) if part in found)
    known = entry.get(SPEED)
    if passed and isinstance(known, dict) and "refused" in known:
        del entry[SPEED]  # it may be used again, and was not timed
    entry |= {"machine": f"{platform.system()} {platform.machine()}", **found}


def _name(bundle: Bundle) -> str:
    return f"{bundle.manifest_hash}.json"


def _read(bundle: Bundle) -> list[Any]:
    """Return the entries; none of a file that is absent, damaged or of another version."""
    path = cache_file(VERIFIED, _name(bundle))
    if path is None:
        return []
    try:
        value = json.loads(path.read_text("utf-8"))
        if value["format"] == FORMAT and value["version"] == VERSION:
            return [entry for entry in value["entries"] if isinstance(entry, dict)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return []


def _find(entries: Sequence[Any], key: Mapping[str, str]) -> Any:
    return next((entry for entry in entries if entry.items() >= key.items()), None)


def _key(device: str, precision: str) -> dict[str, str]:
    """Return what the figures of a bundle depend on. (Not the number of threads: cgroups change it.)"""
    key = {
        "device": device,
        "precision": precision,
        "version": _engine_version(device),
        "processor": cpu_name() if device in ON_CPU else _gpu_name(),
    }
    if device.endswith(PLAN):
        graphs = Plan.read(device).graphs
        key["device"] = Path(device).name
        key["plan"] = " ".join(graphs[name].sha256[:16] for name in sorted(graphs))
    return key


def _engine_version(device: str) -> str:
    if device.endswith(PLAN):
        return Plan.read(device).tensorrt
    module = import_openvino() if device == "openvino" else import_onnxruntime()
    return str(module.__version__)


def _gpu_name() -> str:
    driver = find_driver()
    return driver.gpus[0].name if driver and driver.gpus else "none"
