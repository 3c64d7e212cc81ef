"""Where the query that answers for a label looks: drawn by ablations.py, and measured by itself.

    python benchmarks/attention.py          # after `make mini`; a few minutes on 2 cores

The pictures are mosaics of four test photographs. For each photograph, of the labels that are true
of it alone the one with the highest logit is taken, and of the attention that its winning query
pays to places (the pooled token left out) the share that lies in the photograph's quarter. 25% is
chance; in brackets, of how many photographs it is more than half. Compared are the first layer, the
last, and the mean of all: of the embedded model's head, and of deeper ones that are trained here as
in ablations.py, from scratch and from its start, in which later layers begin as the identity.
"""

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tables import show
from torch import Tensor

from ovml_deploy import assets
from ovml_deploy.models.checkpoint import load_checkpoint
from ovml_deploy.models.qks import QKSHead
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.training.mini.build import (
    WITHHELD,
    BuildOptions,
    HeadMaterial,
    embed_words,
    encode_head_material,
)
from ovml_deploy.training.mini.features import Encoded, PictureReader
from ovml_deploy.training.mini.head import HeadInit, HeadTraining, random_head
from ovml_deploy.training.mini.material import Material
from ovml_deploy.training.scenes import Scene, make_mosaic

_SAMPLES = ("cat.jpg", "coffee.jpg", "flower.jpg", "rocket.jpg")
#: Labels to draw: (label, seen or unseen in training).
_LABELS = (("tabby", "seen"), ("cat", "unseen"), ("espresso", "seen"), ("flower", "unseen"))
_SIZE, _CAPTION = 336, 28
_MOSAICS, _TILES, _SEED = 200, 4, 3
_DEEPER = (2, 4)  # layers
#: How the deeper heads are trained, as in ablations.py.
_STACK = HeadTraining(part="stack", learning_rate=1e-4)
_SCRATCH = replace(_STACK, part="stack and projection", epochs=12)


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
    """Return attention ``[M, h, w]`` of the queries, and each label's winner and score."""
    pixels = torch.from_numpy(model.backbone.preprocessing(image)[None].copy())
    features, attention = model.look(pixels)
    logits, winners = model.match(features, model.embed_labels(labels))
    return attention[0].numpy(), winners[0].tolist(), logits[0].sigmoid().tolist()


def _overlay(image: Image.Image, weights: np.ndarray) -> Image.Image:
    heat = Image.fromarray((255 * weights / weights.max()).astype(np.uint8))
    mask = heat.resize(image.size, Image.Resampling.BICUBIC)
    dim = Image.blend(image, Image.new("RGB", image.size, "black"), 0.75)
    return Image.composite(image, dim, mask)


@dataclass(frozen=True)
class Mosaics:
    """Encoded mosaics, label embeddings ``[K, D]``, and which labels are true of one quarter alone.

    ``own`` is bool ``[mosaics, quarters, K]``; quarters are top left, top right, and so on.
    """

    pictures: Encoded
    labels: Tensor
    own: Tensor

    @classmethod
    def draw(cls, material: Material, model: TaggingModel) -> "Mosaics":
        """Encode mosaics of four test photographs each."""
        reader, generator = PictureReader(model.backbone, material.taxonomy), random.Random(_SEED)
        chosen = [generator.sample(material.photos.test, _TILES) for _ in range(_MOSAICS)]
        words = material.words.seen_labels.plus(material.words.unseen_labels())

        def scenes() -> Iterator[Scene]:
            for photos in chosen:
                images = [photo.open() for photo in photos]
                offsets = tuple(photo.offset for photo in photos)
                yield Scene(make_mosaic(images, reader.size, upright=True), offsets)

        alone = material.taxonomy.shown([(photo.offset,) for some in chosen for photo in some])
        targets = words.true_of(alone).unflatten(0, (-1, _TILES))
        others = (targets != 0).sum(dim=1, keepdim=True) == 1  # true or unknown of no other
        labels = embed_words(model.backbone, words)
        return cls(reader.scenes(scenes()), labels, (targets == 1) & others)

    @torch.inference_mode()
    def shares(self, head: QKSHead) -> dict[str, np.ndarray]:
        """Return of each way to read a head's attention the shares in the right quarter."""
        layers: list[Tensor] = []

        def note(module: Any, inputs: tuple[Tensor, Tensor], _: Tensor) -> None:
            layers.append(module.look(*inputs)[1][:, :, 1:])  # token 0 is the pooled one

        hooks = [
            layer.crossattention.self.register_forward_hook(note)
            for layer in cast(Any, head.net.encoder.layer)
        ]
        logits, winners = head.match(head(self.pictures.tokens.float()), self.labels)
        for hook in hooks:
            hook.remove()
        best = logits[:, None].masked_fill(~self.own, -torch.inf).argmax(dim=2)
        queries = winners.gather(1, best)  # [mosaics, quarters]
        known = self.own.any(dim=2).numpy()
        ways = {"first": layers[0], "last": layers[-1], "mean": torch.stack(layers).mean(dim=0)}
        return {name: _in_quarter(weights, queries)[known] for name, weights in ways.items()}


def _in_quarter(weights: Tensor, queries: Tensor) -> np.ndarray:
    """Return of weights ``[B, M, h*w]`` the share of query (b, t) in quarter t, ``[B, 4]``."""
    side = round(weights.shape[-1] ** 0.5)
    chosen = weights.gather(1, queries[..., None].expand(-1, -1, weights.shape[-1]))
    # each place in four, for the middle of an odd number of them belongs to two quarters
    fine = chosen.unflatten(-1, (side, side)).repeat_interleave(2, -1).repeat_interleave(2, -2)
    quarters = fine.unflatten(-1, (2, side)).unflatten(-3, (2, side)).sum(dim=(-1, -3)).flatten(-2)
    shares = quarters / quarters.sum(dim=-1, keepdim=True)
    return shares.diagonal(dim1=1, dim2=2).numpy()


def _heads(
    model: TaggingModel, material: Material, prepared: HeadMaterial
) -> Iterator[tuple[str, QKSHead]]:
    assert isinstance(model.head, QKSHead)
    yield "embedded model, 1 layer", model.head
    words, width = material.words, model.backbone.embed_dim

    def trained(start: QKSHead, how: HeadTraining) -> QKSHead:
        torch.manual_seed(0)
        return prepared.train_head(start, model.backbone, words.names, words.validation, how)[0]

    for layers in _DEEPER:
        init = HeadInit(layers=layers)
        torch.manual_seed(0)
        start = random_head(len(prepared.directions), torch.eye(width), init)
        yield f"{layers} layers, from scratch", trained(start, _SCRATCH)
        torch.manual_seed(0)
        yield (
            f"{layers} layers, all but one start as nothing",
            trained(prepared.initial(init), _STACK),
        )


def _cell(shares: np.ndarray) -> str:
    """Mean share, and how often more than half lies there."""
    return f"{100 * shares.mean():.1f}% ({100 * (shares > 0.5).mean():.0f}%)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=Path("../shared/photos"))
    parser.add_argument("--cutouts", type=Path, default=Path("build/cutouts"))
    parser.add_argument("--icons", type=Path, default=Path("build/icons"))
    parser.add_argument("--mini", type=Path, default=Path("build/mini"))
    given = parser.parse_args()
    material = Material.load(given.photos, given.cutouts, given.icons)
    model = load_checkpoint(given.mini / WITHHELD / "qks.pt")
    mosaics = Mosaics.draw(material, model)
    prepared = encode_head_material(model.backbone, material, BuildOptions())
    rows = [["head", "first layer", "last layer", "mean of layers"]]
    for name, head in _heads(model, material, prepared):
        found = mosaics.shares(head)
        rows.append([name, *(_cell(found[way]) for way in ("first", "last", "mean"))])
        print(" | ".join(rows[-1]), flush=True)
    show("attention in the right quarter", rows)


if __name__ == "__main__":
    main()
