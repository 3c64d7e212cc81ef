"""Opens images that nobody vouches for: upright, RGB, and never larger than memory allows."""

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ovml_deploy.errors import ImageError
from ovml_deploy.files import broken_link
from ovml_deploy.runtime.image_formats import head_of, looks_like, open_image_file
from ovml_deploy.runtime.image_layouts import layout_of, unknown_layout
from ovml_deploy.runtime.tiff_layouts import Layout

#: What ``Tagger.tag`` takes: a path, encoded bytes, a file, a PIL image, or an RGB array
#: (uint8 ``[H, W, 3]``).
ImageSource = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray

#: Pillow's own limit, above which it warns: changing its warnings is not safe between threads.
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3
MAX_BYTES = 256 * 1024 * 1024

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


def open_image(
    source: ImageSource, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] | None = None
) -> Image.Image:
    """Return an image as upright RGB: EXIF rotation applied, 16 bits scaled to 8, alpha dropped.

    Of an animation, the first frame; of HEIC, the primary image; of camera RAW, the embedded preview.
    ``formats``: those of Pillow's that are tried, None for all, see :func:`open_image_file`.
    Raises ImageError naming the source and the remedy, for too many pixels before they are decoded.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    name = describe(source)
    try:
        if isinstance(source, Image.Image):
            layout = _check_image(source, name, max_pixels)
            upright = ImageOps.exif_transpose(source)  # a copy, turned or not
            return _to_rgb(upright, name, layout)
        with open_image_file(_readable(source, name), name, formats) as image:
            layout = _check_image(image, name, max_pixels)
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image, name, layout)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name}: {broken_link(name) or 'there is no such file.'}") from error
    except PermissionError as error:
        raise ImageError(f"{name}: permission denied; make the file readable.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: {_too_large(str(error), max_pixels)}") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image that can be read{_kind_of(source)}.") from error
    except OSError as error:
        raise ImageError(
            f"{name}: cannot be read ({error}). If it is truncated, fetch it again; if not, save it as PNG."
        ) from error
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ImageError(
            f"{name}: damaged image ({reason}). If it is truncated, fetch it again."
        ) from error


def describe(source: ImageSource) -> str:
    """Return a short name of an image source for messages and results."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>"
    if isinstance(source, Image.Image):
        size = f"{source.width}x{source.height}"
        return getattr(source, "filename", "") or f"<{source.mode} image {size}>"
    if isinstance(source, np.ndarray):
        return f"<array {'x'.join(map(str, source.shape))}>"
    return str(getattr(source, "name", "<stream>"))


def _readable(source: str | os.PathLike[str] | bytes | BinaryIO, name: str) -> Path | BinaryIO:
    if isinstance(source, bytes):
        _check_bytes(len(source), name)
        return io.BytesIO(source)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            raise ImageError(f"{name}: is a folder, not an image.")
        size = path.stat().st_size
        if size == 0:
            raise ImageError(f"{name}: is empty (0 bytes).")
        _check_bytes(size, name)
        return path
    if not hasattr(source, "read"):
        raise ImageError(
            f"An image is a path, bytes, an open binary file, a PIL image or an array, not "
            f"{type(source).__name__}."
        )
    return source


def _check_bytes(size: int, name: str) -> None:
    if size > MAX_BYTES:
        raise ImageError(f"{name}: {size:,} bytes; at most {MAX_BYTES:,} are read.")


def _check_image(image: Image.Image, name: str, most: int) -> Layout:
    if image.format == "EPS":  # Pillow would hand it to Ghostscript
        raise ImageError(f"{name}: PostScript is a program, not an image. Save it as PNG.")
    if image.width * image.height > most:
        raise ImageError(f"{name}: {_too_large(f'{image.width}x{image.height}', most)}")
    if image.width * image.height == 0:
        raise ImageError(f"{name}: has no pixels ({image.width}x{image.height}).")
    return layout_of(image, name, most)


def _too_large(size: str, most: int) -> str:
    return f"too many pixels ({size}); at most {most:,} are decoded. Scale it down first."


def _to_rgb(upright: Image.Image, name: str, layout: Layout) -> Image.Image:
    upright.info.pop("transparency", None)  # or Pillow warns that the conversion drops it
    if upright.mode in _SIXTEEN_BIT or upright.mode == "I":
        return _from_integers(upright, name, layout)
    if upright.mode == "F":
        raise ImageError(f"{name}: float pixels have no known range. Save it as 8-bit RGB.")
    if layout.palette is not None:
        upright.putpalette(layout.palette)
    if upright.mode == "La":  # which Pillow converts to nothing else
        upright = upright.convert("LA")
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def _from_integers(image: Image.Image, name: str, layout: Layout) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{name}: integer pixels from {values.min()} to {values.max()} exceed 16 bits. "
            "Save it as 8-bit RGB."
        )
    largest = layout.largest
    eight_bit = ((values.astype(np.uint32) * 255 + largest // 2) // largest).astype(np.uint8)
    return Image.fromarray(255 - eight_bit if layout.inverted else eight_bit).convert("RGB")


def _from_array(array: np.ndarray, most: int) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ImageError(
            f"An array must be uint8 [H, W, 3] in RGB order; this is {array.dtype} "
            f"{list(array.shape)}."
        )
    if array.shape[0] * array.shape[1] > most:
        raise ImageError(_too_large(f"{array.shape[1]}x{array.shape[0]}", most))
    return Image.fromarray(array)


def _kind_of(source: ImageSource) -> str:
    """Name what a file is that Pillow does not identify, as the end of a message, or return ""."""
    if isinstance(source, (Image.Image, np.ndarray)):
        return ""
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            return _kind_of(file)
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    with suppress(OSError, ValueError):
        stream.seek(0)
    return looks_like(head_of(stream)) or unknown_layout(stream)
