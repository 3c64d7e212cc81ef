"""``keywords`` and ``tag --out``: what they print, refuse, and their exit codes."""

import csv
import json
from pathlib import Path

import pytest
from photo_keywords import iptc_keywords, needs_exiftool, xmp_keywords

from ovml_deploy import assets
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.tagger import Tagger

pytestmark = pytest.mark.skipif(
    not (assets.MINI / "bundle.json").exists(), reason="the embedded model is not built"
)


WORDS = "cat,dog,red car,tree"


@pytest.fixture
def photos(pictures: list[Path]) -> Path:
    return pictures[0].parent


@needs_exiftool
def test_keywords_says_what_it_did(cli, photos, tmp_path) -> None:
    out = tmp_path / "tagged"
    line = ("keywords", photos, "--out", out, "--top-k", 2, "--threshold", 0)
    first = cli(*line, "--labels", "hard hat,2024,fire")
    assert (first.code, first.err) == (0, "")
    assert first.out == f"{out}: 6 copies, 0 failed\n"
    copy = out / "picture0.jpg"
    assert {*xmp_keywords(copy)} < {"hard hat", "2024", "fire"}
    assert len(xmp_keywords(copy)) == 2
    (tmp_path / "few.txt").write_text("cat\ndog\ntree\n")
    few = ("--vocab", tmp_path / "few.txt")
    again = cli(*line, *few)
    assert again.out.startswith(f"{out}: 0 copies, 6 there already (--overwrite makes them anew)")
    anew = cli(*line, *few, "--overwrite", "--prefix", "auto/")
    assert anew.out == f"{out}: 6 copies, 0 failed\n"
    assert [word[:5] for word in iptc_keywords(copy)] == ["auto/"] * 2


@needs_exiftool
def test_a_bad_photo_is_one_line_and_exit_code_3(cli, photos, tmp_path) -> None:
    page = tmp_path / "page.jpg"
    page.write_text("<html>not found</html>")
    done = cli("keywords", photos, page, "--out", tmp_path / "out")
    assert done.code == 3
    assert done.out.endswith(": 6 copies, 1 failed\n")
    (line,) = done.err.splitlines()
    assert line.startswith(f"failed: {page}: not an image that can be read")


@needs_exiftool
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["PHOTOS"], "out"),
        (["--out", "o"], "No images are named"),
        (["PHOTOS", "--out", "PHOTOS"], "whose photos are copied"),
        (["PHOTOS", "--out", "o", "--vocab", "few", "--labels", "a"], "not both"),
        (["PHOTOS", "--out", "o", "--top-k", "0"], "top_k is 0"),
        (["PHOTOS", "--out", "o", "--overwrite=maybe"], "maybe"),
        (["PHOTOS", "--out", "o", "--prefix", "a\tb"], "cannot stand before a label"),
    ],
)
def test_what_keywords_refuses(cli, photos, tmp_path, monkeypatch, arguments, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    words = [photos if word == "PHOTOS" else word for word in arguments]
    done = cli("keywords", *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert not (tmp_path / "o").exists()


@needs_exiftool
@pytest.mark.parametrize(
    "words", [("--labels", "cat,dog"), ("--vocab", "few.txt"), ("--vocab", "few.safetensors")]
)
def test_labels_without_a_threshold_are_refused_before_any_work(
    cli, photos, tmp_path, monkeypatch, words
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("few.txt").write_text("cat\ndog\n")
    vocabulary = Tagger.load(assets.MINI, vocabulary=["cat", "dog"]).vocabulary
    vocabulary.save("few.safetensors")
    monkeypatch.setattr(Engine, "open", None)  # no model is loaded
    done = cli("keywords", photos, "--out", "o", *words)
    assert (done.code, done.out) == (2, "")
    assert "no threshold" in done.err
    assert "--threshold 0.5" in done.err
    assert not Path("o").exists()


@needs_exiftool
def test_a_calibrated_vocabulary_needs_no_threshold(cli, photos, tmp_path) -> None:
    done = cli("keywords", photos, "--out", tmp_path / "o")
    assert (done.code, done.err) == (0, "")


def test_without_exiftool_it_says_what_to_install(cli, photos, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = cli("keywords", photos, "--out", tmp_path / "out")
    assert done.code == 1
    assert "apt install libimage-exiftool-perl" in done.err


@pytest.fixture
def tagged(cli, photos, tmp_path):
    """The tags as ``--format json`` prints them, and a function that has them written."""
    line = ("tag", photos, "--top-k", 3, "--labels", WORDS)
    printed = json.loads(cli(*line, "--format", "json").out)

    def write(name: str) -> Path:
        done = cli(*line, "--out", tmp_path / name)
        assert (done.code, done.err) == (0, "")
        assert done.out == f"6 images: {tmp_path / name}\n"
        return tmp_path / name

    return {v["image"]: [(t["label"], t["score"]) for t in v["tags"]] for v in printed}, write


def test_tag_writes_parquet(tagged) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="the extra 'archives' is not installed")
    wanted, write = tagged
    rows = pq.read_table(write("t.parquet")).to_pylist()
    assert {r["path"]: [(t["label"], t["score"]) for t in r["tags"]] for r in rows} == wanted


def test_tag_writes_csv(tagged) -> None:
    pytest.importorskip("pyarrow", reason="the extra 'archives' is not installed")
    wanted, write = tagged
    with open(write("t.csv"), newline="", encoding="utf-8") as file:
        rows = [(r["path"], r["label"], float(r["score"])) for r in csv.DictReader(file)]
    assert rows == [(path, *tag) for path, tags in wanted.items() for tag in tags]


def test_tag_writes_json_lines_and_coco(tagged) -> None:
    pytest.importorskip("pyarrow", reason="the extra 'archives' is not installed")
    wanted, write = tagged
    lines = [json.loads(line) for line in write("t.jsonl").read_text("utf-8").splitlines()]
    assert {v["path"]: [(t["label"], t["score"]) for t in v["tags"]] for v in lines} == wanted
    coco = json.loads(write("t.json").read_text("utf-8"))
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    labels = {category["id"]: category["name"] for category in coco["categories"]}
    found: dict[str, list[tuple[str, float]]] = {name: [] for name in names.values()}
    for mark in coco["annotations"]:
        found[names[mark["image_id"]]].append((labels[mark["category_id"]], mark["score"]))
    assert found == wanted


def test_tag_out_reports_what_failed(cli, pictures, tmp_path) -> None:
    pytest.importorskip("pyarrow", reason="the extra 'archives' is not installed")
    out, absent = tmp_path / "t.jsonl", tmp_path / "absent.jpg"
    done = cli("tag", pictures[0], absent, "--out", out)
    assert (done.code, done.out) == (3, f"1 images: {out}\n")
    assert done.err == f"failed: {absent}: there is no such file.\n"
    assert len(out.read_text("utf-8").splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "t.xls"], "must end in one of: .parquet, .csv, .jsonl, .json"),
        (["--out", "t.csv", "--format", "json"], "Give --out or --format, not both"),
    ],
)
def test_what_tag_out_refuses(cli, pictures, arguments, message: str) -> None:
    pytest.importorskip("pyarrow", reason="the extra 'archives' is not installed")
    done = cli("tag", pictures[0], *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
