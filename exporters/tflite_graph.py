"""TFLite -> Graph: the inverse of edgemobile.exporters.tflite, for its files and for others made of the same ops.

A PAD becomes the padding of the layer that reads it, and SAME the pixels it means.

Add an op here: a row in _ROWS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgemobile.errors import Unsupported
from edgemobile.exporters.tflite_file import op_name, read_tensors, reading, schema, text, unpack
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.padding import Pads, same_pads, unpadded

__all__ = ["read_graph"]

_ACTIVATIONS = {
    schema.ActivationFunctionType.NONE: "",
    schema.ActivationFunctionType.RELU: "relu",
    schema.ActivationFunctionType.RELU6: "relu6",
}


def read_graph(data: bytes) -> Graph:
    """The Graph of a TFLite file. Raises Unsupported, naming the op, for what a Graph has no word for."""
    model = unpack(data)
    with reading(data):
        return _Reader(model, read_tensors(data)).graph()


@dataclass
class _Reader:
    """One walk over a file: the nodes so far, and the file's tensors in the Graph's layout."""

    model: Any
    tensors: dict[str, Tensor]
    nodes: list[Node] = field(default_factory=list)
    padded: dict[str, tuple[str, Pads]] = field(default_factory=dict)  # what a PAD made -> (its source, the pads)

    def __post_init__(self) -> None:
        # read_tensors keeps the file's order.
        self.names = list(self.tensors)

    def graph(self) -> Graph:
        subgraph = self.model.subgraphs[0]
        for operator in subgraph.operators:
            kind = op_name(self.model.operatorCodes[operator.opcodeIndex])
            if kind not in _ROWS:
                output = self.names[operator.outputs[0]]
                raise Unsupported(f"{kind} (at {output}) cannot be run again by itself. Supported: {', '.join(_ROWS)}")
            _ROWS[kind](self, operator)
        inputs, outputs = (
            tuple(self.names[index] for index in indices) for indices in (subgraph.inputs, subgraph.outputs)
        )
        return Graph(text(subgraph.name) or "main", inputs, outputs, tuple(self.nodes), self.tensors)

    def inputs(self, operator: Any) -> list[str]:
        return [self.names[index] for index in operator.inputs if index >= 0]

    def emit(self, op: str, operator: Any, inputs: list[str], **attrs: Any) -> None:
        self.nodes.append(Node(op, tuple(inputs), self.names[operator.outputs[0]], attrs))

    def window(self, operator: Any, x: str, kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[str, Pads]:
        """(the tensor an op with a window reads, its padding in pixels)."""
        options = operator.builtinOptions
        source, pads = self.padded.get(x, (x, unpadded))
        if options.padding != schema.Padding.SAME:
            return source, pads
        if source != x:
            raise Unsupported(f"a PAD before SAME (at {self.names[operator.outputs[0]]}) has no one padding")
        return source, same_pads(self.tensors[x].shape[1:3], kernel, _stride(options), dilation)


def _stride(options: Any) -> tuple[int, int]:
    return options.strideH, options.strideW


def _activation(options: Any) -> str:
    if options.fusedActivationFunction not in _ACTIVATIONS:
        raise Unsupported(f"fused activation {options.fusedActivationFunction} is none of relu and relu6")
    return _ACTIVATIONS[options.fusedActivationFunction]


def _conv(reader: _Reader, operator: Any) -> None:
    options = operator.builtinOptions
    x, weight, *bias = reader.inputs(operator)
    out_channels, height, width, in_channels = reader.tensors[weight].shape
    dilation = (options.dilationHFactor, options.dilationWFactor)
    source, padding = reader.window(operator, x, (height, width), dilation)
    if not bias:
        bias = [f"{weight}.no_bias"]
        reader.tensors[bias[0]] = Tensor.constant(bias[0], np.zeros(out_channels, np.float32))
    reader.emit(
        "conv2d",
        operator,
        [source, weight, bias[0]],
        stride=_stride(options),
        padding=padding,
        dilation=dilation,
        groups=reader.tensors[source].shape[3] // in_channels,
        activation=_activation(options),
    )


def _pad(reader: _Reader, operator: Any) -> None:
    x, amounts = reader.inputs(operator)[:2]
    data = reader.tensors[amounts].data
    if data is None or data.shape != (4, 2) or data[[0, 3]].any():
        raise Unsupported(f"PAD (at {reader.names[operator.outputs[0]]}) is supported of height and width by constants")
    (top, bottom), (left, right) = data[1:3].tolist()
    reader.padded[reader.names[operator.outputs[0]]] = (x, ((top, bottom), (left, right)))


def _pool(op: str) -> Callable[[_Reader, Any], None]:
    def row(reader: _Reader, operator: Any) -> None:
        options = operator.builtinOptions
        kernel = (options.filterHeight, options.filterWidth)
        source, padding = reader.window(operator, reader.inputs(operator)[0], kernel, (1, 1))
        pads = {"padding": padding} if op == "max_pool2d" else {}
        if op == "avg_pool2d" and padding != unpadded:
            raise Unsupported(f"AVERAGE_POOL_2D (at {reader.names[operator.outputs[0]]}) is supported without padding")
        reader.emit(op, operator, [source], kernel=kernel, stride=_stride(options), **pads)

    return row


def _fused(op: str) -> Callable[[_Reader, Any], None]:
    def row(reader: _Reader, operator: Any) -> None:
        reader.emit(op, operator, reader.inputs(operator), activation=_activation(operator.builtinOptions))

    return row


def _concat(reader: _Reader, operator: Any) -> None:
    options, output = operator.builtinOptions, reader.names[operator.outputs[0]]
    rank = len(reader.tensors[output].shape)
    if options.axis % rank != rank - 1 or _activation(options):
        raise Unsupported(f"CONCATENATION (at {output}) is supported of channels, without an activation")
    reader.emit("concat", operator, reader.inputs(operator))


def _first(op: str) -> Callable[[_Reader, Any], None]:
    return lambda reader, operator: reader.emit(op, operator, reader.inputs(operator)[:1])


_ROWS: dict[str, Callable[[_Reader, Any], None]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _conv,
    "FULLY_CONNECTED": _fused("linear"),
    "ADD": _fused("add"),
    "MUL": _fused("mul"),
    "CONCATENATION": _concat,
    "MEAN": _first("mean"),
    "MAX_POOL_2D": _pool("max_pool2d"),
    "AVERAGE_POOL_2D": _pool("avg_pool2d"),
    "PAD": _pad,
    "PADV2": _pad,
    "RELU": _first("relu"),
    "RELU6": _first("relu6"),
    "HARD_SWISH": _first("hardswish"),
    "LOGISTIC": _first("sigmoid"),
    "RESHAPE": _first("reshape"),
    "QUANTIZE": _first("quantize"),
    "DEQUANTIZE": _first("dequantize"),
}
