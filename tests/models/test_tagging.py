"""Label embeddings (normalised or not, by head) and encoding from uint8 pixels."""

from dataclasses import replace

import pytest
import torch
from backbones import COCA, load
from torch.nn import functional

from ovml_deploy.errors import CheckpointError, LabelError
from ovml_deploy.models.backbone import Backbone
from ovml_deploy.models.heads import ZeroShotHead
from ovml_deploy.models.qks import QKSConfig, QKSHead
from ovml_deploy.models.tagging import TaggingModel

TEMPLATES = ("a photo of a {}.", "there is a {} in the scene.", "{}")
LABELS = ["cat", "traffic light", "person {} with braces"]


def qks_model(backbone: Backbone, templates=TEMPLATES) -> TaggingModel:
    torch.manual_seed(0)
    config = QKSConfig(
        backbone.width, backbone.embed_dim, layers=2, queries=4, attention_heads=2, intermediate=64
    )
    return TaggingModel(backbone, QKSHead(config), templates).eval()


def zero_shot_model(backbone: Backbone) -> TaggingModel:
    head = ZeroShotHead(backbone.logit_scale, backbone.logit_bias)
    return TaggingModel(backbone, head, TEMPLATES).eval()


def pooled_prompts(backbone: Backbone, label: str) -> torch.Tensor:
    texts = [template.replace("{}", label) for template in TEMPLATES]
    with torch.no_grad():
        return backbone.model.encode_text(backbone.tokenizer(texts))


@pytest.mark.parametrize("name", ["tiny_clip", "tiny_hf"])
def test_qks_labels_are_plain_means(request, name: str) -> None:
    backbone = load(request.getfixturevalue(name))
    embeddings = qks_model(backbone).embed_labels(LABELS)
    expected = torch.stack([pooled_prompts(backbone, label).mean(dim=0) for label in LABELS])
    torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=1e-5)
    assert ((embeddings.norm(dim=-1) - 1).abs() > 1e-2).all()  # not normalised


@pytest.mark.parametrize("name", ["tiny_clip", "tiny_siglip"])
def test_zero_shot_labels_are_unit_means_of_unit_features(request, name: str) -> None:
    backbone = load(request.getfixturevalue(name))
    embeddings = zero_shot_model(backbone).embed_labels(LABELS)
    expected = []
    for label in LABELS:
        features = pooled_prompts(backbone, label)
        mean = (features / features.norm(dim=1, keepdim=True)).mean(dim=0)
        expected.append(mean / mean.norm())
    torch.testing.assert_close(embeddings, torch.stack(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(3))


def test_many_labels_are_embedded_as_few_are(tiny_clip) -> None:
    """70 labels cross the borders of both batches."""
    model = qks_model(load(tiny_clip))
    labels = [f"label {i} {'long ' * (i % 5)}" for i in range(70)]
    together = model.embed_labels(labels)
    assert together.shape == (70, 32)
    alone = model.embed_labels(labels[65:67])
    torch.testing.assert_close(together[65:67], alone, rtol=1e-4, atol=1e-5)


def test_label_embeddings_can_be_trained_against(tiny_clip) -> None:
    model = qks_model(load(tiny_clip)).train()
    logits, _ = model.match(model.head(torch.randn(2, 17, 64)), model.embed_labels(LABELS))
    logits.sum().backward()
    assert model.head.query_tokens.grad.abs().max() > 0


def test_no_labels_is_an_error(tiny_clip) -> None:
    with pytest.raises(LabelError, match="at least one"):
        qks_model(load(tiny_clip)).embed_labels([])


@torch.no_grad()
def test_encode_starts_from_uint8_pixels(tiny_clip) -> None:
    backbone = load(tiny_clip)
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(x) for x in (backbone.preprocessing.mean, backbone.preprocessing.std))
    images = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
    model = qks_model(backbone)
    expected = model.head(backbone.image_tokens(images))
    torch.testing.assert_close(model.encode(pixels), expected, rtol=1e-4, atol=1e-5)
    zero_shot = zero_shot_model(backbone)
    expected = functional.normalize(backbone.model.encode_image(images), dim=-1)[:, None]
    torch.testing.assert_close(zero_shot.encode(pixels), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("tiny_clip", (4, 4)),  # 32 pixels in patches of 8
        ("tiny_resnet", (2, 2)),
        ("tiny_cnn", (2, 2)),
        ("tiny_siglip", (10, 10)),
    ],
)
@torch.no_grad()
def test_where_the_queries_look(request, name: str, grid: tuple[int, int]) -> None:
    """Features as ever; attention on the grid of places, whose rest is on the whole image."""
    backbone = load(request.getfixturevalue(name))
    model = qks_model(backbone)
    assert model.attention_grid == grid
    generator = torch.Generator().manual_seed(3)
    size = (2, *backbone.preprocessing.size, 3)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    features, looked = model.look(pixels)
    assert torch.equal(features, model.encode(pixels))
    tokens = backbone.image_tokens(backbone.normalise(pixels))
    _, weights = model.head.look(tokens)
    assert looked.shape == (2, 4, *grid)
    assert torch.equal(looked.flatten(2), weights[:, :, 1:])
    torch.testing.assert_close(looked.sum(dim=(2, 3)) + weights[:, :, 0], torch.ones(2, 4))


@pytest.mark.parametrize(
    ("size", "places", "grid"),
    [
        ((224, 224), 49, (7, 7)),
        ((224, 336), 77, (7, 11)),  # a stride of 32 rounds up
        ((336, 224), 77, (11, 7)),
        ((224, 448), 98, (7, 14)),
        ((224, 224), 56, None),  # no grid of a square's shape
        ((224, 224), 50, None),
    ],
)
def test_places_are_a_grid_of_the_images_shape(tiny_clip, size, places: int, grid) -> None:
    model = qks_model(Backbone.load(tiny_clip))
    model.backbone.preprocessing = replace(model.backbone.preprocessing, size=size)
    model.backbone.positions = places
    assert model.attention_grid == grid


def test_a_zero_shot_model_does_not_tell_where_it_looks(tiny_clip) -> None:
    model = zero_shot_model(load(tiny_clip))
    assert model.attention_grid is None
    with pytest.raises(CheckpointError, match=r"A zero-shot model on .* does not tell where"):
        model.look(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))


def test_a_zero_shot_head_works_where_there_are_no_tokens(make_backbone) -> None:
    """CoCa's attentional pooler gives an embedding, if no tokens; its text feature appends one."""
    backbone = load(make_backbone("tiny-coca", COCA))
    model = TaggingModel(backbone, ZeroShotHead(10.0), ("{}",)).eval()
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    labels = model.embed_labels(["cat", "a red car"])
    logits, _ = model.match(model.encode(pixels), labels)
    images, ids = backbone.normalise(pixels), backbone.tokenizer(["cat", "a red car"])
    image = backbone.model.encode_image(images, normalize=True)
    expected = 10 * image @ backbone.model.encode_text(ids, normalize=True).T
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_only_the_head_trains(tiny_clip) -> None:
    model = qks_model(load(tiny_clip)).train()
    assert model.head.training
    assert not model.backbone.model.training
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"head"}


@pytest.mark.parametrize("templates", [(), ("a photo",), ("{} and {}",), ("a {name}",)])
def test_bad_templates_are_refused(tiny_clip, templates) -> None:
    with pytest.raises(CheckpointError, match="template"):
        qks_model(load(tiny_clip), templates)
