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

from edgemobile.errors import EdgemobileError
from edgemobile.util.strict_json import decode, encode, versioned

__all__ = ["AnchorLevel", "Detections", "Postprocess", "iou"]

_VERSION = 1
# A box is at most so much larger than its anchor: exp() of a wrong number must not overflow.
_LARGEST_GROWTH = math.log(1000 / 16)
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
        rows, columns = self.grid
        y, x = ((np.arange(side) + 0.5) / side for side in (rows, columns))
        found = np.empty((rows, columns, len(self.sizes), 4), np.float32)
        found[..., 0] = x[None, :, None]
        found[..., 1] = y[:, None, None]
        found[..., 2:] = self.sizes
        return found.reshape(-1, 4)


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
        boxes, scores = self.corners(offsets), _softmax(logits)[:, 1:]
        return self._without_overlaps(boxes, scores)

    def corners(self, offsets: np.ndarray) -> np.ndarray:
        """f32[anchors,4] of left, top, right and bottom, inside the image, for the offsets f32[anchors,4].

        x = x_a + w_a dx / s_x,  w = w_a exp(dw / s_w), and y and height alike.
        """
        steps = np.asarray(offsets, np.float32) / np.array(self.scales, np.float32)
        centre, size = self.anchors[:, :2], self.anchors[:, 2:]
        centre = centre + steps[:, :2] * size
        half = np.exp(np.minimum(steps[:, 2:], np.float32(_LARGEST_GROWTH))) * size / 2
        return np.clip(np.concatenate([centre - half, centre + half], axis=1), 0, 1)

    def _without_overlaps(self, boxes: np.ndarray, scores: np.ndarray) -> Detections:
        """Non-maximum suppression of each class of scores f32[anchors,classes], all classes at once."""
        most = min(self.candidates, len(scores))
        order = np.argsort(-scores, axis=0, kind="stable")[:most].T  # [classes, candidates]
        ranked = np.take_along_axis(scores.T, order, axis=1)
        kept = ranked > self.score_threshold
        # A rank that no class reaches needs no work.
        reached = int(kept.sum(axis=1).max(initial=0))
        order, ranked, kept = order[:, :reached], ranked[:, :reached], kept[:, :reached]
        for rank in range(reached - 1):
            better = boxes[order[:, rank]][:, None]
            overlaps = iou(better, boxes[order[:, rank + 1 :]]) > self.iou_threshold
            kept[:, rank + 1 :] &= ~(overlaps & kept[:, rank, None])
        classes, ranks = np.nonzero(kept)
        found = ranked[classes, ranks]
        best = np.argsort(-found, kind="stable")[: self.detections]
        classes, ranks = classes[best], ranks[best]
        return Detections(boxes[order[classes, ranks]], found[best], classes + 1)

    def to_json(self) -> dict[str, Any]:
        return {"version": _VERSION, **encode(self)}

    @classmethod
    def from_json(cls, text: str | dict[str, Any]) -> Postprocess:
        """Read the JSON that `to_json` wrote; raises EdgemobileError for an unknown version, field or value."""
        return decode(cls, versioned(text, _VERSION, "postprocess record"), "postprocess record")


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [...,4] of left, top, right and bottom; 0 where both are empty."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.prod(np.maximum(sides, 0), axis=-1)
    area_a, area_b = (np.prod(box[..., 2:] - box[..., :2], axis=-1) for box in (a, b))
    return shared / np.maximum(area_a + area_b - shared, np.finfo(np.float32).tiny)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
