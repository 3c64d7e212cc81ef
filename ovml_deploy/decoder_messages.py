"""Messages of image decoders on standard error, switched off in commands and workers."""

import ctypes
import logging
import sys
import warnings
from contextlib import suppress
from pathlib import Path

_MAPS = Path("/proc/self/maps")


def silence_decoders() -> None:
    """Silence warnings of Pillow and libtiff for the whole process.

    They name no file, and what matters is the image's own error: ``runtime.images`` raises it where
    pixels are missing or read wrongly. Call it once, before threads start: Python's warning filters
    are not safe to change later. Filters from the command line or the environment (``-W``,
    ``PYTHONWARNINGS``) are kept. libtiff is silenced on Linux only.
    """
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    _silence_libtiff()


def _silence_libtiff() -> None:
    """Remove libtiff's error handler, which prints; Pillow removes that of warnings only."""
    with suppress(ImportError, OSError, AttributeError):
        import PIL._imaging  # noqa: F401  # loads libtiff

        lines = _MAPS.read_text(errors="surrogateescape").splitlines()
        for path in {line.split(maxsplit=5)[-1] for line in lines if "/libtiff" in line}:
            library = ctypes.CDLL(path)
            library.TIFFSetErrorHandler.restype = ctypes.c_void_p
            library.TIFFSetErrorHandler.argtypes = (ctypes.c_void_p,)
            library.TIFFSetErrorHandler(None)
