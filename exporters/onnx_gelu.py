"""Recognises GELU in an ONNX file: up to operator set 19 there is no op for it, so exporters write five."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgemobile.exporters.onnx_contents import onnx

__all__ = ["name_gelus"]


def name_gelus(graph: Any) -> None:
    """Write x * (erf(x / sqrt(2)) + 1) / 2, in any order of the factors, as one Gelu.

    The nodes before the last one stay if something else reads them.
    """
    chains = _Chains(graph)
    found = {id(last): x for node in graph.node if node.op_type == "Erf" for last, x in chains.gelu(node)}
    if not found:
        return
    for node in graph.node:
        if id(node) in found:
            del node.input[:], node.attribute[:]
            node.input.append(found[id(node)])
            node.op_type = "Gelu"
    _remove_unread(graph)


class _Chains:
    """The stored numbers of a graph, and the producer and the readers of its values."""

    def __init__(self, graph: Any) -> None:
        self.numbers = {
            tensor.name: float(onnx.numpy_helper.to_array(tensor).item())
            for tensor in graph.initializer
            if tensor.data_type == onnx.TensorProto.FLOAT and math.prod(tensor.dims) == 1
        }
        self.producers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def gelu(self, erf: Any) -> list[tuple[Any, str]]:
        """[(the last node of the GELU of `erf`, its input)]; empty if it is another function."""
        scaled = self.producers.get(erf.input[0])
        x = None if scaled is None else (self._by(scaled, "Mul", math.sqrt(0.5)) or self._by(scaled, "Div", 2**0.5))
        plus = self._reader(erf)
        if x is None or plus is None or self._by(plus, "Add", 1.0) is None:
            return []
        product = self._reader(plus)
        if product is None or product.op_type != "Mul":
            return []
        if self._by(product, "Mul", 0.5) is not None:
            last = self._reader(product)
            return [(last, x)] if last is not None and last.op_type == "Mul" and x in last.input else []
        if x in product.input:
            last = self._reader(product)
            return [(last, x)] if last is not None and self._by(last, "Mul", 0.5) is not None else []
        halves = (self.producers.get(name) for name in product.input)
        halved = any(half is not None and self._by(half, "Mul", 0.5) == x for half in halves)
        return [(product, x)] if halved else []

    def _by(self, node: Any, op: str, number: float) -> str | None:
        """The other operand of `node` if it is `op` with this stored number, otherwise None."""
        if node.op_type != op or len(node.input) != 2:
            return None
        for other, name in (node.input, *([] if op == "Div" else [node.input[::-1]])):
            if np.isclose(self.numbers.get(name, math.nan), number, rtol=1e-6):
                return str(other)
        return None

    def _reader(self, node: Any) -> Any:
        """The only node that reads the output of `node`, otherwise None."""
        readers = self.readers.get(node.output[0], [])
        return readers[0] if len(readers) == 1 else None


_OPS = ("Mul", "Div", "Erf", "Add")


def _remove_unread(graph: Any) -> None:
    """Remove the nodes of GELUs whose output nothing reads any more."""
    read = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if node.op_type not in _OPS or read.intersection(node.output):
            kept.append(node)
            read.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
