"""Checkpoints: what is written is what is read, and what must not be read is refused."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from backbones import load, make_hf_folder

from ovml_deploy.errors import CheckpointError
from ovml_deploy.models.backbone import Backbone, BackboneSpec
from ovml_deploy.models.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from ovml_deploy.models.heads import ZeroShotHead
from ovml_deploy.models.qks import QKSConfig, QKSHead
from ovml_deploy.models.tagging import TaggingModel

TEMPLATES = ("a photo of a {}.", "{}")
LABELS = {"seen": ["cat", "dog"], "unseen": ["car"]}


class WritesAFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def make_model(spec: BackboneSpec, kind: str = "qks") -> TaggingModel:
    backbone = load(spec)
    if kind == "zero-shot":
        head: Any = ZeroShotHead(backbone.logit_scale, backbone.logit_bias)
    else:
        torch.manual_seed(1)
        sizes = (backbone.width, backbone.embed_dim)
        head = QKSHead(QKSConfig(*sizes, layers=2, queries=3, attention_heads=2, intermediate=64))
    return TaggingModel(backbone, head, TEMPLATES).eval()


@torch.no_grad()
def assert_same(one: TaggingModel, two: TaggingModel) -> None:
    height, width = one.backbone.preprocessing.size
    assert one.backbone.preprocessing == two.backbone.preprocessing
    pixels = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8)
    assert torch.equal(one.encode(pixels), two.encode(pixels))
    assert torch.equal(one.embed_labels(LABELS["seen"]), two.embed_labels(LABELS["seen"]))
    assert one.templates == two.templates
    assert one.head.kind == two.head.kind
    assert one.head.activation == two.head.activation
    assert not any(module.training for module in two.modules())


def copied(spec: BackboneSpec, folder: Path) -> BackboneSpec:
    """The same backbone in files of a folder of the test's own."""
    folder.mkdir(parents=True, exist_ok=True)
    return BackboneSpec(
        str(shutil.copy(spec.name, folder)), str(shutil.copy(spec.pretrained, folder))
    )


@pytest.mark.parametrize("kind", ["qks", "zero-shot"])
@pytest.mark.parametrize("name", ["tiny_clip", "tiny_siglip", "tiny_hf"])
@pytest.mark.parametrize("inside", [False, True])
def test_round_trip(request, tmp_path: Path, name: str, kind: str, inside: bool) -> None:
    model = make_model(request.getfixturevalue(name), kind)
    path = tmp_path / "model.pt"
    save_checkpoint(path, model, labels=LABELS, include_backbone=inside, extra={"epoch": 3})
    assert_same(model, load_checkpoint(path))
    content = read_checkpoint(path)
    assert content["labels"] == LABELS
    assert content["extra"] == {"epoch": 3}
    assert any(key.startswith("backbone.") for key in content["state_dict"]) is inside


def test_a_reference_follows_its_folder(tiny_clip, tmp_path: Path, monkeypatch) -> None:
    """The folder of a checkpoint and its backbone is moved, and read from elsewhere."""
    model = make_model(copied(tiny_clip, tmp_path / "run" / "backbone"))
    save_checkpoint(tmp_path / "run" / "qks.pt", model)
    assert read_checkpoint(tmp_path / "run" / "qks.pt")["backbone"] == {
        "name": "backbone/tiny-clip.json",
        "pretrained": "backbone/weights.pt",
    }
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert_same(model, load_checkpoint("../moved/qks.pt"))


def test_a_reference_elsewhere_lets_the_checkpoint_move(tiny_clip, tmp_path, monkeypatch) -> None:
    copied(tiny_clip, tmp_path / "backbone")
    monkeypatch.chdir(tmp_path)
    model = make_model(BackboneSpec("backbone/tiny-clip.json", "backbone/weights.pt"))
    save_checkpoint("run/qks.pt", model)
    (tmp_path / "run" / "qks.pt").rename(tmp_path / "qks.pt")
    monkeypatch.chdir("/")
    assert_same(model, load_checkpoint(tmp_path / "qks.pt"))


def test_a_hugging_face_folder_moves_with_its_checkpoint(tmp_path: Path) -> None:
    model = make_model(make_hf_folder(tmp_path / "run" / "tower"))
    save_checkpoint(tmp_path / "run" / "qks.pt", model)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert_same(model, load_checkpoint(tmp_path / "moved" / "qks.pt"))


def test_everything_inside_needs_no_other_file(tiny_clip, tmp_path: Path) -> None:
    model = make_model(copied(tiny_clip, tmp_path / "backbone"))
    save_checkpoint(tmp_path / "all.pt", model, include_backbone=True)
    shutil.rmtree(tmp_path / "backbone")
    loaded = load_checkpoint(tmp_path / "all.pt")
    assert_same(model, loaded)
    # and it can be saved whole again, its files being long gone
    save_checkpoint(tmp_path / "again.pt", loaded, include_backbone=True)
    assert_same(model, load_checkpoint(tmp_path / "again.pt"))


def test_hugging_face_tower_and_tokenizer_inside(tmp_path: Path) -> None:
    model = make_model(make_hf_folder(tmp_path / "tower"))
    save_checkpoint(tmp_path / "all.pt", model, include_backbone=True)
    shutil.rmtree(tmp_path / "tower")
    loaded = load_checkpoint(tmp_path / "all.pt")
    assert_same(model, loaded)
    save_checkpoint(tmp_path / "again.pt", loaded, include_backbone=True)
    assert_same(model, load_checkpoint(tmp_path / "again.pt"))


def test_another_backbone_can_be_named(tiny_clip, tmp_path: Path) -> None:
    model = make_model(copied(tiny_clip, tmp_path / "backbone"))
    save_checkpoint(tmp_path / "qks.pt", model)
    save_checkpoint(tmp_path / "all.pt", model, include_backbone=True)
    shutil.rmtree(tmp_path / "backbone")
    with pytest.raises(CheckpointError, match=r"tiny-clip\.json"):
        load_checkpoint(tmp_path / "qks.pt")
    for path in (tmp_path / "qks.pt", tmp_path / "all.pt"):
        assert_same(model, load_checkpoint(path, tiny_clip.name, tiny_clip.pretrained))
        with pytest.raises(CheckpointError, match=r"random.*--pretrained"):
            load_checkpoint(path, tiny_clip.name)


def test_other_weights_replace_those_inside(tiny_clip, tmp_path: Path) -> None:
    model = make_model(tiny_clip)
    save_checkpoint(tmp_path / "all.pt", model, include_backbone=True)
    weights = torch.load(tiny_clip.pretrained, weights_only=True)
    weights["visual.ln_post.bias"] += 1
    torch.save(weights, tmp_path / "other.pt")
    loaded = load_checkpoint(tmp_path / "all.pt", pretrained=str(tmp_path / "other.pt"))
    bias = loaded.backbone.model.visual.ln_post.bias
    assert torch.equal(bias, model.backbone.model.visual.ln_post.bias + 1)


def test_a_head_that_does_not_fit_the_backbone(tiny_clip, tiny_resnet, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "qks.pt", make_model(tiny_clip))
    with pytest.raises(CheckpointError, match=r"width 64 into 32.*has 32 and 32.*--backbone"):
        load_checkpoint(tmp_path / "qks.pt", tiny_resnet.name, tiny_resnet.pretrained)


def test_a_reference_that_would_lose_the_weights_is_refused(tiny_clip, tmp_path: Path) -> None:
    """A backbone without named weights (an imported checkpoint's) must go inside."""
    model = make_model(tiny_clip)
    model.backbone = Backbone.load(tiny_clip)
    model.backbone.spec = BackboneSpec(tiny_clip.name)
    with pytest.raises(CheckpointError, match="include_backbone=True"):
        save_checkpoint(tmp_path / "qks.pt", model)
    assert not (tmp_path / "qks.pt").exists()
    save_checkpoint(tmp_path / "qks.pt", model, include_backbone=True)
    assert_same(model, load_checkpoint(tmp_path / "qks.pt"))


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle", "inside"])
def test_a_pickle_of_code_is_refused_and_not_run(tiny_clip, tmp_path: Path, how: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    thing: Any = WritesAFile(marker)
    if how == "torch":
        torch.save(thing, path)
    elif how == "legacy":
        torch.save({"x": thing}, path, _use_new_zipfile_serialization=False)
    elif how == "pickle":
        path.write_bytes(pickle.dumps(thing))
    else:
        save_checkpoint(tmp_path / "good.pt", make_model(tiny_clip))
        content = torch.load(tmp_path / "good.pt", weights_only=True)
        torch.save({**content, "extra": thing}, path)
    with pytest.raises(CheckpointError, match=r"evil\.pt.*could run code"):
        load_checkpoint(path)
    assert not marker.exists()


def test_code_in_a_tokenizer_inside_is_refused_and_not_run(tmp_path: Path) -> None:
    """Hugging Face runs a tokenizer's own Python file where its settings ask for it."""
    model = make_model(make_hf_folder(tmp_path / "tower"))
    save_checkpoint(tmp_path / "all.pt", model, include_backbone=True)
    content = torch.load(tmp_path / "all.pt", weights_only=True)
    files = content["backbone_files"]
    marker = tmp_path / "marker"
    settings = json.loads(files["tokenizer_config.json"])
    settings["auto_map"] = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    settings["tokenizer_class"] = "Evil"
    config = json.loads(files["open_clip_config.json"])
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    asks = {
        "tokenizer_config.json": json.dumps(settings),
        "open_clip_config.json": json.dumps(config),
    }
    code = {
        "evil.py": f"open({str(marker)!r}, 'w')\n"
        "from transformers import PreTrainedTokenizerFast\n"
        "class Evil(PreTrainedTokenizerFast): pass\n"
    }
    for added in (asks, code, asks | code):
        torch.save({**content, "backbone_files": files | added}, tmp_path / "evil.pt")
        with pytest.raises(CheckpointError, match=r"trust_remote_code|evil\.py"):
            load_checkpoint(tmp_path / "evil.pt")
        assert not marker.exists()


@pytest.mark.parametrize("name", ["../climbs.json", "/tmp/absolute.json", "..", "", "a/b.json"])
def test_a_file_inside_cannot_climb_out(tiny_clip, tmp_path: Path, name: str) -> None:
    save_checkpoint(tmp_path / "all.pt", make_model(tiny_clip), include_backbone=True)
    content = torch.load(tmp_path / "all.pt", weights_only=True)
    content["backbone_files"][name] = "{}"
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match="should not"):
        load_checkpoint(tmp_path / "bad.pt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tiny_clip, tmp_path: Path, share: float) -> None:
    path = tmp_path / "qks.pt"
    save_checkpoint(path, make_model(tiny_clip))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"qks\.pt"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": torch.zeros(2)}, "neither"),
        ({"state_dict": {"x": torch.zeros(1)}, "epoch": 3}, "neither"),
        ([1, 2, 3], "holds a list"),
        (torch.zeros(3), "holds a Tensor"),
        ({"format": "ovml-deploy/checkpoint", "version": 2}, "version 2; this release reads"),
        ({"format": "ovml-deploy/checkpoint"}, "version None"),
        ({"format": "ovml-deploy/checkpoint", "version": 1}, "damaged"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("head", {"kind": "transformer", "settings": {}}, "Unknown head 'transformer'"),
        ("head", {"kind": "qks", "settings": {"layers": "many"}}, "settings"),
        ("head", {"kind": "qks", "settings": {"depth": 3}}, "settings"),
        ("head", {"kind": "qks", "settings": {"attention_heads": 0}}, "settings"),
        ("head", {"kind": "qks", "settings": {"layers": 3}}, "does not fit"),
        ("head", {"kind": "zero-shot", "settings": {}}, "settings"),
        ("head", None, "damaged"),
        ("backbone", {"name": 3, "pretrained": None}, "damaged"),
        ("backbone", {"name": "ViT-B-16", "pretrained": None, "more": 1}, "damaged"),
        ("backbone", {"name": "ViT-B-16", "pretrained": "openai"}, "quickgelu"),
        ("backbone", {"name": "ViT-B-16-quickgelu", "pretrained": None}, "random"),
        ("templates", ["no place for a label"], "template"),
        ("templates", [], "template"),
        ("templates", "a photo of a {}.", "damaged"),
        ("state_dict", {"head.proj": "text"}, "damaged"),
        ("state_dict", {}, "does not fit"),
    ],
)
def test_damaged_parts_are_refused(tiny_clip, tmp_path: Path, part, value, message) -> None:
    save_checkpoint(tmp_path / "qks.pt", make_model(tiny_clip))
    content = torch.load(tmp_path / "qks.pt", weights_only=True)
    if isinstance(value, dict) and part == "head" and value["kind"] == "qks":
        value = {"kind": "qks", "settings": content["head"]["settings"] | value["settings"]}
    torch.save({**content, part: value}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "bad.pt")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(CheckpointError, match="no checkpoint at"):
            load_checkpoint(path)


def test_openais_own_archive_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "ViT-B-16.pt")
    with pytest.raises(CheckpointError, match=r"ViT-B-16\.pt"):
        load_checkpoint(tmp_path / "ViT-B-16.pt")


def test_a_save_that_fails_leaves_the_old_checkpoint(tiny_clip, tmp_path, monkeypatch) -> None:
    path = tmp_path / "qks.pt"
    model = make_model(tiny_clip)
    save_checkpoint(path, model)
    before = path.read_bytes()

    def fails(content: Any, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, model)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["qks.pt"]
