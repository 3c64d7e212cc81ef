"""Whether the embedded model keeps its tags in lower precision.

    python benchmarks/precision.py                      # five minutes; needs what `make mini` needs
    python benchmarks/precision.py --write docs/precision.md --record

fp16 and bf16 are computed with their roundings in float32 arithmetic on ONNX Runtime's CPU (see
export/precision.py), int8 as it is. Tags are those of the embedded vocabulary above its own
threshold. Pictures: the kinds of benchmarks/accuracy.py, 200 of each but photographs; int8 is
calibrated on photographs of its training part. ``--record`` writes into the bundle in which precisions
that engines choose by themselves it does not keep its tags, so that ``--device auto`` leaves those.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from accuracy import SEED, SIZE, arguments
from tables import show

from export.compact import store_compactly
from export.precision import lower_precision, open_session, reference_encoder, with_plain_weights
from export.quantize import Encoder
from ovml_deploy import assets
from ovml_deploy.pipelines.agreement import TagsAndMap, compare_scores, map_change
from ovml_deploy.runtime.bundle import ENCODER, Bundle, write_manifest
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.results import scores_of
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.training.mini.material import Material

HALF = ("fp16", "bf16")

_SCENES, _CALIBRATED, _BATCH = 200, 128, 16

Encode = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Pictures:
    """Pixels ``[N, H, W, 3]``, targets ``[N, K]``, and the logits of float32."""

    pixels: np.ndarray
    targets: np.ndarray
    logits: np.ndarray


def encoders(bundle: Bundle, calibration: np.ndarray) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield the encoder in each precision."""
    stored = onnx.load(bundle.file(ENCODER))
    yield "fp32", stored
    for precision in HALF:
        model = with_plain_weights(stored)
        lower_precision(model, precision)
        yield precision, model
    encoder = Encoder(stored)
    ranges = encoder.ranges(calibration)
    errors = encoder.errors(ranges, calibration[:4])
    ranked = sorted(errors, key=errors.__getitem__)
    yield "int8", encoder.quantized(ranges, set(ranked))
    yield "int8, half of the products", encoder.quantized(ranges, set(ranked[: len(ranked) // 2]))
    yield "int8 weights only", encoder.quantized(None, set(ranked))


def encoding(name: str, model: onnx.ModelProto) -> Encode:
    """Return pixels -> features."""
    if name in HALF:
        return reference_encoder(model)
    session = open_session(model)
    return lambda pixels: np.asarray(session.run(["features"], {"pixels": pixels})[0])


def logits_of(encode: Encode, tagger: Tagger, pixels: np.ndarray) -> np.ndarray:
    """Return logits of the tagger's vocabulary ``[N, K]``."""
    blocks = (pixels[start : start + _BATCH] for start in range(0, len(pixels), _BATCH))
    return np.concatenate([tagger.match(encode(block)) for block in blocks])


def compare(encode: Encode, tagger: Tagger, pictures: Pictures) -> TagsAndMap:
    """Return the agreement with float32 on some pictures."""
    calibration = tagger.vocabulary.calibration
    assert calibration is not None
    logits = logits_of(encode, tagger, pictures.pixels)
    before, after = (
        scores_of(some, tagger.bundle.activation, calibration) for some in (pictures.logits, logits)
    )
    found = compare_scores(before, after, calibration.threshold)
    change = map_change(pictures.logits, logits, pictures.targets)
    return TagsAndMap(found.tags, found.tag_agreement, change)


def row(name: str, model: onnx.ModelProto, found: Sequence[TagsAndMap]) -> list[str]:
    """Return a line of the table."""
    cells = [f"{100 * some.tag_agreement:.1f}%, {some.map_change:+.2f}" for some in found]
    passes = "yes" if all(some.passes for some in found) else "no"
    store_compactly(model)
    size = f"{model.ByteSize() / 1e6:.1f} MB"
    return [name, *cells, passes, size]


def test_pictures(material: Material, tagger: Tagger) -> dict[str, Pictures]:
    """Return the labelled test pictures of each kind."""
    words = material.words.all_names.lookup(list(tagger.vocabulary.labels))
    encode = encoding("fp32", onnx.load(tagger.bundle.file(ENCODER)))
    found = {}
    for name, scenes in material.test_scenes(_SCENES, SIZE, SEED).items():
        shown, pixels = [], []
        for scene in scenes:
            pixels.append(tagger.bundle.preprocessing(open_image(scene.image)))
            shown.append(scene.offsets)
        targets = words.true_of(material.taxonomy.shown(shown)).numpy()
        stacked = np.stack(pixels)
        found[name] = Pictures(stacked, targets, logits_of(encode, tagger, stacked))
    return found


def record(failed: Mapping[str, str]) -> None:
    """Write into the embedded bundle's manifest which precisions failed, and how."""
    manifest = Bundle.open(assets.MINI).manifest
    write_manifest(assets.MINI, {**manifest, "failed_gate": dict(failed)})


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--record", action="store_true", help="write failures into the bundle")
    given = parser.parse_args()
    material = Material.load(given.photos, given.cutouts, given.icons)
    tagger = Tagger.load(assets.MINI, "cpu")
    test = test_pictures(material, tagger)
    photographs = material.photos.train[:_CALIBRATED]
    calibration = np.stack(
        [tagger.bundle.preprocessing(open_image(photo.path)) for photo in photographs]
    )
    rows = [["encoder", *(f"{kind}: tags equal, mAP" for kind in test), "passes", "size"]]
    failed = {}
    for name, model in encoders(tagger.bundle, calibration):
        encode = encoding(name, model)
        found = [compare(encode, tagger, pictures) for pictures in test.values()]
        rows.append(row(name, model, found))
        if name in HALF and not all(some.passes for some in found):
            worst = min(found, key=lambda some: some.tag_agreement)
            failed[name] = f"{worst} (python benchmarks/precision.py)"
    show("precision", rows, given.write)
    if given.record:
        record(failed)


if __name__ == "__main__":
    main()
