"""The source coordinates of the pixels of a resized image, in PyTorch and in both formats.

coordinates     source of the pixel i                    PyTorch
half_pixel      (i + 0.5) * before / after - 0.5         bilinear, align_corners=False; nearest-exact
align_corners   i * (before - 1) / (after - 1)           bilinear, align_corners=True
asymmetric      i * before / after                       nearest
"""

from __future__ import annotations

import numpy as np

__all__ = ["COORDINATES", "linear_taps", "nearest_taps"]

# Mode -> the allowed coordinates.
COORDINATES = {"bilinear": ("half_pixel", "align_corners"), "nearest": ("asymmetric", "half_pixel")}


def linear_taps(before: int, after: int, coordinates: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first pixel, second pixel, f32 weight of the second) for each of `after` pixels, from a side of `before`."""
    index = np.arange(after, dtype=np.float32)
    if coordinates == "align_corners":
        source = index * np.float32((before - 1) / (after - 1) if after > 1 else 0)
    else:
        source = np.maximum((index + np.float32(0.5)) * np.float32(before / after) - np.float32(0.5), 0)
    first = np.minimum(source.astype(np.int64), before - 1)
    return first, np.minimum(first + 1, before - 1), (source - first).astype(np.float32)


def nearest_taps(before: int, after: int, coordinates: str) -> np.ndarray:
    """The source pixel of each of `after` pixels, from a side of `before`."""
    index = np.arange(after, dtype=np.float32) + np.float32(0.5 if coordinates == "half_pixel" else 0)
    return np.minimum((index * np.float32(before / after)).astype(np.int64), before - 1)
