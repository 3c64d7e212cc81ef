"""``ovml-deploy evaluate``."""

import json as json_format
import math
import sys
from typing import TYPE_CHECKING, Any

from ovml_deploy import assets, output
from ovml_deploy.commandline import SOME_FAILED, command, count, counts, flag
from ovml_deploy.errors import UsageError

if TYPE_CHECKING:
    from ovml_deploy.training.evaluation import Report

_TITLES = {"all": "all", "seen": "seen", "zsl": "ZSL", "gzsl": "GZSL"}


@command(top_k=counts, resamples=count, batch_size=count, json=flag)
def evaluate_command(
    data: str,
    engine: str = str(assets.MINI),
    images: str | None = None,
    unseen: str | None = None,
    seen: str | None = None,
    top_k: tuple[int, ...] = (3, 5),
    device: str = "auto",
    precision: str = "auto",
    resamples: int = 200,
    batch_size: int = 8,
    json: bool = False,
) -> int:
    """Measure a bundle on a data set: mAP, and precision, recall and F1 of the best tags.

    Args:
        data: a CSV, a COCO instances JSON, or FOLDER:PART in an official layout, as VOC2007:test
        engine: the bundle; default: the embedded model
        images: the folder relative image paths start from; default: where the layout has them
        unseen: a label file, of those that were kept out of training, for ZSL and GZSL figures
        seen: a label file, of those that were trained on; default: the data's other labels
        top_k: precision, recall and F1 at these numbers of tags
        device: auto, cpu, openvino, cuda, tensorrt, or a .plan file
        precision: auto (the fastest the device has), or fp32, bf16, fp16, int8
        resamples: drawings of the images for the 95% bootstrap intervals
        batch_size: images encoded at once
        json: print JSON instead of a table
    """
    from ovml_deploy.runtime.tagger import Tagger
    from ovml_deploy.training.data import make_split, read_dataset, read_seen, read_unseen
    from ovml_deploy.training.evaluation import evaluate_bundle

    for name, values in (
        ("top-k", top_k),
        ("resamples", (resamples,)),
        ("batch-size", (batch_size,)),
    ):
        if not values or min(values) < 1:
            raise UsageError(f"--{name} must be at least 1.")
    dataset = read_dataset(data, images)
    held_back, wanted = read_unseen(unseen) if unseen else (), read_seen(seen) if seen else None
    split = make_split(dataset, None, held_back, wanted)
    tagger = Tagger.load(engine, device, precision=precision)
    report = evaluate_bundle(
        tagger,
        dataset,
        split,
        top_k,
        resamples,
        batch_size,
        output.with_progress,
        output.show_encoding,
    )
    for reason in report.failed:
        print(f"failed: {reason}", file=sys.stderr)
    if json:
        _print_json(report, {"data": data, "engine": engine, "resamples": resamples})
    else:
        _print_table(report)
    return SOME_FAILED if report.failed else 0


def _print_table(report: "Report") -> None:
    """A column for each set of labels, so that three of them fit a narrow terminal."""
    parts = report.parts
    metrics = next(iter(parts.values())).metrics
    rows: list[tuple[object, ...]] = [
        ("labels", *(part.labels for part in parts.values())),
        ("images", *(part.images for part in parts.values())),
    ]
    for name in metrics:
        shown = "mAP" if name == "map" else name.upper()
        rows.append((shown, *(part.metrics[name] for part in parts.values())))
    left_out = f" ({len(report.failed)} more could not be read)" if report.failed else ""
    print(f"{report.images} images{left_out}; percent, with 95% bootstrap intervals over images\n")
    output.print_rows("", ("", *(_TITLES[name] for name in parts)), rows)


def _print_json(report: "Report", about: dict[str, Any]) -> None:
    parts = {
        name: {
            "labels": part.labels,
            "images": part.images,
            "metrics": {
                metric: {
                    key: None if math.isnan(value) else value
                    for key, value in vars(interval).items()
                }
                for metric, interval in part.metrics.items()
            },
        }
        for name, part in report.parts.items()
    }
    about |= {"images": report.images, "failed": list(report.failed), "parts": parts}
    print(json_format.dumps(about, indent=1))
