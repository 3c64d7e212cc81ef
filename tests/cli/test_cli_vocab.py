"""``ovml-deploy vocab``: what is built, listed, calibrated and refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.vocabulary import Vocabulary


def test_vocabularies_are_built_listed_shown_and_used(
    cli, bundle_copy: Path, pictures, tmp_path: Path
) -> None:
    labels = tmp_path / "yard.txt"
    labels.write_text("forklift\n2024\nhard hat\n")
    done = cli("vocab", "build", labels, "--engine", bundle_copy)
    assert done.code == 0
    assert "3 labels, id " in done.out
    identity = done.out.split()[-1]
    listed = cli("vocab", "list", "--engine", bundle_copy).out
    assert [line.split() for line in listed.splitlines()[1:]] == [
        ["few", "5", Tagger.load(bundle_copy).vocabulary.id, "no", "default"],
        ["others", "4", Tagger.load(bundle_copy, vocabulary="others").vocabulary.id, "no"],
        ["yard", "3", identity, "no"],
    ]
    shown = cli("vocab", "show", "yard", "--engine", bundle_copy)
    assert shown.out == "forklift\n2024\nhard hat\n"
    out = tmp_path / "elsewhere" / "v.safetensors"
    done = cli("vocab", "build", labels, "--engine", bundle_copy, "--out", out)
    assert done.out.split()[-1] == identity
    assert cli("vocab", "show", out).out == shown.out
    tagged = cli("tag", pictures[0], "--engine", bundle_copy, "--vocab", out, "--format=json")
    assert json.loads(tagged.out)[0]["vocabulary"] == identity


def test_a_label_file_may_name_groups(
    cli, tuned_copy: Path, tiny_bundle: Path, pictures, tmp_path: Path
) -> None:
    labels = tmp_path / "yard.txt"
    labels.write_text("forklift\tthings\ncat\nhard hat\n")
    done = cli("vocab", "build", labels, "--engine", tuned_copy)
    assert (done.code, done.err) == (0, "")
    words = {"forklift": "things", "cat": None, "hard hat": None}
    identity = Tagger.load(tuned_copy).make_vocabulary(words).id
    assert done.out.split()[-1] == identity
    tagged = cli("tag", pictures[0], "--engine", tuned_copy, "--vocab", labels, "--format=json")
    assert json.loads(tagged.out)[0]["vocabulary"] == identity
    groups = cli("info", "--engine", tuned_copy).out
    assert "animals, plants, things" in groups
    labels.write_text("forklift\tvehicles\n")
    refused = cli("vocab", "build", labels, "--engine", tuned_copy, "--overwrite")
    assert (refused.code, refused.out) == (1, "")
    assert "no group 'vehicles'. The groups of this model are: animals, plants" in refused.err
    refused = cli("tag", pictures[0], "--engine", tiny_bundle, "--vocab", labels)
    assert refused.code == 1
    assert "this qks model has no groups" in refused.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "../golden"], "'../golden' is no name for a vocabulary"),
        (["--name", "a/b"], "is no name"),
        (["--out", "words.txt"], "A vocabulary is a .safetensors file"),
    ],
)
def test_a_vocabulary_cannot_be_put_over_other_files(
    cli, bundle_copy, tmp_path, monkeypatch, arguments, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("cat\n")
    done = cli("vocab", "build", "words.txt", "--engine", bundle_copy, *arguments)
    assert done.code == 2
    assert message in done.err
    assert Path("words.txt").read_text() == "cat\n"
    assert cli("verify", "--engine", bundle_copy).code == 0


@pytest.fixture
def labelled(tiny_tagger: Tagger, tmp_path: Path) -> Path:
    """Pictures in folders named by the label whose logit is unusually high for them.

    Beside the folder, labels.csv names all labels whose logit is above their mean, as SHOUTS.
    """
    random = np.random.default_rng(5)
    pictures = [random.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in range(60)]
    images = [Image.fromarray(picture).resize((48, 48)) for picture in pictures]
    logits = tiny_tagger.match(tiny_tagger.encode(images))
    heights = (logits - logits.mean(axis=0)) / logits.std(axis=0)
    labels = tiny_tagger.vocabulary.labels
    lines = ["image_path,posi_labels"]
    for number, (image, height) in enumerate(zip(images, heights, strict=True)):
        path = tmp_path / "labelled" / labels[height.argmax()] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        high = [label.upper() for label, value in zip(labels, height, strict=True) if value > 0]
        lines.append(f"{path.parent.name}/{path.name},{'|'.join(high)}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return tmp_path / "labelled"


def stored(bundle: Path, name: str = "few") -> Vocabulary:
    return Vocabulary.load(bundle / "vocabularies" / f"{name}.safetensors")


def facts(printed: str) -> dict[str, str]:
    """What a table of two columns says."""
    rows = [line.strip().rsplit("  ", 1) for line in printed.splitlines()]
    return {row[0].strip(): row[1].strip() for row in rows if len(row) == 2}


def test_a_vocabulary_is_calibrated_in_place_and_used(
    cli, bundle_copy: Path, labelled: Path
) -> None:
    before = stored(bundle_copy)
    done = cli("vocab", "calibrate", "few", "--data", labelled, "--engine", bundle_copy)
    assert (done.code, done.err) == (0, "")
    vocabulary = stored(bundle_copy)
    calibration = vocabulary.calibration
    assert done.out.split()[-1] == vocabulary.id != before.id
    assert vocabulary.labels == before.labels
    assert (calibration.images, calibration.positives, calibration.threshold) == (60, 60, 0.5)
    assert calibration.slope > 0
    report = facts(done.out)
    assert report["images"] == report["positive labels of them"] == "60"
    assert 0 < float(report["precision"].split()[0]) <= 1
    assert float(report["calibration error after"]) < float(report["calibration error before"])
    listed = cli("vocab", "list", "--engine", bundle_copy).out.splitlines()
    assert listed[1].split() == ["few", "5", vocabulary.id, "yes", "default"]
    shown = cli("vocab", "show", "few", "--engine", bundle_copy).out
    assert shown.splitlines() == list(vocabulary.labels)

    def tags(*arguments: object) -> list[dict]:
        done = cli("tag", labelled, "--engine", bundle_copy, "--format", "json", *arguments)
        return [{t["label"]: t["score"] for t in v["tags"]} for v in json.loads(done.out)]

    everything = tags("--threshold", 0)
    assert {len(found) for found in everything} == {5}
    features = Tagger.load(bundle_copy).encode(sorted(labelled.rglob("*.png")))
    logits = Tagger.load(bundle_copy).match(features)
    expected = 1 / (1 + np.exp(-(calibration.slope * logits + calibration.offsets)))
    for found, row in zip(everything, expected, strict=True):
        scores = [found[label] for label in vocabulary.labels]
        np.testing.assert_allclose(scores, row, atol=1e-3)
        assert list(found.values()) == sorted(found.values(), reverse=True)
    surer = [{k: v for k, v in found.items() if v >= 0.5} for found in everything]
    assert tags() == surer != everything
    assert any(surer)


def test_a_vocabulary_calibrated_for_another_model_is_refused_until_calibrated_again(
    cli, bundle_copy: Path, labelled: Path
) -> None:
    command = ("vocab", "calibrate", "few", "--data", labelled, "--engine", bundle_copy)
    assert cli(*command).code == 0
    own = stored(bundle_copy)
    other = replace(own.calibration, model_hash="0" * 16)
    replace(own, calibration=other).save(bundle_copy / "vocabularies" / "few.safetensors")
    refused = cli("tag", labelled, "--engine", bundle_copy)
    assert refused.code == 1
    assert "calibrated for another model" in refused.err
    assert cli(*command).code == 0
    assert stored(bundle_copy).id == own.id


def test_calibration_data_may_be_a_csv_file(
    cli, tiny_bundle: Path, labelled: Path, tmp_path: Path
) -> None:
    """With labels in another case, labels that one side lacks, a bad image, and --out."""
    data, out = tmp_path / "labels.csv", tmp_path / "out.safetensors"
    text = data.read_text().replace("TREE", "dragon") + "\nabsent.png,CAT"
    data.write_text(text)
    positives = sum(text.count(word) for word in ("CAT", "DOG", "RED CAR", "PERSON")) - 1
    done = cli(
        *("vocab", "calibrate", tiny_bundle / "vocabularies" / "few.safetensors"),
        *("--data", data, "--images", labelled, "--engine", tiny_bundle),
        *("--out", out, "--precision", 0.9),
    )
    assert done.code == 3, done.err
    assert done.err == f"failed: {labelled}/absent.png: there is no such file.\n"
    report = facts(done.out)
    assert report["images that could not be read"] == "1"
    assert report["labels of the data that are not in the vocabulary"] == "1"
    assert report["labels that the data do not know"] == "1"  # tree
    assert report["images"] == "60"
    assert float(report["precision"].split()[0]) >= 0.9
    calibration = Vocabulary.load(out).calibration
    assert (calibration.images, calibration.positives) == (60, positives)
    assert calibration.precision == 0.9
    assert stored(tiny_bundle).calibration is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["few", "--data", "DATA", "--precision", "2"], 2, "precision is 2.0"),
        (["few", "--data", "DATA", "--precision", "high"], 2, "'high' is not a number"),
        (["few", "--data", "DATA", "--images", "x"], 2, "leave --images 'x' away"),
        (["few", "--data", "DATA", "--out", "x.txt"], 2, "A vocabulary is a .safetensors file"),
        (["few", "--data", "DATA", "--out", "OTHERS"], 1, "exists. Replace it with --overwrite"),
        (["few"], 2, "data"),
        (["absent", "--data", "DATA"], 1, "has no vocabulary 'absent'"),
        (["../golden", "--data", "DATA"], 1, "'../golden'"),
        (["others", "--data", "DATA"], 1, "None of the data's 5 labels"),
        (["few", "--data", "absent.csv"], 1, "There is no data file"),
        (["few", "--data", "DATA", "--device", "gpu"], 1, "Unknown device 'gpu'"),
        (["few", "--data", "FALSE"], 1, "No threshold gives a precision of 1.0"),
    ],
)
def test_what_calibrate_refuses_changes_nothing(
    cli, bundle_copy: Path, labelled: Path, arguments: list[str], code: int, message: str
) -> None:
    before = {path: path.read_bytes() for path in bundle_copy.rglob("*") if path.is_file()}
    if "FALSE" in arguments:  # a very sure picture is called all else
        sure = Tagger.load(bundle_copy)
        scored = [(sure.tag(p).tags[0].logit, p) for p in labelled.rglob("*.png")]
        path = max(scored)[1]
        for other in [f for f in labelled.iterdir() if f != path.parent]:
            for number in range(4):
                shutil.copy(path, other / f"wrong{number}.png")
        arguments = [*arguments, "--precision", "1"]
    others = bundle_copy / "vocabularies" / "others.safetensors"
    places = {"DATA": labelled, "FALSE": labelled, "OTHERS": others}
    filled = [places.get(a, a) for a in arguments]
    done = cli("vocab", "calibrate", *filled, "--engine", bundle_copy)
    assert done.code == code
    assert message in done.err
    assert done.out == ""
    after = {path: path.read_bytes() for path in bundle_copy.rglob("*") if path.is_file()}
    assert after == before


def test_a_place_that_cannot_be_written_to_is_named_before_the_work(
    cli, tiny_bundle: Path, labelled: Path, tmp_path: Path
) -> None:
    """The device is wrong as well, which only the work would find."""
    (tmp_path / "file").touch()
    (tmp_path / "folder.safetensors").mkdir()
    words = tmp_path / "words.txt"
    words.write_text("cat\ndog")
    for place in ("file/x.safetensors", "file/deep/x.safetensors", "folder.safetensors"):
        rest = ("--out", tmp_path / place, "--engine", tiny_bundle, "--device", "gpu")
        for command in (("build", words), ("calibrate", "few", "--data", labelled)):
            done = cli("vocab", *command, *rest)
            assert done.code == 1
            assert f"cannot be written to '{tmp_path / place}'" in done.err


def test_build_names_all_labels_that_are_one_to_the_model(
    cli, tiny_bundle, tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    words, target = tmp_path / "words.txt", tmp_path / "words.safetensors"
    words.write_bytes("# birds\r\nowl\r\nOwl\r\ncat\r\nCAT".encode("utf-16"))
    done = cli("vocab", "build", words, "--engine", tiny_bundle, "--out", target)
    assert (done.code, done.out) == (1, "")
    assert f"{words}: 1 comment line was passed over." in caplog.messages
    assert f"{words}: The model cannot tell these labels apart" in done.err
    assert "lines 2, 3 ('owl', 'Owl'); lines 4, 5 ('cat', 'CAT')" in done.err
    assert not target.exists()
    words.write_text('["owl", "cat"]')
    assert "Name it .json" in cli("vocab", "build", words, "--engine", tiny_bundle).err
