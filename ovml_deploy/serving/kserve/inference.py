"""A request of the protocol, whichever front it came by: tensors in, tags as tensors out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import ValidationError

from ovml_deploy.errors import UsageError
from ovml_deploy.serving.http.questions import describe_faults, split_labels
from ovml_deploy.serving.http.schemas import Options
from ovml_deploy.serving.kserve import model
from ovml_deploy.serving.kserve.model import check_parameters
from ovml_deploy.serving.kserve.tensors import Tensor
from ovml_deploy.serving.service import Choice, Item, Service

#: What clients send besides: about the answer's form, or advice that need not be followed.
_IGNORED = (
    "binary_data_output",
    "priority",
    "sequence_end",
    "sequence_id",
    "sequence_start",
    "timeout",
)
_KNOWN = (*Options.model_fields, *_IGNORED)


@dataclass(frozen=True)
class Question:
    """Input tensors that fit the model, outputs that it has, and parameters as they came."""

    inputs: Sequence[Tensor]
    outputs: Sequence[str] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """The tensors asked for, in that order, and the vocabulary that the tags are of."""

    outputs: tuple[Tensor, ...]
    parameters: dict[str, str | int]


async def infer(service: Service, question: Question) -> Answer:
    """Tag images, or only encode them where nothing but features is asked for.

    Raises UsageError, and what :class:`Service` raises; an image that cannot be read has its text in
    ``errors``.
    """
    options = _options(question.parameters)
    wanted = tuple(question.outputs) or model.UNASKED
    if len(question.inputs) != 1:
        raise UsageError(
            f"Send one input: {model.IMAGE!r} (encoded images) or {model.PIXELS!r} (preprocessed ones); "
            f"{len(question.inputs)} came."
        )
    (images,) = question.inputs
    if {*wanted} <= {model.FEATURES, model.ERRORS}:
        items = await _encode(service, images)
        return Answer(_tensors(wanted, items, 0, service), {})
    choice = await service.choose(options.vocabulary, options.labels)
    width = min(options.top_k, len(choice.vocabulary))
    items = await _tag(service, images, choice, options)
    told: dict[str, str | int] = {
        "vocabulary": choice.name,
        "vocabulary_version": choice.version,
        "vocabulary_id": choice.vocabulary.id,
    }
    return Answer(_tensors(wanted, items, width, service), told)


async def _tag(service: Service, images: Tensor, choice: Choice, options: Options) -> list[Item]:
    if images.name == model.PIXELS:
        return await service.tag_pixels(images.array, choice, options.top_k, options.threshold)
    return await service.tag([*images.array], choice, options.top_k, options.threshold)


async def _encode(service: Service, images: Tensor) -> list[Item]:
    if images.name == model.PIXELS:
        return await service.encode_pixels(images.array)
    return await service.encode([*images.array])


def _options(parameters: Mapping[str, Any]) -> Options:
    check_parameters(parameters, _KNOWN, "a request")
    given = {name: value for name, value in parameters.items() if name not in _IGNORED}
    if isinstance(given.get("labels"), str):
        given["labels"] = split_labels(given["labels"])
    try:
        return Options.model_validate(given)
    except ValidationError as error:
        raise UsageError(describe_faults(error.errors(include_url=False))) from error


def _tensors(
    wanted: Sequence[str], items: Sequence[Item], width: int, service: Service
) -> tuple[Tensor, ...]:
    made: dict[str, Tensor] = {}
    if model.FEATURES in wanted:
        made[model.FEATURES] = Tensor(model.FEATURES, "FP32", _features(items, service))
    errors = np.empty(len(items), dtype=object)
    errors[:] = [(item.error or "").encode() for item in items]
    made[model.ERRORS] = Tensor(model.ERRORS, "BYTES", errors)
    if not {*wanted} <= {*made}:
        made.update(_tables(items, width))
    return tuple(made[name] for name in wanted)


def _features(items: Sequence[Item], service: Service) -> np.ndarray:
    """Return ``[N, M, D]``, zeros where there are none."""
    bundle = service.engine.bundle
    shape = len(items), bundle.features_per_image, bundle.embed_dim
    features = np.zeros(shape, dtype=np.float32)
    for row, item in enumerate(items):
        if item.features is not None:
            features[row] = item.features
    return features


def _tables(items: Sequence[Item], width: int) -> dict[str, Tensor]:
    """Return labels, scores and queries ``[N, width]``, best first, then nothing."""
    shape = len(items), width
    labels = np.full(shape, b"", dtype=object)
    scores = np.zeros(shape, dtype=np.float32)
    queries = np.full(shape, -1, dtype=np.int32)
    for row, item in enumerate(items):
        for column, tag in enumerate(item.tags):
            labels[row, column] = tag.label.encode()
            scores[row, column] = tag.score
            queries[row, column] = tag.query
    return {
        model.LABELS: Tensor(model.LABELS, "BYTES", labels),
        model.SCORES: Tensor(model.SCORES, "FP32", scores),
        model.QUERIES: Tensor(model.QUERIES, "INT32", queries),
    }
