"""Removes what a net does to its pixels before its first layer, such as Keras's Rescaling and Normalization.

Given:  input -> mul 1/127.5 -> add -1 -> conv2d       Result: input -> conv2d, InputScaling(1/127.5, -1)

An int8 file would round the pixels once more in each of these ops. As a part of the preprocessing they are exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgemobile.graph import Graph, Node
from edgemobile.lower.affine_folding import affine
from edgemobile.preprocess import Channels, Preprocess

__all__ = ["UNSCALED", "InputScaling", "without_input_scaling"]


@dataclass(frozen=True)
class InputScaling:
    """pixels * scale + offset, per channel. scale, offset f64[3]."""

    scale: np.ndarray
    offset: np.ndarray

    def __bool__(self) -> bool:
        return bool((self.scale != 1).any() or self.offset.any())

    def after(self, preprocess: Preprocess) -> Preprocess:
        """`preprocess` with the scaling behind it, as one normalization."""
        mean, std = np.array(preprocess.mean), np.array(preprocess.std)
        # ((pixel - mean) / std) * scale + offset
        mean, std = mean - self.offset * std / self.scale, std / self.scale
        return replace(preprocess, mean=_rounded(mean), std=_rounded(std)) if self else preprocess

    def undone(self, images: np.ndarray) -> np.ndarray:
        """The inputs f32[N,H,W,3] that become `images` f32[N,H,W,3]."""
        return ((images - self.offset) / self.scale).astype(np.float32) if self else images


def _rounded(values: np.ndarray) -> Channels:
    """To the seven digits that the float32 constants of a file have: 0.5 instead of 0.49999997."""
    red, green, blue = (float(f"{value:.7g}") for value in values)
    return red, green, blue


UNSCALED = InputScaling(np.ones(3), np.zeros(3))


def without_input_scaling(graph: Graph) -> tuple[Graph, InputScaling]:
    """`graph`, of one input, without the products and sums of its input with constants; what they computed."""
    (source,) = graph.inputs
    scaling, name, removed = UNSCALED, source, set()
    while (found := _scaling(graph, name)) is not None:
        node, scale, offset = found
        scaling = InputScaling(scaling.scale * scale, scaling.offset * scale + offset)
        name = node.output
        removed.add(name)
    if not removed:
        return graph, UNSCALED
    nodes = [
        Node(node.op, tuple(source if each == name else each for each in node.inputs), node.output, node.attrs)
        for node in graph.nodes
        if node.output not in removed
    ]
    return graph.replaced(nodes), scaling


def _scaling(graph: Graph, name: str) -> tuple[Node, np.ndarray, np.ndarray] | None:
    """(the only consumer of `name`, scale, offset) if it multiplies by positive constants or adds constants."""
    consumers = graph.consumers(name)
    if len(consumers) != 1 or consumers[0].output in graph.outputs:
        return None
    (node,) = consumers
    found = affine(graph, node)
    if found is None or node.attrs["activation"]:
        return None
    _, scale, offset = found
    return (node, scale, offset) if (scale > 0).all() else None
