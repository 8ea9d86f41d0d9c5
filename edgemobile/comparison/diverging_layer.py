"""The layer under suspicion: what the file fed it, what it made of it, and what the reference would have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgemobile.comparison.layers import RecordedActivations, rerun
from edgemobile.graph import Graph, Node

__all__ = ["DivergingLayer", "Normalisation", "Output"]

Output = tuple[str, np.ndarray]  # a mistake in words, and what the layer gives under it


@dataclass(frozen=True)
class Normalisation:
    """The mean and standard deviation of R, G, B, on pixels from 0 to 1, that images are normalised by."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class DivergingLayer:
    """The layer that diverges, what the file fed it (reference tensor -> f32) and made of it.

    `fused` is the hard-sigmoid the file computes in one op with it: `found` is its output then. `diverges_in` is
    LayerParity.diverges_in.
    """

    graph: Graph
    node: Node
    inputs: Mapping[str, np.ndarray]
    found: np.ndarray
    observed: RecordedActivations
    constants: tuple[Mapping[str, np.ndarray], ...]
    normalisation: Normalisation | None
    fused: Node | None = None
    diverges_in: str = ""

    def seen(self, output: np.ndarray) -> np.ndarray:
        """What the file would hold if the layer gave `output`."""
        if self.fused is not None:
            output = rerun(self.graph, self.fused, {self.node.output: output.astype(np.float32)}, {})
        return self.observed.representable((self.fused or self.node).output, output)

    def outputs(
        self,
        words: str,
        *,
        node: Node | None = None,
        inputs: Mapping[str, np.ndarray] | None = None,
        constants: Mapping[str, np.ndarray] | None = None,
    ) -> Iterator[Output]:
        """What the layer gives with another node, inputs or constants, on the file's and on the reference's weights."""
        for own in self.constants:
            given = {**self.inputs, **(inputs or {})}
            yield words, rerun(self.graph, node or self.node, given, {**own, **(constants or {})})

    def changed(self, **attrs: object) -> Node:
        return Node(self.node.op, self.node.inputs, self.node.output, {**self.node.attrs, **attrs})

    def data(self, name: str) -> np.ndarray:
        """A constant of the reference."""
        data = self.graph[name].data
        assert data is not None
        return data

    @property
    def is_layer(self) -> bool:
        return self.node.has_weights and self.graph[self.node.inputs[1]].is_constant

    @property
    def image(self) -> np.ndarray | None:
        """The model's own input, f32[N,H,W,3], where this layer reads it."""
        x = self.inputs.get(self.node.inputs[0])
        reads = self.node.inputs[0] in self.graph.inputs and x is not None and x.ndim == 4 and x.shape[-1] == 3
        return x if reads else None
