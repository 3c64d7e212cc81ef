"""The training augmentation: from a seed, and without side effects."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image

from ovml_deploy.training.augment import Cutout, augment


def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_a_seed_decides_the_pixels_in_any_thread() -> None:
    image = picture()
    alone = [np.asarray(augment(image, seed)) for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda seed: np.asarray(augment(image, seed)), range(24)))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert len({a.tobytes() for a in alone}) == 24
    assert all(a.shape == (40, 56, 3) and a.dtype == np.uint8 for a in alone)


def test_the_callers_random_state_and_image_stay() -> None:
    image, state = picture(), torch.get_rng_state()
    before = np.asarray(image).copy()
    augment(image, 5)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.asarray(image), before)


def test_cutout_covers_at_most_half_of_each_side_with_one_colour() -> None:
    image = picture()
    areas = []
    for seed in range(60):
        changed = np.asarray(augment(image, seed, Cutout(0.5)))
        differs = (changed != np.asarray(image)).any(axis=2)
        rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert height <= 20
        assert width <= 28
        inside = changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert len(np.unique(inside.reshape(-1, 3), axis=0)) == 1
        areas.append(height * width)
    assert max(areas) == 20 * 28
    assert min(areas) < 20 * 28
