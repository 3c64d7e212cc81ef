"""Looks at this machine and at bundles, for people who wonder what is wrong."""

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ovml_deploy import __version__, assets
from ovml_deploy.errors import OvmlError
from ovml_deploy.runtime.backends import available_devices, create_backend
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.label_cache import cache_folder
from ovml_deploy.runtime.selfcheck import verify
from ovml_deploy.runtime.threads import available_cpus
from ovml_deploy.runtime.tuned_labels import TunedLabels

_REQUIRED = ("numpy", "pillow", "onnxruntime", "tokenizers", "safetensors", "ftfy", "fire", "rich")
_GROUPS_SHOWN = 12
_OPTIONAL = ("torch", "open_clip_torch", "onnx", "onnxscript", "transformers", "timm")


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``good`` is None where there is nothing to judge."""

    what: str
    value: str
    good: bool | None = None


def examine() -> list[Finding]:
    """Return what is installed, which devices work, and what is wrong."""
    return [*_versions(), *_machine(), *_devices()]


def describe_bundle(engine: str | Path) -> list[tuple[str, str]]:
    """Return what a bundle is, as pairs of name and value. Raises BundleError."""
    bundle = Bundle.open(engine)
    manifest = bundle.manifest
    size = sum(file["bytes"] for file in manifest["files"].values())
    height, width = bundle.preprocessing.size
    rows = [
        ("bundle", str(bundle.path)),
        ("head", f"{bundle.head} ({_settings(manifest['head']['settings'])})"),
        ("backbone", " ".join(str(v) for v in manifest["backbone"].values() if v)),
        ("image", f"{height}x{width}, {bundle.preprocessing.resize_mode}"),
        ("features", f"{bundle.features_per_image} x {bundle.embed_dim}"),
        ("prompts", f"{len(bundle.templates)}, hash {bundle.prompt_hash}"),
        *_tuned(bundle),
        ("text encoder", f"hash {bundle.text_hash}"),
        ("vocabularies", ", ".join(bundle.vocabulary_names()) or "none"),
        ("size", f"{size / 1e6:.1f} MB"),
    ]
    for row in manifest["parity"]["worst"]:
        rows.append((f"parity of {row['output']}", f"relative error {row['relative_error']:.1e}"))
    tools = ", ".join(f"{name} {number}" for name, number in manifest["tools"].items())
    return [*rows, ("made with", tools)]


def _tuned(bundle: Bundle) -> Iterator[tuple[str, str]]:
    tokens = bundle.learned_tokens
    if tokens is not None:
        yield "tuned labels", f"{len(TunedLabels.read(bundle).group_of):,}"
        some = ", ".join(tokens.groups[:_GROUPS_SHOWN])
        more = len(tokens.groups) - _GROUPS_SHOWN
        yield "groups", f"{some} and {more:,} more" if more > 0 else some or "none"


def _versions() -> Iterator[Finding]:
    yield Finding("ovml-deploy", __version__)
    yield Finding("Python", platform.python_version(), sys.version_info >= (3, 11))
    for name in _REQUIRED:
        yield Finding(name, _version(name) or "missing", _version(name) is not None)
    for name in _OPTIONAL:
        yield Finding(name, _version(name) or "not installed (only needed to train and export)")


def _machine() -> Iterator[Finding]:
    yield Finding(
        "machine", f"{platform.machine()}, {os.cpu_count()} CPUs, {available_cpus()} usable"
    )
    folder = cache_folder()
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    writable = os.access(parent, os.W_OK)
    yield Finding("label cache", f"{folder}{'' if writable else ' (not writable)'}", writable)


def _devices() -> Iterator[Finding]:
    for device in available_devices():
        yield Finding(f"device {device}", create_backend(device).description)
        try:
            worst = max(found.relative_error for found in verify(assets.MINI, device))
            yield Finding("  embedded model", f"relative error {worst:.1e} against PyTorch", True)
        except OvmlError as error:
            yield Finding("  embedded model", str(error), False)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _settings(settings: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
