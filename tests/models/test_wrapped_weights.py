"""Weights in the wrappers of training frameworks, and files that are no weights."""

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones import CONFIGS
from safetensors.torch import save_file
from torch import Tensor, nn

from ovml_deploy.errors import CheckpointError
from ovml_deploy.models.backbone import Backbone, BackboneSpec
from ovml_deploy.models.checkpoint import load_checkpoint, save_checkpoint
from ovml_deploy.models.tagging import TaggingModel

State = dict[str, Any]


class LightningObject(dict):
    """What a training script keeps beside the weights: a class that we do not know."""


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def lightning(state: State) -> State:
    hyper = LightningObject(lr=np.float64(1e-4))
    return {
        "pytorch-lightning_version": "2.5.0",
        "epoch": 3,
        "state_dict": {
            **prefixed(state, "model.module._orig_mod."),
            "criterion.weight": torch.ones(3),
        },
        "hyper_parameters": hyper,
        "callbacks": {
            "ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "path": Path("x")}
        },
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
    }


WRAPPERS: dict[str, Callable[[State], Any]] = {
    "bare": dict,
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "parallel": lambda s: prefixed(s, "module."),
    "parallel, compiled": lambda s: prefixed(s, "_orig_mod.module."),
    "net": lambda s: prefixed(s, "net."),
    "deep": lambda s: {"state_dict": prefixed(s, "model._orig_mod.module.student.")},
    "model": lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.zeros(1)}}}},
    "network": lambda s: {"net": s},
    "model_state_dict": lambda s: {"model_state_dict": s, "epoch": np.int64(3)},
    "twice": lambda s: {"checkpoint": {"model": prefixed(s, "module.")}},
    "namespace": lambda s: {"model": s, "args": argparse.Namespace(lr=1e-4, out=Path("runs"))},
    "numpy": lambda s: {**s, "mAP": np.float32(0.5), "epoch": np.int64(3), "seen": np.zeros(3)},
    "ema only": lambda s: {"state_dict_ema": prefixed(s, "module."), "epoch": 3},
    "lightning": lightning,
}


@pytest.fixture(scope="module")
def clip(make_backbone: Callable[..., Any]) -> tuple[str, dict[str, Tensor]]:
    spec = make_backbone("tiny-openai", {**CONFIGS["tiny-clip"], "quick_gelu": True}, seed=3)
    return spec.name, torch.load(spec.pretrained, weights_only=True)


def assert_equal(module: nn.Module, state: dict[str, Tensor]) -> None:
    own = module.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[name], state[name].float()) for name in state)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_clip_weights_survive_every_wrapper(clip, tmp_path: Path, caplog, wrapper: str) -> None:
    name, state = clip
    torch.save(WRAPPERS[wrapper](state), tmp_path / "clip.pt")
    loaded = Backbone.load(BackboneSpec(name, str(tmp_path / "clip.pt")))
    assert_equal(loaded.model, state)
    unused = "tensors outside 'state_dict: model.' are not used: criterion.weight."
    assert (unused in caplog.text) == (wrapper == "lightning")
    assert ("not used" in caplog.text) == (wrapper == "lightning")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_low_precision_and_safetensors(clip, tmp_path: Path, dtype, suffix: str) -> None:
    name, state = clip
    low = {key: value.to(dtype) for key, value in state.items()}
    path = tmp_path / f"clip.{suffix}"
    save_file(prefixed(low, "module."), path) if suffix == "safetensors" else torch.save(
        {"model": low, "args": LightningObject()}, path
    )
    assert_equal(Backbone.load(BackboneSpec(name, str(path))).model, low)


def official(state: dict[str, Tensor]) -> State:
    """An official QKS state dict of one layer on this CLIP."""
    from ovml_deploy.models.qks import QKSConfig, QKSHead

    torch.manual_seed(0)
    head = QKSHead(QKSConfig(64, 32, layers=1, queries=2, attention_heads=1, intermediate=64))
    kept = {k: v for k, v in state.items() if k != "visual.proj"}
    return {**head.state_dict(), **prefixed(kept, "clip_model.")}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_official_checkpoints_survive_every_wrapper(clip, tmp_path: Path, wrapper: str) -> None:
    name, state = clip
    content = official(state)
    torch.save(WRAPPERS[wrapper](content), tmp_path / "qks.pt")
    model = load_checkpoint(tmp_path / "qks.pt", name)
    assert all(torch.equal(v, content[k]) for k, v in model.head.state_dict().items())
    own = model.backbone.model.state_dict()
    assert all(torch.equal(own[k], v) for k, v in state.items() if k != "visual.proj")


@pytest.mark.parametrize("wrapper", ["model", "namespace", "twice", "names"])
def test_our_checkpoints_survive_wrappers(tiny_model: TaggingModel, tmp_path, wrapper: str) -> None:
    save_checkpoint(tmp_path / "ours.pt", tiny_model, include_backbone=True)
    content = torch.load(tmp_path / "ours.pt", weights_only=True)
    if wrapper == "names":
        content["state_dict"] = prefixed(content["state_dict"], "module._orig_mod.model.")
        wrapped: Any = content
    elif wrapper == "twice":
        wrapped = {"checkpoint": {"model": content}}
    else:
        wrapped = WRAPPERS[wrapper](content)
    torch.save(wrapped, tmp_path / "wrapped.pt")
    loaded = load_checkpoint(tmp_path / "wrapped.pt")
    expected = tiny_model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in loaded.state_dict().items())


def test_the_moving_average_is_used_unless_another_choice_is_made(clip, tmp_path, caplog) -> None:
    name, state = clip
    average = {key: value + 0.5 for key, value in state.items()}
    path = tmp_path / "both.pt"
    for content in (
        {"model": state, "model_ema": prefixed(average, "module.")},
        {"state_dict": {**prefixed(state, "model."), **prefixed(average, "model_ema.")}},
    ):
        torch.save(content, path)
        spec = BackboneSpec(name, str(path))
        assert_equal(Backbone.load(spec).model, average)
        assert "moving average" in caplog.text
        assert "--weights model" in caplog.text
        assert_equal(Backbone.load(spec, weights="model").model, state)
        assert_equal(Backbone.load(spec, weights="ema").model, average)
    torch.save({"model": state}, path)
    with pytest.raises(CheckpointError, match=r"holds no moving average .*omit --weights"):
        Backbone.load(spec, weights="ema")
    torch.save({**prefixed(state, "student."), **prefixed(average, "teacher.")}, path)
    with pytest.raises(CheckpointError, match=r"several sets of weights: 'student\.', 'teacher\.'"):
        Backbone.load(spec)


class Part(nn.Module):
    """A module of a TorchScript archive, with parameters and parts by name."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def archive(state: dict[str, Tensor], path: Path) -> None:
    """Write a TorchScript archive with OpenAI's names, half precision and plain attributes."""
    root = Part()
    for name, value in state.items():
        *parents, last = name.split(".")
        module: nn.Module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, Part())
            module = getattr(module, parent)
        module.register_parameter(last, nn.Parameter(value.half(), requires_grad=False))
    root.register_buffer("input_resolution", torch.tensor(32))
    root.register_buffer("context_length", torch.tensor(77))
    root.register_buffer("vocab_size", torch.tensor(49408))
    torch.jit.save(torch.jit.script(root), path)


def test_openais_archive_is_imported_and_its_code_is_not_run(
    clip, tiny_clip, tmp_path, monkeypatch
) -> None:
    name, state = clip
    path = tmp_path / "ViT-B-16.pt"
    archive(state, path)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the archive was loaded as code")

    monkeypatch.setattr(torch.jit, "load", refuse)
    loaded = Backbone.load(BackboneSpec(name, str(path)))
    assert_equal(loaded.model, {key: value.half() for key, value in state.items()})
    with pytest.raises(CheckpointError, match="trained with QuickGELU"):
        Backbone.load(BackboneSpec(tiny_clip.name, str(path)))


def write(content: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path)


def data(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


BAD_FILES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "lfs": ("w.pt", data(b"version https://git-lfs.github.com/spec/v1\noid"), "Git LFS pointer"),
    "html": ("w.pt", data(b"\n<!DOCTYPE html><html>"), "is an HTML page"),
    "empty": ("w.pt", data(b""), "empty file"),
    "onnx": ("w.onnx", data(b"\x08\x0a\x12\x07pytorch"), "ONNX graph"),
    "plan": ("w.plan", data(b"ftrt1234"), "TensorRT plan"),
    "plan with another name": ("w.pt", data(b"ftrt1234"), "TensorRT plan"),
    "rubbish": ("w.pt", data(b"some notes"), "could run code|damaged or truncated"),
    "rubbish safetensors": ("w.safetensors", data(b"some notes"), "no safetensors file"),
    "folder": ("folder", lambda path: path.mkdir(), "is a folder"),
    "a module": (
        "w.pt",
        write(nn.Linear(2, 2)),
        "whole torch.nn.modules.linear.Linear.*state_dict",
    ),
    "a wrapped module": ("w.pt", write({"model": nn.Linear(2, 2), "epoch": 3}), "whole torch.nn"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_files_that_are_no_weights_are_named(clip, tmp_path: Path, kind: str) -> None:
    file, make, message = BAD_FILES[kind]
    make(tmp_path / file)
    loads: list[Callable[[str], Any]] = [
        lambda path: load_checkpoint(path, clip[0]),
        lambda path: Backbone.load(BackboneSpec(clip[0], path)),
    ]
    for load in loads:
        with pytest.raises(CheckpointError, match=message) as caught:
            load(str(tmp_path / file))
        assert_short(str(caught.value))


def assert_short(message: str) -> None:
    assert "\n" not in message
    assert "weights_only" not in message
    assert len(message) < 700


def test_a_truncated_archive_is_named(clip, tmp_path: Path) -> None:
    name, state = clip
    torch.save(state, tmp_path / "w.pt")
    whole = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged or truncated") as caught:
        Backbone.load(BackboneSpec(name, str(tmp_path / "w.pt")))
    assert_short(str(caught.value))


def test_nan_weights_are_called_so(clip, tmp_path: Path) -> None:
    name, state = clip
    bad = copy.deepcopy(state)
    bad["visual.ln_post.bias"][:3] = float("nan")
    torch.save({"model": bad}, tmp_path / "w.pt")
    message = r"NaN weights in 1 tensors: 'visual\.ln_post\.bias'; 3 of 64 values"
    with pytest.raises(CheckpointError, match=message):
        Backbone.load(BackboneSpec(name, str(tmp_path / "w.pt")))
    torch.save(official(bad), tmp_path / "qks.pt")
    with pytest.raises(CheckpointError, match=r"NaN weights.*visual\.ln_post\.bias"):
        load_checkpoint(tmp_path / "qks.pt", name)


def test_weights_of_another_architecture(clip, make_backbone, tmp_path: Path) -> None:
    config = json.loads(json.dumps(CONFIGS["tiny-clip"]))
    config["vision_cfg"]["width"], config["text_cfg"]["layers"] = 32, 3
    other = make_backbone("tiny-other", config)
    torch.save(clip[1], tmp_path / "w.pt")
    message = r"do not fit.*tensors are missing \('.*', \.\.\.\).*is \[64\] in the file and \[32\]"
    with pytest.raises(CheckpointError, match=message) as caught:
        Backbone.load(BackboneSpec(other.name, str(tmp_path / "w.pt")))
    assert_short(str(caught.value))
    with pytest.raises(CheckpointError, match=r"no head.*--pretrained"):
        load_checkpoint(tmp_path / "w.pt", clip[0])
