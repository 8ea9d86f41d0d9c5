"""The outputs of a net by name, and as rows that contain all of them.

A row f32[values] has the outputs for one image in order, each flattened with its channels last. The row of a classifier
is its logits. ONNX files have channels first, so the code that runs them transposes their outputs. This module also
runs on boards, so it must be valid in Python 3.9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Output", "channels_last", "is_classifier", "most_images", "not_a_classifier", "rows_of", "split"]

# A comparison holds some copies of all outputs in float64.
_MOST_VALUES = 2**24
_FEWEST_IMAGES = 2


@dataclass(frozen=True)
class Output:
    """One output: its name, and its shape without the batch, channels last: (classes,) or (H, W, C)."""

    name: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not all(size > 0 for size in self.shape):
            raise ValueError(f"output {self.name} has the shape {list(self.shape)}; every side must be at least 1")

    @property
    def size(self) -> int:
        """The number of its values."""
        return math.prod(self.shape)

    @property
    def words(self) -> str:
        """For example "out [N, 64, 64, 21]"."""
        return f"{self.name} [{', '.join(('N', *map(str, self.shape)))}]"


def is_classifier(outputs: Sequence[Output]) -> bool:
    """Whether the only output is [N, classes]."""
    return len(outputs) == 1 and len(outputs[0].shape) == 1


def not_a_classifier(name: str, outputs: Sequence[str]) -> str:
    """The error message for a net with these `outputs` (Output.words) if a classifier is required."""
    return (
        f"{name} has the output{'s' * (len(outputs) > 1)} {', '.join(outputs)}. Supported: classifiers, [N, "
        "classes]; `export`, `parity`, `inspect` and `bench` take any net; `eval`, `predict` and the predict.py of an "
        "export also take detectors"
    )


def channels_last(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of an image [N,C,H,W] as [N,H,W,C]; others as they are."""
    return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else tuple(shape)


def rows_of(arrays: Sequence[np.ndarray], *, channels_first: bool = False) -> np.ndarray:
    """f32[N, values] of all outputs [N, ...]; with `channels_first`, those of 4 dimensions are [N,C,H,W]."""
    turned = [array.transpose(0, 2, 3, 1) if channels_first and array.ndim == 4 else array for array in arrays]
    flat = [np.asarray(array, np.float32).reshape(len(array), -1) for array in turned]
    return flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)


def split(rows: np.ndarray, outputs: Sequence[Output]) -> Mapping[str, np.ndarray]:
    """The outputs [N, *shape] in `rows`, by name. Raises ValueError if they hold another number of values."""
    sizes = [output.size for output in outputs]
    if rows.shape[1:] != (sum(sizes),):
        raise ValueError(f"rows {list(rows.shape)} do not hold {', '.join(output.words for output in outputs)}")
    parts = np.split(rows, np.cumsum(sizes)[:-1], axis=1)
    return {
        output.name: part.reshape(len(part), *output.shape)
        for output, part in zip(outputs, parts)  # noqa: B905  # strict= came with Python 3.10
    }


def most_images(outputs: Sequence[Output], wanted: int) -> int:
    """How many of `wanted` images can be compared in memory: fewer if the outputs for an image are large."""
    return min(wanted, max(_FEWEST_IMAGES, _MOST_VALUES // max(1, sum(output.size for output in outputs))))
