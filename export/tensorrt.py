"""Bundle -> TensorRT plan: ``python -m export.tensorrt --bundle build/qks [--target sm89]``."""

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from export.tensorrt_build import Builder, Built, Sizes
from ovml_deploy.assets import require_outside
from ovml_deploy.commandline import command, counts, run
from ovml_deploy.errors import DeviceError, ExportError, UsageError
from ovml_deploy.files import may_be_written, sha256_file, write_atomically
from ovml_deploy.runtime.backends.tensorrt_module import AUTO, Flavour, choose, lowest
from ovml_deploy.runtime.bundle import ENCODER, MANIFEST, Bundle
from ovml_deploy.runtime.gpus import find_driver
from ovml_deploy.runtime.plans import (
    GRAPHS,
    SUFFIX,
    Plan,
    PlanGraph,
    bundle_hash,
    graph_path,
    metadata_path,
    target_of,
)

CURRENT = "current"
BATCH: Sizes = (1, 8, 32)
LABELS: Sizes = (1, 1000, 5000)
_PROMPTS: Sizes = (1, 32, 128)
_USUAL_LENGTH = 16


def build_plan(
    bundle: Bundle,
    out: str | Path | None = None,
    targets: Sequence[str] = (CURRENT,),
    flavour: str = AUTO,
    batch: Sequence[int] = BATCH,
    labels: Sequence[int] = LABELS,
) -> Plan:
    """Build the plan of a bundle for some targets and write its files, whole or not at all.

    ``out``: the ``.plan`` file; default: named after the bundle, in its folder. ``targets``: such as
    ("sm86", "sm89"), or ("current",) for the GPU of this machine. ``batch``, ``labels``: smallest,
    best and greatest size; larger ones are split when the plan runs. Raises UsageError,
    ExportError, BundleError, DeviceError, MissingDependencyError.
    """
    path = _checked_out(bundle, out)
    sizes = _sizes(bundle, batch, labels)
    builder = _builder(choose(flavour), targets)
    graphs: dict[str, PlanGraph] = {}
    with ExitStack() as stack:
        for name in GRAPHS:
            built = builder.build(bundle.file(name), sizes)
            target = graph_path(path, name)
            temporary = stack.enter_context(write_atomically(target))
            temporary.write_bytes(built.plan)
            precision = bundle.precision if name == ENCODER else "fp32"
            graphs[name] = _describe(built, target.name, temporary, precision)
    plan = Plan(
        path,
        bundle_hash(bundle),
        builder.flavour.name,
        builder.version,
        builder.targets,
        graphs,
    )
    plan.write()
    return plan


def _describe(built: Built, file: str, written: Path, precision: str) -> PlanGraph:
    _require_precision(built.products, precision, file)
    return PlanGraph(
        file=file,
        sha256=sha256_file(written),
        bytes=written.stat().st_size,
        inputs=built.inputs,
        outputs=built.outputs,
        profile=built.profile,
        precision=precision,
        products=built.products,
        layers=built.layers,
    )


def _require_precision(products: Mapping[str, int], precision: str, file: str) -> None:
    """Refuse an engine that computes otherwise than its graph says."""
    if lowest(products) != precision:
        found = ", ".join(f"{count} in {name}" for name, count in products.items()) or "none"
        raise ExportError(
            f"The engine for {file} is to compute in {precision}, but its products are: {found}. This is a "
            "fault of the export; please report it with the versions from 'ovml-deploy doctor'."
        )


def _checked_out(bundle: Bundle, out: str | Path | None) -> Path:
    taken = (MANIFEST, *bundle.manifest["files"])
    path = Path(out) if out is not None else bundle.path / f"{bundle.path.name}{SUFFIX}"
    if out is None and metadata_path(path).name in taken:  # a bundle in a folder named "bundle"
        path = bundle.path / f"engine{SUFFIX}"
    require_outside(path)
    files = (metadata_path(path), *(graph_path(path, name) for name in GRAPHS))
    if out is None:
        for file in files:
            bundle.inside(file.name)  # a link in a bundle from elsewhere may lead out of it
    if path.suffix != SUFFIX:
        raise UsageError(f"A plan's name ends in {SUFFIX}, and --out is {str(path)!r}.")
    for file in files:
        if file.name in taken:
            raise UsageError(
                f"The plan {path.name!r} would need the name {file.name!r}, which a bundle's own file "
                "has. Choose another --out."
            )
        if not may_be_written(file):
            raise UsageError(f"{str(file)!r} cannot be written. Choose another --out.")
    return path


def _sizes(bundle: Bundle, batch: Sequence[int], labels: Sequence[int]) -> dict[str, Sizes]:
    longest = bundle.text.context_length
    return {
        "batch": _three("batch", batch),
        "labels": _three("labels", labels),
        "prompts": _PROMPTS,
        "length": (1, min(_USUAL_LENGTH, longest), longest),
    }


def _three(option: str, sizes: Sequence[int]) -> Sizes:
    if len(sizes) != 3 or not 1 == sizes[0] <= sizes[1] <= sizes[2]:
        raise UsageError(
            f"--{option} takes the smallest, the best and the greatest size, such as 1,8,32, and the "
            f"smallest is 1, for one may come alone; it was given {','.join(map(str, sizes))}."
        )
    return sizes[0], sizes[1], sizes[2]


def _builder(flavour: Flavour, targets: Sequence[str]) -> Builder:
    """A builder for named targets, each once; "current" becomes the name of this machine's GPU."""
    if CURRENT in targets and len(targets) > 1:
        raise UsageError(f"--target takes names such as sm89, or {CURRENT!r} alone.")
    here = _this_gpu() if CURRENT in targets or not flavour.any_target else None
    wanted = list(dict.fromkeys([here] if here and CURRENT in targets else targets))
    builder = Builder(flavour, wanted)
    able = builder.known_targets() if flavour.any_target else [here]
    unknown = [target for target in wanted if target not in able]
    if unknown or not wanted:
        raise UsageError(
            f"{flavour.title} {builder.version} does not build for {', '.join(unknown) or 'nothing'} here. "
            f"Targets: {', '.join(map(str, able))}."
        )
    return builder


def _this_gpu() -> str:
    driver = find_driver()
    if driver is None or not driver.gpus:
        raise DeviceError(
            "There is no NVIDIA GPU here to build for. TensorRT for RTX needs none if the target is named: "
            "--target sm89 (sm86: RTX 30, A10; sm89: RTX 40, L4; sm120: RTX 50)."
        )
    return target_of(driver.gpus[0].compute_capability)


@command(batch=counts, labels=counts)
def main(
    bundle: str,
    target: str = CURRENT,
    out: str | None = None,
    flavour: str = AUTO,
    batch: tuple[int, ...] = BATCH,
    labels: tuple[int, ...] = LABELS,
) -> None:
    """Build the TensorRT engines of a bundle ahead of time; words may still change at any time.

    Args:
        bundle: the bundle's folder
        target: GPU architectures, such as sm86,sm89,sm120; or 'current', the GPU of this machine.
            TensorRT for RTX also builds for GPUs that are elsewhere.
        out: the .plan file; default: named after the bundle, in its folder
        flavour: 'rtx' (package tensorrt-rtx), 'enterprise' (package tensorrt), or 'auto', what is installed
        batch: smallest, best and greatest number of images at once; more are split
        labels: smallest, best and greatest number of labels at once; more are split
    """
    targets = [part.strip() for part in target.lower().split(",") if part.strip()]
    started = time.monotonic()
    plan = build_plan(Bundle.open(bundle), out, targets, flavour, batch, labels)
    _report(plan, time.monotonic() - started)


def _report(plan: Plan, seconds: float) -> None:
    print(f"{plan.path.parent / plan.summary()}, built in {seconds:.0f} s:")
    for graph in plan.graphs.values():
        products = ", ".join(f"{count} in {name}" for name, count in graph.products.items())
        sizes = ", ".join(
            f"{name} {least}..{most}" for name, (least, _, most) in graph.profile.items()
        )
        print(f"  {graph.file:<28} {graph.bytes / 1e6:7.1f} MB  products: {products}; {sizes}")


if __name__ == "__main__":
    sys.exit(run(main, "python -m export.tensorrt"))
