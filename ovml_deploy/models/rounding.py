"""Rounds weights, in place, to float32 values that a smaller type holds without any loss.

The export stores such weights as float16 or int8, and PyTorch and ONNX still agree to the bit.
"""

import torch
from torch import Tensor

_FLOAT16_MAX = 65504.0
_INT8_MAX = 127


@torch.no_grad()
def round_to_float16_(tensor: Tensor) -> Tensor:
    """Round float32 values (any shape) to the nearest that float16 holds; return ``tensor``.

    Raises ValueError where a value is beyond float16's range or not finite.
    """
    largest = tensor.abs().max().item() if tensor.numel() else 0.0
    if not largest <= _FLOAT16_MAX:
        raise ValueError(
            f"a weight of magnitude {largest} does not fit float16 (at most {_FLOAT16_MAX}); "
            "keep it in float32"
        )
    return tensor.copy_(tensor.half())


@torch.no_grad()
def round_to_int8_(tensor: Tensor) -> Tensor:
    """Round each row (axis 0) of a float32 matrix to ``q * scale``; return ``tensor``.

    q is an integer in [-127, 127]; scale is the row's largest magnitude / 127, rounded to
    bfloat16. The product of 8 and 8 significant bits is exact in float32. Rounding a second time
    changes nothing: the largest value stays 127 * scale. Raises ValueError for fewer than two axes.
    """
    if tensor.ndim < 2:
        raise ValueError(f"int8 rounding needs rows, but the shape is {list(tensor.shape)}")
    rows = tensor.flatten(1)
    scale = (rows.abs().amax(dim=1, keepdim=True) / _INT8_MAX).bfloat16().float()
    scale[scale == 0] = 1.0
    rounded = (rows / scale).round().clamp(-_INT8_MAX, _INT8_MAX) * scale
    return tensor.copy_(rounded.view_as(tensor))
