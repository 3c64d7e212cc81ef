"""Image tokens of a frozen backbone, computed once and kept on disk.

A cache is a folder, named by its key (see ``cache_key``):

- ``features.npy``: float16 or float32 ``[images * views, N, W]``; row ``image * views + view``;
  view 0 is the plain image, further views are augmented;
- ``progress.json``: how many images are in the file for good, and which were unreadable.

``progress.json`` is replaced only after the rows it counts are on the disk, and a cache is complete
exactly when it counts every image. So a kill at any time leaves a cache that says how far it got.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovml_deploy.errors import DataError, ImageError
from ovml_deploy.models.backbone import Backbone
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.iteration import called_ahead
from ovml_deploy.training.augment import augment
from ovml_deploy.training.cache_key import image_key
from ovml_deploy.training.devices import device_of
from ovml_deploy.training.feature_file import FeatureFile, Progress

DTYPES = ("float16", "float32")

#: Rows of one forward pass. Fixed, because a batch's size can change the last bits of its result.
_ROWS_AT_ONCE = 32
_COMMIT_EVERY_ROWS = 512
_READING_THREADS = 8


@dataclass(frozen=True)
class FeatureCache:
    """Token features of a list of images: ``features [images * views, N, W]``, memory-mapped.

    ``unreadable`` maps an image's position to the reason that it has no features.
    """

    features: np.ndarray
    views: int
    unreadable: Mapping[int, str]
    key: str

    @property
    def readable(self) -> np.ndarray:
        """Positions of the images that have features, int64 ``[R]``, ascending."""
        images = np.arange(len(self.features) // self.views)
        return images[~np.isin(images, list(self.unreadable))]

    def tokens(self, images: np.ndarray, views: np.ndarray | None = None) -> Tensor:
        """Return tokens float32 ``[B, N, W]`` of images ``[B]``, each in its view (default: 0)."""
        rows = images * self.views + (0 if views is None else views)
        return torch.from_numpy(self.features[rows].astype(np.float32))


@dataclass(frozen=True)
class BuildOptions:
    """How features are made: number of views, the seed of the augmented ones, stored type."""

    views: int = 1
    seed: int = 0
    dtype: str = "float16"


def build_features(
    backbone: Backbone,
    paths: Sequence[Path],
    folder: Path,
    options: BuildOptions | None = None,
    *,
    check: Callable[[], None] = lambda: None,
    advance: Callable[[int], None] = lambda images: None,
) -> FeatureCache:
    """Return the cached features of ``paths``, computing what is not there yet.

    The cache is a folder below ``folder``; computing happens on the backbone's device. ``check`` is
    called between batches and may raise to stop: what is done stays done. ``advance`` is told of
    finished images. Raises DataError where the disk is too small, no image can be read, or another
    process builds the same cache.
    """
    options = options or BuildOptions()
    key = image_key(backbone, paths, views=options.views, seed=options.seed, dtype=options.dtype)
    home = folder / key
    home.mkdir(parents=True, exist_ok=True)
    with _only_builder(home):
        progress = Progress.read(home, key)
        advance(progress.done)
        if progress.done < len(paths):
            progress = _Builder(backbone, paths, options).run(home, progress, check, advance)
    if len(progress.unreadable) == len(paths):
        raise DataError(
            f"None of the {len(paths)} images can be read. The first: {progress.unreadable[0]} "
            "Relative paths start at --images, or else at the data file's folder."
        )
    features = np.load(home / FeatureFile.NAME, mmap_mode="r")
    return FeatureCache(features, options.views, progress.unreadable, key)


@dataclass(frozen=True)
class _Builder:
    backbone: Backbone
    paths: Sequence[Path]
    options: BuildOptions

    def run(
        self,
        home: Path,
        progress: Progress,
        check: Callable[[], None],
        advance: Callable[[int], None],
    ) -> Progress:
        """Append the features of the images that ``progress`` does not count yet."""
        views, total = self.options.views, len(self.paths)
        per_batch = max(1, _ROWS_AT_ONCE // views)
        commit_every = max(1, _COMMIT_EVERY_ROWS // (per_batch * views))
        shape = (total * views, *self._token_shape())
        _require_space(home, shape, self.options.dtype, progress.done * views)
        with ExitStack() as stack:
            file = stack.enter_context(
                FeatureFile(home, shape, self.options.dtype, progress, views)
            )
            threads = min(_READING_THREADS, torch.get_num_threads())
            waiting = range(progress.done, total)
            calls = stack.enter_context(
                called_ahead(self._read, waiting, 2 * per_batch, threads, "ovml-decode")
            )
            for number, start in enumerate(range(progress.done, total, per_batch), start=1):
                check()
                batch = [call.result() for call in islice(calls, per_batch)]
                pixels = np.concatenate([views_of for views_of, _ in batch])
                problems = {
                    start + offset: reason for offset, (_, reason) in enumerate(batch) if reason
                }
                file.append(self._encode(pixels), len(batch), problems)
                if number % commit_every == 0:
                    file.commit()
                advance(len(batch))
            file.commit()
            return file.progress

    def _read(self, index: int) -> tuple[np.ndarray, str]:
        """Return an image's views uint8 ``[views, H, W, 3]``; black and a reason if unreadable."""
        options = self.options
        try:
            plain = self.backbone.preprocessing(open_image(self.paths[index]))
        except ImageError as error:
            size = self.backbone.preprocessing.size
            return np.zeros((options.views, *size, 3), dtype=np.uint8), str(error)
        picture = Image.fromarray(plain)
        seeds = (_view_seed(options.seed, index, view) for view in range(1, options.views))
        return np.stack([plain, *(np.asarray(augment(picture, seed)) for seed in seeds)]), ""

    @torch.inference_mode()
    def _encode(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels uint8 ``[rows, H, W, 3]`` -> tokens ``[rows, N, W]`` in the stored type."""
        device, dtype = device_of(self.backbone), self.options.dtype
        fast = device.type == "cuda" and dtype == "float16"
        with torch.autocast(device.type, dtype=torch.float16, enabled=fast):
            images = self.backbone.normalise(torch.from_numpy(pixels).to(device))
            tokens = self.backbone.image_tokens(images).float()
        with np.errstate(over="ignore"):  # found out and explained below
            stored = tokens.cpu().numpy().astype(dtype)
        if not np.isfinite(stored).all():
            raise DataError(
                f"The backbone {self.backbone.spec.name!r} gives tokens that are not finite in "
                f"{dtype}. Use --feature-dtype float32."
            )
        return stored

    @torch.inference_mode()
    def _token_shape(self) -> tuple[int, int]:
        height, width = self.backbone.preprocessing.size
        device = device_of(self.backbone)
        black = torch.zeros((1, height, width, 3), dtype=torch.uint8, device=device)
        tokens = self.backbone.image_tokens(self.backbone.normalise(black))
        return int(tokens.shape[1]), int(tokens.shape[2])


def _view_seed(seed: int, index: int, view: int) -> int:
    digest = hashlib.sha256(f"{seed}/{index}/{view}".encode()).digest()
    return int.from_bytes(digest[:7])


def _require_space(home: Path, shape: tuple[int, int, int], dtype: str, done_rows: int) -> None:
    row = shape[1] * shape[2] * np.dtype(dtype).itemsize
    needed, free = (shape[0] - done_rows) * row, shutil.disk_usage(home).free
    if needed > free:
        raise DataError(
            f"The features need {needed / 1e9:.1f} GB more, and {str(home)!r} has "
            f"{free / 1e9:.1f} GB free. Use fewer --views, --feature-dtype float16, or --cache on "
            "a larger disk."
        )


@contextmanager
def _only_builder(home: Path) -> Iterator[None]:
    """Hold the cache's lock (which the system drops with the process, however that ends)."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(home / "lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(
                f"Another process builds the features in {str(home)!r}. Wait for it, or use "
                "another --cache."
            ) from error
        yield
