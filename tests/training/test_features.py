"""The feature cache: right values, computed once, and never complete before it is."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovml_deploy.errors import DataError
from ovml_deploy.models.backbone import Backbone
from ovml_deploy.runtime.images import open_image
from ovml_deploy.training import features
from ovml_deploy.training.feature_file import Progress
from ovml_deploy.training.features import BuildOptions, build_features
from ovml_deploy.training.interrupt import RunInterruptedError

pytestmark = pytest.mark.usefixtures("one_thread")

KILLED_BUILD = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from ovml_deploy.models.backbone import Backbone, BackboneSpec
from ovml_deploy.training import features
from ovml_deploy.training.feature_file import FeatureFile

features._COMMIT_EVERY_ROWS = 32
append, calls = FeatureFile.append, []

def append_or_die(self, *arguments):
    append(self, *arguments)
    calls.append(1)
    if len(calls) == 3:
        self._file.flush()  # the worst moment: rows are in the file, and no record counts them
        os.kill(os.getpid(), signal.SIGKILL)

FeatureFile.append = append_or_die
config, weights, images, folder = sys.argv[1:]
paths = [Path(images) / f"{index}.png" for index in range(100)]
features.build_features(Backbone.load(BackboneSpec(config, weights)), paths, Path(folder))
"""


@pytest.fixture(scope="module")
def backbone(tiny_clip: Any) -> Backbone:
    return Backbone.load(tiny_clip)


def no_forward(*arguments: Any) -> None:
    raise AssertionError("the backbone ran, though everything is cached")


def expected(backbone: Backbone, path: Path) -> np.ndarray:
    pixels = torch.from_numpy(backbone.preprocessing(open_image(path)).copy())[None]
    with torch.inference_mode():
        return backbone.image_tokens(backbone.normalise(pixels))[0].numpy()


def test_plain_views_are_the_backbones_tokens(
    backbone: Backbone, discs: Any, tmp_path: Path
) -> None:
    options = BuildOptions(views=3, dtype="float32")
    cache = build_features(backbone, discs.paths[:20], tmp_path, options)
    assert cache.features.shape == (60, 17, 64)
    assert cache.features.dtype == np.float32
    tokens = cache.tokens(np.array([7, 0]))
    for found, index in zip(tokens, (7, 0), strict=True):
        assert np.allclose(found, expected(backbone, discs.paths[index]), atol=1e-5)
    views = np.stack([cache.tokens(np.array([7]), np.array([v]))[0] for v in range(3)])
    assert not np.allclose(views[0], views[1], atol=0.1)
    assert not np.allclose(views[1], views[2], atol=0.1)


def test_float16_is_the_same_rounded(backbone: Backbone, discs: Any, tmp_path: Path) -> None:
    exact = build_features(backbone, discs.paths[:5], tmp_path, BuildOptions(dtype="float32"))
    cache = build_features(backbone, discs.paths[:5], tmp_path)
    assert cache.features.dtype == np.float16
    assert np.array_equal(cache.features, exact.features.astype(np.float16))
    assert cache.tokens(np.array([1])).dtype == torch.float32


def test_features_are_computed_once(
    backbone: Backbone, discs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_features(backbone, discs.paths[:9], tmp_path, BuildOptions(views=2, seed=4))
    monkeypatch.setattr(backbone, "image_tokens", no_forward)
    told: list[int] = []
    again = build_features(
        backbone, discs.paths[:9], tmp_path, BuildOptions(views=2, seed=4), advance=told.append
    )
    assert np.array_equal(first.features, again.features)
    assert told == [9]


def test_whatever_changes_the_values_changes_the_key(
    backbone: Backbone, discs: Any, tmp_path: Path
) -> None:
    image = tmp_path / "a.png"
    shutil.copy(discs.paths[0], image)
    paths, folder = [image, discs.paths[1]], tmp_path / "cache"

    def key(options: BuildOptions | None = None) -> str:
        return build_features(backbone, paths, folder, options).key

    keys = [key(), key(BuildOptions(views=2)), key(BuildOptions(views=2, seed=1))]
    keys.append(key(BuildOptions(dtype="float32")))
    os.utime(image, ns=(1, 1))
    keys.append(key())
    shutil.copy(discs.paths[2], image)
    os.utime(image, ns=(1, 1))
    keys.append(key())
    bias = backbone.model.visual.ln_post.bias
    with torch.no_grad():
        bias[3] += 1e-3
        keys.append(key())
        bias[3] -= 1e-3
    paths.reverse()
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_unreadable_images_are_listed_and_left_out(
    backbone: Backbone, discs: Any, tmp_path: Path
) -> None:
    html, torn, absent = (tmp_path / name for name in ("page.jpg", "torn.png", "absent.png"))
    html.write_text("<!DOCTYPE html><html></html>")
    torn.write_bytes(discs.paths[0].read_bytes()[:150])
    paths = [discs.paths[0], html, discs.paths[1], torn, absent]
    cache = build_features(backbone, paths, tmp_path, BuildOptions(views=2))
    assert cache.readable.tolist() == [0, 2]
    assert sorted(cache.unreadable) == [1, 3, 4]
    assert "HTML" in cache.unreadable[1]
    assert "absent.png" in cache.unreadable[4]
    assert np.allclose(
        cache.tokens(np.array([2]))[0], expected(backbone, discs.paths[1]), atol=0.01
    )
    again = build_features(backbone, paths, tmp_path, BuildOptions(views=2))
    assert again.unreadable == cache.unreadable
    with pytest.raises(DataError, match=r"None of the 2 images can be read.*page\.jpg"):
        build_features(backbone, [html, absent], tmp_path)


def test_a_stopped_build_goes_on_where_it_was(
    backbone: Backbone, discs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build_features(backbone, discs.paths[:100], tmp_path / "whole")
    calls: list[int] = []

    def stop_at_third() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RunInterruptedError

    with pytest.raises(RunInterruptedError):
        build_features(backbone, discs.paths[:100], tmp_path / "parts", check=stop_at_third)
    progress = Progress.read(tmp_path / "parts" / whole.key, whole.key)
    assert progress.done == 64
    forward, images = backbone.image_tokens, []

    def counting(pixels: torch.Tensor) -> torch.Tensor:
        images.append(len(pixels))
        return forward(pixels)

    monkeypatch.setattr(backbone, "image_tokens", counting)
    cache = build_features(backbone, discs.paths[:100], tmp_path / "parts")
    assert sum(images) - 1 == 36  # one more to learn the shape
    assert np.array_equal(cache.features, whole.features)


def test_a_killed_build_never_looks_complete(
    tiny_clip: Any, backbone: Backbone, discs: Any, tmp_path: Path
) -> None:
    arguments = [tiny_clip.name, tiny_clip.pretrained, str(discs.folder), str(tmp_path / "killed")]
    ended = subprocess.run(
        [sys.executable, "-c", KILLED_BUILD, *arguments], capture_output=True, text=True
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    whole = build_features(backbone, discs.paths[:100], tmp_path / "whole")
    home = tmp_path / "killed" / whole.key
    assert Progress.read(home, whole.key).done == 64
    with open(home / "features.npy", "ab") as file:
        file.write(b"torn")
    cache = build_features(backbone, discs.paths[:100], tmp_path / "killed")
    assert np.array_equal(cache.features, whole.features)
    assert (home / "features.npy").read_bytes() == (
        tmp_path / "whole" / whole.key / "features.npy"
    ).read_bytes()


@pytest.mark.parametrize("damage", ["{", '{"key": "other"}', None])
def test_a_damaged_cache_is_built_again(
    backbone: Backbone, discs: Any, tmp_path: Path, damage: str | None
) -> None:
    cache = build_features(backbone, discs.paths[:5], tmp_path)
    values, home = np.array(cache.features), tmp_path / cache.key
    if damage is None:
        os.truncate(home / "features.npy", 3000)
    else:
        (home / "progress.json").write_text(damage)
    assert np.array_equal(build_features(backbone, discs.paths[:5], tmp_path).features, values)


def test_a_full_disk(
    backbone: Backbone, discs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(features.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"GB free\. Use fewer --views"):
        build_features(backbone, discs.paths[:5], tmp_path)


def test_two_builders_at_once(backbone: Backbone, discs: Any, tmp_path: Path) -> None:
    key = build_features(backbone, discs.paths[:2], tmp_path).key
    with open(tmp_path / key / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="Another process"):
            build_features(backbone, discs.paths[:2], tmp_path)
    build_features(backbone, discs.paths[:2], tmp_path)


def test_tokens_beyond_float16(
    backbone: Backbone, discs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = torch.full((1, 17, 64), 1e6)
    monkeypatch.setattr(backbone, "image_tokens", lambda x: huge.expand(len(x), -1, -1))
    with pytest.raises(DataError, match="float32"):
        build_features(backbone, discs.paths[:2], tmp_path)
    cache = build_features(backbone, discs.paths[:2], tmp_path, BuildOptions(dtype="float32"))
    assert float(cache.features[0, 0, 0]) == 1e6
