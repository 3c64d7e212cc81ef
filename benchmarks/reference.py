"""Makes the model that speed is measured on: ViT-B/16 with a QKS head of 7 layers and 12 queries.

    python benchmarks/reference.py [--out build/bench] [--precision fp32]

Its weights are random, which costs the same as trained ones. Writes ``vit-b16-qks.pt``, a checkpoint
with its backbone, for ``--ckpt``, and the bundle ``vit-b16-qks`` (``vit-b16-qks-bf16``...), for
``--engine``; what is there already is kept.
"""

import argparse
from pathlib import Path

import torch

from export.onnx import export_bundle
from ovml_deploy.models.backbone import Backbone, BackboneSpec
from ovml_deploy.models.checkpoint import load_checkpoint, save_checkpoint
from ovml_deploy.models.qks import QKSConfig, QKSHead
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.templates import QKS_TEMPLATES

_NAME = "vit-b16-qks"


def reference_model() -> TaggingModel:
    """Return the model, with the paper's prompt pool."""
    torch.manual_seed(0)
    backbone = Backbone.load(BackboneSpec("ViT-B-16-quickgelu"), load_weights=False)
    head = QKSHead(QKSConfig(), backbone.initial_projection())
    return TaggingModel(backbone, head, QKS_TEMPLATES).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--precision", default="fp32")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    checkpoint = given.out / f"{_NAME}.pt"
    if not checkpoint.is_file():
        save_checkpoint(checkpoint, reference_model(), include_backbone=True)
    suffix = "" if given.precision == "fp32" else f"-{given.precision}"
    bundle = given.out / f"{_NAME}{suffix}"
    if not bundle.is_dir():
        export_bundle(load_checkpoint(checkpoint), bundle, precision=given.precision)
    print(f"--engine {bundle} --ckpt {checkpoint}")


if __name__ == "__main__":
    main()
