"""The training augmentation of QKS: cutout, horizontal flip, RandAugment, from a seed."""

import threading
from collections.abc import Callable
from typing import cast

import torch
from PIL import Image, ImageDraw
from torchvision import transforms

#: torchvision draws from torch's one global generator, which threads share.
_RNG_LOCK = threading.Lock()


class Cutout:
    """Covers a rectangle of ``factor`` of each side with one random colour.

    Its centre is anywhere, so part of it may lie outside (arXiv 1708.04552; 0.5 in the release of
    arXiv 2401.01181).
    """

    def __init__(self, factor: float = 0.5) -> None:
        self.factor = factor

    def __call__(self, image: Image.Image) -> Image.Image:
        """RGB image -> a changed copy."""
        covered = image.copy()
        width, height = (round(self.factor * side) for side in image.size)
        left = _draw(image.width) - width // 2
        top = _draw(image.height) - height // 2
        colour = (_draw(256), _draw(256), _draw(256))
        box = (left, top, left + width - 1, top + height - 1)
        if width and height:
            ImageDraw.Draw(covered).rectangle(box, fill=colour)
        return covered


def training_augmentation() -> Callable[[Image.Image], Image.Image]:
    """Return the paper's steps, for images that are already resized and cropped.

    Order as in the release of arXiv 2401.01181: cutout 0.5, flip, RandAugment (2 operations).
    """
    steps = [Cutout(0.5), transforms.RandomHorizontalFlip(), transforms.RandAugment()]
    return cast(Callable[[Image.Image], Image.Image], transforms.Compose(steps))


def augment(
    image: Image.Image, seed: int, steps: Callable[[Image.Image], Image.Image] | None = None
) -> Image.Image:
    """Return ``steps`` (or the paper's) applied to an RGB image; equal seeds give equal pixels.

    The caller's random state is left alone; safe to call from several threads.
    """
    apply = steps if steps is not None else training_augmentation()
    with _RNG_LOCK, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return apply(image)


def _draw(below: int) -> int:
    return int(torch.randint(below, ()).item())
