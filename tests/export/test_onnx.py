"""From checkpoint to bundle, for every kind of tower and head, and through the command line."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qks_reference import qks_features, qks_logits

import export.verify
from export.onnx import export_bundle, main
from ovml_deploy.commandline import run
from ovml_deploy.models.backbone import Backbone, BackboneSpec
from ovml_deploy.models.checkpoint import save_checkpoint
from ovml_deploy.models.heads import ZeroShotHead
from ovml_deploy.models.qks import QKSConfig, QKSHead
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.verify import failures, verify

ROOT = Path(__file__).resolve().parents[2]

# Zero-shot SigLIP: through the command, below; the other towers, as graphs: test_graphs.py. QKS on
# tiny_clip is tiny_bundle.
CASES = [
    ("tiny_resnet", "qks"),
    ("tiny_siglip", "qks"),
    ("tiny_cnn", "qks"),
    ("tiny_average", "qks"),
    ("tiny_hf", "qks"),
    ("tiny_clip", "zero-shot"),
]


def require_agreement(manifest: Mapping[str, Any], sizes: int = 20) -> None:
    logits = [f for f in manifest["parity"]["figures"] if f["output"] == "logits"]
    assert len(logits) == sizes
    assert max(f["relative_error"] for f in logits) <= 1e-5
    assert all(f["top_labels_equal"] for f in logits)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_tower_becomes_a_bundle(
    request, make_model, pictures, tmp_path: Path, name: str, kind: str
) -> None:
    model = make_model(request.getfixturevalue(name), kind)
    labels = ["cat", "red car", "a small bench", "tree"]
    bundle = export_bundle(model, tmp_path / "bundle", {"few": labels})
    require_agreement(bundle.manifest)
    assert (bundle.head, bundle.embed_dim) == (kind, model.backbone.embed_dim)
    stages = verify(bundle.path)
    assert [found.output for found in stages] == [
        *("pixels", "pixels of a JPEG", "features"),
        *("text_features", "label_embeddings", "logits", "tags"),
    ]
    assert failures(stages) == []
    # and the same through files, words and labels
    tagger = Tagger.load(bundle.path)
    features = tagger.encode(pictures)
    pixels = torch.from_numpy(np.stack([tagger._pixels(path) for path in pictures]))
    with torch.no_grad():
        expected, _ = model.match(model.encode(pixels), model.embed_labels(labels))
    scale = np.abs(expected.numpy()).max()
    assert np.abs(tagger.match(features) - expected.numpy()).max() <= 1e-4 * scale


@pytest.fixture(scope="module")
def checkpoint(tiny_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    save_checkpoint(path, tiny_model, include_backbone=True)
    return path


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "export.onnx", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_command(checkpoint: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """A checkpoint with its backbone inside gives the bundle that its model gave, to the byte."""
    labels = tmp_path / "yard.txt"
    labels.write_text("forklift\n2024\nhard hat\n")
    done = command("--ckpt", checkpoint, "--out", tmp_path / "out", "--vocab", labels)
    assert done.returncode == 0, done.stderr
    assert "agrees with PyTorch fp32 at every size tried" in done.stdout
    assert "worst of 20 sizes" in done.stdout
    assert "top-5 labels equal" in done.stdout
    tagger = Tagger.load(tmp_path / "out")
    assert tagger.vocabulary.name == "yard"
    assert tagger.vocabulary.labels == ("forklift", "2024", "hard hat")
    files = Bundle.open(tiny_bundle).manifest["files"]
    assert tagger.bundle.manifest["files"] == files


def test_the_labels_of_training_are_the_default_vocabulary(
    tiny_model, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    labels = {"seen": ["cat", "red car"], "unseen": ["tree"]}
    save_checkpoint("trained.pt", tiny_model, include_backbone=True, labels=labels)
    assert run(main, "onnx", ["--ckpt", "trained.pt"]) == 0
    tagger = Tagger.load("build/trained")
    assert tagger.vocabulary.name == "trained"
    assert tagger.vocabulary.labels == ("cat", "red car", "tree")


def test_zero_shot_needs_no_checkpoint(tiny_siglip: BackboneSpec, tmp_path: Path, capsys) -> None:
    arguments = ["--backbone", tiny_siglip.name, "--pretrained", tiny_siglip.pretrained]
    assert run(main, "onnx", [*arguments, "--out", str(tmp_path / "out")]) == 0
    bundle = Bundle.open(tmp_path / "out")
    assert (bundle.head, bundle.activation) == ("zero-shot", "sigmoid")
    assert bundle.manifest["head"]["settings"]["bias"] == -10
    assert len(bundle.templates) == 80
    assert bundle.manifest["backbone"]["pretrained"] == tiny_siglip.pretrained


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 1, "Nothing to export: name a checkpoint"),
        (["--ckpt", "absent.pt"], 1, "There is no checkpoint at 'absent.pt'"),
        (
            ["--ckpt", "CKPT", "--vocab", "absent.txt"],
            1,
            "absent.txt: The label file cannot be read",
        ),
        (["--ckpt", "CKPT", "--out", "OUT", "--opset", "17"], 2, "opset"),
        (["--ckpt", "CKPT", "--out", "FILE"], 1, "not a bundle, so it is not overwritten"),
        (["--backbone", "ViT-B-99"], 1, "open_clip knows no model 'ViT-B-99'"),
    ],
)
def test_a_wrong_command_line_says_so_and_does_nothing(
    checkpoint: Path, tmp_path, monkeypatch, capsys, arguments, code: int, message: str
) -> None:
    (tmp_path / "file").write_text("kept")
    monkeypatch.chdir(tmp_path)
    known = {"CKPT": str(checkpoint), "OUT": "out", "FILE": "file"}
    assert run(main, "onnx", [known.get(a, a) for a in arguments]) == code
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_official_checkpoint_of_a_real_size(tmp_path: Path) -> None:
    """ViT-B/16 and random weights: the command, parity, and DESIGN §5 in numpy."""
    layers, queries = 7, 12
    torch.manual_seed(0)
    spec = BackboneSpec("ViT-B-16-quickgelu")
    backbone = Backbone.load(spec, load_weights=False)
    head = QKSHead(QKSConfig(layers=layers, queries=queries), backbone.initial_projection())
    state = {f"module.{name}": value for name, value in head.state_dict().items()}
    clip = backbone.model.state_dict()
    del clip["visual.proj"]
    state |= {f"module.clip_model.{name}": value for name, value in clip.items()}
    torch.save(state, tmp_path / "official.pth")
    del state

    out = tmp_path / "out"
    done = command("--ckpt", tmp_path / "official.pth", "--backbone", spec.name, "--out", out)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((out / "bundle.json").read_text())
    assert manifest["dims"] == {"features": queries, "embedding": 512, "label": 512}
    assert manifest["head"]["settings"]["layers"] == layers
    assert len(manifest["templates"]) == 85
    require_agreement(manifest)

    tagger = Tagger.load(out)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    features = tagger.encode([*pixels])
    with torch.no_grad():
        tokens = backbone.image_tokens(backbone.normalise(torch.from_numpy(pixels))).numpy()
    weights = {name: value.numpy() for name, value in head.state_dict().items()}
    expected = qks_features(weights, tokens, heads=12)
    vocabulary = tagger.use_vocabulary(["cat", "traffic light", "2024"])
    wanted, winners = qks_logits(expected, vocabulary.embeddings)
    assert np.abs(tagger.match(features) - wanted).max() <= 1e-4 * np.abs(wanted).max()
    image_tags = tagger.tag(pixels[0], top_k=None)
    by_label = {tag.label: tag.query for tag in image_tags}
    assert [by_label[label] for label in vocabulary.labels] == [*winners[0]]


def test_zero_shot_of_a_real_size(tmp_path: Path, monkeypatch) -> None:
    """CLIP ViT-B/16, random weights; fewer batches than benchmarks/fidelity.py tries."""
    monkeypatch.setattr(export.verify, "BATCHES", (1, 2))
    torch.manual_seed(0)
    backbone = Backbone.load(BackboneSpec("ViT-B-16-quickgelu"), load_weights=False)
    model = TaggingModel(backbone, ZeroShotHead(scale=100.0), ["a photo of a {}."]).eval()
    require_agreement(export_bundle(model, tmp_path / "clip").manifest, sizes=8)
