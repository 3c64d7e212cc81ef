"""Conversion of frames: orientation, color matrix and range, HDR, alpha."""

from fractions import Fraction
from pathlib import Path
from threading import Event as Signal
from typing import Any

import numpy as np
import pytest
from films import moving_film, photograph, write_film
from PIL import Image

from ovml_deploy.pipelines.video.annotate import annotate
from ovml_deploy.pipelines.video.pixels import orient, to_rgb
from ovml_deploy.pipelines.video.records import Counts, Event, VideoError
from ovml_deploy.pipelines.video.sampling import Reading
from ovml_deploy.pipelines.video.sources import Source
from ovml_deploy.pipelines.video.tone_mapping import HLG, PQ, to_sdr

CAT = photograph("cat")
TURN = Image.Transpose
#: How the upright picture is stored, and the display matrix (a, b, c, d) that makes it upright again.
ORIENTATIONS: dict[str, tuple[TURN | None, tuple[int, int, int, int]]] = {
    "upright": (None, (1, 0, 0, 1)),
    "mirrored": (TURN.FLIP_LEFT_RIGHT, (-1, 0, 0, 1)),
    "upside-down": (TURN.FLIP_TOP_BOTTOM, (1, 0, 0, -1)),
    "turned-180": (TURN.ROTATE_180, (-1, 0, 0, -1)),
    "turned-90": (TURN.ROTATE_90, (0, 1, -1, 0)),
    "turned-270": (TURN.ROTATE_270, (0, -1, 1, 0)),
    "transposed": (TURN.TRANSPOSE, (0, 1, 1, 0)),
    "transversed": (TURN.TRANSVERSE, (0, -1, -1, 0)),
}
each_orientation = pytest.mark.parametrize(
    ("stored", "matrix"), ORIENTATIONS.values(), ids=ORIENTATIONS
)


def first(path: Path) -> np.ndarray:
    return next(iter(Source(path, Reading(fps=None)).frames(Counts(), Signal()))).rgb()


def turned(pixels: np.ndarray, how: TURN | None) -> np.ndarray:
    return pixels if how is None else np.asarray(Image.fromarray(pixels).transpose(how))


def error(pixels: np.ndarray, wanted: np.ndarray) -> float:
    assert pixels.shape == wanted.shape
    return float(np.abs(pixels.astype(int) - wanted).mean())


@each_orientation
def test_a_video_is_upright_as_its_display_matrix_says(
    tmp_path: Path, stored: TURN | None, matrix: tuple[int, int, int, int]
) -> None:
    path = write_film(tmp_path / "f.mp4", [turned(CAT, stored)] * 2, matrix=matrix)
    assert error(first(path), CAT) < 6
    out = tmp_path / "annotated.mp4"
    annotate(path, [], out)
    assert error(first(out), CAT) < 8


@each_orientation
def test_orientations_move_pixels_exactly(
    stored: TURN | None, matrix: tuple[int, int, int, int]
) -> None:
    a, b, c, d = matrix
    scaled = np.array([[2 * a, 2 * b, 0], [3 * c, 3 * d, 0], [70, 80, 1 << 30]]) << 16
    assert np.array_equal(orient(turned(CAT, stored), scaled), CAT)


@pytest.mark.parametrize(("degrees", "quarters"), [(40, 0), (50, 1), (-100, 3), (170, 2)])
def test_other_angles_become_the_nearest_quarter_turn(degrees: int, quarters: int) -> None:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 16384]]) * 65536
    assert np.array_equal(orient(CAT, matrix), np.rot90(CAT, quarters))


def test_an_empty_display_matrix_changes_nothing() -> None:
    assert np.array_equal(orient(CAT, np.zeros((3, 3), np.int32)), CAT)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_matroska_states_rotations(tmp_path: Path, quarters: int) -> None:
    path = write_film(tmp_path / "f.mkv", [np.rot90(CAT, -quarters)] * 2, quarters=quarters)
    assert error(first(path), CAT) < 6


def test_the_orientation_inside_h264_applies(tmp_path: Path) -> None:
    """The message "display orientation" in the bitstream: mirrored, then turned counterclockwise."""
    import av
    from av.bitstream import BitStreamFilterContext

    stored = np.fliplr(np.rot90(CAT, -1))
    plain, path = write_film(tmp_path / "plain.mp4", [stored] * 2), tmp_path / "sei.mkv"
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        description = "h264_metadata=display_orientation=insert:rotate=90:flip=horizontal"
        added = BitStreamFilterContext(description, stream, copy)
        packets = [packet for packet in source.demux(stream) if packet.dts is not None]
        for filtered in [new for old in (*packets, None) for new in added.filter(old)]:
            filtered.stream = copy
            target.mux(filtered)
    assert error(first(path), CAT) < 6


_MATRICES = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
COLOR = (200, 60, 30)


def flat(
    form: str, matrix: int, full: bool, size: tuple[int, int] = (64, 48), stated: bool = True
) -> Any:
    """Return a YUV frame of one color, computed from the definition (ITU-T H.273).

    ``form``: FFmpeg's pixel format; ``stated``: the frame says which matrix and range it has.
    """
    import av

    red, blue = _MATRICES[matrix]
    r, g, b = (value / 255 for value in COLOR)
    luma = red * r + (1 - red - blue) * g + blue * b
    chroma = ((b - luma) / 2 / (1 - blue), (r - luma) / 2 / (1 - red))
    bits = 10 if "10" in form else 8
    scale = 2 ** (bits - 8)
    if full:
        levels = [luma * (2**bits - 1), *(v * (2**bits - 1) + 128 * scale for v in chroma)]
    else:
        levels = [(16 + 219 * luma) * scale, *((128 + 224 * v) * scale for v in chroma)]
    frame = av.VideoFrame(*size, form)
    kind = np.uint8 if bits == 8 else np.uint16
    for plane, level in zip(frame.planes, levels, strict=False):
        plane.update(np.full(plane.buffer_size // kind().itemsize, round(level), kind).tobytes())
    if stated:
        frame.colorspace, frame.color_range = matrix, 2 if full else 1
    return frame


@pytest.mark.parametrize("form", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p10le"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", _MATRICES)
def test_colors_are_right_for_each_matrix_and_range(form: str, full: bool, matrix: int) -> None:
    pixels = to_rgb(flat(form, matrix, full))
    assert np.abs(pixels.astype(int) - COLOR).max() <= 3


@pytest.mark.parametrize(
    ("size", "matrix"), [((320, 240), 5), ((720, 576), 5), ((1280, 720), 1), ((720, 1280), 1)]
)
def test_a_video_that_states_no_matrix_has_the_one_of_its_size(
    size: tuple[int, int], matrix: int
) -> None:
    pixels = to_rgb(flat("yuv420p", matrix, False, size, stated=False))
    assert np.abs(pixels.astype(int) - COLOR).max() <= 3


def test_a_matrix_that_cannot_be_converted_is_named() -> None:
    frame = flat("yuv420p", 9, False)
    frame.colorspace = 8  # YCgCo
    with pytest.raises(VideoError, match=r"color matrix 8 .* BT\.709"):
        to_rgb(frame)


def test_alpha_is_dropped() -> None:
    import av

    opaque = av.VideoFrame.from_ndarray(CAT, format="rgb24").reformat(format="rgba")
    pixels = opaque.to_ndarray()
    pixels[..., 3] = 7
    frame = av.VideoFrame.from_ndarray(pixels, format="rgba")
    assert np.array_equal(to_rgb(frame), CAT)


def test_the_annotated_copy_states_its_colors(tmp_path: Path) -> None:
    import av

    path = write_film(tmp_path / "hd.mp4", [np.full((720, 1280, 3), COLOR, np.uint8)] * 2)
    out = tmp_path / "out.mp4"
    annotate(path, [], out)
    with av.open(str(out)) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_range, frame.color_primaries) == (1, 1, 1)
    assert np.abs(first(out).astype(int) - first(path)).mean() < 3


def test_the_annotated_copy_of_a_mirrored_video_has_readable_labels(tmp_path: Path) -> None:
    path = moving_film(tmp_path / "f.mp4", 3, matrix=(-1, 0, 0, 1))
    annotate(path, [Event("cat", 0, 1, 0.5, 0.5, 3, "v")], tmp_path / "out.mp4")
    before, after = (first(file).astype(int) for file in (path, tmp_path / "out.mp4"))
    changed = np.abs(before - after).mean(-1)
    assert changed[6:30, 6:40].mean() > 30  # in the upper left corner of what a player shows
    assert changed[:, 160:].mean() < 8


def hdr(pixels: np.ndarray, transfer: int) -> np.ndarray:
    """Return an sRGB image as HDR, uint16: its white has 203 cd/m2 (BT.2408) and stays in BT.709."""
    value = pixels / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_2020 = [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    light = 203 * linear @ np.transpose(to_2020)
    if transfer == PQ:
        power = (light / 10_000) ** 0.1593017578125
        signal = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    else:
        display = light / 1000
        luminance = np.maximum(display @ [0.2627, 0.6780, 0.0593], 1e-9)[..., None]
        scene = display * luminance ** (1 / 1.2 - 1)
        log = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        signal = np.where(scene <= 1 / 12, np.sqrt(3 * scene), log)
    return np.rint(65535 * signal.clip(0, 1)).astype(np.uint16)


def write_hdr(path: Path, pixels: np.ndarray, transfer: int) -> Path:
    """Encode an HDR video losslessly: 10 bits, BT.2020."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = "yuv444p10le"
        codec = stream.codec_context
        codec.color_primaries = codec.colorspace = 9
        codec.color_trc, codec.color_range = transfer, 1
        rgb = av.VideoFrame.from_ndarray(hdr(pixels, transfer), format="rgb48le")
        frame = rgb.reformat(format="yuv444p10le", dst_colorspace=9, dst_color_range=1)
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_hdr_becomes_the_sdr_image_that_it_was_made_from(tmp_path: Path, transfer: int) -> None:
    pixels = first(write_hdr(tmp_path / "hdr.mkv", CAT, transfer))
    assert error(pixels, CAT) < 8
    dark = CAT.max(-1) < 150  # below the knee of the tone curve nothing changes
    assert dark.mean() > 0.2
    assert np.abs(pixels.astype(int) - CAT)[dark].mean() < 3


def test_the_tone_curve_keeps_dark_pixels_and_bounds_bright_ones() -> None:
    nits = np.array([0, 5, 20, 80, 203, 400, 999, 1000, 4000, 10_000], float)
    power = (nits / 10_000) ** 0.1593017578125
    signal = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    codes = np.rint(65535 * signal).astype(np.uint16).reshape(1, -1, 1).repeat(3, -1)
    grey = to_sdr(codes, PQ)[0, :, 0].astype(int)
    linear = nits[:4] / 203
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert grey[:4] == pytest.approx(255 * srgb, abs=1)
    assert list(grey) == sorted(grey)
    assert 215 < grey[4] < 240
    assert list(grey[7:]) == [255, 255, 255]
