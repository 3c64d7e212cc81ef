"""The bytes equal open_clip's own transform, stopped before its normalisation."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovml_deploy.errors import ImageError
from ovml_deploy.runtime import preprocessing as module
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.preprocessing import Preprocessing

# (width, height)
SIZES = [
    (1, 1), (2, 3), (4000, 1), (223, 225), (224, 224), (225, 223), (224, 300), (300, 224),
    (500, 333), (333, 500), (640, 427), (1001, 37), (37, 1001), (3, 200), (449, 448), (31, 17),
]  # fmt: skip
MODES = ["shortest", "squash", "longest"]
TARGETS = [(224, 224), (336, 224), (97, 160)]


def picture(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(width * 10_000 + height)
    coarse = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(coarse)


def ours(size: tuple[int, int], **settings) -> Preprocessing:
    return Preprocessing(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), **settings)


def open_clips(image: Image.Image, size: tuple[int, int], **settings) -> np.ndarray:
    """open_clip's inference transform up to ToTensor, whose division by 255 is undone exactly."""
    transform = pytest.importorskip("open_clip.transform")
    config = transform.PreprocessCfg(size=size, **settings)
    *steps, to_tensor, _normalise = transform.image_transform_v2(config, is_train=False).transforms
    for step in [*steps, to_tensor]:
        image = step(image)
    return (image * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_bytes_equal_open_clips(mode: str, target: tuple[int, int], interpolation: str) -> None:
    for width, height in SIZES:
        if max(width, height) > 1000 * min(width, height):
            continue  # tested on their own
        settings = {"resize_mode": mode, "interpolation": interpolation}
        image = picture(width, height)
        if mode == "longest" and min(width, height) * max(target) * 2 < max(width, height):
            continue  # would be resized to nothing: refused, tested below
        pixels = ours(target, **settings)(image)
        assert pixels.shape == (*target, 3)
        assert pixels.dtype == np.uint8
        expected = open_clips(image, target, **settings)
        assert np.array_equal(pixels, expected), (width, height)


@pytest.mark.parametrize("fill", [0, 114])
def test_fill_colour(fill: int) -> None:
    settings = {"resize_mode": "longest", "fill_color": fill}
    image = picture(100, 37)
    pixels = ours((64, 64), **settings)(image)
    assert np.array_equal(pixels, open_clips(image, (64, 64), **settings))
    assert (pixels[0] == fill).all()


def test_random_interpolation_is_bicubic_at_inference() -> None:
    config = {"size": 64, "mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "random"}
    made = Preprocessing.from_config({**config, "resize_mode": "shortest"})
    expected = open_clips(picture(100, 80), (64, 64), interpolation="random")
    assert np.array_equal(made(picture(100, 80)), expected)


def test_bytes_equal_open_clips_on_every_photograph(photos: list[Path]) -> None:
    preprocessing = ours((224, 224))
    for photo in photos:
        image = open_image(photo)
        expected = open_clips(image, (224, 224))
        assert np.array_equal(preprocessing(image), expected), photo.name


@pytest.mark.parametrize(
    "make",
    [
        lambda: Image.new("L", (300, 200), 90),
        lambda: picture(300, 200).convert("LA"),
        lambda: picture(300, 200).convert("P"),
        lambda: picture(300, 200).convert("RGBA"),
        lambda: picture(300, 200).convert("CMYK"),
        lambda: picture(300, 200).convert("1"),
    ],
)
def test_other_modes_equal_open_clips_of_the_rgb_image(make) -> None:
    image = make()
    expected = open_clips(image.convert("RGB"), (224, 224))
    assert np.array_equal(ours((224, 224))(open_image(image)), expected)


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1)])
def test_thin_pictures_equal_open_clips_in_little_memory(size: tuple[int, int]) -> None:
    """Resized they have 200 million pixels; Pillow's memory is not traced, so its sizes are."""
    image = picture(*size)
    largest = 0
    resize = Image.Image.resize

    def noted(self, size, *arguments, **keywords):
        nonlocal largest
        largest = max(largest, size[0] * size[1])
        return resize(self, size, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", noted)
        pixels = ours((224, 224))(image)
    assert largest <= 16_000_000
    assert np.array_equal(pixels, open_clips(image, (224, 224)))


@pytest.mark.parametrize("target", [(64, 64), (80, 48), (48, 80)], ids=str)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_strips_give_the_same_bytes(target, interpolation: str, monkeypatch) -> None:
    """The way of very thin pictures, forced on all of them."""
    tall = [(90, 700), (70, 999), (40, 800), (100, 190)]  # Pillow 13 does their columns first
    pictures = [picture(*size) for size in (*SIZES, *tall) if max(size) <= 1001]
    preprocessing = ours(target, interpolation=interpolation)
    expected = [preprocessing(image) for image in pictures]
    calls = 0
    in_strips = Preprocessing._resize_in_strips

    def counted(*arguments):
        nonlocal calls
        calls += 1
        return in_strips(*arguments)

    monkeypatch.setattr(Preprocessing, "_resize_in_strips", counted)
    monkeypatch.setattr(module, "_PIXELS_AT_ONCE", 300)
    for image, wanted in zip(pictures, expected, strict=True):
        assert np.array_equal(preprocessing(image), wanted), image.size
    assert calls > len(pictures) // 2


@pytest.mark.parametrize(
    ("mode", "size"),
    [("shortest", (1, 6000)), ("shortest", (100_000, 1)), ("longest", (1, 4000))],
)
def test_too_thin_is_refused_before_memory_is_spent(mode: str, size: tuple[int, int]) -> None:
    image = Image.new("RGB", size)
    tracemalloc.start()
    with pytest.raises(ImageError, match=f"{size[0]}x{size[1]}.*too thin.*Crop it"):
        ours((224, 224), resize_mode=mode)(image)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_the_image_is_not_changed() -> None:
    image = picture(50, 40)
    before = image.tobytes()
    for mode in MODES:
        pixels = np.array(ours((40, 50), resize_mode=mode)(image))
        pixels[:] = 0
    assert image.tobytes() == before


def test_configuration_survives_json() -> None:
    made = ours((336, 224), interpolation="bilinear", resize_mode="longest", fill_color=7)
    assert Preprocessing.from_config(json.loads(json.dumps(made.to_config()))) == made


def test_an_unknown_resize_mode_is_refused() -> None:
    config = ours((8, 8)).to_config() | {"resize_mode": "stretch"}
    with pytest.raises(ValueError, match="'stretch'"):
        Preprocessing.from_config(config)
