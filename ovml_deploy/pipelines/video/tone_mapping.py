"""Tone mapping: HDR pixels (PQ or HLG, BT.2020 primaries) to 8-bit sRGB.

Sources: ITU-R BT.2100 (PQ and HLG), BT.2408 (reference white), BT.2390 (tone curve), BT.2087 (primaries).

PyAV's FFmpeg can tone-map, too (filter `scale`, `intent=perceptual`). It takes about 7 CPU seconds to build
its table for each frame size, and darkens the image.
"""

from functools import cache

import numpy as np

#: Values of FFmpeg's AVColorTransferCharacteristic.
PQ, HLG = 16, 18

_REFERENCE_WHITE = 203.0  # cd/m2, becomes white
_PEAK = 1000.0  # cd/m2; brighter pixels are clipped
_CODES = 65536  # of 16-bit RGB
_ROWS = 64  # converted at once, which bounds the memory
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020's primaries
_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    np.float32,
)
_PQ_M1, _PQ_M2 = 2610 / 16384, 2523 / 4096 * 128
_PQ_C1, _PQ_C2, _PQ_C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_HLG_A, _HLG_B, _HLG_C = 0.17883277, 0.28466892, 0.55991073
_HLG_GAMMA = 1.2  # of a display with a peak of 1000 cd/m2


def to_sdr(codes: np.ndarray, transfer: int) -> np.ndarray:
    """Return HDR pixels, uint16 ``[H, W, 3]`` over the full range, as sRGB, uint8 ``[H, W, 3]``.

    ``transfer``: PQ or HLG. The tone curve scales a pixel's channels by one factor, which keeps its hue.
    """
    rgb = np.empty(codes.shape, np.uint8)
    for start in range(0, len(codes), _ROWS):
        rows = slice(start, start + _ROWS)
        rgb[rows] = _rows_to_sdr(codes[rows], transfer)
    return rgb


def _rows_to_sdr(codes: np.ndarray, transfer: int) -> np.ndarray:
    light = _light(transfer)[codes]
    if transfer == HLG:  # the table holds the scene's light; the display's depends on luminance
        light *= _PEAK * ((light @ _LUMINANCE) ** (_HLG_GAMMA - 1))[..., None]
    brightest = np.maximum(np.maximum(light[..., 0], light[..., 1]), light[..., 2])
    light *= np.interp(brightest, *_tone_curve()).astype(np.float32)[..., None]
    linear = (light @ _TO_BT709.T).clip(0, 1)
    return _srgb()[(linear * (_CODES - 1) + 0.5).astype(np.uint16)]


@cache
def _light(transfer: int) -> np.ndarray:
    """Return the light of each code: cd/m2 on the display (PQ), a share of the scene's peak (HLG)."""
    signal = np.arange(_CODES) / (_CODES - 1)
    if transfer == PQ:
        return _pq_to_light(signal).astype(np.float32)
    upper = (np.exp((signal - _HLG_C) / _HLG_A) + _HLG_B) / 12
    return np.where(signal <= 0.5, signal**2 / 3, upper).astype(np.float32)


@cache
def _tone_curve() -> tuple[np.ndarray, np.ndarray]:
    """Return the EETF of BT.2390: cd/m2 of a pixel's brightest channel, and the factor to apply.

    Light below the knee keeps its ratio to white; the peak becomes white.
    """
    signal = np.linspace(0, 1, 4096)[1:]
    peak = _light_to_pq(_PEAK)
    target = _light_to_pq(_REFERENCE_WHITE) / peak
    source = (signal / peak).clip(0, 1)
    knee = 1.5 * target - 0.5
    t = (source - knee) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (3 * t**2 - 2 * t**3) * target
    )
    light = _pq_to_light(signal)
    mapped = _pq_to_light(np.where(source < knee, source, spline) * peak)
    return light, mapped / light / _REFERENCE_WHITE


def _pq_to_light(signal: np.ndarray) -> np.ndarray:
    """Return cd/m2 of a PQ signal."""
    root = signal ** (1 / _PQ_M2)
    return 10_000 * (np.maximum(root - _PQ_C1, 0) / (_PQ_C2 - _PQ_C3 * root)) ** (1 / _PQ_M1)


def _light_to_pq(light: float) -> float:
    """Return the PQ signal of cd/m2."""
    power = (light / 10_000) ** _PQ_M1
    return float(((_PQ_C1 + _PQ_C2 * power) / (1 + _PQ_C3 * power)) ** _PQ_M2)


@cache
def _srgb() -> np.ndarray:
    """Return the sRGB value of each 16-bit linear code."""
    linear = np.arange(_CODES) / (_CODES - 1)
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * curve).astype(np.uint8)
