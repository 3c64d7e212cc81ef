"""Runs every command and snippet of the README, as typed, in a folder like a user's."""

import csv
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
from cpp import built
from films import film
from PIL import Image
from servers import Server, running_server
from shell import ROOT, run, run_snippet

from ovml_deploy import assets
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.training.wordnet import DATA_FILE

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

#: Where the README's server is.
SERVER = "http://127.0.0.1:8000"

#: What a test cannot have: the weights of a hub, and hours. The rest of the line stays as typed.
TRAIN = "--backbone ViT-B-16-quickgelu --pretrained openai"
FASTER = "--epochs 1 --layers 1 --queries 2 --views 1 --val-fraction 0.4"

pytestmark = pytest.mark.skipif(
    not (assets.MINI / "bundle.json").exists(), reason="the embedded model is not built"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs, labels and training data under the README's names."""
    folder = tmp_path_factory.mktemp("readme")
    photos = folder / "photos"
    photos.mkdir()
    samples = assets.sample_photographs()[:4]
    for sample in samples:
        shutil.copy(sample, photos)
    for name, sample in zip(("dock.jpg", "yard.jpg"), samples, strict=False):
        shutil.copy(sample, folder / name)
    (folder / "labels.txt").write_text("cat\ncoffee cup\nrocket\nflower\n7 up\n", "utf-8")
    with (folder / "train.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("image_path", "posi_labels"))
        rows.writerows(
            (f"photos/{sample.name}", "cat|animal" if i % 2 else "machine|thing")
            for i, sample in enumerate(samples)
        )
    for label, name in (("cat", "cat"), ("coffee cup", "coffee"), ("flower", "flower")):
        (folder / "labelled" / label).mkdir(parents=True)
        with Image.open(assets.sample_photographs()[0].with_name(f"{name}.jpg")) as image:
            for margin in range(0, 60, 10):  # crops, for as many pictures as folds need
                box = (margin, margin, image.width - margin, image.height - margin)
                image.crop(box).save(folder / "labelled" / label / f"{margin}.jpg")
    film(folder / "film.mp4", [("flower", 2), ("cat", 3), ("flower", 2)])
    return folder


def test_every_block_is_of_a_kind_that_is_run() -> None:
    assert {language for language, _ in BLOCKS} == {"bash", "python"}


def test_make_commands() -> None:
    if not (ROOT / ".venv/ready").exists():
        pytest.skip("`make demo` would install packages: run the tests with `make test`")
    result = run("make demo", ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "cat.jpg" in result.stdout
    assert (ROOT / "build/demo.jpg").stat().st_size > 10_000
    assert "pytest" in run("make -n test", ROOT).stdout  # running it here would never end


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    """What holds the servers that the README starts, until its commands were run."""
    with ExitStack() as stack:
        yield stack


def _started(line: str, world: Path) -> AbstractContextManager[Server]:
    """Start a server as a line says, but on a free port."""
    _, _, engine, bundle, state, folder = shlex.split(line)
    assert (engine, state) == ("--engine", "--state")
    return running_server(world / bundle, state, str(world / folder))


def _tag_image() -> Path | None:
    """The command that ``make cpp`` makes, None where there is no compiler."""
    try:
        return built() / "tag_image"
    except pytest.skip.Exception:
        return None


def test_commands_and_snippet(world: Path, tiny_clip: Any, servers: ExitStack) -> None:
    """In order, since later ones use what earlier ones made; snippets once their bundle is there."""
    tiny = f"--backbone {tiny_clip.name} --pretrained {tiny_clip.pretrained}"
    ran, url, told = 0, SERVER, []
    for language, block in sorted(BLOCKS, key=lambda item: item[0]):
        if language == "python":
            extra = "video" if "pipelines.video" in block else "cpu"
            result = run_snippet(block, world, "cpu", extra)
            assert result.returncode == 0, result.stderr
            told.append(result.stdout)
            continue
        for line in block.splitlines():
            if line.startswith("make "):
                continue
            if line.startswith("ovml-deploy serve"):
                url = servers.enter_context(_started(line, world)).url
                ran += 1
                continue
            line = line.replace(SERVER, url).replace("curl -s", "curl -sS --fail-with-body")
            if line.startswith("build/cpp/tag_image"):
                if (tool := _tag_image()) is None:
                    continue
                line = line.replace("build/cpp/tag_image", str(tool))
            if line.startswith("ovml-deploy keywords") and shutil.which("exiftool") is None:
                continue
            if "--provider wordnet" in line and not DATA_FILE.exists():
                pytest.skip("Debian's wordnet-base is not installed")
            faster = FASTER if "train qks" in line else "--epochs 1"
            result = run(line.replace(TRAIN, f"{tiny} {faster}"), world)
            assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
            ran += 1
    assert ran >= 34 - (shutil.which("exiftool") is None) - (_tag_image() is None)
    tags, events = told
    assert [line.rsplit(" ", 1)[0] for line in sorted(tags.splitlines())] == [
        "forklift",
        "hard hat",
    ]
    assert all(line.split()[0] in ("cat", "coffee") for line in events.splitlines())
    assert "warehouse" in run("ovml-deploy vocab list --engine build/qks", world).stdout


def test_the_embedded_models_figures_are_its_own() -> None:
    worst = Bundle.open(assets.MINI).manifest["parity"]["worst"]
    errors = " | ".join(
        f"{figure['relative_error']:.1e}"
        for figure in worst
        if figure["output"] in ("features", "logits", "text_features")
    )
    assert f"| embedded model, QKS | {errors} | yes |" in README
