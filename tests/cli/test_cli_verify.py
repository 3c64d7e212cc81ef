"""``ovml-deploy verify``: every backend, every stage, and images of one's own."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundles import change_arrays, edit_manifest, rehash
from onnx import numpy_helper

from ovml_deploy import assets
from ovml_deploy.runtime import speed
from ovml_deploy.runtime.backends import DEVICES, available_devices
from ovml_deploy.runtime.bundle import ENCODER, GOLDEN, PICTURES, Bundle
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.verified import VERIFIED
from ovml_deploy.user_folders import cache_folder

STAGES = [
    *("pixels", "pixels of a JPEG", "features"),
    *("text_features", "label_embeddings", "logits", "tags"),
]


pytestmark = pytest.mark.usefixtures("own_cache")


def stored(folder: Path) -> Path:
    """The file of a bundle in the cache."""
    return cache_folder() / VERIFIED / f"{Bundle.open(folder).manifest_hash}.json"


def entries(folder: Path) -> dict[tuple[str, str], dict]:
    found = json.loads(stored(folder).read_text())["entries"]
    return {(entry["device"], entry["precision"]): entry for entry in found}


@pytest.fixture
def labelled(pictures: list[Path], tmp_path: Path) -> Path:
    """Images of two labels of the tiny bundle's, by folder."""
    for index, picture in enumerate(pictures):
        folder = tmp_path / "labelled" / ("cat", "tree")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder)
    return tmp_path / "labelled"


@pytest.fixture
def coarse(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle said to be int8, near enough for its goldens; its weights are 1% off."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "coarse"))
    model = onnx.load(folder / ENCODER)
    random = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        if weight.ndim >= 2 and weight.dtype == np.float32:
            noisy = weight * (1 + random.normal(0, 0.01, weight.shape))
            tensor.CopyFrom(numpy_helper.from_array(noisy.astype(np.float32), tensor.name))
    onnx.save(model, folder / ENCODER)
    rehash(folder, ENCODER)
    edit_manifest(folder, lambda manifest: manifest.update(precision="int8"))
    return folder


def test_all_backends_are_compared_at_every_stage(cli, bundle_copy: Path) -> None:
    before = sorted(bundle_copy.rglob("*"))
    done = cli("verify", "--engine", bundle_copy)
    assert done.code == 0, done.out
    written = entries(bundle_copy)
    assert {device for device, _ in written} >= {*available_devices()} - {"tensorrt"}
    for (device, precision), entry in written.items():
        assert entry["goldens"]["passed"]
        assert [stage["output"] for stage in entry["goldens"]["stages"]] == STAGES
        assert precision in entry["backend"], device
        assert entry["backend"] in done.out
    for device in DEVICES:
        assert (f"not here: {device}: " in done.out) == (device not in available_devices())
    assert done.out.count("logits") == len(written)
    assert "FAILED" not in done.out
    assert f"written: {stored(bundle_copy)}" in done.out
    assert sorted(bundle_copy.rglob("*")) == before


def test_speeds_are_compared_and_remembered(cli, bundle_copy: Path, monkeypatch) -> None:
    monkeypatch.setattr(speed, "_SECONDS", 0.1)
    done = cli("verify", "--engine", bundle_copy, "--speed", "--json")
    assert done.code == 0, done.out
    timed = [one for one in json.loads(done.out)["speeds"] if one["refused"] is None]
    fastest = timed[0]["device"], timed[0]["precision"]
    assert entries(bundle_copy)[fastest]["speed"]["ms_an_image"].keys() == {"1", "8"}
    monkeypatch.delenv("OVML_DEVICE")
    backend = Tagger.load(bundle_copy).backend
    assert (backend.device, backend.precision) == fastest
    table = cli("verify", "--engine", bundle_copy, "--speed").out
    assert "ms an image" in table
    assert all(one["description"] in table for one in timed)
    for option in ("--device=cpu", "--precision=fp32"):
        named = cli("verify", "--engine", bundle_copy, "--speed", option)
        assert named.code == 2
        assert "leave --device and --precision away" in named.err
    change_arrays(bundle_copy, GOLDEN, lambda arrays: arrays.pop("logits"))
    broken = cli("verify", "--engine", bundle_copy, "--speed")
    assert broken.code == 1
    assert "lacks logits" in broken.out
    assert "ms an image" not in broken.out


def test_one_backend_and_json(cli, bundle_copy: Path) -> None:
    done = cli("verify", "--engine", bundle_copy, "--device", "cpu", "--json")
    assert (done.code, done.err) == (0, "")
    value = json.loads(done.out)
    (backend,) = value["backends"]
    assert (backend["device"], backend["precision"], backend["failed"]) == ("cpu", "fp32", [])
    assert [stage["output"] for stage in backend["stages"]] == STAGES
    assert all(stage["ok"] for stage in backend["stages"])
    assert value["model"] == Bundle.open(bundle_copy).model_hash
    assert (value["not_here"], value["written"]) == ({}, str(stored(bundle_copy)))
    assert [*entries(bundle_copy)] == [("cpu", "fp32")]
    auto = cli("verify", "--engine", bundle_copy, "--device", "auto", "--json")
    assert json.loads(auto.out)["backends"][0]["device"] == "cpu"  # as the environment says


def test_a_failing_stage_hides_no_other_and_is_remembered(cli, bundle_copy: Path) -> None:
    scaled = np.float32(1.00005)  # which loading would let pass
    change_arrays(bundle_copy, GOLDEN, lambda a: a.update(logits=a["logits"] * scaled))
    done = cli("verify", "--engine", bundle_copy, "--device", "cpu")
    assert done.code == 1, done.out
    rows = [line.split() for line in done.out.splitlines()]
    assert [row[-1] for row in rows if row and row[-1] in ("ok", "FAILED")] == ["ok"] * 5 + [
        "FAILED",
        "ok",
    ]
    assert "FAILED: logits has a relative error of 5.0e-05, allowed is 1e-05" in done.out
    (reason,) = entries(bundle_copy)["cpu", "fp32"]["goldens"]["failed"]
    assert reason.startswith("logits has a relative error")


def test_a_changed_file_is_found_first(cli, bundle_copy: Path) -> None:
    for name in (PICTURES, ENCODER):
        with (bundle_copy / name).open("ab") as file:
            file.write(b"x")
        done = cli("verify", "--engine", bundle_copy)
        assert (done.code, done.out) == (1, "")
        assert "was changed after export" in done.err
    assert not stored(bundle_copy).exists()


def test_earlier_bundles_have_no_pictures(cli, bundle_copy: Path) -> None:
    (bundle_copy / PICTURES).unlink()
    edit_manifest(bundle_copy, lambda manifest: manifest["files"].pop(PICTURES))
    done = cli("verify", "--engine", bundle_copy, "--device", "cpu")
    assert done.code == 0
    assert "pixels: not in this bundle" in done.out


def test_without_a_cache_all_is_measured_and_nothing_stored(
    cli, bundle_copy: Path, tmp_path: Path, monkeypatch
) -> None:
    """What failed is not timed, as if it were stored."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("OVML_CACHE", str(tmp_path / "file"))
    done = cli("verify", "--engine", bundle_copy, "--device", "cpu")
    assert done.code == 0, done.out
    assert "not stored: " in done.out
    assert "set OVML_CACHE to a folder that can be written" in done.out
    scaled = np.float32(1.00005)
    change_arrays(bundle_copy, GOLDEN, lambda a: a.update(logits=a["logits"] * scaled))
    value = json.loads(cli("verify", "--engine", bundle_copy, "--speed", "--json").out)
    assert value["written"] is None
    (cpu,) = [one for one in value["speeds"] if one["device"] == "cpu"]
    assert "logits has a relative error" in cpu["refused"]
    assert (tmp_path / "file").read_bytes() == b""


def test_tags_and_map_on_labelled_images(cli, bundle_copy: Path, labelled: Path) -> None:
    done = cli("verify", "--engine", bundle_copy, "--data", labelled, "--threshold", 0.2)
    images = [line for line in done.out.splitlines() if line.startswith("6 images, mAP ")]
    assert len(images) == len(entries(bundle_copy))
    exact = entries(bundle_copy)["cpu", "fp32"]["images"]
    assert exact["passed"]
    assert (exact["images"], exact["tags_equal"], exact["map_change"]) == (6, 1.0, 0.0)
    assert exact["vocabulary"] == Tagger.load(bundle_copy).vocabulary.id
    assert 0 < exact["map"] <= 100
    assert "which agrees with PyTorch fp32 to " in exact["reference"]
    for entry in entries(bundle_copy).values():
        figures = entry["images"]
        near = figures["tags_equal"] >= 0.99 and abs(figures["map_change"]) <= 0.2
        assert figures["passed"] == near
        assert figures["tags"] > 0
    failed = [entry for entry in entries(bundle_copy).values() if not entry["images"]["passed"]]
    assert done.code == (1 if failed else 0)


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_other_kinds_of_images(cli, bundle_copy, pictures, tmp_path: Path, kind: str) -> None:
    """Without labels only tags are compared; a CSV is read as in calibration."""
    data = [pictures[0].parent]
    if kind == "csv":
        lines = [f"{path.name},{'boat' if i else 'small bench'}" for i, path in enumerate(pictures)]
        (tmp_path / "labels.csv").write_text("image_path,posi_labels\n" + "\n".join(lines) + "\n")
        data = [tmp_path / "labels.csv", "--images", pictures[0].parent]
    arguments = ["--engine", bundle_copy, "--device", "cpu", "--vocab", "others", "--json"]
    done = cli("verify", "--data", *data, *arguments, "--threshold", 0.1)
    assert done.code == 0, done.err
    images = json.loads(done.out)["backends"][0]["images"]
    assert (images["images"], images["tags_equal"], images["threshold"]) == (6, 1.0, 0.1)
    assert (images["map"] is None) == (kind == "folder")
    assert images["vocabulary"] == Tagger.load(bundle_copy, vocabulary="others").vocabulary.id


def test_images_that_cannot_be_read_are_listed(cli, bundle_copy, labelled: Path) -> None:
    (labelled / "cat" / "page.jpg").write_text("<html>")
    arguments = ["--engine", bundle_copy, "--device", "cpu", "--threshold", 0.2]
    done = cli("verify", "--data", labelled, *arguments)
    assert done.code == 3
    assert "page.jpg: not an image" in done.err
    assert "6 images, mAP" in done.out


def test_tags_that_change_fail_the_gate(
    cli, coarse, tiny_bundle, labelled, tmp_path, monkeypatch
) -> None:
    """The goldens let it pass, and so does loading; the tags do not, and auto goes by them."""
    assert Tagger.load(coarse).backend.precision == "int8"
    words = tmp_path / "words.txt"
    words.write_text("cat\ntree\n" + "\n".join(f"thing {i}" for i in range(300)))
    arguments = ["--engine", coarse, "--data", labelled, "--vocab", words]
    done = cli("verify", *arguments, "--reference", tiny_bundle)
    assert done.code == 1, done.out
    assert "tags are equal, at least 99% must be" in done.out
    for entry in entries(coarse).values():
        assert entry["goldens"]["passed"]
        assert not entry["images"]["passed"]
    monkeypatch.delenv("OVML_DEVICE")
    picture = next(labelled.rglob("*.png"))
    refused = cli("tag", picture, "--engine", coarse)
    assert refused.code == 1
    assert "failed 'ovml-deploy verify'" in refused.err
    assert cli("tag", picture, "--engine", coarse, "--device", "cpu").code == 0
    again = cli("verify", *arguments, "--reference", coarse)
    assert again.code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--vocab", "few"], 2, "--vocab is for images: name some with --data"),
        (["--threshold", "0.5"], 2, "--threshold is for images"),
        (["--threshold", "low"], 2, "'low' is not a number"),
        (
            ["--device", "cpu", "--precision", "bf16"],
            1,
            "does not run this bundle (fp32) in 'bf16'",
        ),
        (["--precision", "int4"], 1, "No device here runs it in precision int4"),
        (["--data", "absent"], 1, "absent"),
        (["--data", "PICTURES", "--vocab", "absent"], 1, "no vocabulary 'absent'"),
        (["--data", "PICTURES", "--images", "x"], 2, "--images"),
        (["--data", "PICTURES", "--threshold", "1"], 1, "there is nothing to compare"),
        (["--data", "PICTURES", "--reference", "MINI"], 2, "holds another model than"),
        (["--data", "PICTURES", "--reference", "COARSE"], 2, "Name the float32 bundle"),
        (["--data", "PLACES"], 1, "None of the data's 1 labels ('elsewhere') is in the vocabulary"),
    ],
)
def test_what_verify_refuses(
    cli, tiny_bundle, coarse, pictures, tmp_path, arguments, code: int, message: str
) -> None:
    folder = tmp_path / "places" / "elsewhere"
    folder.mkdir(parents=True)
    shutil.copy(pictures[0], folder)
    named = {"PICTURES": pictures[0].parent, "MINI": assets.MINI, "COARSE": coarse}
    named["PLACES"] = folder.parent
    if "MINI" in arguments and not (assets.MINI / "bundle.json").is_file():
        pytest.skip("no embedded model here")
    done = cli("verify", "--engine", tiny_bundle, *[named.get(a, a) for a in arguments])
    assert done.code == code
    assert message in done.err
    assert done.out == ""
    assert not stored(tiny_bundle).exists()


@pytest.mark.skipif(not (assets.MINI / "bundle.json").is_file(), reason="no embedded model here")
def test_the_embedded_model_keeps_its_tags_on_the_samples(cli) -> None:
    samples = assets.sample_photographs()[0].parent
    done = cli("verify", "--device", "cpu", "--data", samples)
    assert done.code == 0, done.out
    assert f"{len(assets.sample_photographs())} images; 100.00% of" in done.out
