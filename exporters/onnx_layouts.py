"""Conversion between the Graph's layout, NHWC, and ONNX's, NCHW."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = [
    "channels_first",
    "channels_first_widened",
    "channels_last",
    "channels_last_narrowed",
    "columns_first",
    "columns_last",
    "nchw",
    "nhwc",
]


def channels_first(array: np.ndarray) -> np.ndarray:
    """[N,H,W,C] -> [N,C,H,W] and [H,W,C] -> [C,H,W]; fewer dimensions have no layout."""
    return np.moveaxis(array, -1, -3) if array.ndim >= 3 else array


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, -3, -1) if array.ndim >= 3 else array


def channels_first_widened(weight: np.ndarray, channels: int) -> np.ndarray:
    """[O,H,W,I] -> [O,I + channels,H,W], the new channels zero."""
    return channels_first(np.pad(weight, ((0, 0), (0, 0), (0, 0), (0, channels))))


def channels_last_narrowed(weight: np.ndarray, channels: int) -> np.ndarray:
    """The inverse of channels_first_widened."""
    return channels_last(weight)[..., :-channels]


def nchw(shape: Sequence[int]) -> tuple[int, ...]:
    return (shape[0], shape[3], *shape[1:3]) if len(shape) == 4 else tuple(shape)


def nhwc(shape: Sequence[int]) -> tuple[int, ...]:
    return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else tuple(shape)


def _columns(matrix: np.ndarray, order: tuple[int, int, int], axes: tuple[int, int, int]) -> np.ndarray:
    """The weight [out, in] with each row reshaped to `order` and transposed by `axes`."""
    return matrix.reshape(-1, *order).transpose(0, *(axis + 1 for axis in axes)).reshape(matrix.shape)


def columns_first(matrix: np.ndarray, image: tuple[int, ...]) -> np.ndarray:
    """The weight of a layer on a flattened `image` [N,H,W,C], with columns in the order of the flattened [N,C,H,W]."""
    _, height, width, channels = image
    return _columns(matrix, (height, width, channels), (2, 0, 1))


def columns_last(matrix: np.ndarray, image: tuple[int, ...]) -> np.ndarray:
    """The inverse of columns_first."""
    _, height, width, channels = image
    return _columns(matrix, (channels, height, width), (1, 2, 0))
