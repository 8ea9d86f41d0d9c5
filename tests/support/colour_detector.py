"""A detector whose right answers are known: each of 4 x 4 cells of an image is red, green or background."""

from __future__ import annotations

import json

import numpy as np

from edgemobile.exporters import FORMATS
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.model_file.metadata import LABELS, POSTPROCESS, PREPROCESS
from edgemobile.postprocess import AnchorLevel, Postprocess
from edgemobile.preprocess import Preprocess

__all__ = ["CELLS", "colour_detector", "painted"]

CELLS, _PX = 4, 32
HOW = Postprocess((AnchorLevel((CELLS, CELLS), ((1 / CELLS, 1 / CELLS),)),), score_threshold=0.4)
LABEL_NAMES = ("background", "red", "green")


def colour_detector(
    format_name: str, *, how: Postprocess = HOW, labels: tuple[str, ...] | None = LABEL_NAMES, shift: float = 0.0
) -> bytes:
    """A file of it; `shift` moves every box to the right, by so many cells."""
    # Grey has equal channels: no colour is more than background.
    colours = np.array([[0, 0, 0], [8, -8, -8], [-8, 8, -8]], np.float32).reshape(3, 1, 1, 3)
    offset = np.array([shift * how.scales[0], 0, 0, 0], np.float32)
    constants = {
        "logits.weight": colours,
        "logits.bias": np.zeros(3, np.float32),
        "boxes.weight": np.zeros((4, 1, 1, 3), np.float32),
        "boxes.bias": offset,
    }
    side, count = _PX // CELLS, CELLS**2
    tensors = {
        "image": Tensor("image", (1, _PX, _PX, 3)),
        "cells": Tensor("cells", (1, CELLS, CELLS, 3)),
        "logits": Tensor("logits", (1, CELLS, CELLS, 3)),
        "boxes": Tensor("boxes", (1, CELLS, CELLS, 4)),
        how.logits: Tensor(how.logits, (1, count, 3)),
        how.boxes: Tensor(how.boxes, (1, count, 4)),
        **{name: Tensor.constant(name, data) for name, data in constants.items()},
    }
    point = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1, "activation": ""}
    nodes = (
        Node("avg_pool2d", ("image",), "cells", {"kernel": (side, side), "stride": (side, side)}),
        Node("conv2d", ("cells", "logits.weight", "logits.bias"), "logits", point),
        Node("conv2d", ("cells", "boxes.weight", "boxes.bias"), "boxes", point),
        Node("reshape", ("boxes",), how.boxes),
        Node("reshape", ("logits",), how.logits),
    )
    graph = Graph("colours", ("image",), (how.boxes, how.logits), nodes, tensors)
    preprocess = Preprocess(_PX, mean=(0, 0, 0), std=(1, 1, 1), antialias=False, interpolation="nearest")
    metadata = {PREPROCESS: json.dumps(preprocess.to_json()), POSTPROCESS: json.dumps(how.to_json())}
    if labels is not None:
        metadata[LABELS] = json.dumps(list(labels))
    return FORMATS[format_name].load().to_bytes(graph, metadata=metadata)


def painted(*cells: tuple[int, int, str], width: int = 128, height: int = 64) -> np.ndarray:
    """u8[height,width,3]: black, with cells (row, column, "red" or "green")."""
    image = np.zeros((height, width, 3), np.uint8)
    for row, column, colour in cells:
        tall, wide = height // CELLS, width // CELLS
        image[row * tall : (row + 1) * tall, column * wide : (column + 1) * wide, int(colour == "green")] = 255
    return image
