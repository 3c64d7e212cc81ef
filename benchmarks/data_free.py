"""What tuning prompts without images buys, on the pictures of accuracy.py.

    python benchmarks/data_free.py          # after `make mini`; about 10 minutes on 2 cores

The labels are the withheld words: the text tower's bridge never saw them, nor a synonym or
definition of them. Prompts are tuned without any image, on sentences that WordNet's knowledge makes
of all words of accuracy.py (a "tabby" is an animal); docs/data-free.md holds the results.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from accuracy import SCENES, SEED, SIZE, arguments
from tables import show
from torch import Tensor
from torch.nn import functional as F

from ovml_deploy.models.backbone import Backbone
from ovml_deploy.models.checkpoint import load_checkpoint
from ovml_deploy.models.prompt_tuned import PromptTunedHead, local_logits
from ovml_deploy.pipelines.agreement import mean_average_precision
from ovml_deploy.training.bootstrap import bootstrap_difference, bootstrap_evaluation
from ovml_deploy.training.config import PromptTrainConfig
from ovml_deploy.training.interrupt import StopRequest
from ovml_deploy.training.knowledge.file import Knowledge
from ovml_deploy.training.knowledge.groups import cluster, restrict
from ovml_deploy.training.knowledge.lexical import lexical_knowledge
from ovml_deploy.training.knowledge.words import words as split
from ovml_deploy.training.losses import make_loss
from ovml_deploy.training.mini.build import TEMPLATES, WITHHELD, embed_words
from ovml_deploy.training.mini.features import Encoded, PictureReader
from ovml_deploy.training.mini.material import Material
from ovml_deploy.training.mini.words import Words
from ovml_deploy.training.prompts import PromptTrainer, SentenceData
from ovml_deploy.training.prompts_run import new_model, read_sentences
from ovml_deploy.training.reporting import Reporter
from ovml_deploy.training.trainer import Surroundings

BRANCHES = ("global", "local", "merged")
ZERO_SHOT, POOL = "zero-shot, one prompt", "zero-shot, prompt pool"
DESCRIBED, BOTH = "zero-shot, descriptions", "zero-shot, pool and descriptions"
SHARED, HIERARCHICAL = "tuned, shared tokens only (TaI-DPT)", "tuned, hierarchical"
TEMPERATURES = (5.0, 10.0, 20.0, 40.0, 80.0)
SETTINGS = PromptTrainConfig(epochs=2, labels_per_step=48)
SENTENCES = 8  # a category
NOISE = 0.2
FREE_STEPS = 100

Scores = dict[str, np.ndarray]


@dataclass(frozen=True)
class Pictures:
    """Unit-norm features ``[images, 1 + N, D]`` of pictures, with targets ``[images, K]``."""

    features: Tensor
    targets: np.ndarray

    @classmethod
    def of(cls, encoded: Encoded, words: Words) -> "Pictures":
        """Take what pictures show of some words."""
        targets = words.true_of(encoded.shown).numpy()
        return cls(F.normalize(encoded.tokens.float(), dim=-1), targets)

    def scores(self, labels: Tensor, temperature: float) -> Scores:
        """Score labels ``[K, 2 * D]`` by each branch and by both."""
        whole, parts = labels.chunk(2, dim=1)
        pooled = self.features[:, 0] @ whole.T
        some = self.features[:, 1:].split(64)
        local = torch.cat([local_logits(f @ parts.T, 1.0, temperature) for f in some])
        found = (pooled, local, (pooled + local) / 2)
        return {name: scores.numpy() for name, scores in zip(BRANCHES, found, strict=True)}


@dataclass(frozen=True)
class Bench:
    """What all rows share: the backbone, the labels, the knowledge, its sentences, the pictures."""

    backbone: Backbone
    labels: tuple[str, ...]
    knowledge: Knowledge
    sentences: SentenceData
    pictures: Mapping[str, Pictures]
    settings: PromptTrainConfig

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The labels' groups."""
        return restrict(cluster(self.knowledge), self.labels)

    def tune(self, settings: PromptTrainConfig, targets: np.ndarray | None = None) -> Tensor:
        """Tune prompts as ``settings`` say, and return the label embeddings ``[K, 2 * D]``."""
        data = self.sentences if targets is None else replace(self.sentences, targets=targets)
        with tempfile.TemporaryDirectory() as folder:
            around = surroundings(Path(folder))
            torch.manual_seed(settings.seed)
            model = new_model(self.backbone, settings, self.labels, self.groups)
            PromptTrainer(model, data, settings, around).finish(include_backbone=False)
        assert isinstance(model.head, PromptTunedHead)
        return model.embed_labels(self.labels).clone()

    def scores(self, labels: Tensor) -> dict[str, Scores]:
        """Score the labels on all pictures."""
        temperature = self.settings.temperature
        return {name: some.scores(labels, temperature) for name, some in self.pictures.items()}

    def merged(self, labels: Tensor) -> list[str]:
        """Return mAP of the merged branches on all pictures, for a row."""
        found = self.scores(labels)
        return [f"{self.mean_ap(found[name]['merged'], name):.1f}" for name in self.pictures]

    def mean_ap(self, scores: np.ndarray, pictures: str) -> float:
        """Return mAP in percent."""
        return 100 * mean_average_precision(scores, self.pictures[pictures].targets)


def distinct(*some: Words) -> list[str]:
    """Return the texts, but for those that are another in other letters: "Cardigan", a dog."""
    texts = {" ".join(split(text)): text for words in reversed(some) for text in words.texts}
    return list(texts.values())


def surroundings(folder: Path) -> Surroundings:
    return Surroundings(folder, torch.device("cpu"), Reporter(), StopRequest())


def described(backbone: Backbone, knowledge: Knowledge, labels: tuple[str, ...]) -> Tensor:
    """Return each label's mean over the sentences about it alone (RAM++, arXiv 2310.15200)."""
    broader = {category.name: set(category.broader) for category in knowledge.categories}
    about: dict[str, list[str]] = {label: [] for label in labels}
    for sentence in knowledge.sentences:
        above = set[str]().union(*(broader[name] for name in sentence.categories))
        alone = [name for name in sentence.categories if name not in above]
        if len(alone) == 1 and alone[0] in about:
            about[alone[0]].append(sentence.text)
    means = [
        F.normalize(backbone.text_features(texts or [label]), dim=-1).mean(dim=0)
        for label, texts in about.items()
    ]
    return F.normalize(torch.stack(means), dim=-1)


def methods_table(bench: Bench, found: Mapping[str, dict[str, Scores]]) -> Iterator[list[str]]:
    yield ["labels", "branch", *(f"{n}, {m}" for n in bench.pictures for m in ("mAP", "F1@3"))]
    for method, scores in found.items():
        for branch in BRANCHES:
            cells: list[str] = []
            for name, pictures in bench.pictures.items():
                figures = bootstrap_evaluation(scores[name][branch], pictures.targets)
                cells += [str(figures["map"]), str(figures["f1@3"])]
            yield [method, branch, *cells]


def margins_table(bench: Bench, found: Mapping[str, dict[str, Scores]]) -> Iterator[list[str]]:
    yield ["better", "than", *bench.pictures]
    tuned = found[HIERARCHICAL]
    pairs = [("merged", POOL, "global"), *((b, POOL, b) for b in BRANCHES)]
    pairs += [("merged", BOTH, "merged"), ("merged", SHARED, "merged")]
    for branch, other, other_branch in pairs:
        differences = [
            bootstrap_difference(tuned[n][branch], found[other][n][other_branch], p.targets)
            for n, p in bench.pictures.items()
        ]
        yield [
            f"{HIERARCHICAL}, {branch}",
            f"{other}, {other_branch}",
            *map(str, differences),
        ]


def free_labels(bench: Bench, start: Tensor) -> Tensor:
    """Learn the label embeddings themselves from the sentences: more than any prompt can say."""
    labels = torch.nn.Parameter(start.repeat(2, 1, 1))
    optimizer = torch.optim.Adam([labels], lr=1e-3)
    loss, data, settings = make_loss("ranking"), bench.sentences, bench.settings
    for seed in range(FREE_STEPS):
        chosen = np.random.default_rng(seed).choice(data.train, 2 * settings.batch_size)
        whole, parts = F.normalize(labels, dim=-1)
        features, tokens, real = data.features.batch(torch.from_numpy(chosen))
        local = local_logits(tokens @ parts.T, settings.scale, settings.text_temperature, real)
        targets = torch.from_numpy(data.targets[chosen])
        total = loss(settings.scale * features @ whole.T, targets) + loss(local, targets)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return F.normalize(labels.detach(), dim=-1).transpose(0, 1).flatten(1)


def ablations(bench: Bench, pool: Tensor) -> Iterator[list[str]]:
    base = bench.settings
    yield ["what is changed", *bench.pictures]
    for name, settings in {
        "no group tokens": replace(base, grouped=0, shared=base.shared + base.grouped),
        "no tokens of a label's own": replace(base, specific=0),
    }.items():
        yield [name, *bench.merged(bench.tune(settings))]
    yield ["free label embeddings, no prompts", *bench.merged(free_labels(bench, pool))]


def noise(bench: Bench, hierarchical: Tensor) -> Iterator[list[str]]:
    """Give a share of the sentences the categories of other sentences."""
    random = np.random.default_rng(0)
    clean = bench.sentences.targets
    wrong = random.choice(len(clean), round(NOISE * len(clean)), replace=False)
    noisy = clean.copy()
    noisy[wrong] = clean[random.permutation(wrong)]
    yield ["loss", "sentences", *bench.pictures]
    for loss, name in (("ranking", "order (ranking)"), ("bce", "BCE")):
        settings = replace(bench.settings, loss=loss)
        without = hierarchical if loss == bench.settings.loss else bench.tune(settings)
        yield [name, "as they are", *bench.merged(without)]
        share = f"{NOISE:.0%} with wrong categories"
        yield [name, share, *bench.merged(bench.tune(settings, noisy))]


def choose_temperature(
    backbone: Backbone, material: Material, reader: PictureReader
) -> tuple[float, list[list[str]]]:
    """Choose tau for images by zero-shot on the validation words and pictures."""
    words = material.words.validation
    scenes = material.validation_scenes(SCENES // 2, SIZE, SEED)
    pictures = Pictures.of(reader.scenes(scenes), words)
    labels = F.normalize(embed_words(backbone, words), dim=-1).repeat(1, 2)
    rows, found = [["tau", "local", "merged"]], {}
    for temperature in TEMPERATURES:
        scores = pictures.scores(labels, temperature)
        local, merged = (
            100 * mean_average_precision(scores[branch], pictures.targets)
            for branch in ("local", "merged")
        )
        found[temperature] = merged
        rows.append([f"{temperature:.0f}", f"{local:.1f}", f"{merged:.1f}"])
    return max(found, key=found.__getitem__), rows


def main() -> None:
    given = arguments(__doc__).parse_args()
    material = Material.load(given.photos, given.cutouts, given.icons)
    backbone = load_checkpoint(given.mini / WITHHELD / "qks.pt").backbone
    reader = PictureReader(backbone, material.taxonomy)
    temperature, rows = choose_temperature(backbone, material, reader)
    show("temperature", rows, given.write)
    settings = replace(SETTINGS, temperature=temperature)
    words = material.words.unseen_labels()
    scenes = material.test_scenes(SCENES, SIZE, SEED)
    pictures = {
        "photographs": reader.scenes(scenes["photographs"]),
        "scenes": reader.scenes(scenes["mosaics"]).plus(reader.scenes(scenes["cut-outs"])),
    }
    knowledge = lexical_knowledge(
        distinct(words, material.words.seen_labels), sentences_per_category=SENTENCES
    )
    with tempfile.TemporaryDirectory() as folder:
        around = surroundings(Path(folder))
        sentences = read_sentences(backbone, knowledge, words.texts, settings, around)
    bench = Bench(
        backbone,
        words.texts,
        knowledge,
        sentences,
        {name: Pictures.of(encoded, words) for name, encoded in pictures.items()},
        settings,
    )
    single, pool = (
        F.normalize(embed_words(backbone, words, templates), dim=-1)
        for templates in (TEMPLATES[:1], TEMPLATES)
    )
    texts = described(backbone, knowledge, words.texts)
    labels = {
        ZERO_SHOT: single.repeat(1, 2),
        POOL: pool.repeat(1, 2),
        DESCRIBED: texts.repeat(1, 2),
        BOTH: F.normalize(pool + texts, dim=-1).repeat(1, 2),
        SHARED: bench.tune(replace(settings, grouped=0, specific=0)),
        HIERARCHICAL: bench.tune(settings),
    }
    found = {method: bench.scores(some) for method, some in labels.items()}
    show("methods", [*methods_table(bench, found)], given.write)
    show("margins", [*margins_table(bench, found)], given.write)
    show("noise", [*noise(bench, labels[HIERARCHICAL])], given.write)
    show("ablations", [*ablations(bench, pool)], given.write)


if __name__ == "__main__":
    main()
