"""Layouts of all formats but TIFF: the right pixels, compared with their source, or a refusal by name."""

import io
import struct

import cv2
import imagecodecs
import numpy as np
import pytest
from drawn import encoded
from image_files import (
    bmp,
    fits,
    jpeg_with_adobe,
    jpeg_without,
    masked,
    png,
    png_chunk,
    pnm,
    psd,
    sun,
    tga,
)
from PIL import Image, ImageCms

from ovml_deploy.errors import ImageError
from ovml_deploy.runtime.images import open_image

WIDTH, HEIGHT = 24, 18
APP0, APP14 = 0xE0, 0xEE


def smooth(samples: int, bits: int = 8) -> np.ndarray:
    """Smooth samples ``[H, W, samples]`` that use the whole range."""
    small = np.random.default_rng(samples).random((4, 5, samples)).astype(np.float32)
    values = cv2.resize(small, (WIDTH, HEIGHT)).reshape(HEIGHT, WIDTH, samples).astype(np.float64)
    values = (values - values.min()) / (values.max() - values.min())
    return np.round(values * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def rgb_of(values: np.ndarray, bits: int = 8) -> np.ndarray:
    """RGB (0 to 255) of samples ``[H, W, 1 to 4]`` of which the second or fourth is alpha."""
    colours = values[..., :3] if values.shape[2] >= 3 else values[..., :1]
    return np.broadcast_to(colours / (2**bits - 1) * 255, (HEIGHT, WIDTH, 3))


def difference(file: bytes, expected: np.ndarray) -> float:
    return float(np.abs(open_image(file) - expected.astype(np.float64)).max())


def refused(file: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_image(file)


# --- PNG


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("bits", "colour", "samples"),
    [(b, c, s) for b in (8, 16) for c, s in ((0, 1), (4, 2), (2, 3), (6, 4))]
    + [(b, 0, 1) for b in (1, 2, 4)],
)
def test_png(bits: int, colour: int, samples: int, interlaced: bool) -> None:
    values = smooth(samples, bits)
    hints = png_chunk(b"gAMA", struct.pack(">I", 100_000)) + png_chunk(b"cICP", b"\x09\x10\x00\x01")
    transparent = png_chunk(b"tRNS", struct.pack(f">{samples}H", *[1] * samples))
    for chunks in (b"", hints, transparent) if colour in (0, 2) else (b"", hints):
        assert difference(png(values, bits, colour, chunks, interlaced), rgb_of(values, bits)) <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_png_with_a_palette_and_alpha(bits: int) -> None:
    indices = smooth(1, bits)
    palette = np.random.default_rng(0).integers(0, 256, (2**bits, 3), dtype=np.uint8)
    chunks = png_chunk(b"PLTE", palette.tobytes()) + png_chunk(b"tRNS", bytes(range(2**bits)))
    for interlaced in (False, True):
        assert difference(png(indices, bits, 3, chunks, interlaced), palette[indices[..., 0]]) == 0


# --- JPEG


@pytest.mark.parametrize("kind", ["CMYK", "YCCK"])
@pytest.mark.parametrize("adobe", [True, False])
def test_jpeg_of_four_inks_is_inverted_as_photoshop_stores_it(kind: str, adobe: bool) -> None:
    inks = smooth(4)
    inverted = 255 - inks
    file = imagecodecs.jpeg8_encode(
        inverted, level=98, colorspace="CMYK", outcolorspace=kind, subsampling="444"
    )
    if not adobe:
        if kind == "YCCK":
            return  # four components without Adobe's segment are CMYK
        file = jpeg_without(file, APP14)
    expected = np.asarray(Image.fromarray(inks, "CMYK").convert("RGB"), dtype=float)
    assert np.abs(open_image(file) - expected).mean() < 3
    decoded = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert difference(file, decoded) <= 3


@pytest.mark.parametrize("segments", ["none", "JFIF", "Adobe 0", "Adobe 1"])
@pytest.mark.parametrize("stored", ["RGB", "YCbCr"])
def test_jpeg_colors_are_those_that_opencv_finds(segments: str, stored: str) -> None:
    image = Image.fromarray(smooth(3))
    file = encoded(image, "JPEG", quality=98, keep_rgb=stored == "RGB", subsampling=0)
    if segments == "none":
        file = jpeg_without(file, APP0, APP14)
    elif segments != "JFIF":
        file = jpeg_with_adobe(file, int(segments[-1]))
    elif stored == "RGB":
        return  # JFIF is YCbCr
    decoded = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert difference(file, decoded) <= 1


@pytest.mark.parametrize("samples", [1, 3])
def test_lossless_jpeg(samples: int) -> None:
    values = smooth(samples)
    file = imagecodecs.jpeg8_encode(values if samples == 3 else values[..., 0], lossless=True)
    assert difference(file, rgb_of(values)) == 0


@pytest.mark.parametrize("samples", [1, 3])
def test_jpeg_of_twelve_bits_is_refused_by_name(samples: int) -> None:
    values = smooth(samples, 12)
    file = imagecodecs.jpeg8_encode(values if samples == 3 else values[..., 0], bitspersample=12)
    refused(file, r"not an image that can be read \(JPEG of 12 bits; save it as 8-bit\)")


# --- JPEG 2000


@pytest.mark.parametrize("codec", ["jp2", "j2k"])
@pytest.mark.parametrize("samples", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [1, 4, 8, 10, 12, 16])
def test_jpeg_2000(bits: int, samples: int, codec: str) -> None:
    values = smooth(samples, bits)
    file = imagecodecs.jpeg2k_encode(
        values if samples > 1 else values[..., 0],
        level=0, codecformat=codec, bitspersample=bits, reversible=True,
    )  # fmt: skip
    if bits < 8:
        refused(file, f"JPEG 2000 of {bits} bits is not read. Save it as 8-bit RGB")
    elif bits > 8 and samples > 1:
        refused(file, f"JPEG 2000 of {bits} bits is read as gray without alpha only. Save it as 8-")
    else:
        assert difference(file, rgb_of(values, bits)) <= 1.01


@pytest.mark.parametrize(("space", "mode"), [("SRGB", "RGB"), ("SYCC", "YCbCr"), ("CMYK", "CMYK")])
def test_color_spaces_of_jpeg_2000(space: str, mode: str) -> None:
    values = smooth(len(mode) if mode != "YCbCr" else 3)
    file = imagecodecs.jpeg2k_encode(values, level=0, colorspace=space, reversible=True, mct=False)
    assert difference(file, np.asarray(Image.fromarray(values, mode).convert("RGB"))) <= 2


def test_a_jpeg_2000_that_the_caller_opened() -> None:
    file = imagecodecs.jpeg2k_encode(smooth(3, 16), level=0, reversible=True)
    with Image.open(io.BytesIO(file)) as lazy, pytest.raises(ImageError, match="of 16 bits"):
        open_image(lazy)


# --- BMP, TGA, PNM


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize(
    ("bits", "masks"),
    [(16, (0x7C00, 0x3E0, 0x1F)), (16, (0xF800, 0x7E0, 0x1F)), (32, (0xFF0000, 0xFF00, 0xFF)),
     (32, (0xFF000000, 0xFF0000, 0xFF00))],
)  # fmt: skip
def test_bmp_with_masks(bits: int, masks: tuple[int, int, int], top_down: bool) -> None:
    rgb = smooth(3)
    rows = masked(rgb, masks, f"<u{bits // 8}")
    file = bmp(rows, WIDTH, bits, compression=3, masks=masks, top_down=top_down)
    assert difference(file, rgb) <= (8 if bits == 16 else 0)


@pytest.mark.parametrize("masks", [(0x1F, 0x7E0, 0xF800), (0xF00, 0xF0, 0xF)])
def test_bmp_with_masks_that_pillow_does_not_know(masks: tuple[int, int, int]) -> None:
    rows = masked(smooth(3), masks, "<u2")
    refused(bmp(rows, WIDTH, 16, compression=3, masks=masks), "Unsupported BMP bitfields layout")


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_bmp_with_a_palette(bits: int, top_down: bool) -> None:
    indices = smooth(1, bits)[..., 0]
    places = indices[..., None] >> np.arange(bits - 1, -1, -1) & 1
    rows = np.packbits(places.reshape(HEIGHT, -1), axis=1)
    palette = np.random.default_rng(0).integers(0, 256, (2**bits, 3), dtype=np.uint8)
    file = bmp(rows, WIDTH, bits, palette=palette, top_down=top_down)
    assert difference(file, palette[indices]) == 0


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("bits", [24, 32])
def test_bmp_without_masks(bits: int, top_down: bool) -> None:
    rgb = smooth(3)
    stored = rgb[..., ::-1] if bits == 24 else np.dstack([rgb[..., ::-1], smooth(1)])
    file = bmp(stored.reshape(HEIGHT, -1), WIDTH, bits, top_down=top_down)
    assert difference(file, rgb) == 0


def test_bmp_of_os2() -> None:
    indices = smooth(1, 4)[..., 0]
    palette = np.random.default_rng(0).integers(0, 256, (16, 3), dtype=np.uint8)
    colours = palette[:, ::-1].tobytes().ljust(256 * 3, b"\0")
    header = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 8)
    start = struct.pack("<IHHI", 0, 0, 0, 14 + len(header) + len(colours))
    file = b"BM" + start + header + colours + indices[::-1].tobytes()
    assert difference(file, palette[indices]) == 0


def test_bmp_with_run_lengths() -> None:
    indices = smooth(1, 4)[..., 0]
    palette = np.random.default_rng(0).integers(0, 256, (16, 3), dtype=np.uint8)
    lines = [bytes([0, WIDTH]) + row.tobytes() + b"\0\0" for row in indices[::-1]]
    file = bmp(indices, WIDTH, 8, 1, palette=palette, data=b"".join(lines) + b"\0\1")
    assert difference(file, palette[indices]) == 0


@pytest.mark.parametrize("descriptor", [0x00, 0x10, 0x20, 0x30])
def test_tga_of_every_origin(descriptor: int) -> None:
    turn = (
        slice(None, None, 1 if descriptor & 0x20 else -1),
        slice(None, None, -1 if descriptor & 0x10 else 1),
    )
    rgb, grey = smooth(3), smooth(1)
    alpha = np.dstack([rgb[..., ::-1], grey])
    five = masked(rgb, (0x7C00, 0x3E0, 0x1F), "<u2").view("<u2")
    palette = np.random.default_rng(0).integers(0, 256, (16, 3), dtype=np.uint8)
    indices = smooth(1, 4)
    assert difference(tga(rgb[turn][..., ::-1], 2, 24, descriptor), rgb) == 0
    assert difference(tga(alpha[turn], 2, 32, descriptor | 8), rgb) == 0
    assert difference(tga(five[turn], 2, 16, descriptor), rgb) <= 8
    assert difference(tga(grey[turn], 3, 8, descriptor), rgb_of(grey)) == 0
    file = tga(indices[turn], 1, 8, descriptor, palette[:, ::-1].tobytes())
    assert difference(file, palette[indices[..., 0]]) == 0


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("largest", [1, 15, 100, 255, 256, 1023, 65535])
def test_pnm_of_every_range(largest: int, samples: int, text: bool) -> None:
    values = np.round(smooth(samples, 16) / 65535 * largest).astype(np.uint16)
    expected = np.broadcast_to(values / largest * 255, (HEIGHT, WIDTH, 3))
    assert difference(pnm(values, largest, text), expected) <= 1.01


@pytest.mark.parametrize("kind", ["Pf", "PF", "P7"])
def test_pnm_of_floats_and_pam_are_refused(kind: str) -> None:
    head = f"{kind}\n{WIDTH} {HEIGHT}\n-1.0\n".encode()
    refused(
        head + smooth(3).astype("<f4").tobytes(), r"float pixels have no known|not an image that"
    )


# --- WebP, QOI, AVIF, GIF


def test_alpha_of_webp_and_qoi_is_dropped() -> None:
    rgba = smooth(4)
    webp = encoded(Image.fromarray(rgba, "RGBA"), "WEBP", lossless=True, exact=True)
    assert difference(webp, rgba[..., :3]) == 0
    assert difference(imagecodecs.qoi_encode(rgba), rgba[..., :3]) == 0


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("samples", [1, 3, 4])
def test_avif_of_every_depth(bits: int, samples: int) -> None:
    values = smooth(samples, bits)
    pixels = values if samples > 1 else values[..., 0]
    file = imagecodecs.avif_encode(pixels, level=100, bitspersample=bits, speed=9)
    assert difference(file, rgb_of(values, bits)) <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_is_turned_once(orientation: int) -> None:
    """Pillow writes the orientation as a property of the image (irot, imir), too."""
    stored = smooth(3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    settings = {"quality": 100, "subsampling": "4:4:4", "speed": 9}
    file = encoded(Image.fromarray(stored), "AVIF", exif=exif, **settings)
    upright = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
        5: stored.transpose(1, 0, 2), 6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(stored, 1),
    }[orientation]  # fmt: skip
    assert difference(file, upright) <= 8


def test_a_transparent_first_frame_keeps_the_colors_of_its_palette() -> None:
    indices = smooth(1, 4)[..., 0]
    palette = np.random.default_rng(0).integers(0, 256, (16, 3), dtype=np.uint8)
    frame = Image.fromarray(indices, "P")
    frame.putpalette(palette.tobytes())
    file = encoded(frame, "GIF", save_all=True, append_images=[frame.rotate(180)], transparency=3)
    assert difference(file, palette[indices]) == 0


def test_a_first_frame_that_is_smaller_than_the_image_is_as_for_open_clip() -> None:
    frame = Image.fromarray(np.full((4, 4), 1, np.uint8), "P")
    frame.putpalette([9, 8, 7, 200, 100, 50])
    file = bytearray(encoded(frame, "GIF"))
    file[6:10] = struct.pack("<HH", 12, 10)
    with Image.open(io.BytesIO(file)) as opened:
        expected = np.asarray(opened.convert("RGB"))
    assert expected.shape == (10, 12, 3)
    assert expected[0, 0].tolist() == [200, 100, 50]
    assert difference(bytes(file), expected) == 0


# --- formats of which Pillow reads some layouts only


@pytest.mark.parametrize("packed", [False, True])
def test_photoshop(packed: bool) -> None:
    rgb, rgba, grey, inks = smooth(3), smooth(4), smooth(1), smooth(4)

    def planes(values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(values, 2, 0))

    assert difference(psd(planes(rgb), 3, packed), rgb) == 0
    assert difference(psd(planes(rgba), 3, packed), rgba[..., :3]) == 0
    assert difference(psd(planes(grey), 1, packed), rgb_of(grey)) == 0
    expected = np.asarray(Image.fromarray(inks, "CMYK").convert("RGB"))
    assert difference(psd(planes(255 - inks), 4, packed), expected) <= 1
    refused(psd(planes(rgb), 7, packed), "bitmap and multichannel mode are not read")
    extra = psd(planes(np.dstack([grey, grey])), 1, packed)
    if packed:
        refused(extra, "Photoshop files with 2 channels in this mode are not read")
    else:
        assert difference(extra, rgb_of(grey)) == 0


def test_photoshop_bitmaps_are_refused_as_pillow_makes_negatives_of_them() -> None:
    refused(psd(np.packbits(smooth(1, 1)[None, ..., 0], axis=2), 0, bits=1), "bitmap and multich")


def test_fits() -> None:
    grey = smooth(1)
    assert difference(fits(grey[..., 0], 8), rgb_of(grey)) == 0
    signed = (smooth(1, 16)[..., 0].astype(int) - 32768).astype(">i2")
    refused(fits(signed, 16), "FITS of more than 8 bits is not read. Save it as 8-bit RGB")


def test_sun_raster() -> None:
    rgb = smooth(3)
    assert difference(sun(rgb[..., ::-1], 24, 1), rgb) == 0
    assert difference(sun(rgb, 24, 3), rgb) == 0
    padded = np.dstack([np.zeros((HEIGHT, WIDTH, 1), np.uint8), rgb[..., ::-1]])
    refused(sun(padded, 32, 1), "Sun raster images of 32 bits are not read")


# --- color profiles


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_profiles_are_ignored_as_open_clip_ignores_them(kind: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image = Image.fromarray(smooth(3))
    settings = {"lossless": True} if kind == "WEBP" else {}
    plain = encoded(image, kind, **settings)
    with_profile = encoded(image, kind, icc_profile=profile, **settings)
    with Image.open(io.BytesIO(with_profile)) as opened:
        as_open_clip = np.asarray(opened.convert("RGB"))
    assert difference(with_profile, as_open_clip) == 0
    assert difference(plain, as_open_clip) == 0
