"""The arithmetic that turns the raw outputs of an SSD into boxes. Source: torchvision's ssdlite320_mobilenet_v3_large.

pipeline/other_files.py copies this module into the predict.py of a detector: only numpy, and valid in Python 3.9.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["best_boxes", "box_corners", "grid_anchors", "iou", "shares"]

# A box is at most so much larger than its anchor: exp() of a wrong number must not overflow.
_LARGEST_GROWTH = math.log(1000 / 16)


def grid_anchors(grid: Sequence[int], sizes: Sequence[Sequence[float]]) -> np.ndarray:
    """f32[count,4] of x, y (of the centre), width and height: row by row, pixel by pixel, size by size."""
    rows, columns = grid
    y, x = ((np.arange(side) + 0.5) / side for side in (rows, columns))
    found = np.empty((rows, columns, len(sizes), 4), np.float32)
    found[..., 0] = x[None, :, None]
    found[..., 1] = y[:, None, None]
    found[..., 2:] = sizes
    return found.reshape(-1, 4)


def box_corners(offsets: np.ndarray, anchors: np.ndarray, scales: Sequence[float]) -> np.ndarray:
    """f32[anchors,4] of left, top, right and bottom, inside the image, for the offsets f32[anchors,4].

    x = x_a + w_a dx / s_x,  w = w_a exp(dw / s_w), and y and height alike.
    """
    steps = np.asarray(offsets, np.float32) / np.array(scales, np.float32)
    centre, size = anchors[:, :2], anchors[:, 2:]
    centre = centre + steps[:, :2] * size
    half = np.exp(np.minimum(steps[:, 2:], np.float32(_LARGEST_GROWTH))) * size / 2
    return np.clip(np.concatenate([centre - half, centre + half], axis=1), 0, 1)


def best_boxes(
    boxes: np.ndarray,
    scores: np.ndarray,
    *,
    score_threshold: float,
    iou_threshold: float,
    candidates: int,
    detections: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Non-maximum suppression of each class of scores f32[anchors,classes], all classes at once.

    Returns the boxes f32[n,4], their scores f32[n] and classes i64[n], best first.
    """
    most = min(candidates, len(scores))
    order = np.argsort(-scores, axis=0, kind="stable")[:most].T  # [classes, candidates]
    ranked = np.take_along_axis(scores.T, order, axis=1)
    kept = ranked > score_threshold
    # A rank that no class reaches needs no work.
    reached = int(kept.sum(axis=1).max(initial=0))
    order, ranked, kept = order[:, :reached], ranked[:, :reached], kept[:, :reached]
    for rank in range(reached - 1):
        better = boxes[order[:, rank]][:, None]
        overlaps = iou(better, boxes[order[:, rank + 1 :]]) > iou_threshold
        kept[:, rank + 1 :] &= ~(overlaps & kept[:, rank, None])
    classes, ranks = np.nonzero(kept)
    found = ranked[classes, ranks]
    best = np.argsort(-found, kind="stable")[:detections]
    classes, ranks = classes[best], ranks[best]
    return boxes[order[classes, ranks]], found[best], classes


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [...,4] of left, top, right and bottom; 0 where both are empty."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.prod(np.maximum(sides, 0), axis=-1)
    area_a, area_b = (np.prod(box[..., 2:] - box[..., :2], axis=-1) for box in (a, b))
    return shared / np.maximum(area_a + area_b - shared, np.finfo(np.float32).tiny)


def shares(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last dimension."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
