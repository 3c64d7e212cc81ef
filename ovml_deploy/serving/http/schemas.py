"""What requests and answers look like: the source of the OpenAPI document."""

import base64
import binascii
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from ovml_deploy.errors import ImageError, UsageError

# A fault costs a hundred times the bytes that make it, so that bodies are refused at their first few.
_MOST_FIELDS = 16  # more than any question has
_MOST_ITEMS = 1000  # as of a form's files; a server allows fewer

TopK = Annotated[int, Field(ge=1, le=1_000_000, description="At most so many tags an image")]
Threshold = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="Only tags with at least this score; default: a calibrated vocabulary's own",
    ),
]
Size = Annotated[int, Field(ge=1, le=1_000_000)]
Name = Annotated[str, Field(max_length=200, description="A vocabulary's name")]
Labels = Annotated[
    list[str], Field(min_length=1, fail_fast=True, description="The labels themselves")
]
Base64 = Annotated[
    str, Field(description="Base64", json_schema_extra={"contentEncoding": "base64"})
]


class _Question(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_size(cls, given: Any) -> Any:
        if isinstance(given, dict) and len(given) > _MOST_FIELDS:
            text = "{count} fields are too many: there are {known}"
            known = ", ".join(cls.model_fields)
            raise PydanticCustomError("too_many", text, {"count": len(given), "known": known})
        return given


class Options(_Question):
    """How to tag: with which words, and which tags to give."""

    vocabulary: Name | None = None
    labels: Labels | None = None
    top_k: TopK = 5
    threshold: Threshold | None = None


class Images(_Question):
    """Encoded images."""

    images: Annotated[list[Base64], Field(min_length=1, max_length=_MOST_ITEMS, fail_fast=True)]

    def read(self) -> list[bytes | ImageError]:
        """Return the images' bytes; what is no base64 is an error of that image."""
        return [_read_image(image, number) for number, image in enumerate(self.images, start=1)]


class TagQuestion(Options, Images):
    """Images and how to tag them."""


class Features(_Question):
    """An image's features: little-endian float32 ``shape`` [M, D] in base64."""

    shape: Annotated[list[Size], Field(min_length=2, max_length=2, fail_fast=True)]
    data: Base64

    @classmethod
    def of(cls, array: np.ndarray) -> dict[str, Any]:
        """Return features as plain values."""
        data = base64.b64encode(np.ascontiguousarray(array, dtype="<f4").tobytes()).decode()
        return {"shape": list(array.shape), "data": data}

    def read(self) -> np.ndarray:
        """Return float32 ``[M, D]``. Raises UsageError."""
        data = _read(self.data, "Features")
        if self.shape[0] * self.shape[1] * 4 != len(data):
            raise UsageError(f"Features of shape {self.shape} do not have {len(data)} bytes.")
        return np.frombuffer(data, dtype="<f4").reshape(self.shape).astype(np.float32)


class MatchQuestion(Options):
    """Features that /v1/encode gave, and how to tag them."""

    features: Annotated[list[Features], Field(min_length=1, max_length=_MOST_ITEMS, fail_fast=True)]


def _check_groups(given: Any) -> Any:
    """Refuse groups that are none with one error: a mapping would have one for each."""
    if isinstance(given, dict):
        wrong = next((label for label, group in given.items() if not _is_group(group)), None)
        if wrong is not None:
            text = "The group of {label} must be a text or null"
            raise PydanticCustomError("group", text, {"label": repr(wrong[:80])})
    return given


def _is_group(value: Any) -> bool:
    return value is None or isinstance(value, str)


class VocabularyLabels(_Question):
    """The labels of a vocabulary; of a prompt-tuned model also a mapping of labels to groups."""

    labels: Annotated[Labels | dict[str, str | None], BeforeValidator(_check_groups)]


class Tag(BaseModel):
    """A label with its score in [0, 1], the model's logit, and the index of the feature it matched."""

    label: str
    score: float
    logit: float
    query: int


class Times(BaseModel):
    """Milliseconds that an image took in each stage, and how many shared its batch."""

    decode_ms: float
    queue_ms: float
    engine_ms: float
    batch: int


class UsedVocabulary(BaseModel):
    """The vocabulary that all tags of an answer come from; version 0 is not the server's own."""

    name: str
    version: int
    id: str
    labels: int


class TagResult(BaseModel):
    """An image's tags, best first; where it could not be read, what was wrong."""

    name: str | None
    tags: list[Tag]
    times: Times | None
    error: str | None


class TagAnswer(BaseModel):
    """The tags of each image, in order."""

    vocabulary: UsedVocabulary
    results: list[TagResult]


class EncodeResult(BaseModel):
    """An image's features; where it could not be read, what was wrong."""

    name: str | None
    features: Features | None
    times: Times | None
    error: str | None


class EncodeAnswer(BaseModel):
    """The features of each image, in order. They are of one model: keep its id with them."""

    model: str
    results: list[EncodeResult]


class Attention(Features):
    """Where an image's features were found: little-endian float32 ``shape`` [M, rows, columns].

    The rows and columns are of the image as the model sees it: its shorter side resized, and its
    centre cropped.
    """

    shape: Annotated[list[Size], Field(min_length=3, max_length=3, fail_fast=True)]


class AttentionResult(BaseModel):
    """An image's attention; where it could not be read, what was wrong."""

    name: str | None
    grid: Attention | None
    error: str | None


class AttentionAnswer(BaseModel):
    """The attention of each image, in order."""

    model: str
    results: list[AttentionResult]


class MatchResult(BaseModel):
    """The tags of one image's features, best first."""

    tags: list[Tag]


class MatchAnswer(BaseModel):
    """The tags of each image, in order."""

    vocabulary: UsedVocabulary
    results: list[MatchResult]


class VocabularyEntry(BaseModel):
    """A vocabulary. ``version`` and ``id`` are served; ``state`` is of the version last asked for."""

    name: str
    version: int
    newest: int
    state: Literal["embedding", "ready", "failed"]
    labels: int
    done: int
    total: int
    id: str | None
    error: str | None
    active: bool
    in_bundle: bool


class VocabularyDetail(VocabularyEntry):
    """A vocabulary with its labels."""

    texts: list[str]


class VocabularyList(BaseModel):
    """All vocabularies, by name."""

    vocabularies: list[VocabularyEntry]


class ModelAnswer(BaseModel):
    """What the server tags with, and what it allows."""

    name: str
    version: str
    engine: str
    head: str
    backbone: str
    precision: str
    activation: str
    image_size: list[int]
    resize_mode: str
    features: list[int]
    model: str
    attention: bool
    vocabulary: str | None
    limits: dict[str, int]


class Health(BaseModel):
    """Whether it is well, and if not, why."""

    ok: bool
    reason: str | None = None


class ErrorText(BaseModel):
    """The kind of an error, for programs, and a sentence, for people."""

    kind: str
    message: str


class ErrorAnswer(BaseModel):
    """What was wrong, and what to do."""

    error: ErrorText


def describe(model: type[BaseModel]) -> dict[str, Any]:
    """Return a body's JSON schema; its parts are those of the answers, which the document has."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return schema


def _read_image(text: str, number: int) -> bytes | ImageError:
    try:
        return _read(text, f"Image {number}")
    except UsageError as error:
        return ImageError(str(error))


def _read(text: str, what: str) -> bytes:
    if text.startswith("data:"):  # as browsers give pictures
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"{what} is not base64 ({error}).") from error
