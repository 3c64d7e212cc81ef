"""float32 bundle -> int8 bundle, if its tags stay the same.

    python -m export.quantize --bundle build/qks --images photos [--out build/qks-int8]

The encoder's products with constant weights get int8 weights, one scale for each output channel,
and 8-bit activations, one scale and zero point for each tensor, by the least and the greatest value
that they take on calibration images (QuantizeLinear and DequantizeLinear around float32 nodes,
which engines fuse). Everything else stays float32. If the tags of other images change, the products
that hurt most are left in float32, until half are; a bundle that still fails is not written.
"""

import logging
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.compact import store_compactly
from export.precision import (
    PRODUCTS,
    drop_unused,
    open_session,
    save_graph,
    with_plain_weights,
)
from ovml_deploy.assets import require_outside
from ovml_deploy.commandline import command, flag, number, run
from ovml_deploy.errors import DataError, DeviceError, ExportError, ImageError, UsageError
from ovml_deploy.files import sha256_file, write_folder_atomically
from ovml_deploy.output import print_search
from ovml_deploy.pipelines.agreement import TagsAndMap, compare_scores, map_change, tag_threshold
from ovml_deploy.pipelines.calibrate import check_size
from ovml_deploy.pipelines.folders import find_inside
from ovml_deploy.pipelines.labelled_images import Labelled, targets_for
from ovml_deploy.pipelines.logits import collect_logits
from ovml_deploy.runtime.bundle import ENCODER, MANIFEST, Bundle, write_manifest
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.plans import SUFFIX, metadata_path
from ovml_deploy.runtime.results import scores_of
from ovml_deploy.runtime.selfcheck import read_golden, relative_error
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.verify import failures, verify
from ovml_deploy.training.data.labelled import read_labelled

logger = logging.getLogger(__name__)

_CALIBRATED = 128  # more images hardly change a range
_FEWEST_IMAGES = 4
_TRIED = 4  # images on which each product's own error is measured
_LEFT_IN_FLOAT = (0.0, 0.125, 0.25, 0.5)  # shares of the products, tried in turn

#: Least and greatest value of tensors by name.
Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Judge:
    """What an int8 bundle is compared on: images, labelled ones if any, and the float32 scores."""

    tagger: Tagger
    threshold: float
    images: Sequence[str]
    labelled: tuple[Sequence[str], Labelled] | None = None

    def compare(self, candidate: Tagger) -> TagsAndMap:
        """Return how the candidate's tags and mAP agree with the float32 bundle's."""
        pair = (self.tagger, candidate)
        before, after = (
            self._scores(tagger, self._logits(tagger, self.images)[0]) for tagger in pair
        )
        found = compare_scores(before, after, self.threshold)
        if self.labelled is None:
            return found
        paths, data = self.labelled
        targets, _ = targets_for(data, self.tagger.vocabulary.labels)
        (before, kept), (after, _) = (self._logits(tagger, paths) for tagger in pair)
        change = map_change(before, after, targets[kept])
        if np.isnan(change):
            raise DataError("No image of --data has one of the vocabulary's labels.")
        return TagsAndMap(found.tags, found.tag_agreement, change)

    def _logits(self, tagger: Tagger, paths: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        vocabulary = self.tagger.vocabulary
        check_size(len(paths), len(vocabulary))
        logits, kept, _ = collect_logits(tagger, vocabulary, tagger.encode_many(paths), len(paths))
        return logits, kept

    def _scores(self, tagger: Tagger, logits: np.ndarray) -> np.ndarray:
        calibration = self.tagger.vocabulary.calibration
        return scores_of(logits, tagger.bundle.activation, calibration)


def quantize_bundle(
    bundle: Bundle, out: str | Path, calibration: Sequence[str], judge: Judge, weights_only: bool
) -> tuple[Bundle, TagsAndMap]:
    """Write the int8 bundle of a float32 one to the folder ``out``, whole or not at all.

    ``calibration``: image files, of which none should be among the judge's. Raises ExportError
    naming the figures where no attempt keeps the tags.
    """
    if bundle.precision != "fp32":
        raise ExportError(
            f"{bundle.path} is {bundle.precision} already. Quantise the float32 bundle it came from."
        )
    pixels = _pixels(bundle, calibration)
    encoder = Encoder(onnx.load(bundle.file(ENCODER)))
    ranges = None if weights_only else encoder.ranges(pixels)
    golden, tried = read_golden(bundle), []
    with write_folder_atomically(out) as folder:
        shutil.copytree(bundle.path, folder, ignore=_unwanted, dirs_exist_ok=True)
        for chosen in _attempts(encoder, ranges, pixels[:_TRIED]):
            made = encoder.quantized(ranges, chosen)
            store_compactly(made)
            save_graph(made, folder / ENCODER)
            manifest = _manifest(bundle, folder)
            write_manifest(folder, manifest)
            name = f"{len(chosen)} of {len(encoder.products)} products"
            try:
                candidate = Tagger.load(folder, "cpu", judge.tagger.vocabulary)
                found = judge.compare(candidate)
            except DeviceError:  # its golden inputs are too far off
                features = open_session(made).run(["features"], {"pixels": golden["pixels"]})[0]
                error = relative_error(features, golden["features"])
                tried.append(f"{name}: features of the golden images off by {error:.2g}")
                continue
            tried.append(f"{name}: {found}")
            if found.passes:
                break
        else:
            raise ExportError(
                "Quantised to int8, this model does not keep its tags (99% of them must be equal, "
                "and mAP within 0.2 points), so nothing was written. With int8 in "
                f"{'; in '.join(tried)}. Keep float32, or export with --precision fp16."
            )
        manifest["quantization"] = {
            "weights_only": weights_only,
            "left_in_float": sorted(set(encoder.products) - chosen),
            "calibration_images": len(pixels),
            "compared_images": len(judge.images),
            "threshold": judge.threshold,
            **asdict(found),
        }
        stages = verify(folder, "cpu")
        if wrong := failures(stages):
            raise ExportError(f"The int8 bundle fails its own check: {'; '.join(wrong)}.")
        figures = [stage.to_json() for stage in stages]
        description = candidate.backend.description
        manifest["parity"] = {"backend": description, "figures": figures, "worst": figures}
        write_manifest(folder, manifest)
    return Bundle.open(out), found


class Encoder:
    """A float32 encoder, and its products with constant weights, by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = with_plain_weights(model)
        self.weights = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer
        }
        # OpenVINO 2026.4 moves 8-bit steps before a Concat, and then cannot compile the product.
        joined = {node.output[0] for node in self.model.graph.node if node.op_type == "Concat"}
        self.products: dict[str, NodeProto] = {
            node.output[0]: node
            for node in self.model.graph.node
            if node.op_type in PRODUCTS and self._has_weight(node) and node.input[0] not in joined
        }

    def _has_weight(self, node: NodeProto) -> bool:
        weight = self.weights.get(node.input[1])
        return (
            weight is not None
            and weight.ndim >= 2
            and (node.op_type != "MatMul" or weight.ndim == 2)
        )

    def ranges(self, pixels: np.ndarray) -> Ranges:
        """Return what the products' inputs range over on some images."""
        names = sorted({node.input[0] for node in self.products.values()})
        model = _copy(self.model)
        model.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
        )
        session = open_session(model)
        low, high = np.zeros((2, len(names)))  # zero is always in: it must be exact (padding)
        for image in pixels:
            values = session.run(names, {"pixels": image[None]})
            low = np.minimum(low, [value.min() for value in values])
            high = np.maximum(high, [value.max() for value in values])
        return dict(zip(names, zip(low.tolist(), high.tolist(), strict=True), strict=True))

    def errors(self, ranges: Ranges | None, pixels: np.ndarray) -> dict[str, float]:
        """Return, for each product, the error of the features where it alone is int8."""
        expected = open_session(self.model).run(["features"], {"pixels": pixels})[0]
        found = {}
        for name in self.products:
            session = open_session(self.quantized(ranges, {name}))
            features = session.run(["features"], {"pixels": pixels})[0]
            found[name] = float(np.square(features - expected).mean())
        return found

    def quantized(self, ranges: Ranges | None, chosen: Collection[str]) -> onnx.ModelProto:
        """Return a copy with the chosen products in int8; without ranges, only their weights."""
        model = _copy(self.model)
        graph = model.graph
        nodes: list[NodeProto] = []
        done: dict[str, str] = {}  # quantised tensors, of activations and of weights
        for node in graph.node:
            if node.output[0] in chosen:
                if ranges is not None:
                    nodes += _through_8_bits(graph, node, ranges[node.input[0]], done)
                nodes += _with_int8_weight(graph, node, self.weights[node.input[1]], done)
            nodes.append(node)
        del graph.node[:]
        graph.node.extend(nodes)
        drop_unused(graph)
        return model


def _through_8_bits(
    graph: onnx.GraphProto, node: NodeProto, bounds: tuple[float, float], done: dict[str, str]
) -> list[NodeProto]:
    name = node.input[0]
    node.input[0] = wide = f"{name}::from_uint8"
    if name in done:
        return []
    done[name] = wide
    low, high = bounds
    scale = max((high - low) / 255, 1e-12)
    parameters = [f"{name}::scale", f"{name}::zero"]
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(scale, np.float32), parameters[0]),
            numpy_helper.from_array(np.array(round(-low / scale), np.uint8), parameters[1]),
        ]
    )
    steps = f"{name}::uint8"
    return [
        helper.make_node("QuantizeLinear", [name, *parameters], [steps]),
        helper.make_node("DequantizeLinear", [steps, *parameters], [wide]),
    ]


def _with_int8_weight(
    graph: onnx.GraphProto, node: NodeProto, weight: np.ndarray, done: dict[str, str]
) -> list[NodeProto]:
    axis = _output_axis(node)
    name = node.input[1]
    node.input[1] = wide = f"{name}::from_int8_{axis}"
    if wide in done:
        return []
    done[wide] = name
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scales = np.abs(weight).max(axis=others, keepdims=True) / np.float32(127)
    scales[scales == 0] = 1
    stored = {
        f"{wide}::steps": np.rint(weight / scales).astype(np.int8),
        f"{wide}::scales": scales.reshape(-1).astype(np.float32),
        f"{wide}::zeros": np.zeros(weight.shape[axis], np.int8),
    }
    graph.initializer.extend(numpy_helper.from_array(v, key) for key, v in stored.items())
    return [helper.make_node("DequantizeLinear", list(stored), [wide], axis=axis)]


def _output_axis(node: NodeProto) -> int:
    """The axis of a weight along which its output channels lie."""
    if node.op_type == "Gemm":
        return 0 if helper.get_node_attr_value(node, "transB") else 1
    return 0 if node.op_type == "Conv" else 1


def _attempts(
    encoder: Encoder, ranges: Ranges | None, pixels: np.ndarray
) -> Iterator[frozenset[str]]:
    """Yield the products to be int8: all, then ever fewer of those that hurt most."""
    ranked: list[str] = []
    for share in _LEFT_IN_FLOAT:
        if share and not ranked:
            errors = encoder.errors(ranges, pixels)
            ranked = sorted(errors, key=errors.__getitem__, reverse=True)
        yield frozenset(encoder.products) - frozenset(ranked[: round(share * len(ranked))])


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def _pixels(bundle: Bundle, paths: Sequence[str]) -> np.ndarray:
    """The images that can be read, as the encoder takes them; of others a warning says why."""
    good = []
    for path in paths:
        try:
            good.append(bundle.preprocessing(open_image(path)))
        except ImageError as error:
            logger.warning("not calibrated on: %s", error)
    if not good:
        raise DataError(f"None of the {len(paths):,} images to calibrate on can be read.")
    return np.stack(good)


def _unwanted(folder: str, names: list[str]) -> list[str]:
    """Return the files of the float32 encoder: its graph and engines."""
    known = (ENCODER, f"{ENCODER}.data")
    told = {metadata_path(Path(name)).name for name in names if name.endswith(SUFFIX)}
    return [name for name in names if SUFFIX in name or name in known or name in told]


def _manifest(bundle: Bundle, folder: Path) -> dict[str, Any]:
    files = {
        name: listed
        for name, listed in bundle.manifest["files"].items()
        if (folder / name).is_file() and not name.startswith(ENCODER)
    }
    for path in sorted(folder.glob(f"{ENCODER}*")):
        files[path.name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    return {**bundle.manifest, "precision": "int8", "files": files}


@command(weights_only=flag, threshold=number)
def main(
    bundle: str,
    images: str,
    out: str | None = None,
    data: str | None = None,
    vocab: str | None = None,
    threshold: float | None = None,
    weights_only: bool = False,
) -> None:
    """Quantise a float32 bundle to int8, and write it only if its tags stay the same.

    99% of the tags above the threshold must be equal, and mAP within 0.2 points.

    Args:
        bundle: the float32 bundle
        images: a folder of images like those to be tagged; every other one calibrates (at most 128),
            the others are tagged by both bundles
        out: the folder to write; default: that of the bundle with -int8 behind its name
        data: labelled images, as 'vocab calibrate' takes them, to compare mAP on
        vocab: a vocabulary of the bundle or a label file, whose tags are compared; default: the
            bundle's own
        threshold: the score of a tag; default: that of the vocabulary's calibration, else 0.5
        weights_only: quantise weights only: smaller, not faster
    """
    opened = Bundle.open(bundle)
    target = Path(out) if out else opened.path.with_name(f"{opened.path.name}-int8")
    require_outside(target)
    if target.exists() and not (target / MANIFEST).is_file():
        raise ExportError(f"{str(target)!r} exists and is not a bundle. Name another --out.")
    if target.resolve() == opened.path:
        raise UsageError("--out is the bundle itself. Name another folder.")
    search = find_inside(Path(images))
    print_search(search.passed_over.lines(), search.reasons)
    paths = search.images
    if len(paths) < _FEWEST_IMAGES:
        raise DataError(
            f"{images!r} holds {len(paths)} images; at least {_FEWEST_IMAGES} are needed, better 200."
        )
    tagger = Tagger.load(opened.path, "cpu", vocab)
    chosen = tag_threshold(tagger.vocabulary, threshold)
    judge = Judge(tagger, chosen, paths[1::2], read_labelled(data) if data else None)
    made, found = quantize_bundle(opened, target, paths[::2][:_CALIBRATED], judge, weights_only)
    left = len(made.manifest["quantization"]["left_in_float"])
    size = (made.path / ENCODER).stat().st_size
    print(f"{made.path}: encoder of {size / 1e6:.1f} MB, {left} products left in float32; {found}")


if __name__ == "__main__":
    sys.exit(run(main, "python -m export.quantize"))
