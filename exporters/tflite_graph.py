"""TFLite -> Graph: the inverse of edgemobile.exporters.tflite, for its files and for other files with the same ops.

A PAD becomes the padding of the layer after it, SAME becomes padding in pixels, and a computed shape a constant.

To add an op: a row in _ROWS.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgemobile.errors import Unsupported
from edgemobile.exporters.damaged import reading
from edgemobile.exporters.tflite_file import op_name, read_tensors, schema, text, unpack
from edgemobile.exporters.tflite_shapes import computed_shapes
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.affine import dequantize
from edgemobile.graph.average_pools import padded_average
from edgemobile.graph.padding import Pads, same_pads, unpadded
from edgemobile.graph.resizing import COORDINATES

__all__ = ["read_graph", "read_known"]

_ACTIVATIONS = {
    schema.ActivationFunctionType.NONE: "",
    schema.ActivationFunctionType.RELU: "relu",
    schema.ActivationFunctionType.RELU6: "relu6",
}


def read_graph(data: bytes) -> Graph:
    """The Graph of a TFLite file. Raises Unsupported, naming the op, for an op without a row in _ROWS."""
    graph, unknown = read_known(data)
    for reason in unknown.values():
        raise Unsupported(f"{reason}. Supported: {', '.join(_ROWS)}")
    return graph


def read_known(data: bytes) -> tuple[Graph, dict[str, str]]:
    """(the Graph of the supported ops of a TFLite file, output of each unsupported op -> the reason).

    The outputs of unsupported ops are inputs of the Graph.
    """
    model = unpack(data)
    with reading("TFLite", data):
        tensors = read_tensors(data)
        reader = _Reader(model, tensors | computed_shapes(model, tensors))
        return reader.graph(), reader.unknown


@dataclass
class _Reader:
    """The Graph while it is read; `tensors` has the file's tensors in the Graph's layout."""

    model: Any
    tensors: dict[str, Tensor]
    nodes: list[Node] = field(default_factory=list)
    padded: dict[str, tuple[str, Pads]] = field(default_factory=dict)  # output of a PAD -> (its input, the pads)
    unknown: dict[str, str] = field(default_factory=dict)  # output of an unsupported op -> the reason

    def __post_init__(self) -> None:
        # read_tensors returns tensors in the order of the file.
        self.names = list(self.tensors)

    def graph(self) -> Graph:
        subgraph = self.model.subgraphs[0]
        for operator in subgraph.operators:
            self._take(operator)
        inputs, outputs = (
            tuple(self.names[index] for index in indices) for indices in (subgraph.inputs, subgraph.outputs)
        )
        name = text(subgraph.name) or "main"
        return Graph(name, (*inputs, *self.unknown), outputs, tuple(self.nodes), self.tensors)

    def _take(self, operator: Any) -> None:
        kind = op_name(self.model.operatorCodes[operator.opcodeIndex])
        if self.tensors[self.output(operator)].is_constant:
            return
        try:
            if kind not in _ROWS:
                raise Unsupported(f"{kind} (at {self.output(operator)}) has no lowering")
            _ROWS[kind](self, operator)
        except Unsupported as error:
            self.unknown |= {self.names[index]: str(error) for index in operator.outputs}

    def output(self, operator: Any) -> str:
        return self.names[operator.outputs[0]]

    def inputs(self, operator: Any) -> list[str]:
        return [self.names[index] for index in operator.inputs if index >= 0]

    def emit(self, op: str, operator: Any, inputs: list[str], **attrs: Any) -> None:
        self.nodes.append(Node(op, tuple(inputs), self.output(operator), attrs))

    def layer(self, operator: Any) -> tuple[str, str, str]:
        """(x, weight, bias) of a layer; a bias of zeros if it has none."""
        x, weight, *bias = self.inputs(operator)
        if self.is_dynamic(operator):
            weight = self.insert("dequantize", weight)
        if not bias:
            bias = [f"{weight}.no_bias"]
            zeros = np.zeros(self.tensors[weight].shape[0], np.float32)
            self.tensors[bias[0]] = Tensor.constant(bias[0], zeros)
        return x, weight, bias[0]

    def is_dynamic(self, operator: Any) -> bool:
        """Whether a layer has integer weights and float activations, so that it quantizes its input at run time."""
        weight, output = self.names[operator.inputs[1]], self.output(operator)
        return self.tensors[weight].qparams is not None and self.tensors[output].qparams is None

    def layer_input(self, operator: Any, x: str) -> str:
        """`x` as a layer multiplies it: rounded if the layer quantizes its input at run time."""
        return self.insert("round", x) if self.is_dynamic(operator) else x

    def insert(self, op: str, x: str) -> str:
        """Add a node on `x` that is not in the file, if it is not there yet; returns its name."""
        name = f"{x}.{op}"
        if name not in self.tensors:
            self.tensors[name] = Tensor(name, self.tensors[x].shape)
            self.nodes.append(Node(op, (x,), name))
        return name

    def window(self, operator: Any, x: str, kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[str, Pads]:
        """(the input of an op with a window, its padding in pixels)."""
        options = operator.builtinOptions
        source, pads = self.padded.get(x, (x, unpadded))
        if options.padding != schema.Padding.SAME:
            return source, pads
        if source != x:
            raise Unsupported(f"a PAD before SAME (at {self.output(operator)}) is not supported")
        return source, same_pads(self.tensors[x].shape[1:3], kernel, _stride(options), dilation)


def _stride(options: Any) -> tuple[int, int]:
    return options.strideH, options.strideW


def _activation(options: Any) -> str:
    if options.fusedActivationFunction not in _ACTIVATIONS:
        raise Unsupported(
            f"fused activation {options.fusedActivationFunction} is not supported. Supported: relu, relu6"
        )
    return _ACTIVATIONS[options.fusedActivationFunction]


def _conv(reader: _Reader, operator: Any) -> None:
    options = operator.builtinOptions
    x, weight, bias = reader.layer(operator)
    _, height, width, in_channels = reader.tensors[weight].shape
    dilation = (options.dilationHFactor, options.dilationWFactor)
    source, padding = reader.window(operator, x, (height, width), dilation)
    reader.emit(
        "conv2d",
        operator,
        [reader.layer_input(operator, source), weight, bias],
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
        raise Unsupported(
            f"PAD (at {reader.output(operator)}) is supported only for height and width, with constant sizes"
        )
    (top, bottom), (left, right) = data[1:3].tolist()
    reader.padded[reader.output(operator)] = (x, ((top, bottom), (left, right)))


def _pool(op: str) -> Callable[[_Reader, Any], None]:
    def row(reader: _Reader, operator: Any) -> None:
        options = operator.builtinOptions
        if _activation(options):
            raise Unsupported(f"a pool (at {reader.output(operator)}) is supported only without an activation")
        kernel = (options.filterHeight, options.filterWidth)
        source, padding = reader.window(operator, reader.inputs(operator)[0], kernel, (1, 1))
        if op == "avg_pool2d" and padding != unpadded:
            _average_beyond(reader, operator, source, padding)
            return
        pads = {"padding": padding} if op == "max_pool2d" else {}
        reader.emit(op, operator, [source], kernel=kernel, stride=_stride(options), **pads)

    return row


def _average_beyond(reader: _Reader, operator: Any, source: str, padding: Pads) -> None:
    """An average over windows beyond the image. It counts the zeros of a PAD, and not those of SAME."""
    options, output = operator.builtinOptions, reader.output(operator)
    if reader.tensors[output].qparams is not None:
        raise Unsupported(f"AVERAGE_POOL_2D (at {output}) in integers is supported only without padding")
    kernel = (options.filterHeight, options.filterWidth)
    counts = options.padding != schema.Padding.SAME
    nodes, tensors = padded_average(
        reader.tensors[source], output, kernel, _stride(options), padding, padding_counts=counts
    )
    reader.nodes += nodes
    reader.tensors |= {tensor.name: tensor for tensor in tensors}


def _linear(reader: _Reader, operator: Any) -> None:
    if len(reader.tensors[reader.output(operator)].shape) != 2:
        raise Unsupported(f"FULLY_CONNECTED (at {reader.output(operator)}) is supported only for [N, features]")
    activation = _activation(operator.builtinOptions)
    x, weight, bias = reader.layer(operator)
    reader.emit("linear", operator, [reader.layer_input(operator, x), weight, bias], activation=activation)


def _mean(reader: _Reader, operator: Any) -> None:
    x, axes = reader.inputs(operator)[:2]
    over = reader.tensors[axes].data
    if len(reader.tensors[x].shape) != 4 or over is None or sorted(over.ravel() % 4) != [1, 2]:
        raise Unsupported(f"MEAN (at {reader.output(operator)}) is supported only over height and width")
    reader.emit("mean", operator, [x])


def _softmax(reader: _Reader, operator: Any) -> None:
    beta = operator.builtinOptions.beta
    if beta != 1 or len(reader.tensors[reader.output(operator)].shape) != 2:
        raise Unsupported(f"SOFTMAX (at {reader.output(operator)}) is supported only for [N, classes], with beta 1")
    reader.emit("softmax", operator, reader.inputs(operator))


def _transpose(reader: _Reader, operator: Any) -> None:
    x, perm = reader.inputs(operator)
    order = reader.tensors[perm].data
    if order is None:
        raise Unsupported(f"TRANSPOSE (at {reader.output(operator)}) is supported only with a constant order")
    reader.emit("transpose", operator, [x], perm=tuple(order.ravel().tolist()))


def _resize(mode: str) -> Callable[[_Reader, Any], None]:
    def row(reader: _Reader, operator: Any) -> None:
        options, output = operator.builtinOptions, reader.output(operator)
        half_pixel = bool(options.halfPixelCenters)
        coordinates = "align_corners" if options.alignCorners else "half_pixel" if half_pixel else "asymmetric"
        if coordinates not in COORDINATES[mode] or (options.alignCorners and half_pixel):
            raise Unsupported(f"a resize with these coordinates, {coordinates} (at {output}), is not supported")
        size = reader.tensors[output].shape[1:3]
        reader.emit("resize", operator, reader.inputs(operator)[:1], size=size, mode=mode, coordinates=coordinates)

    return row


def _slice(reader: _Reader, operator: Any) -> None:
    x, *parameters = reader.inputs(operator)
    begin, size = (reader.tensors[name].data for name in parameters)
    before, output = reader.tensors[x].shape, reader.output(operator)
    after = reader.tensors[output].shape
    if begin is None or size is None or begin[:-1].any() or before[1:-1] != after[1:-1]:
        raise Unsupported(f"SLICE (at {output}) is supported only for channels, with constant bounds")
    first = int(begin[-1])
    reader.emit("slice", operator, [x], begin=first, end=first + after[-1])


def _leaky_relu(reader: _Reader, operator: Any) -> None:
    reader.emit("leaky_relu", operator, reader.inputs(operator), slope=float(operator.builtinOptions.alpha))


def _depth_to_space(reader: _Reader, operator: Any) -> None:
    reader.emit("depth_to_space", operator, reader.inputs(operator), block=operator.builtinOptions.blockSize)


def _mirror_pad(reader: _Reader, operator: Any) -> None:
    x, amounts = reader.inputs(operator)
    data, mode = reader.tensors[amounts].data, operator.builtinOptions.mode
    if data is None or data.shape != (4, 2) or data[[0, 3]].any() or mode != schema.MirrorPadMode.REFLECT:
        raise Unsupported(f"MIRROR_PAD (at {reader.output(operator)}) is supported only as REFLECT of height and width")
    reader.emit("reflect_pad", operator, [x], padding=tuple(map(tuple, data[1:3].tolist())))


def _gelu(reader: _Reader, operator: Any) -> None:
    if operator.builtinOptions is not None and operator.builtinOptions.approximate:
        raise Unsupported(f"GELU (at {reader.output(operator)}) is supported only exact, not as tanh")
    reader.emit("gelu", operator, reader.inputs(operator))


def _limit(end: str) -> Callable[[_Reader, Any], None]:
    def row(reader: _Reader, operator: Any) -> None:
        """MAXIMUM or MINIMUM with one number; both, one after the other, stay two nodes."""
        x, name = reader.inputs(operator)
        tensor = reader.tensors[name]
        if tensor.data is None or tensor.data.size != 1:
            kind = op_name(reader.model.operatorCodes[operator.opcodeIndex])
            raise Unsupported(f"{kind} (at {reader.output(operator)}) is supported only with one stored number")
        number = tensor.data if tensor.qparams is None else dequantize(tensor.data, tensor.qparams)
        reader.emit("clip", operator, [x], **{"low": -math.inf, "high": math.inf, end: float(number.item())})

    return row


def _fused(op: str) -> Callable[[_Reader, Any], None]:
    def row(reader: _Reader, operator: Any) -> None:
        reader.emit(op, operator, reader.inputs(operator), activation=_activation(operator.builtinOptions))

    return row


def _with_constant(op: str, other: Callable[[np.ndarray], np.ndarray]) -> Callable[[_Reader, Any], None]:
    """x - constant as a sum, x / constant as a product."""

    def row(reader: _Reader, operator: Any) -> None:
        x, name = reader.inputs(operator)
        data = reader.tensors[name].data
        if data is None or data.dtype != np.float32 or not data.all():
            kind = op_name(reader.model.operatorCodes[operator.opcodeIndex])
            raise Unsupported(
                f"{kind} (at {reader.output(operator)}) is supported only with a stored float32 operand without zeros"
            )
        constant = f"{reader.output(operator)}.constant"
        values = other(data.astype(np.float64)).astype(np.float32)
        reader.tensors[constant] = Tensor.constant(constant, values)
        reader.emit(op, operator, [x, constant], activation=_activation(operator.builtinOptions))

    return row


def _concat(reader: _Reader, operator: Any) -> None:
    options, output = operator.builtinOptions, reader.output(operator)
    axis = options.axis % max(1, len(reader.tensors[output].shape))
    if axis == 0 or _activation(options):
        raise Unsupported(
            f"CONCATENATION (at {output}) is supported only without an activation, and not along the batch"
        )
    reader.emit("concat", operator, reader.inputs(operator), axis=axis)


def _plain(op: str) -> Callable[[_Reader, Any], None]:
    return lambda reader, operator: reader.emit(op, operator, reader.inputs(operator))


def _first(op: str) -> Callable[[_Reader, Any], None]:
    return lambda reader, operator: reader.emit(op, operator, reader.inputs(operator)[:1])


_ROWS: dict[str, Callable[[_Reader, Any], None]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _conv,
    "FULLY_CONNECTED": _linear,
    "ADD": _fused("add"),
    "MUL": _fused("mul"),
    "SUB": _with_constant("add", np.negative),
    "DIV": _with_constant("mul", np.reciprocal),
    "CONCATENATION": _concat,
    "SLICE": _slice,
    "RESIZE_BILINEAR": _resize("bilinear"),
    "RESIZE_NEAREST_NEIGHBOR": _resize("nearest"),
    "MEAN": _mean,
    "MAX_POOL_2D": _pool("max_pool2d"),
    "AVERAGE_POOL_2D": _pool("avg_pool2d"),
    "PAD": _pad,
    "PADV2": _pad,
    "RELU": _first("relu"),
    "RELU6": _first("relu6"),
    "RELU_0_TO_1": _first("relu1"),
    "HARD_SWISH": _first("hardswish"),
    "LOGISTIC": _first("sigmoid"),
    "TANH": _first("tanh"),
    "LEAKY_RELU": _leaky_relu,
    "PRELU": _plain("prelu"),
    "ELU": _first("elu"),
    "GELU": _gelu,
    "MAXIMUM": _limit("low"),
    "MINIMUM": _limit("high"),
    "DEPTH_TO_SPACE": _depth_to_space,
    "MIRROR_PAD": _mirror_pad,
    "SOFTMAX": _softmax,
    "TRANSPOSE": _transpose,
    "RESHAPE": _first("reshape"),
    "SQUEEZE": _first("reshape"),
    "QUANTIZE": _first("quantize"),
    "DEQUANTIZE": _first("dequantize"),
}
