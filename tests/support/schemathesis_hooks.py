"""What JSON Schema cannot say of valid requests, for schemathesis: see ``test_schemathesis.py``.

Cases that shall be refused stay as they are.
"""

import base64
import unicodedata
from pathlib import Path
from typing import Any

import schemathesis

_IMAGE = (Path(__file__).parents[2] / "ovml_deploy/assets/samples/clock.jpg").read_bytes()
_BAD = ("Cc", "Cs", "Zl", "Zp")


@schemathesis.hook
def map_case(context: schemathesis.HookContext, case: schemathesis.Case) -> schemathesis.Case:
    """Make labels printable and different, name one vocabulary, shape features, send images."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return case
    if case.media_type == "application/octet-stream":
        case.body = _IMAGE
    parts = [part for part in (case.query, case.body) if isinstance(part, dict)]
    for part in parts:
        _repair(part)
    if any(part.get("labels") is not None for part in parts):
        for part in parts:
            part.pop("vocabulary", None)
    return case


def _repair(part: dict[str, Any]) -> None:
    labels = part.get("labels")
    if isinstance(labels, str):  # of a query
        part["labels"] = ",".join(_labels(labels.split(",")))
    elif isinstance(labels, list):
        part["labels"] = _labels(labels)
    elif isinstance(labels, dict):  # groups are of prompt-tuned models
        part["labels"] = dict.fromkeys(_labels([*labels]))
    for name in ("images", "image"):  # servers have different limits
        if isinstance(part.get(name), list):
            del part[name][8:]
    if "features" in part:
        data = base64.b64encode(bytes(4 * 3 * 32)).decode()  # of the tiny bundle
        part["features"] = [{"shape": [3, 32], "data": data}] * len(part["features"][:3])


def _labels(texts: list[str]) -> list[str]:
    plain = ("".join(c for c in t if unicodedata.category(c) not in _BAD) for t in texts)
    return [*{text[:256].strip(): None for text in plain if text.strip()}] or ["cat"]
