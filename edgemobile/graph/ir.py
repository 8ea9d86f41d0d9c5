"""The intermediate representation: a flat list of nodes over named tensors, numpy only.

Activations are NHWC, convolution weights [out, kernel_h, kernel_w, in / groups], linear weights [out, in]. Emitters
convert them to the layout of their format. A node has one output and the same name as its output: the PyTorch module
path of the last module that it computes, so every tensor can be compared with a forward hook on that module. The name
of a functional call is the path of the module that contains it, and the op ("features.3.add"). A name that is already
used gets a number.

Quantization is a property of tensors: an int8 tensor has QParams, and a conv2d node is an integer convolution if its
tensors are integers. `quantize` and `dequantize` nodes change the precision.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from edgemobile.graph.ops import OPS
from edgemobile.graph.origin import Origin

__all__ = ["Graph", "GraphError", "Node", "QParams", "Tensor", "unique_name", "with_origins"]


_DTYPES = ("float32", "float16", "int8", "uint8", "int16", "int32")


class GraphError(ValueError):
    """The graph is inconsistent: a bug in the pass that built it."""


@dataclass(frozen=True)
class QParams:
    """Affine quantization: real = scale * (q - zero_point).

    scale f32[1] or f32[C], zero_point i32 of the same shape; `axis` is the channel axis if there is more than one.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", np.atleast_1d(np.asarray(self.scale, np.float32)))
        object.__setattr__(self, "zero_point", np.atleast_1d(np.asarray(self.zero_point, np.int32)))
        if self.scale.shape != self.zero_point.shape or self.scale.ndim != 1:
            raise GraphError(
                f"scale {self.scale.shape} and zero_point {self.zero_point.shape} must be vectors of one size"
            )
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise GraphError(f"scales must be positive and finite, found {self.scale.min():g} to {self.scale.max():g}")
        if self.axis is None and self.scale.size != 1:
            raise GraphError(f"{self.scale.size} scales need an axis")

    def equals(self, other: QParams) -> bool:
        """Whether both map integers to the same real values."""
        return np.array_equal(self.scale, other.scale) and np.array_equal(self.zero_point, other.zero_point)

    def along(self, ndim: int) -> tuple[np.ndarray, np.ndarray]:
        """(scale, zero_point) shaped to broadcast against a tensor of `ndim` dimensions."""
        shape = [1] * ndim
        if self.axis is not None:
            shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero_point.reshape(shape)


@dataclass(frozen=True)
class Tensor:
    """A named value. `data` is set for constants, and `qparams` for quantized tensors. `origin` is set if the tensor is
    not equal to the value of the same name in the PyTorch program."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    data: np.ndarray | None = None
    qparams: QParams | None = None
    origin: Origin | None = None

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise GraphError(f"tensor {self.name}: dtype {self.dtype} is not one of {', '.join(_DTYPES)}")
        if self.data is not None and (self.data.shape != self.shape or self.data.dtype.name != self.dtype):
            raise GraphError(
                f"tensor {self.name}: declared as {self.dtype}{list(self.shape)}, "
                f"data is {self.data.dtype}{list(self.data.shape)}"
            )
        if self.qparams is not None:
            self._check_qparams(self.qparams)
        factors = None if self.origin is None else self.origin.channel_factors
        if factors is not None and self.shape[-1:] != (len(factors),):
            raise GraphError(f"tensor {self.name}: {len(factors)} channel factors for {list(self.shape)}")

    def _check_qparams(self, qparams: QParams) -> None:
        if np.dtype(self.dtype).kind not in "iu":
            raise GraphError(f"tensor {self.name}: {self.dtype} cannot have a scale; only integers can")
        if qparams.axis is not None:
            size = self.shape[qparams.axis] if -len(self.shape) <= qparams.axis < len(self.shape) else None
            if size != qparams.scale.size:
                raise GraphError(
                    f"tensor {self.name}: {qparams.scale.size} scales along axis {qparams.axis} of {list(self.shape)}"
                )
        info = np.iinfo(self.dtype)
        low, high = qparams.zero_point.min(), qparams.zero_point.max()
        if low < info.min or high > info.max:
            raise GraphError(f"tensor {self.name}: a zero_point in {low}..{high} is outside {self.dtype}")

    @classmethod
    def constant(cls, name: str, data: np.ndarray, qparams: QParams | None = None) -> Tensor:
        return cls(name, data.shape, data.dtype.name, data, qparams)

    @property
    def is_constant(self) -> bool:
        return self.data is not None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Node:
    """One operation. `output` is the name of both the node and its output tensor."""

    op: str
    inputs: tuple[str, ...]
    output: str
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise GraphError(f"node {self.output}: op {self.op!r} is not one of {', '.join(OPS)}")
        if set(self.attrs) != set(OPS[self.op].attrs):
            wanted = sorted(OPS[self.op].attrs)
            raise GraphError(f"node {self.output}: {self.op} has {wanted}, found {sorted(self.attrs)}")
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    @property
    def has_weights(self) -> bool:
        """Whether its inputs are x, weight and bias."""
        return OPS[self.op].has_weights


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order over named tensors, checked when built. Passes return a new Graph."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        known = {*self.inputs, *(name for name, tensor in self.tensors.items() if tensor.is_constant)}
        for node in self.nodes:
            for name in node.inputs:
                if name not in known:
                    raise GraphError(f"node {node.output} reads {name}, which no earlier node produces")
            if node.output in known:
                raise GraphError(f"tensor {node.output} is produced twice")
            known.add(node.output)
        for name in (*known, *self.outputs):
            if name not in self.tensors or name not in known:
                raise GraphError(f"tensor {name} is used but not declared, or never produced")
        used = {*self.inputs, *self.outputs, *(n for node in self.nodes for n in (*node.inputs, node.output))}
        tensors = {name: tensor for name, tensor in self.tensors.items() if name in used}
        object.__setattr__(self, "tensors", MappingProxyType(tensors))
        object.__setattr__(self, "_producers", {node.output: node for node in self.nodes})
        consumers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                consumers.setdefault(name, []).append(node)
        object.__setattr__(self, "_consumers", consumers)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def constants(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.tensors.items() if tensor.is_constant}

    @property
    def is_quantized(self) -> bool:
        """Whether the output of a node is quantized."""
        return any(self[node.output].qparams is not None for node in self.nodes)

    @property
    def origins(self) -> dict[str, Origin]:
        return {name: tensor.origin for name, tensor in self.tensors.items() if tensor.origin is not None}

    def producer(self, name: str) -> Node | None:
        """The node that produces `name`; None for inputs and constants."""
        producers: Mapping[str, Node] = self._producers  # type: ignore[attr-defined]
        return producers.get(name)

    def consumers(self, name: str) -> list[Node]:
        """The nodes that read `name`, in order."""
        consumers: Mapping[str, list[Node]] = self._consumers  # type: ignore[attr-defined]
        return list(consumers.get(name, ()))

    def check_shapes(self) -> None:
        """Raises GraphError if the shape of a node's output does not follow from its inputs."""
        for node in self.nodes:
            found = self[node.output].shape
            wanted = OPS[node.op].shape(node.attrs, *(self[name].shape for name in node.inputs))
            if wanted != ((math.prod(found),) if node.op == "reshape" else found):
                inputs = ", ".join(str(list(self[name].shape)) for name in node.inputs)
                raise GraphError(
                    f"node {node.output}: {node.op} of {inputs} does not fit"
                    if wanted is None
                    else f"node {node.output}: {node.op} of {inputs} gives {list(wanted)}, not {list(found)}"
                )

    def macs(self, node: Node) -> int:
        """Multiply-accumulates of a node for one image: each weight is used once per output pixel."""
        if not node.has_weights:
            return 0
        return math.prod(self[node.inputs[1]].shape) * math.prod(self[node.output].shape[1:-1])

    def op_counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for node in self.nodes:
            counts[node.op] = counts.get(node.op, 0) + 1
        return counts

    def replaced(self, nodes: Iterable[Node] | None = None, tensors: Iterable[Tensor] = ()) -> Graph:
        """This graph with other nodes, and with `tensors` added; they replace tensors of the same name.

        A tensor without an Origin gets that of the tensor it replaces. Tensors that are no longer used are dropped.
        """
        given = {tensor.name: tensor for tensor in tensors}
        kept = {name: origin for name, origin in self.origins.items() if name in given and given[name].origin is None}
        merged = {**self.tensors, **with_origins(given, kept)}
        return replace(self, nodes=self.nodes if nodes is None else tuple(nodes), tensors=merged)


def with_origins(tensors: Mapping[str, Tensor], origins: Mapping[str, Origin]) -> dict[str, Tensor]:
    """`tensors` with the Origins that `origins` has for their names; tensors without an entry are unchanged.

    Raises GraphError if an Origin does not fit its tensor.
    """
    return {
        name: replace(tensor, origin=origins[name]) if name in origins else tensor for name, tensor in tensors.items()
    }


def unique_name(name: str, taken: Container[str]) -> str:
    """`name`, with a number if it is already used."""
    unique, count = name, 1
    while unique in taken:
        unique, count = f"{name}_{count}", count + 1
    return unique
