"""Draws where the query that answers for a label looks, on a mosaic of the sample photographs."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ovml_deploy import assets
from ovml_deploy.models.qks import QKSHead
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.training.scenes import make_mosaic

_SAMPLES = ("cat.jpg", "coffee.jpg", "flower.jpg", "rocket.jpg")
#: Labels to draw: (label, seen or unseen in training).
_LABELS = (("tabby", "seen"), ("cat", "unseen"), ("espresso", "seen"), ("flower", "unseen"))
_SIZE, _CAPTION = 336, 28


def write_attention_picture(model: TaggingModel, path: Path) -> None:
    """Write a JPEG: the mosaic, then for each label the mosaic under its query's attention."""
    folder = {p.name: p for p in assets.sample_photographs()}
    images = [Image.open(folder[name]).convert("RGB") for name in _SAMPLES]
    mosaic = make_mosaic(images, _SIZE, upright=True)
    panels = [("the picture", mosaic)]
    attention, winners, scores = _look(model, mosaic, [label for label, _ in _LABELS])
    for (label, kind), query, score in zip(_LABELS, winners, scores, strict=True):
        title = f'"{label}" ({kind}), query {query}: {score:.2f}'
        panels.append((title, _overlay(mosaic, attention[query])))
    sheet = Image.new("RGB", (len(panels) * _SIZE, _SIZE + _CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (title, panel) in enumerate(panels):
        sheet.paste(panel, (column * _SIZE, _CAPTION))
        draw.text((column * _SIZE + 6, 5), title, fill="black", font=ImageFont.load_default(15))
    sheet.save(path, quality=85)


@torch.inference_mode()
def _look(
    model: TaggingModel, image: Image.Image, labels: list[str]
) -> tuple[np.ndarray, list[int], list[float]]:
    """Return attention ``[M, side, side]`` of the queries, and each label's winner and score."""
    pixels = torch.from_numpy(model.backbone.preprocessing(image)[None].copy())
    tokens = model.backbone.image_tokens(model.backbone.normalise(pixels))
    logits, winners = model.head.match(model.head(tokens), model.embed_labels(labels))
    weights = _attention(model.head, tokens)[0, :, 1:]  # the first token is the pooled one
    side = round(weights.shape[-1] ** 0.5)
    return (
        weights.unflatten(-1, (side, side)).numpy(),
        winners[0].tolist(),
        logits[0].sigmoid().tolist(),
    )


def _attention(head: QKSHead, tokens: torch.Tensor) -> torch.Tensor:
    """Return the first layer's cross-attention ``[B, M, N]`` (a single head)."""
    layer = head.net.encoder.layer[0]
    hidden = head.net.embeddings(head.query_tokens.expand(len(tokens), -1, -1))
    hidden = layer.attention(hidden, hidden)
    cross = layer.crossattention.self
    similarity = cross.query(hidden) @ cross.key(tokens).transpose(1, 2)
    return (similarity / tokens.shape[-1] ** 0.5).softmax(dim=-1)


def _overlay(image: Image.Image, weights: np.ndarray) -> Image.Image:
    heat = Image.fromarray((255 * weights / weights.max()).astype(np.uint8))
    mask = heat.resize(image.size, Image.Resampling.BICUBIC)
    dim = Image.blend(image, Image.new("RGB", image.size, "black"), 0.75)
    return Image.composite(image, dim, mask)
