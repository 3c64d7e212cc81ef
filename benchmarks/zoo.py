"""Export of one small model of every open_clip family, with parity against PyTorch.

    python benchmarks/zoo.py [--only coca] [--write docs/models.md]    # about 20 minutes on 2 busy cores

A family is all models of ``open_clip.list_models()`` with the same kind of towers. Its smallest model
is built with random weights. Stages are cut to 2 blocks and towers to a width of 128, where the
configuration holds it. The structure stays. Where the tokenizer must be downloaded, CLIP's own
tokenizer takes its place. Text towers that must be downloaded are skipped. The export measures parity
at 3 batch sizes and every label count of ``export.verify``.
"""

import argparse
import gc
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from tables import show
from torch import nn

from export import verify
from export.onnx import export_bundle
from ovml_deploy.errors import CheckpointError, OvmlError
from ovml_deploy.models.backbone import Backbone, BackboneSpec
from ovml_deploy.models.heads import ZeroShotHead
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.templates import CLIP_TEMPLATES

BLOCKS = 2
BATCHES = (1, 2, 7)
OUTPUTS = ("features", "text_features", "logits")
Config = dict[str, Any]

#: Sizes and regularisation, which change no structure.
_SIZES = {
    "attn_pooler_heads",
    "image_size",
    "patch_size",
    "layers",
    "width",
    "head_width",
    "heads",
    "mlp_ratio",
    "context_length",
    "vocab_size",
    "tokenizer_kwargs",
    "norm_kwargs",
    "act_kwargs",
    "timm_model_name",
    "timm_model_pretrained",
    "timm_drop",
    "timm_drop_path",
    "hf_tokenizer_name",
    "hf_proj_type",
    "hf_pooler_type",
    "output_tokens",
}


def family(config: Config) -> str:
    """Return the name of a configuration's family: towers, and the settings that change them."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision:
        image = f"timm {vision['timm_model_name'].split('_')[0]}"
    else:
        image = "ResNet" if isinstance(vision["layers"], list) else "ViT"
    parts = ["CoCa" if "multimodal_cfg" in config else "", image]
    parts += ["QuickGELU" if config.get("quick_gelu") else ""]
    parts += _settings(vision)
    if "hf_model_name" in text:
        parts.append(f"text: {text['hf_model_name'].split('/')[-1].split('-')[0]}")
    elif kept := _settings(text):
        parts.append(f"text: {', '.join(sorted(kept))}")
    return "; ".join(part for part in parts if part)


def families() -> dict[str, list[str]]:
    """Return all models of open_clip by family, the smallest of each first."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in open_clip.list_models():
        groups[family(open_clip.get_model_config(name))].append(name)
    return {name: sorted(models, key=_size) for name, models in sorted(groups.items())}


def stand_in_tokenizer(name: str, config: Config) -> str:
    """Give CLIP's tokenizer to a model whose own must be downloaded; return the note on it.

    open_clip chooses SigLIP's tokenizer by the model's name, any other by the configuration.
    """
    text = config["text_cfg"]
    if text.pop("hf_tokenizer_name", None) is None and "siglip" not in name.lower():
        return ""
    text.pop("tokenizer_kwargs", None)
    text["vocab_size"] = 49408
    if text.get("eos_id"):
        text["eos_id"] = 49407
    return "CLIP's tokenizer in place of a downloaded one"


def shrink(config: Config) -> None:
    """Make the towers of a configuration small, as far as it holds their sizes."""
    for part in ("vision_cfg", "text_cfg", "multimodal_cfg"):
        sizes = config.get(part, {})
        if isinstance(sizes.get("layers"), int):
            sizes["layers"] = BLOCKS
    vision = config["vision_cfg"]
    if isinstance(vision.get("layers"), int):
        width = 2 * vision.get("head_width", 64)
        vision |= {"image_size": 7 * vision["patch_size"], "width": width, "attn_pooler_heads": 2}
    if config["text_cfg"].get("proj_type") != "none":  # without one the width is the embedding's
        config["text_cfg"] |= {"width": 128, "heads": 2}


def cut(model: nn.Module) -> None:
    """Keep the first blocks of every stage; add noise to every parameter of one dimension."""
    for name, module in list(model.named_modules()):
        stage = name.split(".")[-1]
        layers = stage in ("blocks", "resblocks") or (stage[:-1] == "layer" and stage[-1].isdigit())
        if layers and isinstance(module, nn.Sequential | nn.ModuleList):
            del module[BLOCKS:]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # scales of 1e-6 and biases of 0 would hide mistakes
                parameter.add_(torch.randn_like(parameter) * 0.1)


def build(config: Config, folder: Path) -> TaggingModel:
    """Build a cut model with random weights from its configuration."""
    shrink(config)
    file = folder / "zoo.json"  # open_clip must not learn the model's name
    file.write_text(json.dumps(config))
    torch.manual_seed(0)
    backbone = Backbone.load(BackboneSpec(str(file)), load_weights=False)
    cut(backbone.model)
    head = ZeroShotHead(backbone.logit_scale, backbone.logit_bias)
    return TaggingModel(backbone, head, CLIP_TEMPLATES[:2]).eval()


def heads(model: TaggingModel) -> str:
    """Return the heads that the model's towers can carry."""
    backbone, carried = model.backbone, ["zero-shot"]
    try:
        _ = backbone.positions
    except CheckpointError:
        return carried[0]
    carried.append("QKS")
    try:
        with torch.inference_mode():
            backbone.text.dense(*backbone.text.trim(backbone.tokenizer(["a cat"])))
    except CheckpointError:
        return ", ".join(carried)
    return ", ".join([*carried, "prompts"])


def try_family(name: str, folder: Path) -> list[str]:
    """Return the table's cells of a model: errors of features, texts and logits; heads; notes."""
    config = open_clip.get_model_config(name)
    if "hf_model_name" in config["text_cfg"]:
        tower = config["text_cfg"]["hf_model_name"]
        return ["", "", "", "", f"skipped: its text tower {tower} must be downloaded"]
    notes = stand_in_tokenizer(name, config)
    try:
        model = build(config, folder)
        carried = heads(model)
        bundle = export_bundle(model, folder / "bundle", {"few": ["cat", "dog", "red car"]})
    except OvmlError as error:
        return ["", "", "", "", f"refused: {error}"]
    worst = {row["output"]: row["relative_error"] for row in bundle.manifest["parity"]["worst"]}
    return [*(f"{worst[output]:.0e}" for output in OUTPUTS), carried, notes]


def rows(groups: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Yield the table, each row once its family was tried."""
    yield ["family", "models", "smallest", *OUTPUTS, "heads", "notes"]
    for name, models in groups.items():
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            cells = try_family(models[0], Path(folder))
        gc.collect()
        print(f"{name}: {cells}, {time.perf_counter() - started:.0f} s", flush=True)
        yield [name, str(len(models)), models[0], *cells]


def kept_rows(document: Path, names: Iterable[str]) -> dict[str, list[str]]:
    """Return the rows of a document's table that an earlier run wrote for these families."""
    lines = document.read_text("utf-8").splitlines()
    cells = (line[2:-2].split(" | ") for line in lines if line.startswith("| "))
    written = {row[0]: row for row in cells}
    return {name: written[name] for name in names if name in written}


def _settings(config: Mapping[str, Any]) -> list[str]:
    """Return the settings of a tower that change its structure."""
    kept = {name: value for name, value in config.items() if name not in _SIZES}
    return [
        name.removeprefix("timm_").replace("_", " ") + ("" if value is True else f" {value}")
        for name, value in kept.items()
        if value not in (None, "", "none", False)
    ]


def _size(name: str) -> tuple[Any, ...]:
    config = open_clip.get_model_config(name)
    image = config["vision_cfg"].get("image_size", 224)
    return config["text_cfg"].get("width", 0), config["embed_dim"], image, len(name), name


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", help="try only families whose name contains this text")
    parser.add_argument(
        "--write", type=Path, help="a document to put the table into; with --only, these rows alone"
    )
    given = parser.parse_args()
    only = (given.only or "").lower()
    known = families()
    groups = {name: models for name, models in known.items() if only in name.lower()}
    verify.BATCHES = BATCHES
    print(f"{len(groups)} families; batches of {BATCHES}, {verify.LABEL_COUNTS} labels", flush=True)
    header, *tried = rows(groups)
    if given.write:
        table = kept_rows(given.write, known) | {row[0]: row for row in tried}
        tried = [table[name] for name in known if name in table]
    show("families", [header, *tried], given.write)


if __name__ == "__main__":
    main()
