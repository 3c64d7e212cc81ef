"""The papers' claims, tested on the embedded model: losses, queries, layers, projection, prompts.

    python benchmarks/ablations.py          # after `make mini`; about half an hour on 2 cores

Every head is trained as the embedded model's is but for the one thing that its row names, and
measured on task (b) of accuracy.py (mosaics and cut-outs together) by mAP with 95% bootstrap
intervals over the images. Also writes docs/attention.jpg. docs/accuracy.md holds the results.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accuracy import (
    LOCAL,
    POOLED,
    SCENES,
    SEED,
    SIZE,
    Labels,
    arguments,
    local_maximum_scores,
    pooled_scores,
)
from attention import write_attention_picture
from tables import show
from torch import Tensor

from ovml_deploy.models.checkpoint import load_checkpoint
from ovml_deploy.models.qks import QKSHead
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.training.bootstrap import bootstrap_evaluation
from ovml_deploy.training.mini.build import (
    TEMPLATES,
    WITHHELD,
    BuildOptions,
    HeadMaterial,
    embed_words,
    encode_head_material,
    head_scores,
)
from ovml_deploy.training.mini.features import Encoded, PictureReader
from ovml_deploy.training.mini.head import HeadInit, HeadTraining, random_head
from ovml_deploy.training.mini.material import Material

QUERIES, LAYERS = (1, 2, 4, 8, 12, 16), (1, 2, 4)
LOSSES = {"ranking": "ranking hinge", "bce": "BCE", "asl": "ASL"}
STACK = HeadTraining(part="stack", learning_rate=1e-4)
ATTENTION_PICTURE = Path("docs/attention.jpg")


@dataclass(frozen=True)
class Bench:
    """What every row shares: the measured model, pictures to train and test on, label embeddings."""

    model: TaggingModel
    material: Material
    head_material: HeadMaterial
    test: Encoded
    labels: Labels
    pool: Tensor

    @classmethod
    def load(cls, material: Material, mini: Path) -> "Bench":
        """Read the measured model, and encode the pictures anew."""
        model = load_checkpoint(mini / WITHHELD / "qks.pt")
        reader = PictureReader(model.backbone, material.taxonomy)
        scenes = material.test_scenes(SCENES, SIZE, SEED)
        labels = Labels.of(material)
        return cls(
            model,
            material,
            encode_head_material(model.backbone, material, BuildOptions()),
            reader.scenes(scenes["mosaics"]).plus(reader.scenes(scenes["cut-outs"])),
            labels,
            embed_words(model.backbone, labels.words),
        )

    def train(self, head: QKSHead, how: HeadTraining) -> tuple[QKSHead, list[float]]:
        """Train a head as the build does; also return what the early stopping saw."""
        words = self.material.words
        torch.manual_seed(0)
        return self.head_material.train_head(
            head, self.model.backbone, words.names, words.validation, how
        )

    def initial(self, init: HeadInit) -> QKSHead:
        """Return a head that is not yet trained; its random parts are the same each time."""
        torch.manual_seed(0)
        return self.head_material.initial(init)

    def figures(self, scores: Tensor) -> list[str]:
        """Return the mAP of the seen and of the unseen labels."""
        targets, values = self.labels.words.true_of(self.test.shown).numpy(), scores.numpy()
        parts = self.labels.parts
        return [
            str(bootstrap_evaluation(values[:, parts[part]], targets[:, parts[part]])["map"])
            for part in ("seen", "ZSL")
        ]

    def row(self, name: str, init: HeadInit, how: HeadTraining) -> list[str]:
        """Train and measure a head: a row of a table."""
        head, history = self.train(self.initial(init), how)
        return [name, *self.figures(head_scores(head, self.test, self.pool)), _course(history)]


def _course(history: list[float]) -> str:
    """What the early stopping saw: mAP of validation words before, at its best, and its epoch."""
    best = max(history)
    return f"{history[0]:.1f} -> {best:.1f} (epoch {history.index(best)})"


HEADER = ["mAP, seen labels", "mAP, unseen labels", "validation words"]


def claims(bench: Bench) -> Iterator[list[str]]:
    """From zero-shot to QKS, with each loss, from both starts."""
    single = embed_words(bench.model.backbone, bench.labels.words, TEMPLATES[:1])
    baselines = {
        f"{POOLED}, one prompt": pooled_scores(bench.test, single),
        f"{POOLED}, prompt pool": pooled_scores(bench.test, bench.pool),
        f"{LOCAL}, prompt pool": local_maximum_scores(bench.test, bench.pool),
        "QKS before training": head_scores(bench.initial(HeadInit()), bench.test, bench.pool),
    }
    for name, scores in baselines.items():
        yield [name, *bench.figures(scores), ""]
    for loss, title in LOSSES.items():
        yield bench.row(f"QKS, {title}", HeadInit(), HeadTraining(loss=loss))
    width = bench.pool.shape[1]
    for loss, title in LOSSES.items():
        torch.manual_seed(0)
        start = random_head(len(bench.head_material.directions), torch.eye(width), HeadInit())
        how = replace(STACK, loss=loss, part="stack and projection", epochs=12)
        head, history = bench.train(start, how)
        scores = head_scores(head, bench.test, bench.pool)
        yield [f"QKS from scratch, {title}", *bench.figures(scores), _course(history)]


def queries(bench: Bench) -> Iterator[list[str]]:
    for count in QUERIES:
        yield bench.row(f"m = {count}", HeadInit(queries=count), HeadTraining())


def layers(bench: Bench) -> Iterator[list[str]]:
    for count in LAYERS:
        yield bench.row(f"L = {count}", HeadInit(layers=count), STACK)


def parts(bench: Bench) -> Iterator[list[str]]:
    yield bench.row("only where the queries look", HeadInit(), HeadTraining())
    yield bench.row("the whole stack, projection frozen", HeadInit(), STACK)
    trained = replace(STACK, part="stack and projection")
    yield bench.row("the whole stack, projection trained", HeadInit(), trained)


def variety(bench: Bench) -> Iterator[list[str]]:
    """Training pictures: the mosaics come first, then scenes with stamps, then with emoji."""
    count, train = BuildOptions().scenes, bench.head_material.train
    kinds = {"mosaics": count, "and stamps": count + count // 2, "and emoji": len(train.tokens)}
    for name, end in kinds.items():
        some = replace(bench.head_material, train=Encoded(train.tokens[:end], train.shown[:end]))
        yield replace(bench, head_material=some).row(name, HeadInit(), HeadTraining())


def prompts(bench: Bench) -> Iterator[list[str]]:
    for template in TEMPLATES:
        labels = embed_words(bench.model.backbone, bench.labels.words, (template,))
        yield [f'"{template}"', *bench.figures(head_scores(bench.model.head, bench.test, labels))]
    pooled = head_scores(bench.model.head, bench.test, bench.pool)
    yield ["mean of the pool", *bench.figures(pooled)]


@torch.inference_mode()
def query_usage(bench: Bench) -> list[list[str]]:
    """How often each query answers for the labels that are in a picture, and for which labels."""
    targets = bench.labels.words.true_of(bench.test.shown) == 1
    head = bench.model.head
    _, winners = head.match(head(bench.test.tokens.float()), bench.pool)
    count = head.features_per_image
    by_label = torch.stack([((winners == q) & targets).sum(dim=0) for q in range(count)])
    rows = [["query", "share of the true labels", "labels it answers for most"]]
    for query in by_label.sum(dim=1).argsort(descending=True).tolist():
        share = 100 * by_label[query].sum() / by_label.sum()
        excess = by_label[query] - by_label.sum(dim=0) * (by_label[query].sum() / by_label.sum())
        best = [bench.labels.words.texts[i] for i in excess.topk(5).indices.tolist()]
        rows.append([str(query), f"{share:.0f}%", ", ".join(best)])
    return rows


def main() -> None:
    given = arguments(__doc__).parse_args()
    material = Material.load(given.photos, given.cutouts, given.icons)
    bench = Bench.load(material, given.mini)
    tables = {
        "claims": claims,
        "queries": queries,
        "layers": layers,
        "trained parts": parts,
        "training pictures": variety,
    }
    for title, rows in tables.items():
        show(title, [["head", *HEADER], *rows(bench)], given.write)
    show("prompts", [["label embedding", *HEADER[:2]], *prompts(bench)], given.write)
    show("query usage", query_usage(bench), given.write)
    write_attention_picture(bench.model, ATTENTION_PICTURE)
    print(f"\nwrote {ATTENTION_PICTURE}")


if __name__ == "__main__":
    main()
