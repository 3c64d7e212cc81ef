"""The model as the protocol describes it: the one place where its tensors are named."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ovml_deploy import __version__
from ovml_deploy.errors import UsageError
from ovml_deploy.serving.http.problems import Problem
from ovml_deploy.serving.service import Service

IMAGE = "image"
PIXELS = "pixels"
LABELS = "labels"
SCORES = "scores"
QUERIES = "queries"
ERRORS = "errors"
FEATURES = "features"

#: What is given to those who ask for nothing in particular.
UNASKED = (LABELS, SCORES, QUERIES, ERRORS)

VERSION = "1"  # a bundle has one
_PLATFORM = "ovml_bundle"

SERVER = {
    "name": "ovml-deploy",
    "version": __version__,
    "extensions": ["binary_tensor_data"],
}


@dataclass(frozen=True)
class Spec:
    """A tensor's name, datatype, and shape, where -1 is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def check(self, datatype: str, shape: Sequence[int], most: int) -> None:
        """Refuse a tensor that is not of this kind, or of more than ``most`` images. Raises UsageError."""
        if datatype != self.datatype:
            raise UsageError(f"The input {self.name!r} is {self.datatype}; {datatype[:20]!r} came.")
        fits = len(shape) == len(self.shape) and all(
            want in (-1, size) and size > 0 for want, size in zip(self.shape, shape, strict=True)
        )
        if not fits:
            raise UsageError(
                f"The input {self.name!r} is of shape {[*self.shape]}, where -1 is any size from 1 up; "
                f"{[*shape[:8]]} came."
            )
        if shape[0] > most:
            raise UsageError(
                f"{shape[0]} images are too many for a request: at most {most} may be."
            )

    def metadata(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"name": self.name, "datatype": self.datatype, "shape": [*self.shape]}


@dataclass(frozen=True)
class Model:
    """A bundle as clients see it; ``most``: images that a request may have."""

    name: str
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    most: int

    @classmethod
    def of(cls, service: Service) -> "Model":
        """Return the model that a service serves."""
        bundle = service.engine.bundle
        inputs = (
            Spec(IMAGE, "BYTES", (-1,)),
            Spec(PIXELS, "UINT8", (-1, *bundle.preprocessing.size, 3)),
        )
        outputs = (
            Spec(LABELS, "BYTES", (-1, -1)),
            Spec(SCORES, "FP32", (-1, -1)),
            Spec(QUERIES, "INT32", (-1, -1)),
            Spec(ERRORS, "BYTES", (-1,)),
            Spec(FEATURES, "FP32", (-1, bundle.features_per_image, bundle.embed_dim)),
        )
        return cls(bundle.path.name, inputs, outputs, service.settings.images_a_request)

    def check_name(self, name: str, version: str) -> None:
        """Refuse a name and version (empty: any) that are not this model's. Raises Problem."""
        if name != self.name or version not in ("", VERSION):
            asked = f"{name[:80]!r}" + (f" of version {version[:20]!r}" if version else "")
            text = (
                f"There is no model {asked}: this server has {self.name!r} of version {VERSION!r}."
            )
            raise Problem(404, "unknown_model", text)

    def input(self, name: str, datatype: str, shape: Sequence[int]) -> Spec:
        """Return the input that a tensor is for. Raises UsageError where it does not fit."""
        spec = next((spec for spec in self.inputs if spec.name == name), None)
        if spec is None:
            raise _unknown("input", name, [spec.name for spec in self.inputs])
        spec.check(datatype, shape, self.most)
        return spec

    def check_outputs(self, names: Sequence[str]) -> None:
        """Refuse outputs that there are not, or the same twice. Raises UsageError."""
        known = [spec.name for spec in self.outputs]
        for name in names:
            if name not in known:
                raise _unknown("output", name, known)
        if len({*names}) < len(names):
            raise UsageError("An output is asked for twice. Name each once.")

    def metadata(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": _PLATFORM,
            "inputs": [spec.metadata() for spec in self.inputs],
            "outputs": [spec.metadata() for spec in self.outputs],
        }


def check_parameters(given: Collection[str], known: Collection[str], of: str) -> None:
    """Refuse parameters that would change what is asked for, were they known. Raises UsageError."""
    for name in given:
        if name not in known:
            raise _unknown(f"parameter of {of}", name, known)


def _unknown(what: str, name: str, known: Collection[str]) -> UsageError:
    have = ", ".join(map(repr, known)) or "none"
    return UsageError(f"There is no {what} {name[:80]!r}. There are: {have}.")
