"""The contents of a file, in one form for every format: ops on named values, as stored in the file. numpy only.

Unlike a Graph this represents any file: ops and dtypes that edgemobile never writes keep the format's own names, and
shapes keep the format's own layout.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

__all__ = ["Contents", "Op", "Value"]

# Bytes per element of dtypes that numpy does not have; unknown dtypes count as 0.
_ITEM_BYTES = {"bfloat16": 2.0, "float8": 1.0, "int4": 0.5, "uint4": 0.5, "int2": 0.25}


@dataclass(frozen=True)
class Op:
    """One op. `kind` is the format's name; omitted inputs are "". `activation` is fused: "", "RELU", "RELU6", ...

    `weight_axis` is the axis of the output channels in the weight, for ops that have one.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    activation: str = ""
    weight_axis: int = 0


@dataclass(frozen=True)
class Value:
    """A tensor. A `constant` has its bytes in the file; `data` is its array if numpy supports the dtype. A dynamic
    dimension is -1.

    `scale` f32[1 or C] and `zero_point` i64 of the same shape, if the file states them. `stored_bytes` is what a
    sparse constant takes in the file, whose `data` is dense.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool = False
    data: np.ndarray | None = None
    scale: np.ndarray | None = None
    zero_point: np.ndarray | None = None
    stored_bytes: int | None = None

    @property
    def nbytes(self) -> int:
        """The size of the constant in the file; 0 for activations."""
        if not self.constant:
            return 0
        if self.stored_bytes is not None:
            return self.stored_bytes
        if self.data is not None:
            return self.data.nbytes
        name = "float8" if self.dtype.startswith("float8") else self.dtype
        item = np.dtype(name).itemsize if name in np.sctypeDict else _ITEM_BYTES.get(name, 0)
        return math.ceil(math.prod(self.shape) * item)


@dataclass(frozen=True)
class Contents:
    """A file's main graph, with its ops in order, and its metadata. `metadata` is text by key.

    Raises ValueError if an op reads a value that a later op produces, or produces a value twice: so every traversal of
    the graph terminates.

    `optimized` is a graph as a runtime runs it: an op between conversions there computes in float. `subgraphs`
    are the graphs that its ops call (the branches of If, the body of Loop or WHILE), each with its own subgraphs;
    they use their own values and, in ONNX, those of the enclosing graph.
    """

    format: str
    producer: str
    description: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ops: tuple[Op, ...]
    values: Mapping[str, Value]
    metadata: Mapping[str, str] = field(default_factory=dict)
    optimized: bool = False
    subgraphs: tuple[Contents, ...] = ()

    def __post_init__(self) -> None:
        outputs = {name for op in self.ops for name in op.outputs if name}
        made: set[str] = set()
        for op in self.ops:
            if any(name in outputs and name not in made for name in op.inputs):
                raise ValueError(f"{op.kind} reads a value that a later op produces")
            if made.intersection(op.outputs):
                raise ValueError(f"{op.kind} produces a tensor a second time")
            made.update(name for name in op.outputs if name)

    @cached_property
    def producers(self) -> dict[str, Op]:
        return {name: op for op in self.ops for name in op.outputs}

    @cached_property
    def consumers(self) -> dict[str, list[Op]]:
        found: dict[str, list[Op]] = {}
        for op in self.ops:
            for name in dict.fromkeys(op.inputs):
                found.setdefault(name, []).append(op)
        return found

    @cached_property
    def constants(self) -> frozenset[str]:
        """Values known before the first inference: stored, or computed only from stored ones."""
        known = {name for name, value in self.values.items() if value.constant}
        for op in self.ops:
            given = [name for name in op.inputs if name]
            if given and all(name in known for name in given):
                known.update(op.outputs)
        return frozenset(known)

    @property
    def graphs(self) -> tuple[Contents, ...]:
        """This graph and all below it."""
        return (self, *(graph for part in self.subgraphs for graph in part.graphs))

    def op_counts(self) -> dict[str, int]:
        """Kind -> count in all graphs, most frequent first."""
        counts = Counter(op.kind for graph in self.graphs for op in graph.ops)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
