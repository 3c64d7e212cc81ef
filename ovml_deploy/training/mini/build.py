"""The build, from start to checkpoints: towers, bridge, head, pictures to calibrate with."""

import csv
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovml_deploy.models.backbone import LOCAL_DIR, Backbone, BackboneSpec
from ovml_deploy.models.checkpoint import save_checkpoint
from ovml_deploy.models.heads import Head
from ovml_deploy.models.qks import QKSHead
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.pipelines.agreement import mean_average_precision
from ovml_deploy.templates import fill
from ovml_deploy.training.data.text_files import read_lines
from ovml_deploy.training.mini.backbone_folder import (
    EMBED_DIM,
    IMAGE_SIZE,
    finish_folder,
    start_folder,
)
from ovml_deploy.training.mini.bridge import ClassSpace, Fit, class_space, fit_text_projection
from ovml_deploy.training.mini.features import Encoded, PictureReader
from ovml_deploy.training.mini.head import (
    HeadInit,
    HeadTraining,
    calibrate_,
    initial_head,
    round_head_,
    train_head,
)
from ovml_deploy.training.mini.material import Material
from ovml_deploy.training.mini.taxonomy import FALSE, TRUE
from ovml_deploy.training.mini.towers import load_classifier
from ovml_deploy.training.mini.words import VOCABULARY_FILE, Words
from ovml_deploy.training.scenes import mosaics

#: A small pool that suits MiniLM, which was trained on sentences.
TEMPLATES = ("{}", "a {}", "a photo of a {}.")
#: The shipped fit knows every name, so that it need not be careful with words it never saw.
SHIPPED_FIT = Fit(steps=4000, dropout=0.05, learning_rate=4e-3)
#: Inside the output folder: the model that is measured, and pictures to calibrate the shipped one.
WITHHELD, CALIBRATION, CALIBRATION_FILE = "withheld", "calibration", "labels.csv"


@dataclass(frozen=True)
class BuildOptions:
    """How much to train; the defaults make the shipped model."""

    scenes: int = 1600
    validation_scenes: int = 400
    calibration_scenes: int = 400
    seed: int = 0


@dataclass(frozen=True)
class HeadMaterial:
    """All that a head is made from, encoded: ``directions [classes, D]`` and pictures."""

    directions: Tensor
    train: Encoded
    validation: Encoded

    def initial(self, init: HeadInit) -> QKSHead:
        """Return a head that is not yet trained."""
        token_norm = float(self.train.tokens[:, 1:].float().norm(dim=-1).mean())
        return initial_head(self.directions, token_norm, init).eval()

    def train_head(
        self, head: QKSHead, backbone: Backbone, words: Words, held_out: Words, how: HeadTraining
    ) -> tuple[QKSHead, list[float]]:
        """Train on ``words``; stop by the mAP of the ``held_out`` words on validation pictures."""
        labels = embed_words(backbone, held_out)
        targets = held_out.true_of(self.validation.shown).numpy()

        def quality(trained: QKSHead) -> float:
            scores = head_scores(trained, self.validation, labels)
            return 100 * mean_average_precision(scores.numpy(), targets)

        return train_head(
            head,
            self.train.tokens,
            words.true_of(self.train.shown),
            embed_words(backbone, words),
            quality,
            how,
        )


def build(material: Material, out: Path, options: BuildOptions) -> Path:
    """Write two models, and pictures to calibrate with, to ``out``; return the shipped checkpoint.

    ``out/withheld/qks.pt`` never saw a withheld word in any form: it is the one to measure.
    ``out/qks.pt`` has its image side and head; its text projection is fitted to all names, and its
    logits are scaled anew. Raises MissingDependencyError for towers it does not find.
    """
    torch.manual_seed(options.seed)
    log = _Log()
    bridge = _Bridge.start(out / WITHHELD / "backbone", material)
    log(f"read {len(bridge.texts)} texts")
    words = material.words
    known = words.names.plus(words.definitions).plus(words.foreign)
    backbone = bridge.fit(out / WITHHELD / "backbone", known, Fit())
    log(f"bridge fitted to {len(known.texts)} names, definitions and foreign words")
    head_material = encode_head_material(backbone, material, options)
    log(f"encoded {len(head_material.train.tokens)} scenes to train on")
    head, history = head_material.train_head(
        head_material.initial(HeadInit()),
        backbone,
        words.names,
        words.validation,
        HeadTraining(),
    )
    log("QKS head, mAP of validation words by epoch: " + " ".join(f"{v:.1f}" for v in history))
    _finish(out / WITHHELD / "qks.pt", backbone, head, head_material, words.names)
    everything = words.all_names.plus(words.all_definitions).plus(words.foreign)
    shutil.copytree(out / WITHHELD / "backbone", out / "backbone", dirs_exist_ok=True)
    shipped = bridge.fit(out / "backbone", everything, SHIPPED_FIT)
    vocabulary = words.all_names.lookup(read_lines(VOCABULARY_FILE))
    _finish(out / "qks.pt", shipped, head, head_material, vocabulary)
    _write_calibration(out / CALIBRATION, material, vocabulary, options)
    log(f"wrote {out / WITHHELD / 'qks.pt'} and {out / 'qks.pt'}")
    return out / "qks.pt"


def encode_head_material(
    backbone: Backbone, material: Material, options: BuildOptions
) -> HeadMaterial:
    """Encode the scenes that heads are trained on and chosen by."""
    reader = PictureReader(backbone, material.taxonomy)
    seed = options.seed
    return HeadMaterial(
        _directions(backbone),
        reader.scenes(material.training_scenes(options.scenes, reader.size, seed)),
        reader.scenes(
            material.validation_scenes(options.validation_scenes, reader.size, seed + 10)
        ),
    )


def embed_words(backbone: Backbone, words: Words, templates: tuple[str, ...] = TEMPLATES) -> Tensor:
    """Return label embeddings ``[K, D]``: means over the prompts."""
    prompts = [fill(template, text) for text in words.texts for template in templates]
    features = backbone.text_features(prompts).unflatten(0, (-1, len(templates)))
    return features.mean(dim=1).clone()


@torch.inference_mode()
def head_scores(head: Head, pictures: Encoded, labels: Tensor) -> Tensor:
    """Return a head's logits ``[images, K]``."""
    return head.match(head(pictures.tokens.float()), labels)[0]


@dataclass(frozen=True)
class _Bridge:
    """The towers, and what both fits of the text projection need.

    ``texts`` gives the row of each text in ``features [rows, prompts, C]``.
    """

    backbone: Backbone
    space: ClassSpace
    image_mean: Tensor
    class_count: int
    texts: dict[str, int]
    features: Tensor

    @classmethod
    def start(cls, folder: Path, material: Material) -> "_Bridge":
        """Read every text, and the mean of the training photographs."""
        backbone = start_folder(folder)
        rows, _ = load_classifier()
        reader = PictureReader(backbone, material.taxonomy)
        photos = (photo.open() for photo in material.photos.train)
        mean = reader.encode(photos, backbone.model.visual.trunk).mean(dim=0)
        words = material.words
        known = words.all_names.texts + words.all_definitions.texts + words.foreign.texts
        texts = tuple(dict.fromkeys(known))
        backbone.model.text.proj = torch.nn.Identity()
        prompts = [fill(template, text) for text in texts for template in TEMPLATES]
        features = backbone.text_features(prompts).unflatten(0, (-1, len(TEMPLATES)))
        row_of = {text: row for row, text in enumerate(texts)}
        space = class_space(rows, EMBED_DIM)
        return cls(backbone, space, mean, material.taxonomy.class_count, row_of, features)

    def fit(self, folder: Path, words: Words, fit: Fit) -> Backbone:
        """Fit the text projection to ``words``, write the folder, and return what it holds."""
        features = self.features[[self.texts[text] for text in words.texts]]
        truth = words.truth[:, : self.class_count] == 1
        prompts = features.shape[1]
        projection = fit_text_projection(
            features.flatten(0, 1), truth.repeat_interleave(prompts, dim=0), self.space, fit
        )
        finish_folder(folder, self.backbone, self.space.projection, self.image_mean, projection)
        return Backbone.load(BackboneSpec(f"{LOCAL_DIR}{folder}"))


def _finish(
    path: Path, backbone: Backbone, head: QKSHead, material: HeadMaterial, words: Words
) -> None:
    """Scale the logits for ``words``, round, and save."""
    pictures = material.validation
    calibrate_(head, pictures.tokens, words.true_of(pictures.shown), embed_words(backbone, words))
    round_head_(head)
    save_checkpoint(path, TaggingModel(backbone, head, TEMPLATES))


def _directions(backbone: Backbone) -> Tensor:
    """The classes' unit-norm directions, through the backbone's own (rounded) projection."""
    rows, _ = load_classifier()
    centred = F.normalize(rows - rows.mean(dim=0), dim=1)
    return F.normalize(centred @ backbone.model.visual.head.proj.weight.T, dim=1)


def _write_calibration(
    folder: Path, material: Material, words: Words, options: BuildOptions
) -> None:
    """Write a CSV of photographs and mosaics that no test sees, with their words."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = (*material.photos.train, *material.photos.validation)
    files = [str(photo.path.resolve()) for photo in photos]
    contents: list[tuple[str, ...]] = [(photo.offset,) for photo in photos]
    scenes = mosaics(photos, options.calibration_scenes, IMAGE_SIZE, options.seed + 20)
    for number, scene in enumerate(scenes):
        files.append(f"mosaic_{number:04}.png")
        scene.image.save(folder / files[-1])
        contents.append(scene.offsets)
    targets = words.true_of(material.taxonomy.shown(contents))
    texts = np.array(words.texts, dtype=object)
    with open(folder / CALIBRATION_FILE, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_path", "posi_labels", "nega_labels"])
        for name, row in zip(files, targets.numpy(), strict=True):
            cells = ("|".join(texts[row == target]) for target in (TRUE, FALSE))
            writer.writerow([name, *cells])


class _Log:
    """Prints lines with the seconds since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"[{time.monotonic() - self.start:5.0f} s] {text}", flush=True)
