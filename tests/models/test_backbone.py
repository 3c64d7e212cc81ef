"""Loading backbones: what is accepted, what is refused, and normalisation."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from ovml_deploy.errors import CheckpointError
from ovml_deploy.models.backbone import Backbone, BackboneSpec, model_config


class WritesAFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_it_is_frozen_and_stays_in_eval_mode(tiny_clip) -> None:
    backbone = Backbone.load(tiny_clip).train()
    assert not any(module.training for module in backbone.modules())
    assert not any(p.requires_grad for p in backbone.parameters())
    assert torch.nn.Sequential(backbone).train()[0].training is False


def test_weights_are_those_of_the_file(tiny_clip) -> None:
    saved = torch.load(tiny_clip.pretrained, weights_only=True)
    loaded = Backbone.load(tiny_clip).model.state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[key], loaded[key]) for key in saved)


@pytest.mark.parametrize("name", ["tiny_clip", "tiny_hf", "tiny_cnn"])
def test_pixels_normalised_equal_open_clips_transform(request, name: str) -> None:
    """From a picture to what the encoder sees: our two steps against open_clip's one."""
    backbone = Backbone.load(request.getfixturevalue(name))
    noise = np.random.default_rng(0).integers(0, 256, (90, 123, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    config = open_clip.transform.PreprocessCfg(**backbone.model.visual.preprocess_cfg)
    expected = open_clip.transform.image_transform_v2(config, is_train=False)(picture)
    pixels = torch.from_numpy(backbone.preprocessing(picture).copy())[None]
    torch.testing.assert_close(backbone.normalise(pixels)[0], expected, rtol=1e-5, atol=1e-5)


def test_preprocessing_of_a_folder_is_the_folders_own(tiny_hf) -> None:
    preprocessing = Backbone.load(tiny_hf).preprocessing
    assert preprocessing.mean == (0.5, 0.5, 0.5)
    assert preprocessing.std == (0.25, 0.25, 0.25)
    assert preprocessing.resize_mode == "squash"
    assert preprocessing.size == (32, 32)


def test_scale_and_bias(tiny_clip, tiny_siglip) -> None:
    clip, siglip = Backbone.load(tiny_clip), Backbone.load(tiny_siglip)
    assert clip.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert clip.logit_bias is None
    assert siglip.logit_bias == -10


def test_openai_tag_without_quickgelu_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"with QuickGELU.*'ViT-B-16-quickgelu'"):
        Backbone.load(BackboneSpec("ViT-B-16", "openai"))


def test_a_name_with_a_slash_is_checked_too() -> None:
    with pytest.raises(CheckpointError, match=r"with QuickGELU.*'ViT-B-16-quickgelu'"):
        Backbone.load(BackboneSpec("ViT-B/16", "openai"))


def test_laion_tag_with_quickgelu_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"without QuickGELU.*Use the model 'ViT-B-16'"):
        Backbone.load(BackboneSpec("ViT-B-16-quickgelu", "laion2b_s34b_b88k"))


def test_a_torchscript_archive_of_another_model_does_not_fit(tiny_clip, tmp_path: Path) -> None:
    archive = tmp_path / "ViT-B-16.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), archive)
    with pytest.raises(
        CheckpointError, match=r"do not fit.*missing.*2 are unknown \('weight', 'bias'\)"
    ):
        Backbone.load(BackboneSpec(tiny_clip.name, str(archive)))


@pytest.mark.parametrize("name", ["ViT-B-16-quickgelu", "tiny"])
def test_without_weights_it_would_be_random_so_it_is_refused(name, tiny_clip) -> None:
    name = tiny_clip.name if name == "tiny" else name
    with pytest.raises(CheckpointError, match=r"random.*--pretrained"):
        Backbone.load(BackboneSpec(name))


def test_a_folder_without_weights_is_refused(tiny_hf, tmp_path: Path) -> None:
    source = Path(tiny_hf.name.removeprefix("local-dir:"))
    for file in source.iterdir():
        if file.suffix != ".bin":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match="Required pretrained weights"):
        Backbone.load(BackboneSpec(f"local-dir:{tmp_path}"))


def test_a_folder_can_be_moved(tiny_hf, tmp_path: Path, monkeypatch) -> None:
    source = Path(tiny_hf.name.removeprefix("local-dir:"))
    target = tmp_path / "moved"
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    for name in (f"local-dir:{target}", "local-dir:moved"):
        moved = Backbone.load(BackboneSpec(name))
        torch.testing.assert_close(
            moved.text_features(["cat"]), Backbone.load(tiny_hf).text_features(["cat"])
        )


def test_unknown_model_names_similar_ones() -> None:
    with pytest.raises(CheckpointError, match=r"knows no model 'ViT-B-61'.*ViT-B-16"):
        Backbone.load(BackboneSpec("ViT-B-61", "openai"))
    with pytest.raises(CheckpointError, match="knows no model"):
        model_config("nothing")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("local-dir:/nonexistent", "nonexistent"),
        ("/nonexistent/tiny.json", "does not exist"),
        ("hf-hub:", "hf-hub"),
    ],
)
def test_missing_places(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Backbone.load(BackboneSpec(name, "weights.pt"))


@pytest.mark.parametrize("text", ["{broken", "[]", "{}", '{"embed_dim": 3}', "\udcff"])
def test_a_bad_configuration_is_refused_and_forgotten(tmp_path: Path, text: str, tiny_clip) -> None:
    """open_clip re-reads every file it was given; a bad one must not spoil those after it."""
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"bad.json"):
        Backbone.load(BackboneSpec(str(path), "weights.pt"))
    assert Backbone.load(tiny_clip).embed_dim == 32


def test_two_configurations_of_one_file_name_are_two_models(tmp_path: Path, tiny_clip) -> None:
    config = json.loads(Path(tiny_clip.name).read_text())
    other = tmp_path / Path(tiny_clip.name).name
    other.write_text(json.dumps({**config, "embed_dim": 48}))
    assert Backbone.load(BackboneSpec(str(other)), load_weights=False).embed_dim == 48
    assert Backbone.load(tiny_clip).embed_dim == 32


def test_a_configuration_that_asks_for_code_is_refused(tmp_path: Path, tiny_clip) -> None:
    config = json.loads(Path(tiny_clip.name).read_text())
    config["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    path = tmp_path / "asks.json"
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="trust_remote_code"):
        Backbone.load(BackboneSpec(str(path)), load_weights=False)


def test_weights_that_are_a_pickle_of_code_are_refused(tmp_path: Path, tiny_clip) -> None:
    marker, weights = tmp_path / "marker", tmp_path / "weights.pt"
    for write in (
        lambda thing: torch.save(thing, weights),
        lambda thing: weights.write_bytes(pickle.dumps(thing)),
    ):
        write({"logit_scale": WritesAFile(marker)})
        with pytest.raises(CheckpointError):
            Backbone.load(BackboneSpec(tiny_clip.name, str(weights)))
        assert not marker.exists()


def test_weights_of_another_model_are_refused(tiny_clip, tiny_resnet) -> None:
    with pytest.raises(CheckpointError, match=r"tiny-clip.json"):
        Backbone.load(BackboneSpec(tiny_clip.name, tiny_resnet.pretrained))


def test_weights_that_do_not_exist_are_refused(tiny_clip) -> None:
    with pytest.raises(CheckpointError, match=r"no-such-file.pt"):
        Backbone.load(BackboneSpec(tiny_clip.name, "no-such-file.pt"))


def test_paths_in_a_spec_follow_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "m.json").touch()
    (tmp_path / "w.pt").touch()
    spec = BackboneSpec(str(tmp_path / "a" / "m.json"), str(tmp_path / "w.pt"))
    assert spec.relative_to(tmp_path) == BackboneSpec("a/m.json", "w.pt")
    assert spec.relative_to(tmp_path).found_from(tmp_path) == spec
    # outside the folder: absolute, so that the file in it can be moved
    assert spec.relative_to(tmp_path / "a") == BackboneSpec("m.json", str(tmp_path / "w.pt"))
    folder = BackboneSpec(f"local-dir:{tmp_path / 'a'}")
    assert folder.relative_to(tmp_path) == BackboneSpec("local-dir:a")
    assert folder.relative_to(tmp_path).found_from(tmp_path) == folder


def test_a_folder_named_like_a_model_does_not_shadow_it(tmp_path: Path) -> None:
    for name in ("ViT-B-16-quickgelu", "openai"):
        (tmp_path / name).mkdir()
    spec = BackboneSpec("ViT-B-16-quickgelu", "openai")
    assert spec.found_from(tmp_path) == spec
    assert spec.relative_to(tmp_path) == spec
