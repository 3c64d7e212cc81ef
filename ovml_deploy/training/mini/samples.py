"""Makes the sample photographs that ship: ``python -m ovml_deploy.training.mini.samples``.

They come from the wheels of scikit-image and scikit-learn. Their licences, read in those wheels'
own documentation, are recorded in ``assets/samples/LICENSES.md``.
"""

import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ovml_deploy.errors import MissingDependencyError
from ovml_deploy.files import write_atomically

SAMPLES_FOLDER = Path(__file__).parents[2] / "assets" / "samples"

_MOST_BYTES = 150_000
_LONGEST_SIDE = 640
_DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


@dataclass(frozen=True)
class Sample:
    """A photograph in a wheel, and the name it ships under."""

    name: str
    package: str
    path: str

    def source(self) -> Path:
        """Return where the picture is. Raises MissingDependencyError without its package."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            distribution = _DISTRIBUTIONS[self.package]
            raise MissingDependencyError(
                f"The sample {self.name!r} comes from {distribution!r}, which is not installed. "
                f"Install it: pip install {distribution}"
            )
        return Path(spec.submodule_search_locations[0]) / self.path


SAMPLES = (
    Sample("astronaut.jpg", "skimage", "data/astronaut.png"),
    Sample("camera_man.jpg", "skimage", "data/camera.png"),
    Sample("cat.jpg", "skimage", "data/chelsea.png"),
    Sample("clock.jpg", "skimage", "data/clock_motion.png"),
    Sample("coffee.jpg", "skimage", "data/coffee.png"),
    Sample("rocket.jpg", "skimage", "data/rocket.jpg"),
    Sample("flower.jpg", "sklearn", "datasets/images/flower.jpg"),
    Sample("temple.jpg", "sklearn", "datasets/images/china.jpg"),
)


def make_samples(folder: Path = SAMPLES_FOLDER) -> None:
    """Write every sample into ``folder`` as a JPEG of moderate size."""
    for sample in SAMPLES:
        with Image.open(sample.source()) as image:
            content = moderate_jpeg(image.convert("RGB"))
        with write_atomically(folder / sample.name) as path:
            path.write_bytes(content)


def moderate_jpeg(image: Image.Image) -> bytes:
    """Encode an RGB picture, shrunk to 640 pixels, at the best quality that fits 150 kB."""
    image = image.copy()
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
    for quality in range(92, 40, -4):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= _MOST_BYTES:
            break
    return buffer.getvalue()


if __name__ == "__main__":
    make_samples()
