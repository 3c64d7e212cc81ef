"""Generated images of coloured discs, and a tiny CLIP whose labels lie far enough apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 30),
    "blue": (40, 40, 230),
    "yellow": (230, 220, 30),
    "purple": (150, 30, 170),
    "white": (245, 245, 245),
}


@dataclass(frozen=True)
class Discs:
    """A folder of images, each with its labels, in file order."""

    folder: Path
    labels: tuple[tuple[str, ...], ...]

    @property
    def paths(self) -> list[Path]:
        return [self.folder / f"{index}.png" for index in range(len(self.labels))]

    def write_csv(self, name: str, rows: Sequence[int]) -> Path:
        """Write some images in the official layout, exhaustively annotated."""
        lines = [f"{row}.png,{'|'.join(self.labels[row])}," for row in rows]
        path = self.folder / name
        path.write_text("\n".join(["image_path,posi_labels,nega_labels", *lines]) + "\n")
        return path


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny models run fastest on one thread, and sums come out the same everywhere."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Discs:
    """160 images, each with one to three discs of the six COLOURS."""
    folder, random = tmp_path_factory.mktemp("discs"), np.random.default_rng(0)
    labels = []
    for index in range(160):
        image = Image.new("RGB", (48, 40), (70, 70, 70))
        names = tuple(str(n) for n in random.choice(list(COLOURS), random.integers(1, 4), False))
        for name in names:
            left, top = int(random.integers(0, 32)), int(random.integers(0, 24))
            ImageDraw.Draw(image).ellipse((left, top, left + 14, top + 14), fill=COLOURS[name])
        image.save(folder / f"{index}.png")
        labels.append(names)
    return Discs(folder, tuple(labels))


@pytest.fixture(scope="session")
def wordy_clip(tiny_clip: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``tiny_clip`` whose text features depend on the words more than on the frame around them."""
    import torch

    from ovml_deploy.models.backbone import BackboneSpec

    weights = torch.load(tiny_clip.pretrained, weights_only=True)
    weights["token_embedding.weight"] *= 20
    weights["token_embedding.weight"][49406:] = 0  # start and end of text
    weights["positional_embedding"] *= 0.1
    path = tmp_path_factory.mktemp("wordy") / "weights.pt"
    torch.save(weights, path)
    return BackboneSpec(tiny_clip.name, str(path))
