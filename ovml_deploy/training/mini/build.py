"""The build, from start to checkpoint: towers, bridge, head, figures."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ovml_deploy.models.backbone import LOCAL_DIR, Backbone, BackboneSpec
from ovml_deploy.models.checkpoint import save_checkpoint
from ovml_deploy.models.qks import QKSHead
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.templates import fill
from ovml_deploy.training.mini.backbone_folder import EMBED_DIM, finish_folder, start_folder
from ovml_deploy.training.mini.bridge import ClassSpace, Fit, class_space, fit_text_projection
from ovml_deploy.training.mini.features import PictureReader, Pictures
from ovml_deploy.training.mini.head import (
    HeadInit,
    calibrate_,
    initial_head,
    round_head_,
    train_head,
)
from ovml_deploy.training.mini.measure import (
    head_scores,
    local_maximum_scores,
    mean_ap,
    mean_ap_all_images,
    micro_ap,
    pooled_scores,
    tag_figures,
)
from ovml_deploy.training.mini.mosaics import PhotoSplit, read_photos, split_photos
from ovml_deploy.training.mini.towers import imagenet_offsets, load_classifier
from ovml_deploy.training.mini.wordnet import WordNet, common_nouns
from ovml_deploy.training.mini.words import (
    EVERYDAY_FILE,
    VOCABULARY_FILE,
    Words,
    WordSplit,
    read_lines,
    split_words,
)

#: A small pool that suits MiniLM, which was trained on sentences.
TEMPLATES = ("{}", "a {}", "a photo of a {}.")


#: The shipped fit knows every name, so that it need not be careful with words it never saw.
SHIPPED_FIT = Fit(steps=800, dropout=0.05, learning_rate=4e-3, generality=0.5)


@dataclass(frozen=True)
class BuildOptions:
    """How much to train; the defaults make the shipped model."""

    mosaics: int = 1600
    other_mosaics: int = 400  # for validation, and as many for testing
    epochs: int = 8
    seed: int = 0


@dataclass(frozen=True)
class _Texts:
    """``features [T, C]`` of prompts, ``truth [T, classes]``, and which are ``withheld [T]``."""

    features: Tensor
    truth: Tensor
    withheld: Tensor


@dataclass(frozen=True)
class _Bridge:
    """What both fits of the text projection need, and where they go."""

    folder: Path
    backbone: Backbone
    space: ClassSpace
    image_mean: Tensor
    texts: _Texts

    def fit(self, fit: Fit, *, all_names: bool) -> Backbone:
        """Fit the text projection, write the folder, and return what it holds."""
        texts = self.texts
        used = torch.ones_like(texts.withheld) if all_names else ~texts.withheld
        projection = fit_text_projection(texts.features[used], texts.truth[used], self.space, fit)
        finish_folder(
            self.folder, self.backbone, self.space.projection, self.image_mean, projection
        )
        return Backbone.load(BackboneSpec(f"{LOCAL_DIR}{self.folder}"))


def build(photos: Path, out: Path, options: BuildOptions) -> Path:
    """Write ``out/backbone`` and ``out/qks.pt``, print the figures; return the checkpoint's path.

    The figures are those of a text projection that never saw the validation and everyday words.
    After them it is fitted anew to all names; the image side and the head stay, but for the scale
    and bias of the logits. Raises DataError or MissingDependencyError for what it needs and does
    not find.
    """
    torch.manual_seed(options.seed)
    log = _Log()
    split = split_photos(read_photos(photos))
    offsets = imagenet_offsets()
    words = split_words(WordNet.load(), offsets, read_lines(EVERYDAY_FILE), common_nouns())
    bridge = _start_bridge(out / "backbone", split, words, log)
    reader = PictureReader(bridge.fit(Fit(), all_names=False), offsets)
    log(f"bridge fitted to {len(words.names.texts)} names and their definitions")
    validation = reader.mosaics(split.validation, options.other_mosaics, options.seed + 1)
    head = _build_head(reader, split, words, validation, options, log)
    unseen = reader.photos(split.validation).plus(validation)
    test = {
        "photographs": reader.photos(split.test),
        "mosaics": reader.mosaics(split.test, options.other_mosaics, options.seed + 2),
    }
    vocabulary = words.lookup(read_lines(VOCABULARY_FILE))
    _calibrate(head, reader.backbone, unseen, vocabulary)
    log(
        f"figures on {len(split.test)} test photographs and {options.other_mosaics} mosaics of them"
    )
    log(" everyday and validation words withheld from the fit:")
    _print_ranking(head, reader.backbone, test, words, log)
    _print_tags(head, reader.backbone, test, words.everyday, "everyday words", log)
    shipped = bridge.fit(SHIPPED_FIT, all_names=True)
    _calibrate(head, shipped, unseen, vocabulary)
    round_head_(head)
    log(" shipped fit, which knows all names (photographs unseen, words not):")
    _print_tags(head, shipped, test, vocabulary, "vocabulary", log)
    checkpoint = out / "qks.pt"
    save_checkpoint(checkpoint, TaggingModel(shipped, head, TEMPLATES))
    log(f"wrote {checkpoint}")
    return checkpoint


def _start_bridge(folder: Path, split: PhotoSplit, words: WordSplit, log: "_Log") -> _Bridge:
    backbone = start_folder(folder)
    rows, bias = load_classifier()
    reader = PictureReader(backbone, imagenet_offsets())
    everything = [*split.train, *split.validation, *split.test]
    pooled = reader.encode((photo.open() for photo in everything), backbone.model.visual.trunk)
    truth = reader.classes([[photo.offset] for photo in everything])
    top1 = truth[torch.arange(len(truth)), (pooled @ rows.T + bias).argmax(dim=1)]
    log(f"image tower, rounded: top-1 {100 * top1.float().mean():.1f}% of {len(top1)} photographs")
    mean = pooled[: len(split.train)].mean(dim=0)
    texts = _read_texts(backbone, words)
    log(f"read {len(texts.features)} texts")
    return _Bridge(folder, backbone, class_space(rows, EMBED_DIM), mean, texts)


def _read_texts(backbone: Backbone, words: WordSplit) -> _Texts:
    backbone.model.text.proj = torch.nn.Identity()
    names, others = words.all_names(), words.definitions.plus(words.foreign)
    prompts = [fill(template, name) for template in TEMPLATES for name in names.texts]
    withheld = torch.arange(len(names.texts)) >= len(words.names.texts)
    return _Texts(
        backbone.text_features([*prompts, *others.texts]),
        torch.cat([*[names.truth] * len(TEMPLATES), others.truth]),
        torch.cat([*[withheld] * len(TEMPLATES), torch.zeros(len(others.texts), dtype=torch.bool)]),
    )


def _build_head(
    reader: PictureReader,
    split: PhotoSplit,
    words: WordSplit,
    validation: Pictures,
    options: BuildOptions,
    log: "_Log",
) -> QKSHead:
    train = reader.mosaics(split.train, options.mosaics, options.seed)
    log(f"encoded {len(train.tokens) + len(validation.tokens)} mosaics")
    names = _embed(reader.backbone, words.names)
    held_out = _embed(reader.backbone, words.validation)
    truth = words.validation.true_of(validation.classes)

    def quality(head: QKSHead) -> float:
        return mean_ap(head_scores(head, validation, held_out), truth)

    token_norm = float(train.tokens[:, 1:].float().norm(dim=-1).mean())
    head, history = train_head(
        initial_head(_directions(reader.backbone), token_norm, HeadInit()).eval(),
        train.tokens,
        words.names.true_of(train.classes),
        names,
        quality,
        options.epochs,
    )
    log("QKS head, mAP of validation words by epoch: " + " ".join(f"{v:.1f}" for v in history))
    return head


def _calibrate(head: QKSHead, backbone: Backbone, pictures: Pictures, words: Words) -> None:
    calibrate_(head, pictures.tokens, words.true_of(pictures.classes), _embed(backbone, words))


def _directions(backbone: Backbone) -> Tensor:
    """The classes' unit-norm directions, through the backbone's own (rounded) projection."""
    rows, _ = load_classifier()
    centred = F.normalize(rows - rows.mean(dim=0), dim=1)
    return F.normalize(centred @ backbone.model.visual.head.proj.weight.T, dim=1)


def _embed(backbone: Backbone, words: Words) -> Tensor:
    prompts = [fill(template, text) for text in words.texts for template in TEMPLATES]
    features = backbone.text_features(prompts).unflatten(0, (-1, len(TEMPLATES)))
    return features.mean(dim=1).clone()


def _print_ranking(
    head: QKSHead, backbone: Backbone, test: dict[str, Pictures], words: WordSplit, log: "_Log"
) -> None:
    everyday, unseen = words.everyday, words.everyday.plus(words.validation)
    photos, mosaics = test["photographs"], test["mosaics"]
    labels, truth = _embed(backbone, everyday), everyday.true_of(photos.classes)
    for name, scores in _all_scores(head, photos, labels).items():
        log(
            f"  photographs, everyday words, {name}: mAP {mean_ap(scores, truth):.1f} "
            f"(over all photographs {mean_ap_all_images(scores, truth):.1f})"
        )
    unseen_labels, unseen_truth = _embed(backbone, unseen), unseen.true_of(mosaics.classes)
    for name, scores in _all_scores(head, mosaics, unseen_labels).items():
        log(f"  mosaics, unseen words, {name}: mAP {mean_ap(scores, unseen_truth):.1f}")


def _print_tags(
    head: QKSHead,
    backbone: Backbone,
    test: dict[str, Pictures],
    words: Words,
    title: str,
    log: "_Log",
) -> None:
    labels = _embed(backbone, words)
    for name, pictures in test.items():
        truth, scores = words.true_of(pictures.classes), head_scores(head, pictures, labels)
        precision, recall, count = tag_figures(scores, truth)
        log(
            f"  {name}, {title} ({len(words.texts)}) scored above 0.5: "
            f"precision {100 * precision:.0f}%, recall {100 * recall:.0f}%, "
            f"{count:.1f} tags a picture; micro-AP {micro_ap(scores, truth):.0f}"
        )


def _all_scores(head: QKSHead, pictures: Pictures, labels: Tensor) -> dict[str, Tensor]:
    return {
        "pooled zero-shot": pooled_scores(pictures, labels),
        "local maximum": local_maximum_scores(pictures, labels),
        "QKS": head_scores(head, pictures, labels),
    }


class _Log:
    """Prints lines with the seconds since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"[{time.monotonic() - self.start:5.0f} s] {text}", flush=True)
