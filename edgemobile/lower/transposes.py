"""Removes the transposes between NCHW and NHWC that converters insert; then every image is NHWC.

The computation is the same. A constant operand of a transposed image is transposed, and the columns of a layer that
reads a flattened one are reordered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from edgemobile.errors import Unsupported
from edgemobile.graph import Graph, Node, Tensor

__all__ = ["without_transposes"]

_Order = tuple[int, ...]
# Unary ops on each element.
_ELEMENTWISE = ("relu", "relu6", "relu1", "hardswish", "hardsigmoid", "sigmoid")
_CHANNELS = 3


def without_transposes(graph: Graph) -> Graph:
    """The same computation as `graph` without transposes, for an input image [N,H,W,3].

    Raises Unsupported if an op between transposes depends on the order of the dimensions.
    """
    return _Walk(graph).result()


def _inverse(order: _Order) -> _Order:
    return tuple(int(axis) for axis in np.argsort(order))


@dataclass
class _Walk:
    """One walk. The tensor `name` of the file is the tensor `new[name]` transposed by `order[name]`."""

    graph: Graph
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    order: dict[str, _Order] = field(default_factory=dict)

    def result(self) -> Graph:
        self.tensors |= self.graph.tensors
        for name in self.graph.inputs:
            self._put(name, self._input_order(self.graph[name].shape))
        for node in self.graph.nodes:
            self._take(node)
        for name in self.graph.outputs:
            if not self._is_plain(name):
                raise Unsupported(f"the output {name} is transposed. Supported: [N, classes]")
        outputs = tuple(self.new.get(name, name) for name in self.graph.outputs)
        return Graph(self.graph.name, self.graph.inputs, outputs, tuple(self.nodes), self.tensors)

    @staticmethod
    def _input_order(shape: Sequence[int]) -> _Order:
        """From [N,H,W,3]; an ONNX file's [N,H,W,3] is read as [N,W,3,H]."""
        if len(shape) != 4 or shape[3] == _CHANNELS or _CHANNELS not in shape[1:3]:
            return tuple(range(len(shape)))
        return (0, 3, 1, 2) if shape[1] == _CHANNELS else (0, 2, 3, 1)

    def _put(self, name: str, order: _Order) -> None:
        """Add the tensor `name`, which the file has transposed by `order`."""
        shape = self.graph[name].shape
        self.tensors[name] = Tensor(name, tuple(shape[axis] for axis in _inverse(order)))
        self.new[name], self.order[name] = name, order

    def order_of(self, name: str) -> _Order:
        return self.order.get(name, tuple(range(len(self.graph[name].shape))))

    def _is_plain(self, name: str) -> bool:
        """Whether both orders have the same sequence of values."""
        shape, order = self.graph[name].shape, self.order_of(name)
        moved = [axis for axis, size in zip(order, shape, strict=True) if size != 1]
        return moved == sorted(moved)

    def _take(self, node: Node) -> None:
        images = [name for name in node.inputs if not self.graph[name].is_constant]
        if node.op == "transpose":
            if node.attrs["perm"][:1] != (0,):
                self._refuse(node)
            before = self.order_of(node.inputs[0])
            self.new[node.output] = self.new.get(node.inputs[0], node.inputs[0])
            self.order[node.output] = tuple(before[axis] for axis in node.attrs["perm"])
        elif node.op == "reshape":
            self._reshape(node)
        elif all(self.order_of(name) == tuple(sorted(self.order_of(name))) for name in images):
            self._emit(node, tuple(self.new.get(name, name) for name in node.inputs))
        elif node.op in (*_ELEMENTWISE, "add", "mul"):
            self._elementwise(node, images)
        else:
            self._refuse(node)

    def _emit(self, node: Node, inputs: tuple[str, ...], order: _Order | None = None) -> None:
        self._put(node.output, order or tuple(range(len(self.graph[node.output].shape))))
        self.nodes.append(Node(node.op, inputs, node.output, node.attrs))

    def _elementwise(self, node: Node, images: Sequence[str]) -> None:
        order = self.order_of(images[0])
        if any(self.order_of(name) != order for name in images):
            self._refuse(node)
        inputs = tuple(self.new[name] if name in images else self._constant(name, order) for name in node.inputs)
        self._emit(node, inputs, order)

    def _constant(self, name: str, order: _Order) -> str:
        """A constant operand of an image in `order`, transposed for the image in NHWC."""
        data = self.graph[name].data
        assert data is not None
        if data.size == 1:
            return name
        data = data.reshape(*[1] * (len(order) - data.ndim), *data.shape).transpose(_inverse(order))
        transposed = f"{name}.nhwc"
        self.tensors[transposed] = Tensor.constant(transposed, np.ascontiguousarray(data))
        return transposed

    def _reshape(self, node: Node) -> None:
        (source,) = node.inputs
        if not self._is_plain(source):
            consumers = self.graph.consumers(node.output)
            if (
                not consumers
                or any(consumer.op != "linear" for consumer in consumers)
                or node.output in self.graph.outputs
            ):
                self._refuse(node)
            for name in {consumer.inputs[1] for consumer in consumers}:
                self._reorder_columns(name, source)
        self._emit(node, (self.new.get(source, source),))

    def _reorder_columns(self, weight: str, source: str) -> None:
        """Reorder the columns of `weight` [out, in] for the flattened `source` in its new order."""
        matrix = self.tensors[weight].data
        assert matrix is not None
        order = self.order_of(source)
        shape = self.tensors[self.new[source]].shape[1:]
        places = np.arange(matrix.shape[1]).reshape(shape).transpose([axis - 1 for axis in order[1:]]).ravel()
        reordered = np.empty_like(matrix)
        reordered[:, places] = matrix
        self.tensors[weight] = Tensor.constant(weight, reordered)

    def _refuse(self, node: Node) -> NoReturn:
        raise Unsupported(
            f"{node.op} (at {node.output}) is between transposes and depends on the order of the dimensions. "
            "Supported there: elementwise ops, and flattening before a linear layer"
        )
