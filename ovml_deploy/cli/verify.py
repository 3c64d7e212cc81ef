"""``ovml-deploy verify``."""

import json as json_format
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovml_deploy import assets, output
from ovml_deploy.commandline import SOME_FAILED, command, flag, names, number
from ovml_deploy.errors import BundleError, DeviceError, MissingDependencyError, UsageError
from ovml_deploy.user_folders import NoFolderError

if TYPE_CHECKING:
    from ovml_deploy.pipelines.fidelity import Comparison, Report
    from ovml_deploy.pipelines.folders import Found
    from ovml_deploy.pipelines.labelled_images import Labelled
    from ovml_deploy.runtime.bundle import Bundle
    from ovml_deploy.runtime.speed import Speed
    from ovml_deploy.runtime.verify import Stage

_COLUMNS = ("stage", "relative error", "allowed", "max error", "cosine", "top-5 equal", "")


@dataclass
class _Findings:
    """All that a run gives. ``absent`` and ``broken``: backends that cannot be verified, and why.

    ``speeds``: of all that ``auto`` would try, the fastest first, where that was asked for.
    """

    reports: "list[Report]" = field(default_factory=list)
    absent: list[tuple[str, str]] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    speeds: "list[Speed]" = field(default_factory=list)

    def failed_backends(self) -> dict[tuple[str, str], str]:
        """Return why a (device, precision) failed, for those that did."""
        return {
            (report.backend.device, report.backend.precision): f"failed: {'; '.join(reasons)}"
            for report in self.reports
            if (reasons := report.failures())
        }

    def failed(self) -> bool:
        """Whether something is wrong, or nothing was verified."""
        wrong = any(report.failures() for report in self.reports)
        return wrong or bool(self.broken) or not self.reports


@command(threshold=number, speed=flag, json=flag, exclude=names)
def verify_command(
    engine: str = str(assets.MINI),
    *,
    device: str = "all",
    precision: str = "auto",
    data: str | None = None,
    images: str | None = None,
    vocab: str | None = None,
    threshold: float | None = None,
    reference: str | None = None,
    speed: bool = False,
    json: bool = False,
    exclude: tuple[str, ...] = (),
) -> int:
    """Compare what runs a bundle here with PyTorch, stage by stage, and with images their tags too.

    The result is stored in the user's cache (OVML_CACHE). From then on, --device auto passes over
    a backend that failed, and takes the fastest of the others if --speed has timed them.

    Args:
        engine: the bundle
        device: all that this machine has, or auto, cpu, openvino, cuda, tensorrt, or a .plan file
        precision: auto (with all: every one), or fp32, bf16, fp16, int8
        data: images to compare tags on; where they are labelled, as for 'vocab calibrate', mAP too
        images: where the relative paths of a CSV or COCO file start; default: its own folder
        vocab: the vocabulary whose tags are compared; default: the bundle's
        threshold: the score of a tag; default: that of the vocabulary's calibration, else 0.5
        reference: the float32 bundle to compare tags with, for a bundle that is none itself
        speed: time all that auto would try and that passed, loaded at once, in turns
        json: print JSON instead of a table
        exclude: with --data, names or paths to pass over in a folder, separated by commas
    """
    from ovml_deploy.pipelines.fidelity import Comparison, open_reference
    from ovml_deploy.runtime.bundle import Bundle
    from ovml_deploy.runtime.speed import measure_speeds
    from ovml_deploy.runtime.verified import record_speeds

    if data is None:
        for name, value in (
            ("images", images), ("vocab", vocab), ("threshold", threshold), ("reference", reference),
            ("exclude", exclude or None),
        ):  # fmt: skip
            if value is not None:
                raise UsageError(f"--{name} is for images: name some with --data.")
    if speed and (device != "all" or precision != "auto" or engine.endswith(".plan")):
        raise UsageError(
            "--speed compares all that --device auto would try: leave --device and --precision away."
        )
    bundle = Bundle.open(engine)
    for name in bundle.manifest["files"]:
        bundle.file(name)  # a changed one is found before all else
    comparison, lost = None, 0
    if data is not None:
        paths, labelled, search = _read_images(data, images, exclude)
        lost = output.print_search(search.passed_over.lines(), search.reasons)
        comparison = Comparison(
            open_reference(bundle, reference),
            paths,
            labelled,
            vocab,
            threshold,
            output.with_progress,
        )
        for message in comparison.failed:
            print(f"failed: {message}", file=sys.stderr)
    found = _verify(bundle, engine, device, precision, comparison)
    written, reason = _record(found, comparison)
    if speed and found.reports and not found.broken:
        found.speeds = measure_speeds(bundle, found.failed_backends())
        written, reason = _written(lambda: record_speeds(bundle, found.speeds))
    if json:
        _print_json(bundle, found, comparison, written)
    else:
        _print_tables(found, comparison)
        print(f"not stored: {reason}" if reason else f"written: {written}")
    if found.failed():
        return 1
    return SOME_FAILED if lost or (comparison is not None and comparison.failed) else 0


def _read_images(
    data: str, images: str | None, exclude: Sequence[str]
) -> "tuple[Sequence[str], Labelled | None, Found]":
    """The images of labelled data, or of a folder without subfolders; and what the search skipped."""
    from ovml_deploy.pipelines.folders import find_images
    from ovml_deploy.pipelines.labelled_images import has_subfolders
    from ovml_deploy.training.data.labelled import read_labelled, search_of

    folder = Path(data)
    if folder.is_dir() and not has_subfolders(folder, exclude):
        if images is not None:
            raise UsageError(f"{data!r} is a folder of images; leave --images {images!r} away.")
        found = find_images([data], exclude)
        return found.images, None, found
    paths, labelled = read_labelled(data, images, exclude)
    return paths, labelled, search_of(labelled)


def _verify(
    bundle: "Bundle", engine: str, device: str, precision: str, comparison: "Comparison | None"
) -> _Findings:
    from ovml_deploy.pipelines.fidelity import verify_backend
    from ovml_deploy.runtime.backends import PLAN
    from ovml_deploy.runtime.verify import ALL, chosen_backend, present_backends

    if device != ALL or engine.endswith(PLAN):
        named = chosen_backend(engine, "auto" if device == ALL else device, precision)
        return _Findings([verify_backend(bundle, *named, comparison)])
    found = _Findings()
    present, found.absent = present_backends(bundle, precision)
    if not present:
        raise DeviceError(
            f"No device here runs it in precision {precision}. Leave --precision away."
        )
    for name, some in present:
        title = name if some == "auto" else f"{name} {some}"
        try:
            found.reports.append(verify_backend(bundle, name, some, comparison))
        except (DeviceError, MissingDependencyError) as error:
            found.absent.append((title, str(error)))
        except BundleError as error:
            found.broken.append((title, str(error)))
    return found


def _record(found: _Findings, comparison: "Comparison | None") -> tuple[str | None, str]:
    """Store the reports in the user's cache; return the file, or None and why not."""
    if not found.reports:
        return None, "nothing was verified"
    return _written(lambda: [report.record(comparison) for report in found.reports][-1])


def _written(write: Callable[[], Path]) -> tuple[str | None, str]:
    try:
        return str(write()), ""
    except NoFolderError as error:
        return None, str(error)
    except OSError as error:
        return None, f"{error}; set OVML_CACHE to a folder that can be written"


def _print_tables(found: _Findings, comparison: "Comparison | None") -> None:
    for report in found.reports:
        print(f"\n{report.backend.description}")
        output.print_rows("", _COLUMNS, [_row(stage) for stage in report.stages])
        if report.images is not None:
            verdict = "FAILED" if report.images.failures() else "ok"
            value = "" if report.images.map is None else f", mAP {report.images.map:.2f}"
            print(f"{report.images.images:,} images{value}; {report.images.found}: {verdict}")
        for reason in report.failures():
            print(f"FAILED: {reason}")
    _print_speeds(found.speeds)
    print()
    if found.reports and not any(s.output == "pixels" for s in found.reports[0].stages):
        print("pixels: not in this bundle, which was exported by an earlier release")
    if comparison is not None:
        print(f"tags and mAP: compared with {comparison.description}")
    for name, reason in found.broken:
        print(f"FAILED: {name}: {reason}")
    for name, reason in found.absent:
        print(f"not here: {name}: {reason}")


def _print_speeds(speeds: "Sequence[Speed]") -> None:
    from ovml_deploy.runtime.verified import RANKED

    timed = [speed for speed in speeds if speed.refused is None]
    if timed:
        fastest, *_ = timed
        sizes = [f"batch {size}" for size in fastest.milliseconds]
        rows = [
            (
                speed.description,
                *(f"{value:.1f}" for value in speed.milliseconds.values()),
                f"{speed.milliseconds[RANKED] / fastest.milliseconds[RANKED]:.2f}",
            )
            for speed in timed
        ]
        print()
        output.print_rows("", ("ms an image", *sizes, "x the fastest"), rows)
    for speed in speeds:
        if speed.refused is not None:
            print(f"not timed: {speed.description}: {speed.refused}")


def _row(stage: "Stage") -> tuple[str, ...]:
    return (
        stage.output,
        f"{stage.relative_error:.1e}",
        f"{stage.allowed:.0e}",
        "" if stage.max_error is None else f"{stage.max_error:.1e}",
        "" if stage.cosine is None else f"{stage.cosine:.7f}",
        "" if stage.top_equal is None else f"{100 * stage.top_equal:.1f}%",
        "ok" if stage.ok else "FAILED",
    )


def _print_json(
    bundle: "Bundle", found: _Findings, comparison: "Comparison | None", written: str | None
) -> None:
    from ovml_deploy.pipelines.fidelity import images_to_json

    backends: list[dict[str, Any]] = []
    for report in found.reports:
        value: dict[str, Any] = {
            "device": report.backend.device,
            "precision": report.backend.precision,
            "backend": report.backend.description,
            "stages": [stage.to_json() for stage in report.stages],
            "failed": report.failures(),
        }
        if report.images is not None and comparison is not None:
            value["images"] = images_to_json(report.images, comparison)
        backends.append(value)
    shown = {
        "bundle": str(bundle.path),
        "model": bundle.model_hash,
        "backends": backends,
        "not_here": dict(found.absent),
        "broken": dict(found.broken),
        "speeds": [asdict(speed) for speed in found.speeds],
        "unreadable": list(comparison.failed) if comparison is not None else [],
        "written": written,
    }
    print(json_format.dumps(shown, indent=1))
