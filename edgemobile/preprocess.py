"""Image -> array: one versioned record that travels with a checkpoint, a manifest and a job on a board.

Needs only numpy and Pillow. Equal to torchvision's transforms value by value; the arithmetic is in edgemobile.pixels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from edgemobile.errors import EdgemobileError
from edgemobile.pixels import crop, resize, upright_rgb
from edgemobile.util.strict_json import versioned

__all__ = ["CIFAR10", "IMAGENET", "Channels", "Preprocess", "at_resolution"]

Channels = tuple[float, float, float]  # of R, G, B
Resize = Literal["exact", "shorter"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]

_VERSION = 1
# Limit for the sides of an input: no model needs more, and memory is limited.
_MAX_PX = 8192


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a model's input.

    `resize` "exact" resizes directly to input_px x input_px; ""
    "shorter" resizes the shorter side to `shorter_px` and crops
    the central input_px x input_px. `mean` and `std` are for R, G, B with pixels from 0 to 1.
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
        # Smaller ones are 0 in float32, the dtype of the division.
        if min(np.array(self.std, np.float32)) <= 0:
            raise EdgemobileError(f"preprocess: std must be above 0, found {list(self.std)}")

    def __call__(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """f32[input_px, input_px, 3], normalized, of a PIL image (passed through `upright_rgb`) or u8[H,W,3] in RGB
        order.

        Raises EdgemobileError for an array of another shape or dtype, BrokenImage as `upright_rgb` does.
        """
        resized = resize(_rgb(image), self.shorter_px or self.input_px, self.resize, self.interpolation, self.antialias)
        mean, std = (np.array(values, np.float32) for values in (self.mean, self.std))
        return (crop(resized, self.input_px) - mean) / std

    @property
    def largest(self) -> float:
        """The largest absolute value that it gives."""
        return max(max(mean, 1 - mean) / std for mean, std in zip(self.mean, self.std, strict=True))

    def to_json(self) -> dict[str, Any]:
        return {"version": self.version, **{key: value for key, value in asdict(self).items() if key != "version"}}

    @classmethod
    def from_json(cls, text: str | dict[str, Any]) -> Preprocess:
        """Read the JSON that `to_json` wrote; raises EdgemobileError for an unknown version, field or value."""
        data = versioned(text, _VERSION, "preprocess record")
        try:
            return cls(**data)
        except (ValueError, TypeError) as error:
            known = ", ".join(field.name for field in fields(cls))
            raise EdgemobileError(f"not a preprocess record: {error}. It has: {known}") from error


def at_resolution(preprocess: Preprocess, input_px: int) -> Preprocess:
    """`preprocess` for another input resolution; a crop keeps its fraction of the image (224 of 256 is 0.875)."""
    shorter_px = preprocess.shorter_px and max(input_px, round(preprocess.shorter_px * input_px / preprocess.input_px))
    return replace(preprocess, input_px=input_px, shorter_px=shorter_px)


def _rgb(image: Image.Image | np.ndarray) -> np.ndarray:
    """u8[H,W,3] of an image."""
    if isinstance(image, Image.Image):
        return np.asarray(upright_rgb(image))
    if not isinstance(image, np.ndarray):
        raise EdgemobileError(f"an image must be a PIL image or u8[H,W,3], found {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise EdgemobileError(f"an image must be u8[H,W,3], found {image.dtype}{list(image.shape)}")
    return np.ascontiguousarray(image)


def _one_of(what: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise EdgemobileError(f"preprocess: {what} {value!r} is not known. Allowed: {', '.join(allowed)}")


def _pixels(what: str, value: object, *, at_least: int) -> None:
    if type(value) is not int or not at_least <= value <= _MAX_PX:
        raise EdgemobileError(
            f"preprocess: {what} must be a whole number of at least {at_least} and at most {_MAX_PX}, "
            f"found {str(value)[:40] if type(value) is int else repr(value)}"
        )


def _channels(what: str, values: object) -> Channels:
    """Three finite numbers as a tuple: JSON brings a list."""
    try:
        red, green, blue = (float(value) for value in values)  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise EdgemobileError(f"preprocess: {what} must be three numbers (R, G, B), found {values!r}") from error
    except OverflowError:
        red = green = blue = float("inf")
    if not _finite_in_float32((red, green, blue)):
        raise EdgemobileError(f"preprocess: {what} must be finite, found {str(values)[:80]}")
    return red, green, blue


def _finite_in_float32(values: Channels) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.array(values, np.float32)).all())


# The public ImageNet checkpoints, and the CIFAR-10 ones of examples/train_cifar10.py.
IMAGENET = Preprocess(input_px=224, resize="shorter", shorter_px=256)
CIFAR10 = Preprocess(input_px=96, resize="exact", antialias=False)
