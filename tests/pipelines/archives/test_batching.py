"""Archives are the same however many batches are under way, also where the model fails on images."""

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from archive_files import content, make_images

from ovml_deploy.pipelines.archives.encoders import LocalEncoder
from ovml_deploy.pipelines.archives.indexing import fill
from ovml_deploy.pipelines.archives.report import IndexReport
from ovml_deploy.runtime.tagger import Tagger

BROKEN = {2, 17, 30, 31, 44, 58}
LOST = {4, 5, 19, 33, 50}  # the model gives no finite features for these
COPIES = {"0001b": 1, "0019b": 19, "0019c": 19, "0040b": 0, "0050b": 50, "0050c": 33}


class Encoder(LocalEncoder):
    """The real one, with faults put into what it gives, and batches that end late."""

    def __init__(self, tagger: Tagger, ahead: int, lost: set[bytes]) -> None:
        super().__init__(tagger, 4)
        self.ahead = ahead
        self._lost = lost
        self._pool = ThreadPoolExecutor(1)

    def encode(self, pixels: Sequence[np.ndarray]) -> Callable[[], np.ndarray]:
        def encoded() -> np.ndarray:
            features = super(Encoder, self).encode(pixels)().copy()
            for image, row in zip(pixels, features, strict=True):
                if hashlib.sha256(image.tobytes()).digest() in self._lost:
                    row[0, 0] = np.nan
            return features

        return self._pool.submit(encoded).result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    paths = make_images(tmp_path_factory.mktemp("images") / "photos", 64, BROKEN)
    for name, of in COPIES.items():
        paths[0].with_name(f"{name}.png").write_bytes(paths[of].read_bytes())
    return paths[0].parent


@pytest.fixture(scope="module")
def run(folder: Path, tiny_bundle: Path) -> Callable[[Path, int], IndexReport]:
    from ovml_deploy.runtime.images import open_image

    tagger = Tagger.load(tiny_bundle)
    lost = {
        hashlib.sha256(
            tagger.bundle.preprocessing(open_image(folder / f"{number:04d}.png")).tobytes()
        ).digest()
        for number in LOST
    }

    def filled(out: Path, ahead: int) -> IndexReport:
        return fill(
            Encoder(tagger, ahead, lost),
            [str(folder)],
            out,
            precision="fp16",
            batch_size=4,
            shard_rows=9,
            image_column="image",
            in_place=False,
            exclude=(),
            progress=None,
            on_failure=None,
        )

    return filled


def test_with_batches_under_way_it_is_the_same(run, folder, tmp_path) -> None:
    one = run(tmp_path / "one", 0)
    lost_copies = sum(of in LOST for of in COPIES.values())
    assert one.failed == len(BROKEN) + len(LOST) + lost_copies
    assert one.copies == len(COPIES) - lost_copies
    lines = (tmp_path / "one" / "errors.jsonl").read_text().splitlines()
    reasons = [json.loads(line)["error"] for line in lines]
    assert sum("not finite" in reason for reason in reasons) == len(LOST) + lost_copies
    for ahead in (1, 3, 40):
        report = run(tmp_path / str(ahead), ahead)
        assert content(tmp_path / str(ahead)) == content(tmp_path / "one")
        assert (report.added, report.copies, report.failed) == (one.added, one.copies, one.failed)
