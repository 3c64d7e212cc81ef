"""The three graphs of a bundle, traced from PyTorch with every free dimension kept free."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from export.attention import written_out
from export.compact import store_compactly
from export.learned import learned_rows
from export.precision import save_graph
from ovml_deploy.errors import ExportError
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.runtime.bundle import ATTENTION

OPSET = 20  # the first with Gelu; LayerNormalization is native since 17
_EXAMPLES = 3  # of 1, the exporter would freeze the dimension


class Encoder(nn.Module):
    """uint8 pixels ``[B, H, W, 3]`` -> features ``[B, M, D]`` (, attention ``[B, M, h, w]``)."""

    def __init__(self, model: TaggingModel) -> None:
        super().__init__()
        self.model = model
        self.looks = model.attention_grid is not None

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Encode a batch."""
        return self.model.look(pixels) if self.looks else self.model.encode(pixels)


class Matcher(nn.Module):
    """Features ``[B, M, D]``, label embeddings -> the head's outputs ``[B, K]``."""

    def __init__(self, model: TaggingModel) -> None:
        super().__init__()
        self.head = model.head

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Match a batch with a vocabulary."""
        return tuple(self.head.outputs(features, labels).values())


class TextEncoder(nn.Module):
    """Token ids ``[P, T]`` (and an attention mask, by tower) -> text features ``[P, D]``.

    Learned tokens, where the head has any, are rows beyond the tower's own table.
    """

    rows: Tensor | None

    def __init__(self, model: TaggingModel) -> None:
        super().__init__()
        self.text = model.backbone.text
        self.tower = self.text.tower  # registered here, so that its weights are found
        self.register_buffer("rows", learned_rows(model))

    def forward(self, token_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encode prompts."""
        return self.text(token_ids, attention_mask, self.rows)


def export_encoder(model: TaggingModel, path: Path) -> None:
    """Write ``encoder.onnx``: ``pixels`` -> ``features`` (, ``attention``, where the head looks)."""
    height, width = model.backbone.preprocessing.size
    pixels = torch.randint(0, 256, (_EXAMPLES, height, width, 3), dtype=torch.uint8)
    encoder = Encoder(model)
    names = ["features", ATTENTION] if encoder.looks else ["features"]
    with written_out(model):
        _export(encoder, {"pixels": pixels}, {"pixels": {0: _dim("batch")}}, names, path)


def export_matcher(model: TaggingModel, path: Path) -> None:
    """Write ``matcher.onnx``: ``features``, ``labels`` -> ``logits``, ``winners`` (and more)."""
    dims = model.backbone.embed_dim
    example = {
        "features": torch.randn(_EXAMPLES, model.head.features_per_image, dims),
        "labels": torch.randn(_EXAMPLES + 1, model.head.label_parts * dims),
    }
    dynamic = {"features": {0: _dim("batch")}, "labels": {0: _dim("labels")}}
    with torch.inference_mode():
        names = [*model.head.outputs(**example)]
    _export(Matcher(model), example, dynamic, names, path)


def export_text_encoder(model: TaggingModel, path: Path) -> None:
    """Write ``text_encoder.onnx``: ``token_ids`` (, ``attention_mask``) -> ``text_features``."""
    text = model.backbone.text
    ids = model.backbone.tokenizer(["a photo of a cat.", "two dogs", "a very long name"])
    shape: dict[int, Any] = {0: _dim("prompts")}
    if text.any_length:
        ids = ids[:, :6].contiguous()
        shape[1] = _dim("length", max=text.context_length)
    example, dynamic = {"token_ids": ids}, {"token_ids": shape}
    if text.hugging_face:
        example["attention_mask"] = torch.ones_like(ids)
        dynamic["attention_mask"] = dict(shape)
    with written_out(model):
        _export(TextEncoder(model), example, dynamic, ["text_features"], path)


def _export(
    module: nn.Module,
    example: dict[str, Tensor],
    dynamic: dict[str, dict[int, Any]],
    outputs: list[str],
    path: Path,
) -> None:
    with _quiet(), torch.inference_mode():
        program = torch.onnx.export(
            module.eval(),
            kwargs=example,
            dynamo=True,
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            input_names=list(example),
            output_names=outputs,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _check_free_dimensions(proto, dynamic)
    _forget_origin(proto)
    store_compactly(proto)
    save_graph(proto, path)


def _check_free_dimensions(proto: onnx.ModelProto, dynamic: dict[str, dict[int, Any]]) -> None:
    inputs = {value.name: value.type.tensor_type.shape.dim for value in proto.graph.input}
    for name, axes in dynamic.items():
        for axis, dim in axes.items():
            if not inputs[name][axis].dim_param:
                raise ExportError(
                    f"The exporter froze the {dim.__name__} dimension of {name!r} to "
                    f"{inputs[name][axis].dim_value}. This is a fault of the export, not of your "
                    "checkpoint; please report it with the versions from 'ovml-deploy doctor'."
                )


def _forget_origin(proto: onnx.ModelProto) -> None:
    """Drop the exporter's stack traces: they hold paths of this machine, and so change the hash."""
    graph = proto.graph
    for holder in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        del holder.metadata_props[:]
        holder.doc_string = ""


def _dim(name: str, max: int | None = None) -> Any:
    return torch.export.Dim(name, min=1, max=max)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its own progress and deprecations; errors still come as exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
