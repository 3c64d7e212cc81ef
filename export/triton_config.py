"""Triton's ``config.pbtxt`` files of a bundle: encoder, matcher, and the ensemble that joins them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovml_deploy.errors import ExportError
from ovml_deploy.runtime.plans import Tensor

ONNX, TENSORRT = "onnxruntime_onnx", "tensorrt_plan"

#: What an ensemble gives; a matcher may give more, such as the logits of either branch.
OUTPUTS = ("logits", "winners")

#: As long as our own server lets an image wait for others by default.
_QUEUE_DELAY_US = 2000

_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32", "int64": "TYPE_INT64"}


@dataclass(frozen=True)
class Model:
    """One of our graphs as Triton runs it. ``only_gpu``: whether no CPU can."""

    name: str
    platform: str
    file: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    only_gpu: bool = False


class _Bare(str):
    """A value that stands without quotation marks."""


def encoder_config(model: Model, max_batch: int) -> str:
    """Return the configuration of an encoder, whose images Triton gathers into batches.

    Raises ExportError for a type that Triton's configuration does not name.
    """
    pixels = model.inputs["pixels"]
    warmup = [
        {  # so that what is ready is fast, and has the memory for its greatest batch
            "name": f"batch of {size}",
            "batch_size": size,
            "inputs": {
                "key": "pixels",
                "value": {
                    "data_type": _type(pixels),
                    "dims": _dims(pixels.shape[1:]),
                    "zero_data": _Bare("true"),
                },
            },
        }
        for size in dict.fromkeys((1, max_batch))
    ]
    return _text(
        **_head(model),
        max_batch_size=max_batch,
        input=_tensors(model.inputs, batched=True),
        output=_tensors(model.outputs, batched=True),
        instance_group=_instances(model),
        dynamic_batching={"max_queue_delay_microseconds": _QUEUE_DELAY_US},
        model_warmup=warmup,
    )


def matcher_config(model: Model) -> str:
    """Return the configuration of a matcher. Raises ExportError as :func:`encoder_config`."""
    # Labels have no batch dimension: they are of the whole request, and no other request's. With a
    # max_batch_size Triton would prepend one to every input, and stack the labels of strangers. So it
    # is 0, every dimension is said, and requests are matched one by one.
    return _text(
        **_head(model),
        max_batch_size=0,
        input=_tensors(model.inputs, batched=False),
        output=_tensors(model.outputs, batched=False),
        instance_group=_instances(model),
    )


def ensemble_config(name: str, encoder: Model, matcher: Model) -> str:
    """Return the configuration that leads pixels through the encoder, and on with labels."""
    # 0 for the same reason as the matcher's. The encoder still gathers the images of many requests:
    # Triton lets a tensor [-1, H, W, 3] of a model without batching be [H, W, 3] of one with.
    inputs = {"pixels": encoder.inputs["pixels"], "labels": matcher.inputs["labels"]}
    outputs = {output: matcher.outputs[output] for output in OUTPUTS}
    steps = [
        {
            "model_name": encoder.name,
            "model_version": -1,
            "input_map": _pair("pixels"),
            "output_map": _pair("features"),
        },
        {
            "model_name": matcher.name,
            "model_version": -1,
            "input_map": [_pair("features"), _pair("labels")],
            "output_map": [_pair(output) for output in OUTPUTS],
        },
    ]
    return _text(
        name=name,
        platform="ensemble",
        max_batch_size=0,
        input=_tensors(inputs, batched=False),
        output=_tensors(outputs, batched=False),
        ensemble_scheduling={"step": steps},
    )


def _head(model: Model) -> dict[str, str]:
    # Under its own name, for a graph knows the file that holds its weights by name.
    return {
        "name": model.name,
        "platform": model.platform,
        "default_model_filename": model.file,
    }


def _instances(model: Model) -> dict[str, Any]:
    kind = "KIND_GPU" if model.only_gpu else "KIND_AUTO"  # auto: on each GPU, or else on the CPU
    return {"count": 1, "kind": _Bare(kind)}


def _tensors(tensors: Mapping[str, Tensor], batched: bool) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "data_type": _type(tensor),
            "dims": _dims(tensor.shape[1:] if batched else tensor.shape),
        }
        for name, tensor in tensors.items()
    ]


def _type(tensor: Tensor) -> _Bare:
    if tensor.dtype not in _TYPES:
        raise ExportError(
            f"The graph has a tensor of type {tensor.dtype}, which this release does not describe to "
            f"Triton; it knows {', '.join(_TYPES)}. Export the bundle again."
        )
    return _Bare(_TYPES[tensor.dtype])


def _dims(shape: Sequence[str | int]) -> _Bare:
    sizes = ("-1" if isinstance(size, str) else str(size) for size in shape)
    return _Bare(f"[{', '.join(sizes)}]")


def _pair(name: str) -> dict[str, str]:
    """A model's tensor that has the same name in the ensemble."""
    return {"key": name, "value": name}


def _text(**fields: Any) -> str:
    """Protobuf's text format of nested fields; a list of messages is a field several times."""
    return "".join(f"{line}\n" for line in _lines(fields))


def _lines(fields: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in fields.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Mapping):
                lines += [f"{name} {{", *(f"  {line}" for line in _lines(each)), "}"]
            elif isinstance(each, str) and not isinstance(each, _Bare):
                lines.append(f"{name}: {json.dumps(each)}")
            else:
                lines.append(f"{name}: {each}")
    return lines
