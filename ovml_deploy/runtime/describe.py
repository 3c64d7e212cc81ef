"""Tells what a bundle is, for people."""

from collections.abc import Iterator
from pathlib import Path

from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.tuned_labels import TunedLabels

_GROUPS_SHOWN = 12


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
        ("features", f"{bundle.features_per_image} x {bundle.embed_dim}, {bundle.precision}"),
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


def _settings(settings: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
