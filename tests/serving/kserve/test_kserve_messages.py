"""The protocol's messages: those that everybody has, beside everybody's."""

import subprocess
import sys
from typing import Any

import pytest
from google.protobuf import descriptor_pool
from tritonclient.grpc import service_pb2

from ovml_deploy.serving.kserve import messages
from ovml_deploy.serving.kserve.generate import TARGET, generated

_BOTH = "from {} import {} as first; from {} import {} as second; "
_OURS = ("ovml_deploy.serving.kserve", "messages")
_THEIRS = ("tritonclient.grpc", "service_pb2")
_TRY = """
for one, other in ((first, second), (second, first)):
    sent = one.ModelInferRequest(model_name="a", raw_input_contents=[b"b"])
    sent.parameters["c"].int64_param = 4
    read = other.ModelInferRequest.FromString(sent.SerializeToString())
    assert read.model_name == "a" and [*read.raw_input_contents] == [b"b"]
    assert read.parameters["c"].int64_param == 4
"""


def test_what_was_generated_is_of_the_proto() -> None:
    assert TARGET.read_text() == generated()


@pytest.mark.parametrize("order", [(*_OURS, *_THEIRS), (*_THEIRS, *_OURS)])
def test_both_live_in_one_process(order: tuple[str, ...]) -> None:
    program = _BOTH.format(*order) + _TRY
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_shared_pool_is_left_to_others() -> None:
    shared = descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")
    assert shared is service_pb2.ModelInferRequest.DESCRIPTOR
    assert messages.ModelInferRequest.DESCRIPTOR is not shared


def same(ours: Any, theirs: Any) -> None:
    """Compare each of our fields, and those of the messages in them, with the client's."""
    for field in ours.fields:
        other = theirs.fields_by_name[field.name]
        for trait in ("number", "type", "is_repeated"):
            assert getattr(field, trait) == getattr(other, trait), (field.full_name, trait)
        assert (field.containing_oneof is None) == (other.containing_oneof is None)
        if field.message_type is not None:
            same(field.message_type, other.message_type)


@pytest.mark.parametrize(
    "name", sorted(n for n in vars(messages) if n.startswith(("Model", "Server")))
)
def test_fields_are_those_of_the_client(name: str) -> None:
    same(getattr(messages, name).DESCRIPTOR, getattr(service_pb2, name).DESCRIPTOR)
