"""A PIL image -> the pixels of a model's input: upright, RGB, resized, cropped. Equal to torchvision value by value:

    antialias   Resize of a PIL image: Pillow's own filters on uint8
    otherwise   torch.nn.functional.interpolate(align_corners=False) on float pixels, which aliases

The two differ by tenths of a standard deviation when they shrink an image: use the one the model was trained with.

pipeline/other_files.py copies this module into the predict.py of an export: only numpy and Pillow, and valid in Python
3.9.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageOps

from edgemobile.errors import BrokenImage

__all__ = ["crop", "resize", "upright_rgb"]

_MAX_ASPECT = 100
# Limit for an image that is resized, because memory is limited.
_MAX_PIXELS = 2**28
_PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def upright_rgb(image: Image.Image) -> Image.Image:
    """A PIL image as people see it: RGB, 8 bits per channel, rotated by its EXIF orientation.

    16-bit values keep their high byte, as Pillow's decoders do for 16-bit colour. Raises BrokenImage for
    pixels with an unknown white level, and for very long images: 5000 x 1 pixels with a shorter side of 256 px are 4
    GiB.
    """
    width, height = image.size
    if max(image.size) > _MAX_ASPECT * min(image.size):
        raise BrokenImage(
            f"it is {width} x {height} px; the longer side may be at most {_MAX_ASPECT} times the shorter"
        )
    upright = ImageOps.exif_transpose(image)
    return (_high_byte(upright) if upright.mode[0] in "IF" else upright).convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    """Convert 16-bit grey to mode L: mode I;16 in any byte order, or I, which some versions of Pillow use for it."""
    pixels = np.asarray(image)
    if image.mode == "F" or pixels.min(initial=0) < 0 or pixels.max(initial=0) > 0xFFFF:
        raise BrokenImage(
            f"its pixels are {pixels.dtype}, from {pixels.min():g} to {pixels.max():g} (Pillow's mode {image.mode}), "
            "and the white level is unknown. Supported: 8 and 16 bits per channel; save it in such a mode"
        )
    return Image.fromarray((pixels >> 8).astype(np.uint8))


def resize(pixels: np.ndarray, px: int, how: str, interpolation: str, antialias: bool) -> np.ndarray:
    """u8[H,W,3] -> f32[h,w,3] in 0 to 1: h and w are `px` if `how` is "exact", else the shorter of them is.

    Raises BrokenImage if the longer side would not fit into memory.
    """
    height, width = pixels.shape[:2]
    size = (px, px) if how == "exact" else _size(height, width, px)
    if (height, width) == size:
        return pixels.astype(np.float32) / np.float32(255)
    if antialias:
        resized = Image.fromarray(pixels).resize((size[1], size[0]), _PILLOW[interpolation])
        return np.asarray(resized, dtype=np.float32) / np.float32(255)
    x = pixels.astype(np.float32) / np.float32(255)
    for axis in (0, 1):
        x = _interpolate(x, axis, size[axis], interpolation)
    return x


def crop(x: np.ndarray, px: int) -> np.ndarray:
    """The centre [px,px,3] of [H,W,3]."""
    # Python's round(), half to even, as in torchvision's CenterCrop.
    top, left = (round((side - px) / 2) for side in x.shape[:2])
    return x[top : top + px, left : left + px]


def _size(height: int, width: int, shorter_px: int) -> tuple[int, int]:
    """(height, width) before the crop. The longer side is rounded down, as torchvision does."""
    shorter, longer = min(height, width), max(height, width)
    longer_px = int(shorter_px * longer / shorter)
    if longer_px * shorter_px > _MAX_PIXELS:
        raise BrokenImage(f"with its shorter side at {shorter_px} px it is {longer_px} x {shorter_px} px")
    return (shorter_px, longer_px) if height <= width else (longer_px, shorter_px)


def _interpolate(x: np.ndarray, axis: int, size: int, interpolation: str) -> np.ndarray:
    """Resample one axis of f32[H,W,C] to `size`: each output is a weighted sum of a few inputs, clamped to the edge."""
    taps, weights = _TAPS[interpolation](x.shape[axis], size)
    taps = taps.clip(0, x.shape[axis] - 1)
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    terms = (np.take(x, taps[:, i], axis) * weights[:, i].reshape(shape) for i in range(taps.shape[1]))
    return functools.reduce(np.add, terms)


def _nearest_taps(in_size: int, out_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(inputs int[out,1], weights f32[out,1]): the pixel at floor(i * in / out)."""
    scale = np.float32(in_size) / np.float32(out_size)
    taps = np.floor(np.arange(out_size, dtype=np.float32) * scale).astype(int)
    return taps[:, None], np.ones((out_size, 1), np.float32)


def _bilinear_taps(in_size: int, out_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(inputs int[out,2], weights f32[out,2]) of the two pixels beside each sampling point."""
    points = np.maximum(_sampling_points(in_size, out_size), 0)
    first = np.floor(points).astype(int)
    share = (points - first).astype(np.float32)
    return np.stack([first, first + 1], 1), np.stack([1 - share, share], 1)


def _bicubic_taps(in_size: int, out_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(inputs int[out,4], weights f32[out,4]) of Keys' cubic convolution. PyTorch has a = -0.75, Pillow -0.5."""
    a = -0.75
    points = _sampling_points(in_size, out_size)
    taps = np.floor(points).astype(int)[:, None] + np.arange(-1, 3)
    distance = np.abs(points[:, None] - taps)
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return taps, np.where(distance <= 1, near, far).astype(np.float32)


def _sampling_points(in_size: int, out_size: int) -> np.ndarray:
    """Positions of the output pixels' centres on the input (align_corners=False), f32[out]."""
    # Round as PyTorch does: the scale to float32, then the position once, with a fused multiply-add.
    scale = float(np.float32(in_size) / np.float32(out_size))
    return ((np.arange(out_size) + 0.5) * scale - 0.5).astype(np.float32)


_TAPS = {"nearest": _nearest_taps, "bilinear": _bilinear_taps, "bicubic": _bicubic_taps}
