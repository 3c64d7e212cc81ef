"""Writes a bundle's pictures: image files, and the pixels that open_clip's transform makes of them."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageDraw, ImageOps
from safetensors.numpy import save_file

from ovml_deploy.runtime.pictures import FILE, PIXELS

_ORIENTATION = 0x0112  # the EXIF tag
_QUARTER_TURN = 6  # its value for a picture to be turned clockwise
_SEED = 20240102


def write_pictures(preprocessing: Mapping[str, Any], path: Path) -> None:
    """Write the pictures of a backbone with open_clip's ``preprocess_cfg``."""
    values: dict[str, np.ndarray] = {}
    for name, file in example_pictures():
        values[FILE + name] = np.frombuffer(file, dtype=np.uint8)
        pixels = _encode(Image.fromarray(open_clips_pixels(file, preprocessing)), "PNG")
        values[PIXELS + name] = np.frombuffer(pixels, dtype=np.uint8)
    save_file(values, path)


def example_pictures() -> Iterator[tuple[str, bytes]]:
    """Yield names and image files: of odd sizes, grey, with alpha, small, and turned by EXIF."""
    turned = Image.Exif()
    turned[_ORIENTATION] = _QUARTER_TURN
    yield "wide.png", _encode(_shapes(517, 301), "PNG")
    yield "grey.png", _encode(_shapes(61, 97).convert("L"), "PNG")
    yield "alpha.png", _encode(_with_alpha(_shapes(233, 231)), "PNG")
    # decoders differ by far more where they have to fill in colours
    yield "turned.jpg", _encode(_shapes(301, 207), "JPEG", exif=turned, subsampling="4:4:4")


def open_clips_pixels(file: bytes, preprocessing: Mapping[str, Any]) -> np.ndarray:
    """Return uint8 ``[H, W, 3]``: open_clip's own inference transform before its normalisation.

    The picture is turned upright first, which open_clip leaves to its caller.
    """
    fields = PreprocessCfg.__dataclass_fields__
    config = PreprocessCfg(
        **{name: preprocessing[name] for name in fields if name in preprocessing}
    )
    *steps, to_tensor, _normalise = image_transform_v2(config, is_train=False).transforms
    with Image.open(io.BytesIO(file)) as image:
        value: Any = ImageOps.exif_transpose(image).convert("RGB")
    for step in [*steps, to_tensor]:
        value = step(value)
    return np.asarray((value * 255).round().byte().permute(1, 2, 0).numpy())


def _shapes(width: int, height: int) -> Image.Image:
    """Shapes with sharp edges, which resizing must blur just so; they pack well."""
    random = np.random.default_rng(_SEED + width * height)
    image = Image.new("RGB", (width, height), "#7a94a8")
    draw = ImageDraw.Draw(image)
    for index in range(12):
        (left, right), (top, bottom) = (
            np.sort(random.integers(0, side, 2)).tolist() for side in (width, height)
        )
        colour = tuple(random.integers(0, 256, 3).tolist())
        shape = draw.ellipse if index % 2 else draw.rectangle
        shape((left, top, right, bottom), fill=colour)
    return image


def _with_alpha(image: Image.Image) -> Image.Image:
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def _encode(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, optimize=True, **options)
    return file.getvalue()
