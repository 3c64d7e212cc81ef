"""How good the embedded model is, with 95% bootstrap intervals over the images.

    python benchmarks/accuracy.py                       # the model that `make mini` built, and the bundle
    python benchmarks/accuracy.py --engine build/qks    # any bundle on the same pictures and words

Task (a): single photographs, labelled with everything above their WordNet meaning. Task (b): mosaics
of one to four photographs, and photographs with one to three cut-outs pasted on; "drawings" are
emoji in a style that no training saw. Labels are split into seen and unseen by meaning; no test
picture was trained on. Needs what `make mini` needs; see docs/accuracy.md for the results.
"""

import argparse
import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tables import show
from torch import Tensor
from torch.nn import functional as F

from ovml_deploy import assets
from ovml_deploy.models.checkpoint import load_checkpoint
from ovml_deploy.models.heads import Head
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.pipelines.agreement import average_precision, mean_average_precision
from ovml_deploy.pipelines.logits import collect_logits
from ovml_deploy.runtime.results import TagResult
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.training.bootstrap import Interval, bootstrap_difference, bootstrap_evaluation
from ovml_deploy.training.data.text_files import read_lines
from ovml_deploy.training.mini.backbone_folder import IMAGE_SIZE
from ovml_deploy.training.mini.build import TEMPLATES, WITHHELD, embed_words, head_scores
from ovml_deploy.training.mini.features import Encoded, PictureReader
from ovml_deploy.training.mini.material import Material
from ovml_deploy.training.mini.towers import load_classifier
from ovml_deploy.training.mini.words import VOCABULARY_FILE, Words

SCENES, SIZE, SEED = 400, IMAGE_SIZE, 2
RIDGE = 10.0
METRICS = ("map", "p@3", "r@3", "f1@3", "p@5", "r@5", "f1@5")
TITLES = {"map": "mAP", **{m: m.upper() for m in METRICS[1:]}}
POOLED, LOCAL, QKS = "pooled zero-shot", "local maximum", "QKS"

Scores = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Labels:
    """Seen labels first, then unseen ones; ``parts`` are columns of targets and scores."""

    words: Words
    seen: int

    @classmethod
    def of(cls, material: Material) -> "Labels":
        """Return one name for each meaning, seen or withheld."""
        seen = material.words.seen_labels
        return cls(seen.plus(material.words.unseen_labels()), len(seen.texts))

    @property
    def parts(self) -> dict[str, slice]:
        """The columns of each set of labels of the protocol."""
        return {"seen": slice(self.seen), "ZSL": slice(self.seen, None), "GZSL": slice(None)}


def pooled_scores(pictures: Encoded, labels: Tensor) -> Tensor:
    """Score by the cosine of the pooled embedding: zero-shot."""
    pooled = pictures.tokens[:, 0].float()
    return F.normalize(pooled, dim=-1) @ F.normalize(labels, dim=-1).T


def local_maximum_scores(pictures: Encoded, labels: Tensor) -> Tensor:
    """Score by the best cosine over all tokens, the pooled one included."""
    unit = F.normalize(labels, dim=-1).T
    tokens = pictures.tokens.float().unbind(dim=1)
    return torch.stack([F.normalize(token, dim=-1) @ unit for token in tokens]).amax(dim=0)


@dataclass(frozen=True)
class Methods:
    """All ways to score some words, embedded once: by one prompt and by the pool ``[K, D]``."""

    head: Head
    single: Tensor
    pool: Tensor

    @classmethod
    def of(cls, model: TaggingModel, words: Words) -> "Methods":
        """Embed the words."""
        single = embed_words(model.backbone, words, TEMPLATES[:1])
        return cls(model.head, single, embed_words(model.backbone, words))

    def scores(self, pictures: Encoded) -> Scores:
        """Score with every method; QKS last."""
        scores = {
            f"{POOLED}, one prompt": pooled_scores(pictures, self.single),
            POOLED: pooled_scores(pictures, self.pool),
            LOCAL: local_maximum_scores(pictures, self.pool),
            QKS: head_scores(self.head, pictures, self.pool),
        }
        return {name: tensor.numpy() for name, tensor in scores.items()}


def task_table(scores: Scores, targets: np.ndarray, labels: Labels) -> list[list[str]]:
    """Return rows of all metrics, for every part of the labels and every method."""
    rows = [["labels", "method", *(TITLES[metric] for metric in METRICS)]]
    for part, columns in labels.parts.items():
        for name, values in scores.items():
            found = bootstrap_evaluation(values[:, columns], targets[:, columns])
            rows.append([part, name, *(str(found[metric]) for metric in METRICS)])
    return rows


def margin_row(task: str, scores: Scores, targets: np.ndarray, columns: slice) -> list[str]:
    """Return by how much QKS beats the better of the baselines that use the prompt pool."""
    part = targets[:, columns]
    baselines = {
        name: mean_average_precision(scores[name][:, columns], part) for name in (POOLED, LOCAL)
    }
    best = max(baselines, key=baselines.__getitem__)
    difference = bootstrap_difference(scores[QKS][:, columns], scores[best][:, columns], part)
    return [task, best, str(difference)]


@torch.inference_mode()
def ridge_scores(model: TaggingModel, material: Material, words: Words) -> np.ndarray:
    """Score test photographs through a ridge regression from MiniLM to the classifier's rows.

    The plainest bridge: fitted to the same training names, each to the mean row of its classes.
    """
    rows, _ = load_classifier()
    centre = rows.mean(dim=0)
    names = material.words.names
    true = (names.truth[:, : len(rows)] == 1).float()
    meant = true @ (rows - centre) / true.sum(dim=1, keepdim=True).clamp(min=1)
    backbone = copy.deepcopy(model.backbone)
    backbone.model.text.proj = torch.nn.Identity()
    texts = F.normalize(embed_words(backbone, names), dim=1)
    gram = texts.T @ texts + RIDGE * torch.eye(texts.shape[1])
    bridge = torch.linalg.solve(gram, texts.T @ meant)
    reader = PictureReader(backbone, material.taxonomy)
    photographs = (photo.open() for photo in material.photos.test)
    pooled = reader.encode(photographs, backbone.model.visual.trunk)
    labels = F.normalize(embed_words(backbone, words), dim=1) @ bridge
    images = F.normalize(pooled - pooled.mean(dim=0), dim=1)
    return (images @ F.normalize(labels, dim=1).T).numpy()


def everyday_table(
    model: TaggingModel, photographs: Encoded, material: Material
) -> list[list[str]]:
    """Return the mAP of the everyday words: of photographs that show one, and of all."""
    words = material.words.everyday
    targets = words.true_of(photographs.shown).numpy()
    shown = int((targets == 1).any(axis=0).sum())
    rows = [["method", f"mAP of {shown} words", "the same over all photographs"]]
    floor = {"ridge regression, pooled (floor)": ridge_scores(model, material, words)}
    for name, scores in (floor | {**Methods.of(model, words).scores(photographs)}).items():
        found = bootstrap_evaluation(scores, targets)["map"]
        columns = zip(scores.T, targets.T, strict=True)
        every = np.nanmean([average_precision(score, target) for score, target in columns])
        rows.append([name, str(found), f"{100 * every:.1f}"])
    return rows


def tag_row(title: str, results: Iterable[TagResult], words: Words, shown: Tensor) -> list[str]:
    """Return precision, recall and number of the tags that were given, with intervals."""
    column = {text: index for index, text in enumerate(words.texts)}
    targets = words.true_of(shown).numpy()
    counts = []
    for result, row in zip(results, targets, strict=True):
        truth = np.array([row[column[tag.label]] for tag in result], dtype=int)
        counts.append(((truth == 1).sum(), (truth >= 0).sum(), (row == 1).sum(), len(truth)))
    right, known, true, given = np.array(counts).T
    return [
        title,
        str(_ratio(right, known)),
        str(_ratio(right, true)),
        f"{given.mean():.1f}",
        f"{100 * (given == 0).mean():.0f}%",
    ]


def _ratio(above: np.ndarray, below: np.ndarray, resamples: int = 1000) -> Interval:
    """Return sum(above) / sum(below) with its interval over resampled images."""
    drawn = np.random.default_rng(0).integers(len(above), size=(resamples, len(above)))
    values = above[drawn].sum(axis=1) / below[drawn].sum(axis=1)
    low, high = np.percentile(values, (2.5, 97.5))
    return Interval(above.sum() / below.sum(), low, high)


def bundle_table(engine: Path, material: Material) -> list[list[str]]:
    """Tag test pictures with a calibrated bundle, as `ovml-deploy tag` does by default."""
    tagger = Tagger.load(engine)
    words = material.words.all_names.lookup(read_lines(VOCABULARY_FILE))
    rows = [["pictures", "precision", "recall", "tags a picture", "no tag"]]
    for name, scenes in material.test_scenes(SCENES, SIZE, SEED).items():
        pictures = [*scenes]
        results = tagger.tag_many(scene.image for scene in pictures)
        shown = material.taxonomy.shown([scene.offsets for scene in pictures])
        rows.append(tag_row(name, results, words, shown))
    return rows


def engine_tables(engine: Path, material: Material) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield the table of each task for a bundle alone."""
    tagger, labels = Tagger.load(engine), Labels.of(material)
    vocabulary = tagger.make_vocabulary(labels.words.texts)
    for name, scenes in material.test_scenes(SCENES, SIZE, SEED).items():
        pictures = [*scenes]
        encoded = tagger.encode_many(scene.image for scene in pictures)
        logits, _, _ = collect_logits(tagger, vocabulary, encoded, len(pictures))
        shown = material.taxonomy.shown([scene.offsets for scene in pictures])
        targets = labels.words.true_of(shown).numpy()
        yield name, task_table({str(engine): logits}, targets, labels)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of where the material and the built model are."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--photos", type=Path, default=Path("../shared/photos"))
    parser.add_argument("--cutouts", type=Path, default=Path("build/cutouts"))
    parser.add_argument("--icons", type=Path, default=Path("build/icons"))
    parser.add_argument("--mini", type=Path, default=Path("build/mini"))
    parser.add_argument("--write", type=Path, help="a document to put the tables into")
    return parser


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--engine", type=Path, help="measure only this bundle")
    given = parser.parse_args()
    material = Material.load(given.photos, given.cutouts, given.icons)
    if given.engine:
        for name, table in engine_tables(given.engine, material):
            show(name, table)
        return
    model = load_checkpoint(given.mini / WITHHELD / "qks.pt")
    reader, labels = PictureReader(model.backbone, material.taxonomy), Labels.of(material)
    methods = Methods.of(model, labels.words)
    encoded = {
        name: reader.scenes(scenes)
        for name, scenes in material.test_scenes(SCENES, SIZE, SEED).items()
    }
    margins = [["pictures", "labels", "against", "QKS is better by, mAP"]]
    for name, pictures in encoded.items():
        scores = methods.scores(pictures)
        targets = labels.words.true_of(pictures.shown).numpy()
        show(name, task_table(scores, targets, labels), given.write)
        for part, columns in labels.parts.items():
            task, *rest = margin_row(name, scores, targets, columns)
            margins.append([task, part, *rest])
    show("margins", margins, given.write)
    everyday = everyday_table(model, encoded["photographs"], material)
    show("everyday words", everyday, given.write)
    show("tags of the shipped bundle", bundle_table(assets.MINI, material), given.write)


if __name__ == "__main__":
    main()
