"""Repositories in a real Triton, but for its ONNX Runtime backend, which no package index has.

Python's onnxruntime runs the graphs in its place; configurations, batching and the ensemble are
Triton's own. OVML_TRITON_PYTHON names a Python that has nvidia-pytriton, onnxruntime and numpy<2.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from triton_server import running

from export.triton import write_repository
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.tagger import Tagger

PYTHON = os.environ.get("OVML_TRITON_PYTHON")

pytestmark = pytest.mark.skipif(
    PYTHON is None, reason="OVML_TRITON_PYTHON names no environment with nvidia-pytriton"
)


@pytest.fixture(scope="module", params=["tiny", "prompts"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Tagger, int]]:
    """A repository, the Tagger of its bundle, and the port of its server."""
    name = {"tiny": "tiny_bundle", "prompts": "tuned_bundle"}[request.param]
    bundle = request.getfixturevalue(name)
    folder = tmp_path_factory.mktemp("triton")
    write_repository(Bundle.open(bundle), folder / "repository", max_batch=16)
    assert PYTHON is not None
    with running(PYTHON, folder / "repository", folder) as port:
        yield folder / "repository", Tagger.load(bundle), port


def client(port: int) -> Any:
    from tritonclient.grpc import InferenceServerClient

    return InferenceServerClient(f"127.0.0.1:{port}")


def ask(port: int, model: str, pixels: np.ndarray, labels: np.ndarray) -> Any:
    from tritonclient.grpc import InferInput

    inputs = [
        InferInput("pixels", pixels.shape, "UINT8"),
        InferInput("labels", labels.shape, "FP32"),
    ]
    inputs[0].set_data_from_numpy(pixels)
    inputs[1].set_data_from_numpy(labels)
    return client(port).infer(model, inputs)


def test_requests_with_other_labels_share_batches(served, pictures: list[Path]) -> None:
    _, tagger, port = served
    name, labels = tagger.bundle.path.name, tagger.vocabulary.embeddings
    pixels = np.stack([tagger._pixels(picture) for picture in pictures])
    logits, winners = tagger.engine.match(tagger.engine.encode(pixels), tagger.vocabulary)
    asked = [(i % len(pictures), 1 + i % len(labels)) for i in range(96)]

    def work(which: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        image, words = which
        answer = ask(port, name, pixels[image : image + 1], labels[:words])
        return answer.as_numpy("logits"), answer.as_numpy("winners")

    with ThreadPoolExecutor(16) as pool:
        answers = [*pool.map(work, asked)]
    for (image, words), (found, won) in zip(asked, answers, strict=True):
        np.testing.assert_allclose(found, logits[image : image + 1, :words], atol=1e-4)
        np.testing.assert_array_equal(won, winners[image : image + 1, :words])
    whole = ask(port, name, pixels, labels)
    np.testing.assert_allclose(whole.as_numpy("logits"), logits, atol=1e-4)
    counts = {
        model: client(port).get_inference_statistics(f"{name}_{model}").model_stats[0]
        for model in ("encoder", "matcher")
    }
    assert counts["encoder"].execution_count < counts["encoder"].inference_count
    assert counts["matcher"].execution_count == counts["matcher"].inference_count >= 97


def test_what_does_not_fit_is_refused(served, pictures: list[Path]) -> None:
    from tritonclient.utils import InferenceServerException

    _, tagger, port = served
    name, labels = tagger.bundle.path.name, tagger.vocabulary.embeddings
    pixels = np.stack([tagger._pixels(pictures[0])] * 17)
    with pytest.raises(InferenceServerException, match="batch-size must be <= 16"):
        ask(port, name, pixels, labels)
    for odd in ((pixels[:1, 1:], labels), (pixels[:1], labels[:, 1:])):
        with pytest.raises(InferenceServerException, match="unexpected shape"):
            ask(port, name, *odd)
    assert ask(port, name, pixels[:16], labels).as_numpy("logits").shape == (16, len(labels))


def test_the_guides_client(served, pictures: list[Path], tmp_path: Path) -> None:
    repository, tagger, port = served
    text = (repository / "README.md").read_text("utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    shutil.copytree(tagger.bundle.path, tmp_path / tagger.bundle.path.name)
    for vocabulary in repository.glob("*.safetensors"):
        shutil.copy(vocabulary, tmp_path)
    shutil.copy(pictures[0], tmp_path / "photo.jpg")
    result = subprocess.run(
        [sys.executable, "-c", snippet.replace("localhost:8001", f"localhost:{port}")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    shown = [line.rsplit(" ", 1) for line in result.stdout.splitlines()]
    tags = tagger.tag(pictures[0])
    assert [label for label, _ in shown] == [tag.label for tag in tags]
    for (_, score), tag in zip(shown, tags, strict=True):
        assert float(score) == pytest.approx(tag.score, abs=1e-5)
