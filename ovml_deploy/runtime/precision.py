"""What each precision allows: how far from PyTorch fp32 an output may be."""

#: Greatest error of features and logits, relative to their greatest value, by the precision of the
#: encoder. A device that misses it is broken; whether the tags stay the same is for ``verify``.
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 1.5e-1}

#: What ONNX Runtime has no products of on the CPU.
_NOT_ON_CPU = {"bf16"}


def why_not_on_cpu(precision: str) -> str | None:
    """Return why ONNX Runtime's CPU does not run an encoder and what to do, None where it does."""
    if precision not in _NOT_ON_CPU:
        return None
    return (
        f"ONNX Runtime multiplies no {precision} numbers on the CPU. Use the device openvino, cuda or "
        "tensorrt, or export the bundle with --precision fp32"
    )
