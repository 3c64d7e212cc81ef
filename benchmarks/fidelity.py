"""How closely exported graphs agree with PyTorch fp32, as the table in the README.

    python benchmarks/fidelity.py          # needs the 'export' extra; about five minutes on 2 cores

Exports models of the papers' sizes with random weights (agreement does not depend on what they
were trained on), and reads the figures of the embedded model from its bundle.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from export.onnx import export_bundle
from ovml_deploy import assets
from ovml_deploy.models.backbone import Backbone, BackboneSpec
from ovml_deploy.models.heads import Head, ZeroShotHead
from ovml_deploy.models.qks import QKSConfig, QKSHead
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.templates import CLIP_TEMPLATES

ARCHITECTURE = "ViT-B-16-quickgelu"


def random_models() -> dict[str, TaggingModel]:
    """Return a zero-shot and a QKS model (7 layers, 12 queries) on CLIP ViT-B/16."""
    torch.manual_seed(0)
    backbone = Backbone.load(BackboneSpec(ARCHITECTURE), load_weights=False)
    heads: dict[str, Head] = {
        "CLIP ViT-B/16, zero-shot": ZeroShotHead(scale=100.0),
        "CLIP ViT-B/16, QKS (7 layers, 12 queries)": QKSHead(
            QKSConfig(), backbone.initial_projection()
        ),
    }
    return {
        name: TaggingModel(backbone, head, CLIP_TEMPLATES[:1]).eval()
        for name, head in heads.items()
    }


def row(name: str, bundle: Bundle) -> str:
    """Return a line of the table: worst relative errors over all sizes."""
    worst = {figure["output"]: figure for figure in bundle.manifest["parity"]["worst"]}
    errors = [
        f"{worst[output]['relative_error']:.1e}"
        for output in ("features", "logits", "text_features")
    ]
    equal = "yes" if worst["logits"]["top_labels_equal"] else "no"
    return f"| {name} | {' | '.join(errors)} | {equal} |"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print("| model | features | logits | text features | top-5 labels equal |")
    print("|---|---|---|---|---|")
    print(row("embedded model, QKS", Bundle.open(assets.MINI)), flush=True)
    for name, model in random_models().items():
        with tempfile.TemporaryDirectory() as folder:
            print(row(name, export_bundle(model, Path(folder) / "bundle")), flush=True)


if __name__ == "__main__":
    main()
