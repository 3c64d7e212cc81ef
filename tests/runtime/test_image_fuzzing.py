"""Whatever the bytes: an RGB image or an ImageError, never another exception."""

import io
import tempfile
import warnings

from drawn import encoded, picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovml_deploy.errors import ImageError
from ovml_deploy.runtime.images import open_image

SEEDS = [
    encoded(picture(), kind, **settings)
    for kind, settings in [
        ("JPEG", {}), ("PNG", {}), ("GIF", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {}),
        ("PPM", {}), ("TIFF", {"compression": "tiff_lzw"}), ("ICO", {}), ("TGA", {}),
        ("JPEG2000", {}), ("DDS", {}), ("PCX", {}), ("SGI", {}), ("ICNS", {}), ("MPO", {}),
    ]
]  # fmt: skip


def image_or_error(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for source in (data, io.BytesIO(data)):
            try:
                opened = open_image(source)
            except ImageError:
                continue
            assert opened.mode == "RGB"
            assert opened.width * opened.height > 0
            opened.tobytes()


FUZZ = settings(
    max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@FUZZ
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    image_or_error(data)


@FUZZ
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    st.integers(0, 2000),
)
def test_any_damage_to_a_real_file(seed: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(seed)
    for position, value in changes:
        data[position % len(data)] = value
    image_or_error(bytes(data[: len(data) - cut % len(data)] if cut % 3 == 0 else data))


@FUZZ
@given(st.binary(max_size=120))
def test_any_exif(exif: bytes) -> None:
    image_or_error(encoded(picture(), "JPEG", exif=b"Exif\0\0" + exif))


@FUZZ
@given(st.binary(max_size=300), st.sampled_from([".jpg", ".png", ".gif", ".tif", ""]))
def test_any_file(data: bytes, suffix: str) -> None:
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(data)
        file.flush()
        message = ""
        try:
            assert open_image(file.name).mode == "RGB"
        except ImageError as error:
            message = str(error)
        assert not message or file.name in message
