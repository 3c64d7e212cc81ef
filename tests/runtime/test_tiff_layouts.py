"""Every TIFF layout that Pillow opens has the pixels that tifffile reads, or is refused by name."""

import io
import itertools
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import tifffile
from drawn import encoded, picture
from PIL import Image
from PIL.TiffImagePlugin import OPEN_INFO
from tiff_files import DEFLATE, LZW, PACKBITS, RAW, ZSTD, Tiff

from ovml_deploy.errors import ImageError
from ovml_deploy.runtime.images import open_image

WIDTH, HEIGHT = 23, 19
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, CIELAB = 0, 1, 2, 3, 5, 6, 8
ASSOCIATED = 1
FLOAT, SIGNED = 3, 2
PALETTE_SEED = 5


def samples(tiff: Tiff, count: int) -> np.ndarray:
    """Smooth samples ``[H, W, count]`` that use the whole range, within what the layout allows."""
    random = np.random.default_rng(count)
    small = random.random((4, 5, count)).astype(np.float32)
    values = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    values = values.reshape(HEIGHT, WIDTH, count)
    values = (values - values.min()) / (values.max() - values.min())
    if tiff.photometric == CIELAB:  # within sRGB: L 40 to 80, a and b -20 to 20 (signed)
        lab = np.round(values * [102, 40, 40] + [102, -20, -20])
        return (lab.astype(np.int64) % 256).astype(np.uint8)
    if tiff.extra[:1] == (ASSOCIATED,):
        colours = count - len(tiff.extra)
        values[..., colours] = 0.6 + 0.4 * values[..., colours]
        values[..., :colours] *= values[..., colours : colours + 1]
    if tiff.sample_format == FLOAT:
        return values.astype(np.float32)
    if tiff.sample_format == SIGNED:
        limit = 2 ** (tiff.bits - 1) - 1
        return ((values - 0.5) * limit).astype(f"i{tiff.bits // 8}")
    largest = 2**tiff.bits - 1
    kind = f"u{max(1, -(-tiff.bits // 8)) if tiff.bits != 12 else 2}"
    return np.round(values.astype(np.float64) * largest).astype(kind)


def colour_map(bits: int) -> np.ndarray:
    return np.random.default_rng(PALETTE_SEED).integers(0, 256, (3, 2**bits))


def expected(file: bytes, tiff: Tiff) -> np.ndarray:
    """RGB ``[H, W, 3]`` (0 to 255) of the samples as tifffile reads them."""
    with tifffile.TiffFile(io.BytesIO(file)) as opened:
        page = opened.pages.first
        stored = page.asarray()
    if tiff.planar == 2 and stored.ndim == 3:
        stored = np.moveaxis(stored, 0, -1)
    stored = stored.reshape(HEIGHT, WIDTH, -1)
    values = stored.astype(np.float64) / (2**tiff.bits - 1) * 255
    if tiff.photometric == PALETTE:
        return colour_map(tiff.bits).T[stored[..., 0].astype(np.intp)].astype(np.float64)
    if tiff.photometric == CMYK:
        return (255 - values[..., :3]) * (255 - values[..., 3:4]) / 255
    if tiff.photometric == CIELAB:
        signed = stored[..., 1:].astype(np.int8).astype(np.float32)
        lab = np.dstack([values[..., 0].astype(np.float32) / 2.55, signed])
        return np.clip(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB) * 255, 0, 255)
    if tiff.photometric == YCBCR and stored.shape[2] > 1:
        return rgb_of_ycbcr(values)
    colours = values[..., : 3 if tiff.photometric == RGB else 1]
    if tiff.extra[:1] == (ASSOCIATED,):
        colours = colours * 255 / values[..., colours.shape[2] : colours.shape[2] + 1]
    if tiff.photometric == WHITE_IS_ZERO:
        colours = 255 - colours
    return np.broadcast_to(colours, (HEIGHT, WIDTH, 3))


def rgb_of_ycbcr(values: np.ndarray) -> np.ndarray:
    """The formula of JPEG (JFIF 1.02)."""
    y, blue, red = values[..., 0], values[..., 1] - 128, values[..., 2] - 128
    rgb = [y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue]
    return np.clip(np.dstack(rgb), 0, 255)


def layouts() -> Iterator[tuple[Tiff, int]]:
    """Every kind of pixels in Pillow's table, in every way to store them; with samples a pixel."""
    for order, photometric, formats, fill_order, bits, extra in OPEN_INFO:
        if len(formats) != 1 or set(extra) - {0, 1, 2, 999}:
            continue
        for planar, (compression, predictor), (tile, rows) in itertools.product(
            (1, 2),
            ((RAW, 1), (DEFLATE, 1), (DEFLATE, 2), (LZW, 2), (PACKBITS, 1), (ZSTD, 1)),
            ((None, None), (None, 5), (16, None)),
        ):
            if predictor == 2 and (bits[0] not in (8, 16, 32) or formats == (FLOAT,)):
                continue
            if compression in (LZW, PACKBITS, ZSTD) and tile is None and rows is None:
                continue
            tags: tuple = ()
            if photometric == PALETTE:
                tags = ((320, "H", (colour_map(bits[0]) * 257).ravel().tolist()),)
            elif photometric == YCBCR:
                tags = ((530, "H", (1, 1)),)
            tiff = Tiff(
                bits[0], photometric, planar, compression, "<" if order == b"II" else ">",
                fill_order=fill_order, sample_format=formats[0], extra=extra, tile=tile,
                rows=rows, predictor=predictor, tags=tags,
            )  # fmt: skip
            yield tiff, len(bits)


def read_wrongly(tiff: Tiff, count: int) -> bool:
    """What Pillow 13 reads wrongly or not at all, found by running this test without any refusal."""
    raw, extra = tiff.compression == RAW, tiff.extra
    if tiff.sample_format == FLOAT or tiff.sample_format == SIGNED:
        return True
    if tiff.bits == 32:
        return True  # more than 16 bits
    if tiff.photometric == YCBCR and count == 1 and not raw:
        return True
    if tiff.planar == 1:
        unread = {(WHITE_IS_ZERO, 8), (PALETTE, 1), (PALETTE, 2), (PALETTE, 4)}
        return raw and tiff.fill_order == 2 and (tiff.photometric, tiff.bits) in unread
    if tiff.photometric in (YCBCR, CIELAB):
        return True
    if count == 4 and tiff.photometric == RGB and not extra:
        return True  # an extra sample without its tag
    if not raw:
        grey = tiff.photometric == BLACK_IS_ZERO and extra == (ASSOCIATED,)
        return grey or (len(extra) > 1 and any(extra))
    if tiff.bits != 8 or tiff.fill_order == 2 or tiff.photometric == WHITE_IS_ZERO:
        return True
    return bool(extra) and not (tiff.photometric == RGB and extra == (2,))


def test_every_layout_that_pillow_opens_is_read_rightly_or_refused() -> None:
    read = refused = 0
    wrong: list[str] = []
    for tiff, count in layouts():
        file = tiff.file(samples(tiff, count))
        try:
            opened = np.asarray(open_image(file)).astype(np.float64)
        except ImageError as error:
            refused += 1
            if not read_wrongly(tiff, count):
                wrong.append(f"refused: {tiff}: {error}")
            elif "damaged" in str(error) or "fetch" in str(error):
                wrong.append(f"refused without its reason: {tiff}: {error}")
            continue
        read += 1
        rough = ASSOCIATED in tiff.extra or tiff.photometric == CMYK
        # OpenCV's CIELab has the white of D65, Pillow's that of D50
        tolerance = 8.0 if tiff.photometric == CIELAB else 3.0 if rough else 1.01
        difference = np.abs(opened - expected(file, tiff)).max()
        if difference > tolerance or read_wrongly(tiff, count):
            wrong.append(f"differs by {difference:.0f}: {tiff}")
    assert not wrong, "\n".join([f"{len(wrong)} layouts", *wrong[:40]])
    assert read > 900
    assert refused > 300


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [RAW, DEFLATE])
@pytest.mark.parametrize(("bits", "photometric"), [(8, RGB), (16, BLACK_IS_ZERO), (16, RGB)])
def test_big_tiff(order: str, compression: int, bits: int, photometric: int) -> None:
    tiff = Tiff(bits, photometric, compression=compression, order=order, big=True, tile=16)
    file = tiff.file(samples(tiff, 3 if photometric == RGB else 1))
    if order == ">":
        with pytest.raises(ImageError, match="TIFF: big-endian BigTIFF; save it as a classic TIFF"):
            open_image(file)
    else:
        assert np.abs(open_image(file) - expected(file, tiff)).max() <= 1.01


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [RAW, DEFLATE])
@pytest.mark.parametrize("tile", [None, 16])
def test_orientation(orientation: int, compression: int, tile: int | None) -> None:
    tiff = Tiff(8, RGB, compression=compression, tile=tile, tags=((274, "H", (orientation,)),))
    stored = samples(tiff, 3)
    upright = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
        5: stored.transpose(1, 0, 2), 6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(stored, 1),
    }[orientation]  # fmt: skip
    assert np.array_equal(open_image(tiff.file(stored)), upright)


def written(values: np.ndarray, **settings) -> tuple[bytes, np.ndarray]:
    """A TIFF that tifffile writes, and the pixels that it reads from it."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **settings)
    return stream.getvalue(), tifffile.imread(io.BytesIO(stream.getvalue()))


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2), (4, 1)])
@pytest.mark.parametrize("tile", [None, (32, 32)])
def test_jpeg_in_tiff_with_subsampled_colours(subsampling, tile) -> None:
    image = picture(64, 32)
    values = np.asarray(image.convert("YCbCr"))
    file, read = written(
        values, photometric="ycbcr", compression="jpeg", subsampling=subsampling, tile=tile
    )
    assert np.abs(open_image(file) - read.astype(float)).max() <= 1
    assert np.abs(read - np.asarray(image, dtype=float)).mean() < 6


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_jpeg_in_tiff_as_rgb(planar: str) -> None:
    values = np.asarray(picture(64, 32))
    stored = np.moveaxis(values, 2, 0) if planar == "separate" else values
    file, read = written(stored, photometric="rgb", compression="jpeg", planarconfig=planar)
    read = np.moveaxis(read, 0, 2) if planar == "separate" else read
    assert np.abs(open_image(file) - read.astype(float)).max() <= 1


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_jpeg_in_tiff_as_grey(photometric: str) -> None:
    file, read = written(
        np.asarray(picture(64, 32).convert("L")), photometric=photometric, compression="jpeg"
    )
    grey = read if photometric == "minisblack" else 255 - read
    assert np.array_equal(np.asarray(open_image(file))[..., 0], grey)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax(compression: str) -> None:
    image = picture(60, 40).convert("1")
    file = encoded(image, "TIFF", compression=compression)
    assert np.array_equal(np.asarray(open_image(file).convert("1")), np.asarray(image))


def subsampled(
    across: int, down: int, compression: int, tag: bool = True
) -> tuple[bytes, np.ndarray]:
    """YCbCr without JPEG, in data units of luma samples and one of each color (TIFF 6.0, 21); its RGB."""
    y, blue, red = np.moveaxis(samples(Tiff(8, YCBCR), 3)[:16, :16], 2, 0)
    luma = y.reshape(16 // down, down, 16 // across, across).transpose(0, 2, 1, 3)
    units = [luma.reshape(16 // down, 16 // across, -1)]
    units += [plane[::down, ::across, None] for plane in (blue, red)]
    data = np.concatenate(units, axis=2).tobytes()
    tags = ((530, "H", (across, down)),) if tag else ()
    tiff = Tiff(8, YCBCR, compression=compression, tags=tags)
    colours = (p[::down, ::across].repeat(down, 0).repeat(across, 1) for p in (blue, red))
    rgb = rgb_of_ycbcr(np.dstack([y, *colours]).astype(np.float64))
    chunk = zlib.compress(data) if compression == DEFLATE else data
    return tiff.of_chunks([chunk], 16, 16, 3), rgb


@pytest.mark.parametrize(("across", "down"), [(1, 1), (2, 1), (2, 2), (4, 4), (1, 2)])
def test_subsampled_ycbcr(across: int, down: int) -> None:
    file, rgb = subsampled(across, down, DEFLATE)
    assert np.abs(open_image(file) - rgb).max() <= 1.5
    file, rgb = subsampled(across, down, RAW)
    if (across, down) == (1, 1):
        assert np.abs(open_image(file) - rgb).max() <= 1.5
    else:
        with pytest.raises(ImageError, match=r"YCbCr of this kind is not read.*Save it as 8-bit"):
            open_image(file)


def test_ycbcr_without_the_tag_of_its_subsampling_has_the_default_one() -> None:
    with pytest.raises(ImageError, match="YCbCr of this kind is not read"):
        open_image(subsampled(2, 2, RAW, tag=False)[0])


@pytest.mark.parametrize("scale", [1, 256, 257])
def test_palettes_of_eight_bits_are_recognised(scale: int) -> None:
    colours = colour_map(8)
    tiff = Tiff(8, PALETTE, tags=((320, "H", (colours * scale).ravel().tolist()),))
    indices = samples(tiff, 1)
    opened = open_image(tiff.file(indices))
    assert np.array_equal(opened, colours.T[indices[..., 0]])
    with Image.open(io.BytesIO(tiff.file(indices))) as lazy:
        assert np.array_equal(open_image(lazy), opened)


def test_twelve_bits_and_white_is_zero_have_the_right_brightness() -> None:
    twelve = Tiff(12, BLACK_IS_ZERO)
    assert np.asarray(open_image(twelve.file(samples(twelve, 1)))).max() == 255
    negative = Tiff(16, WHITE_IS_ZERO)
    values = samples(negative, 1)
    opened = np.asarray(open_image(negative.file(values)))
    assert opened[np.unravel_index(values[..., 0].argmin(), (HEIGHT, WIDTH))].tolist() == [255] * 3


@pytest.mark.parametrize(
    ("tiff", "count", "message"),
    [
        (Tiff(16, RGB, planar=2), 3, "this layout in planes is not read (TIFF: 3 samples of 16 bits, "
         "RGB, compression raw, in planes). Save it as 8-bit RGB"),
        (Tiff(8, BLACK_IS_ZERO, sample_format=SIGNED), 1, "signed pixels have no known range"),
        (Tiff(16, BLACK_IS_ZERO, sample_format=SIGNED), 1, "signed pixels have no known range"),
        (Tiff(8, CMYK, tags=((332, "H", (2,)),)), 4, "its inks are not CMYK"),
        (Tiff(8, BLACK_IS_ZERO, without=(262,)), 1, "whether 0 is black or white is not given"),
        (Tiff(16, BLACK_IS_ZERO, extra=(2,)), 2, "not an image that can be read (TIFF: 2 samples of "
         "16 bits, black-is-zero, compression raw; save it as 8-bit RGB)"),
        (Tiff(32, RGB), 3, "(TIFF: 3 samples of 32 bits, RGB, compression raw; save it as"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(tiff: Tiff, count: int, message: str, tmp_path) -> None:
    path = tmp_path / "odd.tif"
    path.write_bytes(tiff.file(samples(tiff, count)))
    with path.open("rb") as file:
        for source in (path, path.read_bytes(), file):
            with pytest.raises(ImageError) as caught:
                open_image(source)
            assert message in str(caught.value)


def test_a_tile_larger_than_the_limit_is_refused_before_it_is_decoded() -> None:
    tiff = Tiff(8, BLACK_IS_ZERO, compression=DEFLATE, tags=((322, "I", [46000]), (323, "I", [46000]),
                (324, "I", [8]), (325, "I", [30])), without=(273, 278, 279))  # fmt: skip
    with pytest.raises(ImageError, match=r"a tile has too many pixels \(46000x46000\); at most"):
        open_image(tiff.file(samples(tiff, 1)))


@pytest.mark.parametrize("compression", [RAW, DEFLATE])
def test_a_directory_that_is_cut_is_damage(compression: int) -> None:
    """Pillow goes on without the tags that are lost, such as the one of planes."""
    tiff = Tiff(8, RGB, planar=2, compression=compression)
    whole = tiff.file(samples(tiff, 3))
    start = int.from_bytes(whole[4:8], "little")
    entries = int.from_bytes(whole[start : start + 2], "little")
    refused = 0
    for kept in range(entries + 1):
        directory = whole[start : start + 2 + 12 * kept]
        file = whole[:4] + len(whole).to_bytes(4, "little") + whole[8:] + directory
        if kept == entries:
            assert np.abs(open_image(file) - expected(whole, tiff)).max() <= 1
            continue
        with pytest.raises(ImageError, match=r"If it is truncated, fetch|not an image"):
            open_image(file)
        refused += 1
    assert refused == entries


def test_tags_of_a_wrong_type_do_not_reach_the_message() -> None:
    whole = Tiff(32, RGB).file(samples(Tiff(32, RGB), 3))
    text = (262).to_bytes(2, "little") + b"\2\0\4\0\0\0\x1b[1\0"  # an ASCII tag with an escape
    start = whole.index((262).to_bytes(2, "little") + b"\3\0")
    with pytest.raises(ImageError, match="TIFF: its directory is damaged") as caught:
        open_image(whole[:start] + text + whole[start + 12 :])
    assert "\x1b" not in str(caught.value)
