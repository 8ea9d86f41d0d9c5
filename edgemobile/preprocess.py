"""Image -> array: one versioned record that travels with a checkpoint, a manifest and a job on a board.

numpy and Pillow only, and equal to torchvision's transforms, value by value:

    antialias   Resize of a PIL image: Pillow's own filters on uint8
    otherwise   torch.nn.functional.interpolate(align_corners=False) on float pixels: what it skips is lost

The two differ by tenths of a standard deviation when they shrink an image: a model wants the one it was trained with.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, ImageOps

from edgemobile.errors import BrokenImage, EdgemobileError
from edgemobile.util.strict_json import versioned

__all__ = ["CIFAR10", "IMAGENET", "Channels", "Preprocess", "at_resolution", "upright_rgb"]

Channels = tuple[float, float, float]  # of R, G, B
Resize = Literal["exact", "shorter"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]

_VERSION = 1
_MAX_ASPECT = 100
_PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a model's input.

    `resize` "exact" goes straight to input_px x input_px; "shorter" brings the shorter side to `shorter_px` and cuts
    input_px x input_px out of the middle. `mean` and `std` are of R, G, B on pixels from 0 to 1.
    """

    input_px: int
    resize: Resize = "exact"
    shorter_px: int | None = None
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    mean: Channels = (0.485, 0.456, 0.406)
    std: Channels = (0.229, 0.224, 0.225)
    version: int = _VERSION

    def __post_init__(self) -> None:
        if self.version != _VERSION:
            raise EdgemobileError(
                f"preprocess version {self.version!r} is not known to this edgemobile; it reads version {_VERSION}"
            )
        _one_of("resize", self.resize, get_args(Resize))
        _one_of("interpolation", self.interpolation, get_args(Interpolation))
        if type(self.antialias) is not bool:
            raise EdgemobileError(f"preprocess: antialias must be true or false, found {self.antialias!r}")
        _pixels("input_px", self.input_px, at_least=1)
        if self.resize == "shorter":
            _pixels("shorter_px", self.shorter_px, at_least=self.input_px)
        elif self.shorter_px is not None:
            raise EdgemobileError('preprocess: shorter_px is only for resize "shorter"; leave it out with "exact"')
        object.__setattr__(self, "mean", _channels("mean", self.mean))
        object.__setattr__(self, "std", _channels("std", self.std))
        if min(self.std) <= 0:
            raise EdgemobileError(f"preprocess: std must be above 0, found {list(self.std)}")

    def __call__(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """f32[input_px, input_px, 3], normalised, of a PIL image, made `upright_rgb`, or u8[H,W,3] in RGB order.

        Raises EdgemobileError for an array of another shape or dtype, BrokenImage as `upright_rgb` does.
        """
        pixels = _rgb(image)
        size = self._resized_size(*pixels.shape[:2])
        resized = self._resize(pixels, size)
        mean, std = (np.array(values, np.float32) for values in (self.mean, self.std))
        return (self._crop(resized) - mean) / std

    def to_json(self) -> dict[str, Any]:
        return {"version": self.version, **{key: value for key, value in asdict(self).items() if key != "version"}}

    @classmethod
    def from_json(cls, text: str | dict[str, Any]) -> Preprocess:
        """Read back what `to_json` wrote; raises EdgemobileError for an unknown version, field or value."""
        data = versioned(text, _VERSION, "preprocess record")
        try:
            return cls(**data)
        except (ValueError, TypeError) as error:
            known = ", ".join(field.name for field in fields(cls))
            raise EdgemobileError(f"not a preprocess record: {error}. It has: {known}") from error

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) before the crop. The longer side is rounded down, as torchvision does."""
        if self.shorter_px is None:
            return self.input_px, self.input_px
        shorter, longer = min(height, width), max(height, width)
        longer_px = int(self.shorter_px * longer / shorter)
        return (self.shorter_px, longer_px) if height <= width else (longer_px, self.shorter_px)

    def _resize(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """u8[H,W,3] -> f32[*size,3] on the scale 0 to 1."""
        if pixels.shape[:2] == size:
            return pixels.astype(np.float32) / np.float32(255)
        if self.antialias:
            resized = Image.fromarray(pixels).resize((size[1], size[0]), _PILLOW[self.interpolation])
            return np.asarray(resized, dtype=np.float32) / np.float32(255)
        x = pixels.astype(np.float32) / np.float32(255)
        for axis in (0, 1):
            x = _interpolate(x, axis, size[axis], self.interpolation)
        return x

    def _crop(self, x: np.ndarray) -> np.ndarray:
        # round() is Python's, half to even: torchvision's CenterCrop has the same.
        top, left = (round((side - self.input_px) / 2) for side in x.shape[:2])
        return x[top : top + self.input_px, left : left + self.input_px]


def at_resolution(preprocess: Preprocess, input_px: int) -> Preprocess:
    """`preprocess` for another input resolution; a crop keeps its share of the image (224 of 256 is 0.875)."""
    shorter_px = preprocess.shorter_px and max(input_px, round(preprocess.shorter_px * input_px / preprocess.input_px))
    return replace(preprocess, input_px=input_px, shorter_px=shorter_px)


def upright_rgb(image: Image.Image) -> Image.Image:
    """A PIL image as people see it: in RGB, 8 bits a channel, and turned as its camera says.

    Of 16 bits the high byte stays, which is what Pillow's decoders leave of 16-bit colour. Raises BrokenImage for
    pixels whose white is not known, and for a strip: with its shorter side at 256 px, 5000 x 1 pixels are 4 GiB.
    """
    width, height = image.size
    if max(image.size) > _MAX_ASPECT * min(image.size):
        raise BrokenImage(f"it is {width} x {height} px; at most {_MAX_ASPECT} times as long as wide can be shown")
    upright = ImageOps.exif_transpose(image)
    return (_high_byte(upright) if upright.mode[0] in "IF" else upright).convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    """Mode L of 16 bits of grey: mode I;16, in any byte order, or I, which some versions of Pillow make of it."""
    pixels = np.asarray(image)
    if image.mode == "F" or pixels.min(initial=0) < 0 or pixels.max(initial=0) > 0xFFFF:
        raise BrokenImage(
            f"its pixels are {pixels.dtype}, from {pixels.min():g} to {pixels.max():g} (Pillow's mode {image.mode}), "
            "and which of them is white is not known. Supported: 8 and 16 bits a channel; save it so"
        )
    return Image.fromarray((pixels >> 8).astype(np.uint8))


def _rgb(image: Image.Image | np.ndarray) -> np.ndarray:
    """u8[H,W,3] of an image."""
    if isinstance(image, Image.Image):
        return np.asarray(upright_rgb(image))
    if not isinstance(image, np.ndarray):
        raise EdgemobileError(f"an image must be a PIL image or u8[H,W,3], found {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise EdgemobileError(f"an image must be u8[H,W,3], found {image.dtype}{list(image.shape)}")
    return np.ascontiguousarray(image)


def _interpolate(x: np.ndarray, axis: int, size: int, interpolation: str) -> np.ndarray:
    """Resample one axis of f32[H,W,C] to `size`: an output is a few inputs, clamped to the edge, times weights."""
    taps, weights = _TAPS[interpolation](x.shape[axis], size)
    taps = taps.clip(0, x.shape[axis] - 1)
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    terms = (np.take(x, tap, axis) * weight.reshape(shape) for tap, weight in zip(taps.T, weights.T, strict=True))
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
    """Where output pixels' centres fall on the input (align_corners=False), f32[out]."""
    # As PyTorch rounds: the scale to float32, then the point once, by a fused multiply-add.
    scale = float(np.float32(in_size) / np.float32(out_size))
    return ((np.arange(out_size) + 0.5) * scale - 0.5).astype(np.float32)


_TAPS = {"nearest": _nearest_taps, "bilinear": _bilinear_taps, "bicubic": _bicubic_taps}


def _one_of(what: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise EdgemobileError(f"preprocess: {what} {value!r} is not known. Allowed: {', '.join(allowed)}")


def _pixels(what: str, value: object, *, at_least: int) -> None:
    if type(value) is not int or value < at_least:
        raise EdgemobileError(f"preprocess: {what} must be a whole number of at least {at_least}, found {value!r}")


def _channels(what: str, values: object) -> Channels:
    """Three finite numbers as a tuple: JSON brings a list."""
    try:
        red, green, blue = (float(value) for value in values)  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise EdgemobileError(f"preprocess: {what} must be three numbers (R, G, B), found {values!r}") from error
    if not np.isfinite([red, green, blue]).all():
        raise EdgemobileError(f"preprocess: {what} must be finite, found {values!r}")
    return red, green, blue


# The public ImageNet checkpoints, and the CIFAR-10 ones of examples/train_cifar10.py.
IMAGENET = Preprocess(input_px=224, resize="shorter", shorter_px=256)
CIFAR10 = Preprocess(input_px=96, resize="exact", antialias=False)
