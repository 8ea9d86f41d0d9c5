"""Graph -> ONNX, float and int8 (QDQ), written node by node without any optimization.

    Graph                                  ONNX
    x[N,H,W,C]                             x[N,C,H,W]
    uint8 pixels[N,H,W,3], the input       pixels[N,H,W,3] and a Transpose of them
    conv weight [O,KH,KW,I]                [O,I,KH,KW]
    linear after a flatten of HxW > 1      columns in NCHW order
    float tensor t                         t
    int8 tensor t                          t:q, the integers, between QuantizeLinear and DequantizeLinear; t,
    dequantized
    float result before it is quantized    t:raw
    its integers before ReLU or ReLU6      t:linear:q
    channel shuffle to t                   t:grouped, t:turned (transposed), with the groups as a dimension
    image reshaped to rows t[N,R,C]        t:nhwc, the image transposed
    int8 image t with channels of zeros    t:wide, from t:q:wide (channel_multiple)
    int8 constant w                        initializer w:q before DequantizeLinear; w, dequantized

The input and output of the file are always float32, unless the input is pixels. The operator set is 18, which has
HardSwish and HardSigmoid, and the IR version is 8; onnxruntime 1.14 and later read both.

To add an op: a row in _ROWS, or a function in _SPECIAL if a row is not enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from edgemobile import __version__
from edgemobile.errors import Unsupported
from edgemobile.exporters.onnx_contents import load, onnx, read_contents
from edgemobile.exporters.onnx_layouts import channels_first, channels_first_widened, columns_first, nchw
from edgemobile.exporters.onnx_tensors import read_tensors
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.affine import activation_range, dequantize, quantize
from edgemobile.graph.origins_entry import origins_metadata

__all__ = ["IR_VERSION", "OPSET", "op_counts", "read_contents", "read_metadata", "read_tensors", "to_bytes"]

OPSET = 18
IR_VERSION = 8

Integers = Literal["int8", "uint8"]

# An offset smaller than this many steps does not change a rounded integer; runtimes compute additions within 2^-20.
_SAME_STEP = 1e-3


def to_bytes(
    graph: Graph,
    *,
    metadata: Mapping[str, str],
    activations: Integers = "uint8",
    weights: Integers = "uint8",
    channel_multiple: int = 1,
) -> bytes:
    """The ONNX file of `graph`, checked; the same graph and metadata give the same bytes.

    The Origins of its tensors are added to the metadata if there are any, and always for an int8 graph.

    `activations` and `weights` are the stored dtypes of int8 tensors. "uint8" adds 128 to the integers and the zero
    points, so the real values are the same. It is the default for both, because on x86 without VNNI onnxruntime
    multiplies int8 weights with vpmaddubsw, which saturates each pair of products to int16: the sums are wrong, and
    with 8-bit weights the outputs of a net can be wrong by a hundred steps. With uint8 weights its kernels are exact on
    every CPU. weights="int8" is for CPUs with a dot product that does not saturate (VNNI, ARM), and a quarter faster
    there.

    `channel_multiple`: if the input channels of an int8 convolution are not a multiple of it, such as the 3 of the
    stem, channels of zeros are added to the input and the weight. With 4 and int8 weights, onnxruntime on x86 has a
    kernel for the stem that takes half the time.

    Raises Unsupported for int16 tensors and for a reshape that differs between NHWC and NCHW.
    """
    for name, value in (("activations", activations), ("weights", weights)):
        if value not in ("int8", "uint8"):
            raise Unsupported(f"onnx cannot store {name} as {value!r}. Allowed: int8, uint8")
    metadata = {**(origins_metadata(graph.origins) if graph.is_quantized or graph.origins else {}), **metadata}
    model = _Writer(graph, activations, weights, channel_multiple).model(metadata)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def op_counts(data: bytes) -> dict[str, int]:
    """ONNX op -> how many the file has, most frequent first."""
    return read_contents(data).op_counts()


def read_metadata(data: bytes) -> dict[str, str]:
    """The metadata of the file."""
    return {entry.key: entry.value for entry in load(data).metadata_props}


@dataclass
class _Writer:
    """The file while it is written; `initializers` and `values` by ONNX name."""

    graph: Graph
    activations: str
    weights: str
    channel_multiple: int = 1
    nodes: list[Any] = field(default_factory=list)
    initializers: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.producers = {node.output: node for node in self.graph.nodes}
        self.layouts: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
        self.matmul_weights: set[str] = set()
        for node in self.graph.nodes:
            if node.has_weights:
                self.matmul_weights.add(node.inputs[1])
                self.layouts[self._stored_constant(node.inputs[1])] = self._weight_layout(node)

    def model(self, metadata: Mapping[str, str]) -> Any:
        for name in self.graph.inputs:
            if self.graph[name].qparams is not None and not self._is_pixels(name):
                self._quantize(name, name)
        for node in self.graph.nodes:
            self._write(node)
        outputs = [self.real(name) for name in self.graph.outputs]
        public = {name: self._public(name) for name in self.graph.inputs}
        graph = onnx.helper.make_graph(
            self.nodes,
            self.graph.name,
            list(public.values()),
            [self.values[name] for name in outputs],
            initializer=list(self.initializers.values()),
            value_info=[value for name, value in self.values.items() if name not in (*public, *outputs)],
        )
        opsets = [onnx.helper.make_opsetid("", OPSET)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        model.producer_name, model.producer_version = "edgemobile", __version__
        onnx.helper.set_model_props(model, {key: str(metadata[key]) for key in sorted(metadata)})
        return model

    def _public(self, name: str) -> Any:
        shape = self.graph[name].shape
        return _value(name, "uint8", shape) if self._is_pixels(name) else _value(name, "float32", nchw(shape))

    def _is_pixels(self, name: str) -> bool:
        """Whether a tensor is the raw image input: uint8 with scale 1 and zero point 0."""
        tensor = self.graph[name]
        if tensor.dtype != "uint8" or name not in self.graph.inputs:
            return False
        if tensor.qparams is None or tensor.qparams.scale[0] != 1 or tensor.qparams.zero_point[0] != 0:
            raise Unsupported(f"onnx: the uint8 input {name} must have scale 1 and zero point 0")
        return True

    def pixels(self, name: str, target: str) -> str:
        """Write the Transpose of the pixels `name` to `target`, uint8[N,C,H,W]."""
        self.emit("Transpose", [name], target, nchw(self.graph[name].shape), "uint8", perm=(0, 3, 1, 2))
        return target

    def _write(self, node: Node) -> None:
        if node.op in _SPECIAL:
            _SPECIAL[node.op](self, node)
            return
        if node.op not in _ROWS:
            known = ", ".join(sorted({*_ROWS, *_SPECIAL}))
            raise Unsupported(f"onnx: {node.op} (at {node.output}) is not supported. Supported: {known}")
        op, attributes = _ROWS[node.op]
        self.result(node, op, [self.real(name) for name in node.inputs], **attributes(node))

    # ---- used by the rows of _ROWS and the functions of _SPECIAL

    def result(self, node: Node, op: str, inputs: Sequence[str], **attributes: Any) -> None:
        """Write the ONNX `op` of `node`, the activation fused into it, and the quantization of its output.

        The activation of an int8 output is a Clip of its integers: with a Clip of floats before QuantizeLinear,
        onnxruntime would not use its integer kernel for the op.
        """
        output = self.graph[node.output]
        name, shape = output.name, nchw(output.shape)
        activation = self._remaining_activation(node)
        if output.qparams is None:
            linear = f"{name}:linear" if activation else name
            self.emit(op, inputs, linear, shape, **attributes)
            if activation:
                self.emit(*_activation(self, activation, linear), name, shape)
            return
        self.emit(op, inputs, f"{name}:raw", shape, **attributes)
        if activation:
            self._quantize(f"{name}:raw", name, f"{name}:linear:q")
            self.clip(f"{name}:linear:q", name, activation_range(activation, output.qparams, output.dtype))
        else:
            self._quantize(f"{name}:raw", name)

    def clip(self, integers: str, name: str, bounds: tuple[int, int]) -> None:
        """Write the integers of `name`: the ONNX value `integers`, clamped to `bounds`."""
        dtype, offset = self._dtype(name), self._offset(name)
        ends = [
            self.constant(f"{name}:{end}", np.array(value + offset, dtype))
            for end, value in zip(("low", "high"), bounds, strict=True)
        ]
        self.emit("Clip", [integers, *ends], f"{name}:q", nchw(self.graph[name].shape), dtype)

    def emit(
        self, op: str, inputs: Sequence[str], output: str, shape: Sequence[int], dtype: str = "float32", **attrs: Any
    ) -> None:
        self.nodes.append(onnx.helper.make_node(op, list(inputs), [output], name=output, **attrs))
        self.values[output] = _value(output, dtype, shape)

    def constant(self, name: str, data: np.ndarray) -> str:
        """Add `data` as the initializer `name`, if it is not there yet."""
        if name not in self.initializers:
            self.initializers[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(data).reshape(data.shape), name)
        return name

    def real(self, name: str) -> str:
        """The ONNX name of the float32 value of a tensor, which is written if it is not there yet."""
        tensor = self.graph[name]
        if tensor.qparams is None:
            return name if tensor.data is None else self.constant(name, self._laid_out(tensor))
        # The float input of the file already has the plain name.
        target = f"{name}:dq" if name in self.graph.inputs else name
        if target not in self.values:
            self.dequantize(name, target)
        return target

    def dequantize(self, name: str, target: str) -> None:
        """Write DequantizeLinear from the integers of `name` to `target`."""
        tensor = self.graph[name]
        assert tensor.qparams is not None
        shape = nchw(tensor.shape)
        if tensor.data is not None:
            integers = self._laid_out(tensor)
            shape = integers.shape
            stored = (integers.astype(np.int32) + self._offset(name)).astype(self._dtype(name))
            self.constant(f"{name}:q", stored)
        axis: dict[str, Any] = {} if tensor.qparams.axis is None else {"axis": self._axis(tensor)}
        self.emit("DequantizeLinear", [f"{name}:q", *self._qparams(name)], target, shape, **axis)

    def widened(self, name: str, channels: int) -> str:
        """The float value of the int8 image `name` with `channels` of zeros added at the end."""
        target, (images, height, width, own) = f"{name}:wide", self.graph[name].shape
        if channels and target not in self.values:
            scale, zero_point = self._qparams(name)
            shape = (images, own + channels, height, width)
            pads = self.constant(f"{target}:pads", np.array([0, 0, 0, 0, 0, channels, 0, 0], np.int64))
            self.emit("Pad", [f"{name}:q", pads, zero_point], f"{name}:q:wide", shape, self._dtype(name))
            self.emit("DequantizeLinear", [f"{name}:q:wide", scale, zero_point], target, shape)
        return target if channels else self.real(name)

    def unpack(self, name: str, target: str) -> None:
        """Write the symmetric constant `name`, dequantized, to `target`.

        It uses Cast and Mul, which onnxruntime computes once when it loads the file. It would compute a
        DequantizeLinear in every inference, because it does not fold the ones that its quantized kernels may need.
        """
        tensor = self.graph[name]
        assert tensor.qparams is not None
        integers = self._laid_out(tensor)
        axis = self._axis(tensor)
        shape = [-1 if dimension == axis else 1 for dimension in range(integers.ndim)]
        scale = self.constant(f"{name}:scale", tensor.qparams.scale.reshape(shape))
        stored = self.constant(f"{name}:q", integers)
        self.emit("Cast", [stored], f"{name}:steps", integers.shape, to=onnx.TensorProto.FLOAT)
        self.emit("Mul", [f"{name}:steps", scale], target, integers.shape)

    def _quantize(self, source: str, name: str, target: str = "") -> None:
        """Write QuantizeLinear from the float value `source` to the integers of `name`, or to `target`."""
        shape = nchw(self.graph[name].shape)
        self.emit("QuantizeLinear", [source, *self._qparams(name)], target or f"{name}:q", shape, self._dtype(name))

    # ---- integers

    def _dtype(self, name: str) -> str:
        """The stored dtype of a quantized tensor."""
        tensor = self.graph[name]
        if tensor.dtype not in ("int8", "int32"):
            raise Unsupported(
                f"onnx cannot write tensor {name} of {tensor.dtype}. Allowed: float32, int8, int32 biases"
            )
        if tensor.dtype == "int32" or tensor.data is None:
            return self.activations if tensor.dtype == "int8" else "int32"
        if name in self.matmul_weights:
            return self.weights
        # A weight before a dequantize node may have any dtype; a constant operand must have that of the activation.
        return "int8" if name in self.layouts else self.activations

    def _offset(self, name: str) -> int:
        return 128 if self._dtype(name) == "uint8" else 0

    def _qparams(self, name: str) -> list[str]:
        """The initializers of scale and zero point; scalars if there is only one."""
        qparams, dtype = self.graph[name].qparams, self._dtype(name)
        assert qparams is not None
        shape = () if qparams.axis is None else qparams.scale.shape
        zero_point = (qparams.zero_point + self._offset(name)).astype(dtype).reshape(shape)
        return [
            self.constant(f"{name}:scale", qparams.scale.reshape(shape)),
            self.constant(f"{name}:zero_point", zero_point),
        ]

    @staticmethod
    def _axis(tensor: Tensor) -> int:
        """The channel axis in ONNX's layout: the first axis of a weight stays first, the last of an operand becomes
        1.
        """
        assert tensor.qparams is not None
        axis = tensor.qparams.axis or 0
        return 1 if axis == 3 else axis

    # ---- constants

    def _stored_constant(self, name: str) -> str:
        """The stored constant of a weight, which may be dequantized by a node."""
        producer = self.producers.get(name)
        return producer.inputs[0] if producer is not None and producer.op == "dequantize" else name

    def _laid_out(self, tensor: Tensor) -> np.ndarray:
        assert tensor.data is not None
        return self.layouts.get(tensor.name, channels_first)(tensor.data)

    def _weight_layout(self, node: Node) -> Callable[[np.ndarray], np.ndarray]:
        if missing := self.missing_channels(node):
            return partial(channels_first_widened, channels=missing)
        image = None if node.op == "conv2d" else self._flattened_image(node.inputs[0])
        return channels_first if image is None else partial(columns_first, image=image)

    def missing_channels(self, node: Node) -> int:
        """How many channels of zeros are added to an int8 convolution (`channel_multiple`)."""
        if node.op != "conv2d" or node.attrs["groups"] != 1 or self.graph[node.inputs[0]].qparams is None:
            return 0
        return -self.graph[node.inputs[0]].shape[-1] % self.channel_multiple

    def _flattened_image(self, name: str) -> tuple[int, ...] | None:
        """The shape [N,H,W,C] of the image that was flattened into `name`, if one was."""
        producer = self.producers.get(name)
        while producer is not None and producer.op in ("quantize", "dequantize"):
            producer = self.producers.get(producer.inputs[0])
        if producer is None or producer.op != "reshape":
            return None
        shape = self.graph[producer.inputs[0]].shape
        return shape if len(shape) == 4 else None

    def _remaining_activation(self, node: Node) -> str:
        """The fused activation; "" if saturation of the output's integers has the same effect."""
        activation = node.attrs.get("activation", "")
        output = self.graph[node.output]
        if not activation or output.qparams is None:
            return activation
        scale, zero_point = float(output.qparams.scale[0]), int(output.qparams.zero_point[0])
        low, high = scale * (-128 - zero_point), scale * (127 - zero_point)
        saturates = low >= 0 and (activation == "relu" or high <= 6 + scale / 2)
        return "" if saturates else activation


def _value(name: str, dtype: str, shape: Sequence[int]) -> Any:
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def _activation(writer: _Writer, activation: str, x: str) -> tuple[str, list[str]]:
    """(ONNX op, its inputs) of relu or relu6 on `x`."""
    if activation == "relu":
        return "Relu", [x]
    bounds = [writer.constant(f"relu6:{value}", np.array(value, np.float32)) for value in (0, 6)]
    return "Clip", [x, *bounds]


# ---- one row per op -------------------------------------------------------------------------------------------------


def _nothing(node: Node) -> dict[str, Any]:
    return {}


def _pads(node: Node) -> list[int]:
    (top, bottom), (left, right) = node.attrs["padding"]
    return [top, left, bottom, right]


def _conv_attributes(node: Node) -> dict[str, Any]:
    return {
        "strides": node.attrs["stride"],
        "pads": _pads(node),
        "dilations": node.attrs["dilation"],
        "group": node.attrs["groups"],
    }


def _pool_attributes(node: Node) -> dict[str, Any]:
    pads = {"pads": _pads(node)} if "padding" in node.attrs else {}
    return {"kernel_shape": node.attrs["kernel"], "strides": node.attrs["stride"], **pads}


# Graph op -> (ONNX op, its attributes). Inputs keep their order.
_ROWS: dict[str, tuple[str, Callable[[Node], dict[str, Any]]]] = {
    "linear": ("Gemm", lambda node: {"transB": 1}),
    "mul": ("Mul", _nothing),
    "mean": ("GlobalAveragePool", _nothing),
    "max_pool2d": ("MaxPool", _pool_attributes),
    "avg_pool2d": ("AveragePool", _pool_attributes),
    "relu": ("Relu", _nothing),
    "hardswish": ("HardSwish", _nothing),
    "hardsigmoid": ("HardSigmoid", lambda node: {"alpha": 1 / 6, "beta": 0.5}),
    "sigmoid": ("Sigmoid", _nothing),
    "tanh": ("Tanh", _nothing),
    "leaky_relu": ("LeakyRelu", lambda node: {"alpha": node.attrs["slope"]}),
    "prelu": ("PRelu", _nothing),
    "elu": ("Elu", _nothing),
    "depth_to_space": ("DepthToSpace", lambda node: {"blocksize": node.attrs["block"], "mode": "DCR"}),
}


def _conv(writer: _Writer, node: Node) -> None:
    x, *constants = node.inputs
    inputs = [writer.widened(x, writer.missing_channels(node)), *(writer.real(name) for name in constants)]
    writer.result(node, "Conv", inputs, **_conv_attributes(node))


def _relu6(writer: _Writer, node: Node) -> None:
    writer.result(node, *_activation(writer, "relu6", writer.real(node.inputs[0])))


def _add(writer: _Writer, node: Node) -> None:
    """Write an addition; if it only changes the zero point and clamps, it is a Clip of the integers.

    An example is relu6(x + 3) in an int8 hard-swish, which QLinearAdd would compute in float, value by value.
    """
    x, bounds = node.inputs[0], _clamps(writer.graph, node)
    if bounds is None:
        writer.result(node, "Add", [writer.real(name) for name in node.inputs])
        return
    writer.real(x)
    writer.clip(f"{x}:q", node.output, bounds)


def _clamps(graph: Graph, node: Node) -> tuple[int, int] | None:
    """(lowest, highest) if x + constant has the same integers as x, clamped to these; otherwise None."""
    x, other, output = (graph[name] for name in (*node.inputs, node.output))
    if x.qparams is None or output.qparams is None or other.data is None or other.data.size != 1:
        return None
    added = other.data if other.qparams is None else dequantize(other.data, other.qparams)
    scale, down = output.qparams.scale[0], x.qparams.zero_point[0] - output.qparams.zero_point[0]
    if scale != x.qparams.scale[0] or abs(float(added.item()) / float(scale) - down) > _SAME_STEP:
        return None
    return activation_range(node.attrs["activation"], output.qparams, output.dtype)


def _slice(writer: _Writer, node: Node) -> None:
    # begin, end and the axis of the channels
    numbers = (node.attrs["begin"], node.attrs["end"], 1)
    parameters = [writer.constant(f"slice:{number}", np.array([number], np.int64)) for number in numbers]
    writer.result(node, "Slice", [writer.real(node.inputs[0]), *parameters])


def _concat(writer: _Writer, node: Node) -> None:
    axis, rank = node.attrs["axis"], len(writer.graph[node.output].shape)
    parts = [writer.real(name) for name in node.inputs]
    writer.result(node, "Concat", parts, axis=(0, 2, 3, 1)[axis] if rank == 4 else axis)


def _channel_shuffle(writer: _Writer, node: Node) -> None:
    """Reshape to make the groups a dimension, Transpose, Reshape back."""
    name, groups = node.output, node.attrs["groups"]
    images, channels, *sides = nchw(writer.graph[name].shape)
    grouped, transposed = (
        [images, groups, channels // groups, *sides],
        [images, channels // groups, groups, *sides],
    )
    shape = writer.constant(f"{name}:grouped:shape", np.array(grouped, np.int64))
    writer.emit("Reshape", [writer.real(node.inputs[0]), shape], f"{name}:grouped", grouped)
    perm = (0, 2, 1, *range(3, len(grouped)))
    writer.emit("Transpose", [f"{name}:grouped"], f"{name}:turned", transposed, perm=perm)
    shape = writer.constant(f"{name}:shape", np.array([images, channels, *sides], np.int64))
    writer.result(node, "Reshape", [f"{name}:turned", shape])


def _gelu(writer: _Writer, node: Node) -> None:
    """x * (erf(x * sqrt(1/2)) + 1) * 1/2, because Gelu is in operator set 20 and later."""
    x, name = writer.real(node.inputs[0]), node.output
    shape = nchw(writer.graph[name].shape)
    root, one, half = (
        writer.constant(f"gelu:{label}", np.array(value, np.float32))
        for label, value in (("root", math.sqrt(0.5)), ("one", 1), ("half", 0.5))
    )
    writer.emit("Mul", [x, root], f"{name}:scaled", shape)
    writer.emit("Erf", [f"{name}:scaled"], f"{name}:erf", shape)
    writer.emit("Add", [f"{name}:erf", one], f"{name}:sum", shape)
    writer.emit("Mul", [x, f"{name}:sum"], f"{name}:product", shape)
    writer.result(node, "Mul", [f"{name}:product", half])


def _clip(writer: _Writer, node: Node) -> None:
    """Of an int8 tensor a Clip of its integers."""
    (x,), output = node.inputs, writer.graph[node.output]
    limits = np.array([node.attrs["low"], node.attrs["high"]], np.float32)
    if output.qparams is None:
        ends = [
            writer.constant(f"{node.output}:{label}", limit)
            for label, limit in zip(("low", "high"), limits, strict=True)
        ]
        writer.result(node, "Clip", [writer.real(x), *ends])
        return
    low, high = quantize(limits, output.qparams, output.dtype).tolist()
    writer.real(x)
    writer.clip(f"{x}:q", node.output, (low, high))


def _reflect_pad(writer: _Writer, node: Node) -> None:
    (top, bottom), (left, right) = node.attrs["padding"]
    pads = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
    inputs = [writer.real(node.inputs[0]), writer.constant(f"{node.output}:pads", pads)]
    writer.result(node, "Pad", inputs, mode="reflect")


def _resize(writer: _Writer, node: Node) -> None:
    mode, coordinates = node.attrs["mode"], node.attrs["coordinates"]
    sizes = writer.constant(f"{node.output}:sizes", np.array(nchw(writer.graph[node.output].shape), np.int64))
    nearest = {"nearest_mode": "round_prefer_ceil" if coordinates == "half_pixel" else "floor"}
    writer.result(
        node,
        "Resize",
        [writer.real(node.inputs[0]), "", "", sizes],
        mode="linear" if mode == "bilinear" else "nearest",
        coordinate_transformation_mode=coordinates,
        **({} if mode == "bilinear" else nearest),
    )


def _reshape(writer: _Writer, node: Node) -> None:
    before, after = writer.graph[node.inputs[0]].shape, writer.graph[node.output].shape
    if len(before) == 4 and len(after) == 3:
        # Each row of the matrix has the channels of a pixel, so channels must be last.
        transposed = f"{node.output}:nhwc"
        writer.emit("Transpose", [writer.real(node.inputs[0])], transposed, before, perm=(0, 2, 3, 1))
        shape = writer.constant(f"{node.output}:shape", np.array(after, np.int64))
        writer.result(node, "Reshape", [transposed, shape])
        return
    if len(after) == 2 and after[0] == before[0]:
        writer.result(node, "Flatten", [writer.real(node.inputs[0])], axis=1)
        return
    images = [shape for shape in (before, after) if len(shape) == 4]
    if any(math.prod(shape[1:3]) != 1 for shape in images):
        raise Unsupported(
            f"onnx cannot reshape {list(before)} to {list(after)} (at {node.output}): NHWC and NCHW differ in order. "
            "Supported: flattening, and images of 1x1"
        )
    shape = writer.constant(f"{node.output}:shape", np.array(nchw(after), np.int64))
    writer.result(node, "Reshape", [writer.real(node.inputs[0]), shape])


def _quantize(writer: _Writer, node: Node) -> None:
    source, output = node.inputs[0], writer.graph[node.output]
    if writer._is_pixels(source):
        assert output.qparams is not None
        same = output.qparams.scale[0] == 1 and output.qparams.zero_point[0] == -128
        if same and writer.activations == "uint8":
            # The pixels are equal to the stored integers.
            writer.pixels(source, f"{node.output}:q")
            return
        stored = writer.pixels(source, f"{source}:nchw")
        writer.emit("Cast", [stored], f"{source}:real", nchw(output.shape), to=onnx.TensorProto.FLOAT)
        writer._quantize(f"{source}:real", node.output)
        return
    writer._quantize(writer.real(node.inputs[0]), node.output)


def _dequantize(writer: _Writer, node: Node) -> None:
    source = writer.graph[node.inputs[0]]
    if writer._is_pixels(source.name):
        stored = writer.pixels(source.name, f"{source.name}:nchw")
        writer.emit("Cast", [stored], node.output, nchw(source.shape), to=onnx.TensorProto.FLOAT)
    elif source.qparams is not None and source.is_constant and not source.qparams.zero_point.any():
        writer.unpack(source.name, node.output)
    elif source.qparams is not None:
        writer.dequantize(source.name, node.output)
    else:
        stored = writer.real(source.name)
        shape = nchw(source.shape) if source.data is None else writer._laid_out(source).shape
        writer.emit("Cast", [stored], node.output, shape, to=onnx.TensorProto.FLOAT)


_SPECIAL: dict[str, Callable[[_Writer, Node], None]] = {
    "conv2d": _conv,
    "relu6": _relu6,
    "add": _add,
    "concat": _concat,
    "slice": _slice,
    "channel_shuffle": _channel_shuffle,
    "gelu": _gelu,
    "clip": _clip,
    "reflect_pad": _reflect_pad,
    "resize": _resize,
    "reshape": _reshape,
    "quantize": _quantize,
    "dequantize": _dequantize,
}
