"""A layer that diverges: its inputs and its output in the file, and how to run the reference layer on those inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgemobile.comparison.layers import RecordedActivations, rerun
from edgemobile.graph import Graph, Node

__all__ = ["DivergingLayer", "Normalisation", "Output"]

Output = tuple[str, np.ndarray]  # a mistake in words, and the layer's output with it


@dataclass(frozen=True)
class Normalisation:
    """The mean and standard deviation of R, G, B by which images are normalised, for pixels from 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class DivergingLayer:
    """`node` is the reference's layer, `inputs` (reference tensor -> f32) and `found` are its inputs and its output in
    the file.

    `constants` are the sets of constants to run it with: the file's, if they can be used, and the reference's (empty).
    `fused` is the hard-sigmoid that the file computes in one op with the layer; `found` is then the output of that op.
    `diverges_in` is LayerParity.diverges_in.
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
        """The values that the file would store for the layer's `output`."""
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
        """The layer's outputs with another node, inputs or constants, once per set of `self.constants`."""
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
        """The model's input f32[N,H,W,3] if this layer reads it, else None."""
        x = self.inputs.get(self.node.inputs[0])
        reads = self.node.inputs[0] in self.graph.inputs and x is not None and x.ndim == 4 and x.shape[-1] == 3
        return x if reads else None
