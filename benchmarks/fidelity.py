"""How closely exported graphs agree with PyTorch fp32, as the table in the README.

    python benchmarks/fidelity.py          # needs the 'export' extra; about ten minutes on 2 cores

Exports models of the papers' sizes with random weights (agreement does not depend on what they
were trained on), and reads the figures of the embedded model from its bundle. The logits of a
prompt-tuned model are compared merged, and those of its global and its local branch apart. Prompts
tuned on the mini model (build/mini/withheld/prompts.pt) are exported too, where they are.
"""

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from export.onnx import export_bundle
from ovml_deploy import assets
from ovml_deploy.models.backbone import Backbone, BackboneSpec
from ovml_deploy.models.checkpoint import load_checkpoint
from ovml_deploy.models.heads import Head, ZeroShotHead
from ovml_deploy.models.qks import QKSConfig, QKSHead
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.templates import CLIP_TEMPLATES
from ovml_deploy.training.config import PromptTrainConfig
from ovml_deploy.training.prompts_run import new_model

VIT, RESNET = "ViT-B-16-quickgelu", "RN50-quickgelu"
TUNED = Path("build/mini/withheld/prompts.pt")
GROUPS = {"animals": ("cat", "dog", "horse"), "vehicles": ("car", "bicycle")}
OUTPUTS = ("features", "logits", "text_features")
TUNED_OUTPUTS = ("features", "global_logits", "local_logits", "logits", "text_features")


def image_trained_models() -> Iterator[tuple[str, TaggingModel]]:
    """Yield a zero-shot and a QKS model (7 layers, 12 queries) on CLIP ViT-B/16."""
    torch.manual_seed(0)
    backbone = Backbone.load(BackboneSpec(VIT), load_weights=False)
    heads: dict[str, Head] = {
        "CLIP ViT-B/16, zero-shot": ZeroShotHead(scale=100.0),
        "CLIP ViT-B/16, QKS (7 layers, 12 queries)": QKSHead(
            QKSConfig(), backbone.initial_projection()
        ),
    }
    for name, head in heads.items():
        yield name, TaggingModel(backbone, head, CLIP_TEMPLATES[:1]).eval()


def prompt_tuned_models() -> Iterator[tuple[str, TaggingModel]]:
    """Yield models whose prompts are as training finds them, and the mini model's, once tuned."""
    labels = [label for members in GROUPS.values() for label in members]
    for name, architecture in (("CLIP RN50", RESNET), ("CLIP ViT-B/16", VIT)):
        torch.manual_seed(0)
        backbone = Backbone.load(BackboneSpec(architecture), load_weights=False)
        yield name, new_model(backbone, PromptTrainConfig(), labels, GROUPS).eval()
    if TUNED.is_file():
        yield "mini model", load_checkpoint(TUNED)


def row(name: str, bundle: Bundle, outputs: Sequence[str] = OUTPUTS) -> str:
    """Return a line of the table: worst relative errors over all sizes."""
    worst = {figure["output"]: figure for figure in bundle.manifest["parity"]["worst"]}
    errors = [f"{worst[output]['relative_error']:.1e}" for output in outputs]
    equal = all(worst[output].get("top_labels_equal", True) for output in outputs)
    return f"| {name} | {' | '.join(errors)} | {'yes' if equal else 'no'} |"


def exported(
    models: Iterable[tuple[str, TaggingModel]], outputs: Sequence[str] = OUTPUTS
) -> Iterator[str]:
    """Export each model and yield its line of the table."""
    for name, model in models:
        with tempfile.TemporaryDirectory() as folder:
            yield row(name, export_bundle(model, Path(folder) / "bundle"), outputs)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print("| model | features | logits | text features | top-5 labels equal |")
    print("|---|---|---|---|---|")
    print(row("embedded model, QKS", Bundle.open(assets.MINI)), flush=True)
    for line in exported(image_trained_models()):
        print(line, flush=True)
    print("\n| prompt-tuned | features | global | local | merged | text features | top-5 equal |")
    print("|---|---|---|---|---|---|---|")
    for line in exported(prompt_tuned_models(), TUNED_OUTPUTS):
        print(line, flush=True)


if __name__ == "__main__":
    main()
