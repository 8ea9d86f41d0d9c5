"""The raw outputs of an SSD -> boxes: one versioned record that travels in the metadata of a detector's files.

Needs only numpy. Sources: SSD (arXiv:1512.02325, section 2.2); the arithmetic and the usual thresholds are those of
torchvision's ssdlite320_mobilenet_v3_large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from edgemobile.boxes import best_boxes, box_corners, grid_anchors, shares
from edgemobile.errors import EdgemobileError
from edgemobile.util.strict_json import decode, encode, versioned

__all__ = ["AnchorLevel", "Detections", "Postprocess"]

_VERSION = 1
# Of all boxes; a file from elsewhere must not ask for more memory than there is.
_MOST_ANCHORS = 2**20


class Detections(NamedTuple):
    """The boxes in an image, best first.

    boxes f32[n,4] are left, top, right and bottom as shares of the image's width and height; scores f32[n] are
    probabilities; classes i64[n] count the background as 0, so that none is 0.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class AnchorLevel:
    """The anchors of one level: at every pixel of a grid of (rows, columns), one of each size (width, height).

    Sizes are shares of the image's width and height.
    """

    grid: tuple[int, int]
    sizes: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if min(self.grid) < 1 or not self.sizes:
            raise EdgemobileError(f"anchors need a grid and a size; found {list(self.grid)} and {len(self.sizes)}")
        if not all(0 < side < math.inf for size in self.sizes for side in size):
            raise EdgemobileError(f"the sizes of anchors must be above 0, found {self.sizes}")

    @property
    def count(self) -> int:
        return self.grid[0] * self.grid[1] * len(self.sizes)

    def anchors(self) -> np.ndarray:
        """f32[count,4] of x, y (of the centre), width and height: row by row, pixel by pixel, size by size."""
        return grid_anchors(self.grid, self.sizes)


@dataclass(frozen=True)
class Postprocess:
    """How the raw outputs of an SSD become boxes.

    `boxes` and `logits` name the outputs [N,anchors,4] and [N,anchors,classes], of which class 0 is the background.
    `scales` are what the offsets of x, y, width and height are divided by. Of each class the best `candidates` with at
    least `score_threshold` are taken; a box that overlaps a better one of its class by more than `iou_threshold` is
    dropped; the best `detections` of all classes are left.
    """

    levels: tuple[AnchorLevel, ...]
    boxes: str = "bbox_regression"
    logits: str = "cls_logits"
    scales: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    score_threshold: float = 0.001
    iou_threshold: float = 0.55
    candidates: int = 300
    detections: int = 300

    def __post_init__(self) -> None:
        if not 0 < self.count <= _MOST_ANCHORS:
            raise EdgemobileError(f"a detector has 1 to {_MOST_ANCHORS} anchors, found {self.count}")
        if not all(0 < scale < math.inf for scale in self.scales):
            raise EdgemobileError(f"the scales of boxes must be above 0, found {list(self.scales)}")
        for name in ("score_threshold", "iou_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise EdgemobileError(f"{name} must be from 0 to 1, found {getattr(self, name):g}")
        for name in ("candidates", "detections"):
            if getattr(self, name) < 1:
                raise EdgemobileError(f"{name} must be at least 1, found {getattr(self, name)}")

    @property
    def count(self) -> int:
        """The number of anchors."""
        return sum(level.count for level in self.levels)

    @cached_property
    def anchors(self) -> np.ndarray:
        """f32[count,4] of x, y (of the centre), width and height, level by level."""
        return np.concatenate([level.anchors() for level in self.levels])

    def __call__(self, offsets: np.ndarray, logits: np.ndarray) -> Detections:
        """The boxes of one image, from f32[anchors,4] and f32[anchors,classes].

        Raises EdgemobileError for other shapes, and for numbers that are not finite.
        """
        if offsets.shape != (self.count, 4) or logits.ndim != 2 or len(logits) != self.count or logits.shape[1] < 2:
            raise EdgemobileError(
                f"a detector of {self.count} anchors has outputs [{self.count}, 4] and [{self.count}, classes]; found "
                f"{list(offsets.shape)} and {list(logits.shape)}"
            )
        if not (np.isfinite(offsets).all() and np.isfinite(logits).all()):
            raise EdgemobileError("the model's outputs are not finite: there is no result")
        boxes, scores, classes = best_boxes(
            self.corners(offsets),
            shares(logits)[:, 1:],
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
            candidates=self.candidates,
            detections=self.detections,
        )
        return Detections(boxes, scores, classes + 1)

    def corners(self, offsets: np.ndarray) -> np.ndarray:
        """f32[anchors,4] of left, top, right and bottom, inside the image, for the offsets f32[anchors,4]."""
        return box_corners(offsets, self.anchors, self.scales)

    def to_json(self) -> dict[str, Any]:
        return {"version": _VERSION, **encode(self)}

    @classmethod
    def from_json(cls, text: str | dict[str, Any]) -> Postprocess:
        """Read the JSON that `to_json` wrote; raises EdgemobileError for an unknown version, field or value."""
        return decode(cls, versioned(text, _VERSION, "postprocess record"), "postprocess record")
