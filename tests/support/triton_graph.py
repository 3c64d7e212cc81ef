"""Runs one of our graphs inside Triton's Python backend: the ``model.py`` of ``triton_server``.

The Triton that comes from the package index has no ONNX Runtime backend.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, os.environ["OVML_TRITON_PACKAGES"])  # the backend drops PYTHONPATH

import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.inputs = [tensor["name"] for tensor in config["input"]]
        folder = Path(args["model_repository"], args["model_version"])
        (graph,) = folder.glob("*.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(graph, options, providers)

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        given = {
            name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs
        }
        names = list(request.requested_output_names())
        arrays = self.session.run(names, given)
        pairs = zip(names, arrays, strict=True)
        return triton.InferenceResponse([triton.Tensor(name, array) for name, array in pairs])
