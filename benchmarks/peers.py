"""What others would do with the same weights: pixels and label embeddings in, logits out."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ovml_deploy.errors import DeviceError
from ovml_deploy.runtime.backends.openvino import native_precisions
from ovml_deploy.runtime.backends.probe import require_survival
from ovml_deploy.runtime.bundle import ENCODER, MATCHER, Bundle
from ovml_deploy.runtime.telemetry import import_onnxruntime, import_openvino
from ovml_deploy.runtime.threads import available_cpus

#: Takes pixels, uint8 ``[B, H, W, 3]``, and label embeddings ``[K, D]``.
Peer = Callable[[np.ndarray, np.ndarray], np.ndarray]


def exported(bundle: Bundle) -> Iterator[tuple[str, Peer]]:
    """Yield what runs the bundle's graphs with another library's defaults, where it is installed."""
    for make in (onnxruntime_peer, _openvino):
        try:
            yield make(bundle)
        except ImportError as error:
            print(f"not here: {error}")


def onnxruntime_peer(bundle: Bundle) -> tuple[str, Peer]:
    """Return the bundle's graphs in ONNX Runtime's own sessions."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cpus()  # its own default does not know of quotas
    encoder, matcher = (
        onnxruntime.InferenceSession(bundle.file(name), options, ["CPUExecutionProvider"])
        for name in (ENCODER, MATCHER)
    )

    def run(pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
        (features,) = encoder.run(["features"], {"pixels": pixels})
        return matcher.run(["logits"], {"features": features, "labels": labels})[0]

    return f"ONNX Runtime {onnxruntime.__version__}, fp32", run


def _openvino(bundle: Bundle) -> tuple[str, Peer]:
    openvino = import_openvino()
    version = openvino.get_version().split("-")[0]
    settings = {}
    try:
        for lower in native_precisions():  # one of which is what it chooses by itself
            require_survival(bundle, "openvino", lower, version)
    except DeviceError as error:
        print(f"OpenVINO is held to fp32: {error}")
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    core = openvino.Core()
    encoder, matcher = (
        core.compile_model(bundle.file(name), "CPU", settings) for name in (ENCODER, MATCHER)
    )
    precision = encoder.get_property("INFERENCE_PRECISION_HINT").get_type_name()

    def run(pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
        features = encoder({"pixels": pixels})["features"]
        return matcher({"features": features, "labels": labels})["logits"]

    return f"OpenVINO {version} as it comes ({precision})", run


def in_torch(checkpoint: Path, compiled: bool) -> Iterator[tuple[str, Peer]]:
    """Yield the checkpoint's own model in PyTorch: eager, bf16 and, if asked, ``torch.compile``."""
    import torch

    from ovml_deploy.models.checkpoint import load_checkpoint

    torch.set_num_threads(available_cpus())
    model = load_checkpoint(checkpoint).eval()

    def run(pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            features = model.encode(torch.from_numpy(pixels))
            return model.match(features, torch.from_numpy(labels))[0].float().numpy()

    def in_bf16(pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16):
            return run(pixels, labels)

    version = torch.__version__.partition("+")[0]
    yield f"open_clip + PyTorch {version}, eager fp32", run
    yield f"PyTorch {version}, eager bf16", in_bf16
    if compiled:
        quick = torch.compile(model.encode)

        def run_compiled(pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                features = quick(torch.from_numpy(pixels))
                return model.match(features, torch.from_numpy(labels))[0].numpy()

        yield f"PyTorch {version}, torch.compile fp32", run_compiled
