"""Hierarchical prompts: what the text tower reads, how images meet them, what is refused."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from backbones import CONFIGS, load
from torch.nn import functional as F

from ovml_deploy.errors import CheckpointError, LabelError
from ovml_deploy.models.backbone import Backbone
from ovml_deploy.models.checkpoint import build_head, load_checkpoint, save_checkpoint
from ovml_deploy.models.prompt_tuned import PromptConfig, PromptTunedHead
from ovml_deploy.models.tagging import TaggingModel

LABELS = ("cat", "dog", "red car")
GROUPS = ("pets", "things")
TOWERS = ["tiny_clip", "tiny_resnet", "tiny_siglip", "tiny_cnn", "tiny_average", "tiny_hf"]


def make_head(backbone: Backbone, **changes: Any) -> PromptTunedHead:
    config = PromptConfig.for_backbone(
        backbone,
        labels=LABELS,
        groups=GROUPS,
        group_of=(0, 0, 1),
        shared=2,
        grouped=2,
        specific=1,
    )
    torch.manual_seed(0)
    return PromptTunedHead(replace(config, **changes), backbone.initial_projection())


def set_words(tokens: torch.Tensor, backbone: Backbone, text: str) -> None:
    """Let learned tokens ``[..., T, W]`` be those of a text."""
    (ids,) = backbone.word_ids([text])
    with torch.no_grad():
        tokens.copy_(backbone.text.token_embedding.weight[ids])


@pytest.mark.parametrize("name", TOWERS)
def test_learned_tokens_that_are_words_read_as_those_words(request, name: str) -> None:
    backbone = load(request.getfixturevalue(name))
    head = make_head(backbone)
    set_words(head.shared[0], backbone, "a photo")
    set_words(head.shared[1], backbone, "there is")
    set_words(head.grouped[0, 0], backbone, "of the")
    set_words(head.grouped[1, 0], backbone, "in the")
    set_words(head.grouped[0, 1], backbone, "the scene")
    set_words(head.grouped[1, 1], backbone, "a bench")
    for branch, words in enumerate((("small", "red", "photo"), ("cat", "car", "is"))):
        for index, word in enumerate(words):
            set_words(head.specific[branch, index], backbone, word)
    found = head.embed_labels(backbone, [*LABELS, "bench", "car"], ("{}",), {"car": "things"})
    read = [
        ("a photo of the small cat", "there is in the cat cat"),
        ("a photo of the red dog", "there is in the car dog"),
        ("a photo the scene photo red car", "there is a bench is red car"),
        ("a photo bench", "there is bench"),  # neither tuned nor in a group
        ("a photo the scene car", "there is a bench car"),
    ]
    for row, (whole, part) in zip(found, read, strict=True):
        expected = F.normalize(backbone.text_features([whole, part]), dim=-1).flatten()
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny_clip", "tiny_resnet"])
@torch.no_grad()
def test_features_are_the_images_own_and_those_of_its_places(request, name: str) -> None:
    backbone = load(request.getfixturevalue(name))
    head = make_head(backbone)
    images = torch.randn(2, 3, *backbone.preprocessing.size)
    features = head(backbone.image_tokens(images))
    assert features.shape == (2, head.features_per_image, backbone.embed_dim)
    expected = F.normalize(backbone.model.encode_image(images), dim=-1)
    torch.testing.assert_close(features[:, 0], expected, rtol=1e-4, atol=1e-5)
    if name == "tiny_clip":  # its patches, normalised and projected (as the class token is)
        visual = backbone.model.visual
        hidden = visual.transformer(visual._embeds(images))
        patches = F.normalize(visual.ln_post(hidden)[:, 1:] @ visual.proj, dim=-1)
        torch.testing.assert_close(features[:, 1:], patches, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_logits_are_those_of_the_papers(tiny_clip: Any) -> None:
    backbone = load(tiny_clip)
    head = make_head(backbone, scale=4.0, temperature=40.0)
    features = F.normalize(torch.randn(2, 5, 32), dim=-1)
    labels = F.normalize(torch.randn(3, 2, 32), dim=-1)
    found = head.outputs(features, labels.flatten(1))
    for image in range(2):
        for label in range(3):
            whole = 4.0 * float(features[image, 0] @ labels[label, 0])
            cosines = [float(place @ labels[label, 1]) for place in features[image, 1:]]
            weights = [math.exp(40.0 * cosine) for cosine in cosines]
            part = sum(w * 4.0 * c for w, c in zip(weights, cosines, strict=True)) / sum(weights)
            assert float(found["global_logits"][image, label]) == pytest.approx(whole, abs=1e-5)
            assert float(found["local_logits"][image, label]) == pytest.approx(part, abs=1e-5)
            merged = float(found["logits"][image, label])
            assert merged == pytest.approx((whole + part) / 2, abs=1e-5)
            assert int(found["winners"][image, label]) == 1 + cosines.index(max(cosines))
    logits, winners = head.match(features, labels.flatten(1))
    assert torch.equal(logits, found["logits"])
    assert torch.equal(winners, found["winners"])


@pytest.mark.parametrize("branch", ["global", "local"])
@torch.no_grad()
def test_one_branch_alone(branch: str, tiny_clip: Any) -> None:
    head = make_head(load(tiny_clip), branches=branch)
    features = F.normalize(torch.randn(2, 5, 32), dim=-1)
    found = head.outputs(features, F.normalize(torch.randn(3, 64), dim=-1))
    assert torch.equal(found["logits"], found[f"{branch}_logits"])
    assert not torch.allclose(found["global_logits"], found["local_logits"])


def test_only_the_tokens_in_a_prompt_learn(tiny_hf: Any) -> None:
    backbone = load(tiny_hf)
    head = make_head(backbone)
    prompts = head.prompts(backbone, ["cat"], "{}")
    head.encode_prompts(backbone, prompts).square().sum(dim=0)[:5].sum().backward()
    assert all(tensor.grad is None for tensor in backbone.parameters())
    assert head.shared.grad[0].abs().sum() > 0
    assert head.grouped.grad[0, 0].abs().sum() > 0
    assert head.grouped.grad[0, 1].abs().sum() == 0  # another group
    assert head.specific.grad[0, 0].abs().sum() > 0
    assert head.specific.grad[0, 1:].abs().sum() == 0  # other labels
    assert head.shared.grad[1].abs().sum() == 0  # the local half did not count


def test_the_start_reads_as_a_prompt(tiny_hf: Any) -> None:
    backbone = load(tiny_hf)
    head = make_head(backbone, shared=2, grouped=1, specific=0)
    head.start_from_words(backbone)
    expected = F.normalize(backbone.text_features(["a photo of dog"]), dim=-1)
    found = head.embed_labels(backbone, ["dog"], ("{}",))
    torch.testing.assert_close(found, expected.repeat(1, 2), rtol=1e-4, atol=1e-5)


def test_a_label_in_an_unknown_group_is_refused(tiny_clip: Any) -> None:
    backbone = load(tiny_clip)
    with pytest.raises(LabelError, match=r"no group 'fish'.*pets, things"):
        make_head(backbone).embed_labels(backbone, ["eel"], ("{}",), {"eel": "fish"})


def test_groups_of_a_head_without_any_are_refused(make_model: Any, tiny_clip: Any) -> None:
    with pytest.raises(LabelError, match="qks model has no groups"):
        make_model(tiny_clip).embed_labels(["eel"], {"eel": "fish"})


def test_a_prompt_longer_than_the_context_is_refused(tiny_siglip: Any) -> None:
    backbone = load(tiny_siglip)  # 16 tokens
    label = "a b c d e f g h i j k l m n"
    with pytest.raises(LabelError, match=r"'a b c d .*' has \d+ tokens.*reads 16"):
        make_head(backbone).embed_labels(backbone, [label], ("{}",))


def test_coca_is_refused(make_backbone: Any) -> None:
    config = {**CONFIGS["tiny-clip"], "custom_text": True}
    text = {**config["text_cfg"], "context_length": 16, "embed_cls": True}
    backbone = Backbone.load(make_backbone("tiny-appended", {**config, "text_cfg": text}))
    with pytest.raises(CheckpointError, match="prompts cannot be learned"):
        make_head(backbone).embed_labels(backbone, ["cat"], ("{}",))


def test_a_checkpoint_brings_the_prompts_back(tiny_clip: Any, tmp_path: Any) -> None:
    backbone = load(tiny_clip)
    model = TaggingModel(backbone, make_head(backbone), ("{}",))
    save_checkpoint(tmp_path / "prompts.pt", model, labels={"tuned": LABELS})
    loaded = load_checkpoint(tmp_path / "prompts.pt")
    assert isinstance(loaded.head, PromptTunedHead)
    assert loaded.head.config == model.head.config
    assert loaded.labels == {"tuned": list(LABELS)}
    names = [*LABELS, "bench"]
    found = loaded.embed_labels(names, {"bench": "pets"})
    assert torch.equal(found, model.embed_labels(names, {"bench": "pets"}))
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(loaded.encode(pixels), model.encode(pixels))


def test_a_checkpoint_of_another_backbone_is_refused(
    tiny_clip: Any, tiny_hf: Any, tmp_path: Any
) -> None:
    backbone = load(tiny_clip)
    save_checkpoint(tmp_path / "p.pt", TaggingModel(backbone, make_head(backbone), ("{}",)))
    with pytest.raises(CheckpointError, match="text tokens of width 64"):
        load_checkpoint(tmp_path / "p.pt", tiny_hf.name)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"group_of": (0, 0)}, "3 labels with 2 groups"),
        ({"group_of": (0, 0, 2)}, "none of the 2 groups"),
        ({"labels": ("cat", "cat", "dog")}, "occurs twice"),
        ({"shared": 0, "grouped": 0, "specific": 0}, "at least one is needed"),
        ({"shared": -1}, "at least one is needed"),
        ({"branches": "all"}, "branches 'all'"),
    ],
)
def test_bad_settings_are_refused(change: Any, complaint: str, tiny_clip: Any) -> None:
    settings = make_head(load(tiny_clip)).settings()
    with pytest.raises(CheckpointError, match=complaint):
        build_head("prompt-tuned", settings | change)
