"""The protocol's protobuf messages, in a pool of their own.

Every implementation has messages of these names (tritonclient's client among them), and the pool that
a process shares takes each name once.
"""

import base64
from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)

from ovml_deploy.serving.kserve.open_inference_pb2 import DESCRIPTOR

SERVICE = "inference.GRPCInferenceService"


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(DESCRIPTOR))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"{file.package}.{message.name}")
        )
        for message in file.message_type
    }


_CLASSES = _classes()

ServerLiveResponse: Any = _CLASSES["ServerLiveResponse"]
ServerReadyResponse: Any = _CLASSES["ServerReadyResponse"]
ModelReadyRequest: Any = _CLASSES["ModelReadyRequest"]
ModelReadyResponse: Any = _CLASSES["ModelReadyResponse"]
ServerMetadataResponse: Any = _CLASSES["ServerMetadataResponse"]
ModelMetadataRequest: Any = _CLASSES["ModelMetadataRequest"]
ModelMetadataResponse: Any = _CLASSES["ModelMetadataResponse"]
ModelInferRequest: Any = _CLASSES["ModelInferRequest"]
ModelInferResponse: Any = _CLASSES["ModelInferResponse"]
