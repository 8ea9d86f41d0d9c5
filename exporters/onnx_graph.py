"""ONNX -> Graph: the inverse of edgemobile.exporters.onnx, for its files and for other files with the same ops.

A Conv and the Clip after it become one node. QuantizeLinear and DequantizeLinear become the QParams of a tensor; `t:q`,
`t:raw`, `t:linear` and `t:wide` all become the tensor `t`.

To add an op: a row in _ROWS.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgemobile.errors import Unsupported
from edgemobile.exporters.damaged import reading
from edgemobile.exporters.onnx_contents import load, onnx
from edgemobile.exporters.onnx_layouts import channels_last
from edgemobile.exporters.onnx_plain import plain
from edgemobile.graph import Graph, Node, QParams, Tensor
from edgemobile.graph.affine import dequantize
from edgemobile.graph.average_pools import padded_average
from edgemobile.graph.padding import Pads, unpadded
from edgemobile.graph.resizing import COORDINATES

__all__ = ["read_graph", "read_known", "read_named_tensors", "tensor_name"]

_KNOWN_DTYPES = {getattr(onnx.TensorProto, name) for name in ("FLOAT", "FLOAT16", "INT8", "UINT8", "INT16", "INT32")}


def read_graph(data: bytes) -> Graph:
    """The Graph of an ONNX file. Raises Unsupported, naming the op, for an op without a row in _ROWS."""
    graph, unknown = read_known(data)
    for reason in unknown.values():
        raise Unsupported(f"{reason}. Supported: {', '.join(_ROWS)}")
    return graph


def read_known(data: bytes) -> tuple[Graph, dict[str, str]]:
    """(the Graph of the supported ops of an ONNX file, output of each unsupported op -> the reason).

    The outputs of unsupported ops are inputs of the Graph.
    """
    model = load(data)
    with reading("ONNX", data):
        model = plain(model)
        reader = _Reader(model, _tensors(model))
        return reader.graph(), reader.unknown


def read_named_tensors(data: bytes) -> dict[str, Tensor]:
    """The constants of a file, and its quantized activations without data, by `tensor_name`.

    As edgemobile.exporters.onnx.read_tensors, but for any file: tensors whose dtype a Graph does not have (the int64 of
    shapes and axes) are left out.
    """
    model = load(data)
    with reading("ONNX", data):
        return _tensors(plain(model))


def tensor_name(name: str) -> str:
    """The Graph's name of an ONNX value, without the suffixes of edgemobile and of onnxruntime's quantizer."""
    return re.sub(r"(_(Quantize|Dequantize)Linear_(Input|Output)|_quantized)?(:(q|raw|linear|dq|wide))*$", "", name)


def _tensors(model: Any) -> dict[str, Tensor]:
    from edgemobile.exporters.onnx import read_tensors

    known = onnx.ModelProto()
    known.CopyFrom(model)
    kept = [tensor for tensor in model.graph.initializer if tensor.data_type in _KNOWN_DTYPES]
    del known.graph.initializer[:]
    known.graph.initializer.extend(kept)
    return {
        tensor_name(name): replace(tensor, name=tensor_name(name))
        for name, tensor in read_tensors(known.SerializeToString()).items()
    }


@dataclass
class _Reader:
    """The Graph while it is read; `stored` has the file's tensors in the Graph's layout."""

    model: Any
    stored: dict[str, Tensor]
    nodes: list[Node] = field(default_factory=list)
    same: dict[str, str] = field(default_factory=dict)  # output of an Identity or Dropout -> its input
    unknown: dict[str, str] = field(default_factory=dict)  # output of an unsupported op -> the reason
    padded: dict[str, tuple[str, Pads]] = field(default_factory=dict)  # output of a Pad -> (its input, the pads)
    grouped: dict[str, tuple[str, int]] = field(
        default_factory=dict
    )  # images with groups as a dimension -> (source, groups)

    def graph(self) -> Graph:
        graph = self.model.graph
        initializers = {tensor.name for tensor in graph.initializer}
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.name not in initializers:
                self.stored.setdefault(tensor_name(value.name), Tensor(tensor_name(value.name), _nhwc(value)))
        for node in graph.node:
            self._take(node)
        inputs = tuple(tensor_name(value.name) for value in graph.input if value.name not in initializers)
        outputs = tuple(self.named(value.name) for value in graph.output)
        return Graph(graph.name, (*inputs, *self.unknown), outputs, tuple(self.nodes), self.stored)

    def _take(self, node: Any) -> None:
        try:
            if node.op_type not in _ROWS:
                raise Unsupported(f"{node.op_type} (at {node.output[0]}) has no lowering")
            _ROWS[node.op_type](self, node)
        except Unsupported as error:
            for name in filter(None, map(tensor_name, node.output)):
                self.unknown[name] = str(error)
                self.stored.setdefault(name, Tensor(name, ()))

    def named(self, name: str) -> str:
        """The Graph's name of a value; for a copy, the name of the original."""
        name = tensor_name(name)
        while name in self.same:
            name = self.same[name]
        return name

    def emit(self, op: str, node: Any, inputs: list[str], **attrs: Any) -> None:
        for name in inputs:
            # Parameters, such as the 6 of a Clip, are not among the tensors, but can also be operands.
            if self.named(name) not in self.stored and (value := self.parameter(name)) is not None:
                self.constant(self.named(name), channels_last(value))
        self.nodes.append(Node(op, tuple(map(self.named, inputs)), tensor_name(node.output[0]), attrs))

    def parameter(self, name: str) -> np.ndarray | None:
        """The value of a stored parameter of an op, such as the bounds of a Clip; None if it is computed or missing."""
        stored = (tensor for tensor in self.model.graph.initializer if tensor.name == name)
        return next((onnx.numpy_helper.to_array(tensor) for tensor in stored), None)

    def fuse(self, node: Node, activation: str, output: str) -> None:
        """Fuse the activation that produces `output` into `node`, which is before it."""
        fused = Node(node.op, node.inputs, output, {**node.attrs, "activation": activation})
        self.nodes[self.nodes.index(node)] = fused

    def requantized(self, output: Tensor, name: str, index: int) -> str:
        """An input of a concatenation with the QParams of its output, as a Graph requires."""
        source = self.stored[self.named(name)]
        if source.qparams is None or output.qparams is None or source.qparams.equals(output.qparams):
            return name
        scaled = replace(source, name=f"{output.name}.{index}", qparams=output.qparams)
        self.stored[scaled.name] = scaled
        self.nodes.append(Node("quantize", (source.name,), scaled.name))
        return scaled.name

    def feeds_only(self, name: str, consumer: Any) -> bool:
        """Whether `consumer` is the only node that reads a value."""
        if any(value.name == name for value in self.model.graph.output):
            return False
        return all(node is consumer or name not in node.input for node in self.model.graph.node)

    def feeds_rows(self, name: str) -> bool:
        """Whether all consumers of an image with its channels last reshape it to rows [N, R, C]."""
        consumers = [node for node in self.model.graph.node if name in node.input]
        ranks = {len(self.stored[tensor_name(node.output[0])].shape) for node in consumers if node.op_type == "Reshape"}
        return bool(consumers) and ranks == {3} and all(node.op_type == "Reshape" for node in consumers)

    def constant(self, name: str, data: np.ndarray) -> str:
        """Add a float32 constant, computed from one in the file."""
        self.stored[name] = Tensor.constant(name, np.asarray(data, np.float32))
        return name

    def operand(self, name: str, rank: int) -> str:
        """An operand of an op whose output has `rank` dimensions; ONNX broadcasts a vector along the W of [N,C,H,W]."""
        tensor = self.stored.get(self.named(name))
        if rank != 4 or tensor is None or tensor.data is None or tensor.qparams is not None:
            return name
        if tensor.data.ndim >= 3 or tensor.data.size == 1:
            return name
        image = tensor.data.reshape(*[1] * (4 - tensor.data.ndim), *tensor.data.shape)
        return self.constant(f"{tensor.name}.image", channels_last(image))

    def insert(self, node: Any, ending: str, op: str, x: str, constant: np.ndarray | float) -> str:
        """Add a product or a sum of `x` and a constant before `node`; returns its name."""
        name = f"{tensor_name(node.output[0])}.{ending}"
        other = self.constant(f"{name}.constant", np.atleast_1d(constant))
        self.stored[name] = Tensor(name, self.stored[self.named(x)].shape)
        self.nodes.append(Node(op, (self.named(x), other), name, {"activation": ""}))
        return name

    def no_bias(self, weight: str) -> str:
        """Add a bias of zeros for a layer without one; returns its name."""
        name = f"{self.named(weight)}.no_bias"
        size = self.stored[self.named(weight)].shape[0]
        self.stored[name] = Tensor.constant(name, np.zeros(size, np.float32))
        return name


def _nhwc(value: Any) -> tuple[int, ...]:
    # A dynamic batch becomes 1.
    shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else tuple(shape)


def _attrs(node: Any) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _pads(attrs: dict[str, Any], node: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    if attrs.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise Unsupported(f"auto_pad of {node.op_type} (at {node.output[0]}) is not supported; use explicit pads")
    top, left, bottom, right = attrs.get("pads", (0, 0, 0, 0))
    return (top, bottom), (left, right)


def _conv(reader: _Reader, node: Any) -> None:
    attrs = _attrs(node)
    x, weight, *bias = node.input
    x, pads = reader.padded.get(reader.named(x), (x, unpadded))
    padding = tuple(
        (before + more, after + last) for (before, after), (more, last) in zip(_pads(attrs, node), pads, strict=True)
    )
    offset = bias[0] if bias and bias[0] else reader.no_bias(weight)
    reader.emit(
        "conv2d",
        node,
        [x, weight, offset],
        stride=tuple(attrs.get("strides", (1, 1))),
        padding=padding,
        dilation=tuple(attrs.get("dilations", (1, 1))),
        groups=attrs.get("group", 1),
        activation="",
    )


def _gemm(reader: _Reader, node: Any) -> None:
    attrs = _attrs(node)
    rank = len(reader.stored[tensor_name(node.output[0])].shape)
    usual = attrs.get("transB") and not attrs.get("transA") and attrs.get("alpha", 1.0) == attrs.get("beta", 1.0) == 1
    if rank != 2 or not usual:
        raise Unsupported(
            f"Gemm (at {node.output[0]}) is supported only as x W' + b with x[N,in], a stored W, alpha and beta 1"
        )
    x, weight, *bias = node.input
    reader.emit("linear", node, [x, weight, bias[0] if bias and bias[0] else reader.no_bias(weight)], activation="")


def _clip(reader: _Reader, node: Any) -> None:
    if _fused_clip(reader, node) or _clip_of_integers(reader, node) or _relu6_of_sum(reader, node):
        return
    bounds = [reader.parameter(name) for name in node.input[1:]]
    limits = tuple(None if bound is None else float(bound.item()) for bound in bounds)
    if not bounds:
        # Up to operator set 10 the bounds are attributes.
        limits = tuple(_attrs(node).get(name) for name in ("min", "max"))
    activation = _CLIPS.get(tuple(None if limit is not None and limit > _NO_LIMIT else limit for limit in limits))
    if activation is None:
        if any(name and bound is None for name, bound in zip(node.input[1:], bounds, strict=True)):
            raise Unsupported(f"Clip (at {node.output[0]}) is supported only with stored bounds")
        low, high = (*limits, None, None)[:2]
        low, high = -math.inf if low is None else float(low), math.inf if high is None else float(high)
        reader.emit("clip", node, [node.input[0]], low=low, high=high)
        return
    _activation(activation)(reader, node)


_NO_LIMIT = 1e30
_CLIPS = {(0.0, 6.0): "relu6", (0.0,): "relu", (0.0, None): "relu"}


def _activation(activation: str) -> Callable[[_Reader, Any], None]:
    def row(reader: _Reader, node: Any) -> None:
        before = next((old for old in reader.nodes if old.output == reader.named(node.input[0])), None)
        if before is not None and before.attrs.get("activation") == "" and reader.feeds_only(node.input[0], node):
            reader.fuse(before, activation, tensor_name(node.output[0]))
        else:
            reader.emit(activation, node, [node.input[0]])

    return row


def _fused_clip(reader: _Reader, node: Any) -> bool:
    """Read a Clip from `t:linear:q` to `t:q` as the activation of the node that produces t; False for another Clip."""
    name = tensor_name(node.output[0])
    if not node.input[0].endswith(":linear:q") or tensor_name(node.input[0]) != name:
        return False
    before = next(old for old in reader.nodes if old.output == name)
    high = reader.parameter(node.input[2])
    saturates = high is not None and high == np.iinfo(high.dtype).max
    reader.fuse(before, "relu" if saturates else "relu6", name)
    return True


def _clip_of_integers(reader: _Reader, node: Any) -> bool:
    """Read a Clip of integers whose output has the QParams of the input; False for another Clip."""
    x, y = (reader.stored.get(tensor_name(name)) for name in (node.input[0], node.output[0]))
    if x is None or y is None or x.qparams is None or y.qparams is None or not x.qparams.equals(y.qparams):
        return False
    given = [reader.parameter(name) for name in node.input[1:]]
    ends = [end for end in given if end is not None and end.dtype.kind in "iu"]
    if len(ends) != 2:
        return False
    # A Graph has int8 where the file may have uint8.
    low, high = (dequantize(end.astype(np.int32) - 128 * (end.dtype == np.uint8), x.qparams).item() for end in ends)
    reader.nodes.append(Node("clip", (reader.named(x.name),), y.name, {"low": low, "high": high}))
    return True


def _relu6_of_sum(reader: _Reader, node: Any) -> bool:
    """Read a Clip of integers as relu6(x + constant); the constant is the change of the zero point."""
    x, y = (reader.stored.get(tensor_name(name)) for name in (node.input[0], node.output[0]))
    if x is None or y is None or x.qparams is None or y.qparams is None or x.qparams.scale[0] != y.qparams.scale[0]:
        return False
    added = float(x.qparams.zero_point[0] - y.qparams.zero_point[0]) * float(x.qparams.scale[0])
    name = f"{y.name}.added"
    one = QParams(np.array([added / 127], np.float32), np.array([0]))
    reader.stored[name] = Tensor.constant(name, np.array([127], np.int8), one)
    reader.nodes.append(Node("add", (reader.named(x.name), name), y.name, {"activation": "relu6"}))
    return True


def _mean(reader: _Reader, node: Any) -> None:
    reader.emit("mean", node, [node.input[0]])


def _reduce_mean(reader: _Reader, node: Any) -> None:
    """The mean over height and width; the axes are an input or, up to operator set 17, an attribute."""
    attrs = _attrs(node)
    axes = attrs.get("axes")
    if axes is None and len(node.input) > 1 and (given := reader.parameter(node.input[1])) is not None:
        axes = given.tolist()
    rank = len(reader.stored[reader.named(node.input[0])].shape)
    if rank != 4 or sorted(axis % 4 for axis in axes or ()) != [2, 3]:
        raise Unsupported(f"ReduceMean (at {node.output[0]}) is supported only over height and width")
    _mean(reader, node)


def _concat(reader: _Reader, node: Any) -> None:
    output = reader.stored[tensor_name(node.output[0])]
    rank = len(output.shape)
    axis = _attrs(node)["axis"] % max(1, rank)
    if axis == 0:
        raise Unsupported(f"Concat (at {node.output[0]}) is not supported along the batch")
    parts = [reader.requantized(output, name, index) for index, name in enumerate(node.input)]
    reader.emit("concat", node, parts, axis=(0, 3, 1, 2)[axis] if rank == 4 else axis)


def _sum_or_product(op: str) -> Callable[[_Reader, Any], None]:
    def row(reader: _Reader, node: Any) -> None:
        rank = len(reader.stored[tensor_name(node.output[0])].shape)
        reader.emit(op, node, [reader.operand(name, rank) for name in node.input], activation="")

    return row


def _plain(op: str, **attrs: Any) -> Callable[[_Reader, Any], None]:
    return lambda reader, node: reader.emit(op, node, list(node.input), **attrs)


def _pool(op: str) -> Callable[[_Reader, Any], None]:
    def row(reader: _Reader, node: Any) -> None:
        attrs = _attrs(node)
        padding = _pads(attrs, node)
        kernel, stride = tuple(attrs["kernel_shape"]), tuple(attrs.get("strides", (1, 1)))
        if op == "avg_pool2d" and padding != unpadded:
            _average_beyond(reader, node, kernel, stride, padding)
            return
        pads = {"padding": padding} if op == "max_pool2d" else {}
        reader.emit(op, node, [node.input[0]], kernel=kernel, stride=stride, **pads)

    return row


def _average_beyond(
    reader: _Reader, node: Any, kernel: tuple[int, int], stride: tuple[int, int], padding: Pads
) -> None:
    """An average over windows beyond the image."""
    source, output = reader.stored[reader.named(node.input[0])], tensor_name(node.output[0])
    if source.qparams is not None or len(kernel) != 2:
        raise Unsupported(f"AveragePool (at {node.output[0]}) in integers is supported only without padding")
    counts = bool(_attrs(node).get("count_include_pad", 0))
    nodes, tensors = padded_average(source, output, kernel, stride, padding, padding_counts=counts)
    reader.nodes += nodes
    reader.stored.update({tensor.name: tensor for tensor in tensors})


def _resize(reader: _Reader, node: Any) -> None:
    attrs, output = _attrs(node), tensor_name(node.output[0])
    mode = {b"linear": "bilinear", b"nearest": "nearest"}.get(attrs.get("mode", b"nearest"), "")
    coordinates = attrs.get("coordinate_transformation_mode", b"half_pixel").decode().removeprefix("pytorch_")
    rounding = attrs.get("nearest_mode", b"round_prefer_floor").decode()
    roundings = {"asymmetric": "floor", "half_pixel": "round_prefer_ceil"}
    exact = mode != "nearest" or rounding == roundings.get(coordinates)
    shape, source = reader.stored[output].shape, reader.stored[reader.named(node.input[0])].shape
    if coordinates not in COORDINATES.get(mode, ()) or not exact or len(shape) != 4 or shape[-1] != source[-1]:
        raise Unsupported(
            f"Resize (at {node.output[0]}) is supported only for height and width, as PyTorch's bilinear, nearest and "
            f"nearest-exact; found {mode or 'cubic'}, {coordinates}, {rounding}"
        )
    reader.emit("resize", node, [node.input[0]], size=shape[1:3], mode=mode, coordinates=coordinates)


def _slice(reader: _Reader, node: Any) -> None:
    given = [reader.parameter(name) if name else None for name in node.input[1:]]
    start, end, axis, step = _numbers(given)
    shape = reader.stored[reader.named(node.input[0])].shape
    if None in (start, end, axis) or len(shape) not in (2, 4) or axis % len(shape) != 1 or step != 1:
        raise Unsupported(f"Slice (at {node.output[0]}) is supported only for channels, with constant bounds")
    taken = range(shape[-1])[start:end]
    reader.emit("slice", node, [node.input[0]], begin=taken.start, end=taken.stop)


def _numbers(given: list[np.ndarray | None]) -> list[Any]:
    """The start, end, axis and step of a Slice of one axis; None for a computed value or several axes."""
    found = [value.item() if value is not None and value.size == 1 else None for value in given]
    return [*found, 1] if len(found) == 3 else found if len(found) == 4 else [None] * 4


def _reshape(reader: _Reader, node: Any) -> None:
    """A flattening, a reshape of an image to rows, or the first or last step of a channel shuffle."""
    source, output = reader.named(node.input[0]), tensor_name(node.output[0])
    before, after = reader.stored[source].shape, reader.stored[output].shape
    if source in reader.grouped:
        image, groups = reader.grouped[source]
        reader.emit("channel_shuffle", node, [image], groups=groups)
        return
    if len(before) == 4 and len(after) == 5 and after[3:] == before[1:3]:
        reader.grouped[output] = (source, after[1])
        return
    reader.emit("reshape", node, [node.input[0]])


def _hardsigmoid(reader: _Reader, node: Any) -> None:
    """max(0, min(1, alpha x + beta)) = relu6(u + 3) / 6, with u = 6 alpha x + 6 beta - 3."""
    attrs = _attrs(node)
    alpha, beta = attrs.get("alpha", 0.2), attrs.get("beta", 0.5)
    x = node.input[0]
    source = reader.stored.get(reader.named(x))
    if abs(alpha - 1 / 6) >= 1e-6 or beta != 0.5:
        if source is None or source.qparams is not None or alpha <= 0:
            raise Unsupported(
                f"HardSigmoid (at {node.output[0]}) of integers is supported only as relu6(x + 3) / 6: alpha 1/6 and "
                f"beta 0.5, found {alpha:g} and {beta:g}"
            )
        x = reader.insert(node, "scaled", "mul", x, 6 * alpha)
        x = reader.insert(node, "shifted", "add", x, 6 * beta - 3) if beta != 0.5 else x
    reader.emit("hardsigmoid", node, [x])


def _batch_norm(reader: _Reader, node: Any) -> None:
    """gamma (x - mean) / sqrt(var + epsilon) + beta: a depthwise 1x1 convolution for an image, otherwise two nodes."""
    attrs = _attrs(node)
    gamma, beta, mean, var = (reader.parameter(name) for name in node.input[1:5])
    if attrs.get("training_mode") or gamma is None or beta is None or mean is None or var is None:
        raise Unsupported(
            f"BatchNormalization (at {node.output[0]}) is supported only with stored statistics, not in training mode"
        )
    scale = gamma.astype(np.float64) / np.sqrt(var.astype(np.float64) + attrs.get("epsilon", 1e-5))
    offset = beta - mean * scale
    x, name = node.input[0], tensor_name(node.output[0])
    if len(reader.stored[reader.named(x)].shape) != 4:
        x = reader.insert(node, "scaled", "mul", x, scale)
        reader.emit("add", node, [x, reader.constant(f"{name}.offset", offset)], activation="")
        return
    weight = reader.constant(f"{name}.weight", scale.reshape(-1, 1, 1, 1))
    attrs = {"stride": (1, 1), "padding": unpadded, "dilation": (1, 1), "groups": len(scale), "activation": ""}
    reader.emit("conv2d", node, [x, weight, reader.constant(f"{name}.bias", offset)], **attrs)


def _less(reader: _Reader, node: Any) -> None:
    """x - constant as a sum; constant - x is refused."""
    _with_constant(reader, node, "add", lambda value: -value)


def _divided(reader: _Reader, node: Any) -> None:
    """x / constant as a product."""
    _with_constant(reader, node, "mul", lambda value: 1 / value)


def _with_constant(reader: _Reader, node: Any, op: str, other: Callable[[np.ndarray], np.ndarray]) -> None:
    x, name = node.input
    value = reader.parameter(name)
    if value is None or value.dtype != np.float32 or not value.all():
        raise Unsupported(
            f"{node.op_type} (at {node.output[0]}) is supported only with a stored float32 operand without zeros"
        )
    changed = other(channels_last(value).astype(np.float64))
    reader.emit(op, node, [x, reader.constant(f"{tensor_name(node.output[0])}.constant", changed)], activation="")


def _leaky_relu(reader: _Reader, node: Any) -> None:
    reader.emit("leaky_relu", node, [node.input[0]], slope=float(_attrs(node).get("alpha", 0.01)))


def _softmax(reader: _Reader, node: Any) -> None:
    rank = len(reader.stored[tensor_name(node.output[0])].shape)
    if rank != 2 or _attrs(node).get("axis", -1) % rank != 1:
        raise Unsupported(f"Softmax (at {node.output[0]}) is supported only for [N, classes], over the classes")
    reader.emit("softmax", node, [node.input[0]])


def _gelu(reader: _Reader, node: Any) -> None:
    if _attrs(node).get("approximate", b"none") != b"none":
        raise Unsupported(f"Gelu (at {node.output[0]}) is supported only exact, not as tanh")
    reader.emit("gelu", node, [node.input[0]])


def _elu(reader: _Reader, node: Any) -> None:
    if _attrs(node).get("alpha", 1.0) != 1:
        raise Unsupported(f"Elu (at {node.output[0]}) is supported only with alpha 1")
    reader.emit("elu", node, [node.input[0]])


def _prelu(reader: _Reader, node: Any) -> None:
    """The slopes are those of a channel, or one for all channels."""
    x, slope = node.input
    data, shape = reader.parameter(slope), reader.stored[reader.named(x)].shape
    wanted = (*[1] * (len(shape) - 2), shape[-1])
    if data is not None:
        last = channels_last(data) if data.ndim >= 3 else data
        if last.size not in (1, shape[-1]) or (last.size > 1 and last.shape[-1] != shape[-1]):
            raise Unsupported(f"PRelu (at {node.output[0]}) is supported only with a slope for each channel")
        slope = reader.constant(f"{tensor_name(node.output[0])}.slope", np.broadcast_to(last.ravel(), wanted).copy())
    reader.emit("prelu", node, [x, slope])


def _depth_to_space(reader: _Reader, node: Any) -> None:
    attrs = _attrs(node)
    if attrs.get("mode", b"DCR") != b"DCR":
        raise Unsupported(f"DepthToSpace (at {node.output[0]}) is supported only with mode DCR")
    reader.emit("depth_to_space", node, [node.input[0]], block=attrs["blocksize"])


def _transpose(reader: _Reader, node: Any) -> None:
    rank, source = len(reader.stored[tensor_name(node.output[0])].shape), reader.named(node.input[0])
    if source in reader.grouped and tuple(_attrs(node)["perm"]) == (0, 2, 1, 3, 4):
        reader.grouped[tensor_name(node.output[0])] = reader.grouped[source]
        return
    perm = tuple(_attrs(node).get("perm", tuple(reversed(range(rank)))))
    if perm == (0, 2, 3, 1) and reader.feeds_rows(node.output[0]):
        reader.same[tensor_name(node.output[0])] = source
        return
    # In a Graph, the input and the output both have their channels last.
    last = (0, 2, 3, 1) if rank == 4 else tuple(range(rank))
    reader.emit("transpose", node, [node.input[0]], perm=tuple(last.index(perm[axis]) for axis in last))


def _copy(reader: _Reader, node: Any) -> None:
    reader.same[tensor_name(node.output[0])] = tensor_name(node.input[0])


def _pad(reader: _Reader, node: Any) -> None:
    """Zeros around an image, which become the padding of the convolution after it.

    Edgemobile also writes channels of zeros, for weights of zero; the Graph does not need them.
    """
    if tensor_name(node.output[0]) == tensor_name(node.input[0]):
        return
    if _attrs(node).get("mode") == b"reflect":
        _reflect_pad(reader, node)
        return
    pads, value = (reader.parameter(name) if name else None for name in (*node.input[1:3], "", "")[:2])
    zeros = _attrs(node).get("mode", b"constant") == b"constant" and (value is None or not value.any())
    if pads is None or pads.size != 8 or pads[[0, 1, 4, 5]].any() or not zeros:
        raise Unsupported(f"Pad (at {node.output[0]}) is supported only for height and width, with stored zeros")
    top, left, bottom, right = pads[[2, 3, 6, 7]].tolist()
    reader.padded[tensor_name(node.output[0])] = (reader.named(node.input[0]), ((top, bottom), (left, right)))


def _reflect_pad(reader: _Reader, node: Any) -> None:
    pads = reader.parameter(node.input[1])
    if pads is None or pads.size != 8 or pads[[0, 1, 4, 5]].any():
        raise Unsupported(f"Pad (at {node.output[0]}) is supported only for height and width, with stored sizes")
    top, left, bottom, right = pads[[2, 3, 6, 7]].tolist()
    reader.emit("reflect_pad", node, [node.input[0]], padding=((top, bottom), (left, right)))


def _convert(op: str) -> Callable[[_Reader, Any], None]:
    def row(reader: _Reader, node: Any) -> None:
        """`t:q` and `t` are the same tensor of a Graph; a conversion between two tensors is a node."""
        source, target = tensor_name(node.input[0]), tensor_name(node.output[0])
        if source != target:
            reader.emit(op, node, [node.input[0]])

    return row


def _unpack(reader: _Reader, node: Any) -> None:
    """Cast of a stored integer or float16 constant: a part of `unpack`, or a dequantize node."""
    if not node.output[0].endswith(":steps"):
        reader.emit("dequantize", node, [node.input[0]])


def _mul(reader: _Reader, node: Any) -> None:
    if node.input[0].endswith(":steps"):
        reader.nodes.append(Node("dequantize", (node.input[0].removesuffix(":steps"),), node.output[0]))
    else:
        _sum_or_product("mul")(reader, node)


_ROWS: dict[str, Callable[[_Reader, Any], None]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "Add": _sum_or_product("add"),
    "Mul": _mul,
    "Sub": _less,
    "Div": _divided,
    "BatchNormalization": _batch_norm,
    "Relu": _activation("relu"),
    "Clip": _clip,
    "HardSwish": _plain("hardswish"),
    "HardSigmoid": _hardsigmoid,
    "Sigmoid": _plain("sigmoid"),
    "Tanh": _plain("tanh"),
    "LeakyRelu": _leaky_relu,
    "Gelu": _gelu,
    "Elu": _elu,
    "PRelu": _prelu,
    "DepthToSpace": _depth_to_space,
    "Softmax": _softmax,
    "Transpose": _transpose,
    "Concat": _concat,
    "Slice": _slice,
    "Resize": _resize,
    "GlobalAveragePool": _mean,
    "ReduceMean": _reduce_mean,
    "MaxPool": _pool("max_pool2d"),
    "AveragePool": _pool("avg_pool2d"),
    "Flatten": _reshape,
    "Reshape": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Identity": _copy,
    "Pad": _pad,
    "Dropout": _copy,
    "QuantizeLinear": _convert("quantize"),
    "DequantizeLinear": _convert("dequantize"),
    "Cast": _unpack,
}
