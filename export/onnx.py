"""Checkpoint -> bundle: ``python -m export.onnx --ckpt qks.pt [--out build/qks]``."""

import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import onnx
import open_clip
import torch

import ovml_deploy
from export.graphs import OPSET, export_encoder, export_matcher, export_text_encoder
from export.learned import check_groups, learned_tokens, tuned_labels
from export.pictures import write_pictures
from export.precision import PRECISIONS, lower_encoder
from export.tokenizer import check_tokenizer, export_tokenizer, text_settings
from export.verify import measure_parity, require_parity, summarise, write_golden
from ovml_deploy.commandline import command, run
from ovml_deploy.errors import ExportError, UsageError
from ovml_deploy.files import sha256_file, write_folder_atomically
from ovml_deploy.models.backbone import Backbone, BackboneSpec
from ovml_deploy.models.checkpoint import load_checkpoint
from ovml_deploy.models.heads import ZeroShotHead
from ovml_deploy.models.prompt_tuned import PromptTunedHead
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.models.wrappers import CHOICES
from ovml_deploy.runtime.backends import create_backend
from ovml_deploy.runtime.bundle import (
    ENCODER,
    FORMAT,
    GOLDEN,
    MANIFEST,
    MATCHER,
    PICTURES,
    TEXT_ENCODER,
    TOKENIZER,
    TUNED,
    VERSION,
    VOCABULARIES,
    Bundle,
    write_manifest,
)
from ovml_deploy.runtime.label_files import read_grouped_labels
from ovml_deploy.runtime.labels import LabelSource, split_groups
from ovml_deploy.runtime.precision import why_not_on_cpu
from ovml_deploy.runtime.telemetry import import_onnxruntime
from ovml_deploy.runtime.text_encoder import TextEncoder
from ovml_deploy.runtime.verify import failures, verify
from ovml_deploy.templates import CLIP_TEMPLATES, fill


def load_model(
    ckpt: str | Path | None,
    backbone: str | None = None,
    pretrained: str | None = None,
    weights: str = "auto",
) -> TaggingModel:
    """Return the model of a checkpoint, or a zero-shot one where only a backbone is named."""
    if weights not in CHOICES:
        raise UsageError(f"--weights is {weights!r}; it may be {', '.join(CHOICES)}.")
    if ckpt is not None:
        return load_checkpoint(ckpt, backbone, pretrained, weights)
    if backbone is None:
        raise ExportError(
            "Nothing to export: name a checkpoint (--ckpt qks.pt), or a backbone for a zero-shot "
            "bundle (--backbone ViT-B-16-quickgelu --pretrained openai)."
        )
    loaded = Backbone.load(BackboneSpec(backbone, pretrained), weights=weights)
    head = ZeroShotHead(loaded.logit_scale, loaded.logit_bias)
    return TaggingModel(loaded, head, CLIP_TEMPLATES).eval()


def export_bundle(
    model: TaggingModel,
    out: str | Path,
    vocabularies: Mapping[str, LabelSource] | None = None,
    precision: str = "fp32",
    allow_same: bool = False,
) -> Bundle:
    """Write the bundle of ``model`` to the folder ``out``, whole or not at all.

    ``vocabularies``: label lists by name, encoded and stored; the first becomes the default. For a
    prompt-tuned model they may be mappings from labels to groups (None: of no group). The graphs
    must agree with PyTorch fp32 (``export.verify``), or ExportError is raised and ``out`` stays as
    it was. ``precision``: of the encoder's products, "fp32", "fp16" or "bf16". ``allow_same``: store
    labels that the model cannot tell apart, too, with a warning; otherwise they are a LabelError.
    """
    target = Path(out)
    if precision not in PRECISIONS:
        raise UsageError(
            f"--precision is {precision!r}; it may be {', '.join(PRECISIONS)}. For int8, quantise the "
            "float32 bundle: python -m export.quantize"
        )
    if target.exists() and not _may_be_replaced(target):
        raise ExportError(
            f"{str(target)!r} is not empty and not a bundle, so it is not overwritten. Name another "
            "--out."
        )
    lists = dict(vocabularies or {})
    model = model.eval().cpu()
    texts = {}
    for name, labels in lists.items():
        texts[name], groups = split_groups(labels)
        check_groups(model, groups.values())
    with write_folder_atomically(target) as folder:
        _write_graphs(model, folder, precision)
        manifest = _manifest(model, folder, next(iter(lists), None), precision)
        write_manifest(folder, manifest)
        bundle = Bundle.open(folder)
        backend = create_backend("cpu")
        encoder = TextEncoder(bundle, backend)
        if not allow_same:
            for labels in lists.values():  # before the long work
                encoder.check(labels)
        found = measure_parity(model, bundle, backend)
        require_parity(found, precision)
        for name, labels in lists.items():
            prompts = [fill(model.templates[0], label) for label in texts[name]]
            check_tokenizer(model.backbone, folder / TOKENIZER, prompts)
            path = folder / VOCABULARIES / f"{name}.safetensors"
            encoder.vocabulary(labels, name, allow_same=allow_same).save(path)
        manifest["parity"] = {
            "backend": backend.description,
            "machine": platform.processor() or platform.machine(),
            "figures": [parity.to_json() for parity in found],
            "worst": summarise(found),
        }
        write_manifest(folder, manifest)
        if why_not_on_cpu(precision) is None:
            _require_verified(folder)
    return Bundle.open(target)


def _require_verified(folder: Path) -> None:
    """Do what every user's machine will do first, and more."""
    wrong = failures(verify(folder, "cpu"))
    if wrong:
        raise ExportError(
            f"The bundle does not reproduce PyTorch: {'; '.join(wrong)}. Nothing was written."
        )


def _may_be_replaced(target: Path) -> bool:
    return target.is_dir() and ((target / MANIFEST).is_file() or not any(target.iterdir()))


def _write_graphs(model: TaggingModel, folder: Path, precision: str) -> None:
    tuned = tuned_labels(model)
    if tuned is not None:
        tuned.save(folder / TUNED)
    export_encoder(model, folder / ENCODER)
    lower_encoder(folder / ENCODER, precision)
    export_matcher(model, folder / MATCHER)
    export_text_encoder(model, folder / TEXT_ENCODER)
    export_tokenizer(model.backbone, folder / TOKENIZER)
    write_golden(model, folder / GOLDEN)
    write_pictures(model.backbone.model.visual.preprocess_cfg, folder / PICTURES)


def _manifest(
    model: TaggingModel, folder: Path, default_vocabulary: str | None, precision: str
) -> dict[str, Any]:
    head, backbone = model.head, model.backbone
    dims, tokens = backbone.embed_dim, learned_tokens(model)
    return {
        "format": FORMAT,
        "version": VERSION,
        "head": {
            "kind": head.kind,
            "activation": head.activation,
            "normalises_labels": head.normalises_labels,
            "settings": {  # lists, such as those of tuned labels, are elsewhere in the bundle
                name: value
                for name, value in head.settings().items()
                if not isinstance(value, tuple | list)
            },
        },
        "backbone": asdict(backbone.spec),
        "preprocessing": backbone.preprocessing.to_config(),
        "dims": {
            "features": head.features_per_image,
            "embedding": dims,
            "label": head.label_parts * dims,
        },
        "attention_grid": model.attention_grid,
        "learned_tokens": None if tokens is None else asdict(tokens),
        "text": asdict(text_settings(backbone)),
        "templates": list(model.templates),
        "default_vocabulary": default_vocabulary,
        "precision": precision,
        "opset": OPSET,
        "files": {
            path.name: {"sha256": sha256_file(path), "bytes": path.stat().st_size}
            for path in sorted(folder.iterdir())
            if path.is_file() and path.name != MANIFEST
        },
        "tools": {
            "ovml-deploy": ovml_deploy.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "open_clip_torch": open_clip.__version__,
            "onnx": onnx.__version__,
            "onnxscript": version("onnxscript"),
            "onnxruntime": import_onnxruntime().__version__,
            "numpy": numpy.__version__,
        },
    }


@command()
def main(
    ckpt: str | None = None,
    out: str | None = None,
    vocab: str | None = None,
    backbone: str | None = None,
    pretrained: str | None = None,
    precision: str = "fp32",
    weights: str = "auto",
) -> None:
    """Export a checkpoint to a bundle and print how closely it agrees with PyTorch.

    Args:
        ckpt: a checkpoint of 'ovml-deploy train', or one of the official QKS release
        out: the bundle's folder; default: build/NAME after the checkpoint
        vocab: a label file (docs/labels.md) to encode as the bundle's default vocabulary; default:
            the labels the checkpoint was trained with, seen and unseen, or tuned for. For tuned
            prompts, a label of no tuning may name its group after a TAB.
        backbone: an open_clip model, for official checkpoints and zero-shot bundles
        pretrained: the backbone's weights: a tag or a file
        precision: fp32; or fp16 or bf16, in which then the image encoder's products compute, all else
            staying fp32 (see docs/precision.md)
        weights: of a file with both a model and its moving average (EMA), use 'ema' or 'model'; auto
            uses the moving average, and prints a notice
    """
    name = Path(ckpt).stem if ckpt else (backbone or "").replace("/", "-").replace(":", "-")
    target = Path(out) if out else Path("build") / name
    given = {Path(vocab).stem: read_grouped_labels(vocab)} if vocab else None
    model = load_model(ckpt, backbone, pretrained, weights)
    lists = given or _trained_labels(model)
    bundle = export_bundle(model, target, lists, precision, allow_same=given is None)
    _report(bundle)


def _trained_labels(model: TaggingModel) -> dict[str, Sequence[str]]:
    if isinstance(model.head, PromptTunedHead):
        return {"tuned": model.head.config.labels}
    labels = [label for some in model.labels.values() for label in some]
    return {"trained": labels} if labels else {}


def _report(bundle: Bundle) -> None:
    total = sum(f.stat().st_size for f in bundle.path.rglob("*") if f.is_file())
    tolerance = "" if bundle.precision == "fp32" else f", as far as {bundle.precision} allows"
    print(
        f"{bundle.path}: {total / 1e6:.1f} MB, agrees with PyTorch fp32 at every size tried{tolerance}:"
    )
    for row in bundle.manifest["parity"]["worst"]:
        top = ", top-5 labels equal" if row.get("top_labels_equal") else ""
        if row.get("top_labels_equal") is False:
            top = f", {row['top_agreement']:.0%} of top-5 labels equal"
        print(
            f"  {row['output']:<16} worst of {row['sizes']} sizes: max error {row['max_error']:.1e}, "
            f"relative {row['relative_error']:.1e}{top}"
        )


if __name__ == "__main__":
    sys.exit(run(main, "python -m export.onnx"))
