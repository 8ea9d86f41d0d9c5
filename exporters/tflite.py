"""Graph -> TFLite flatbuffer, written directly without TensorFlow: one row of _ROWS per op.

The Graph is NHWC already, so no TRANSPOSE is ever needed; only depthwise weights change layout, from
[out, kernel_h, kernel_w, 1] to TFLite's [1, kernel_h, kernel_w, out]. Ops that TFLite does not have are written with
others: a hard-sigmoid as ADD(3, fused RELU6) and MUL(1/6), a padding other than 'SAME' and 'VALID' as a PAD.

To add an op: a row in _ROWS and, if its TFLite op is not there yet, one in _BUILTINS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgemobile import __version__
from edgemobile.errors import Unsupported
from edgemobile.exporters.padding import padding_name
from edgemobile.exporters.tflite_contents import read_contents
from edgemobile.exporters.tflite_file import (
    DEPTHWISE_ORDER,
    MIN_RUNTIME,
    add_metadata,
    finished,
    new,
    op_counts,
    op_versions,
    read_metadata,
    read_tensors,
    reordered,
    schema,
)
from edgemobile.graph import Graph, Node, QParams, Tensor
from edgemobile.graph.affine import FIXED_QPARAMS, quantize
from edgemobile.graph.origins_entry import origins_metadata
from edgemobile.graph.padding import Pads

__all__ = [
    "op_counts",
    "op_versions",
    "read_contents",
    "read_metadata",
    "read_tensors",
    "to_bytes",
]


@dataclass(frozen=True)
class _Builtin:
    """One row: the op's options table, its version for int8 inputs, and the first release with each version."""

    options: str
    int8: int
    since: Mapping[int, str]


# By TFLite's versioning rules: a runtime can run the file if it has these versions.
_BUILTINS = {
    "ADD": _Builtin("AddOptions", 2, {1: "1.5.0", 2: "1.14.0"}),
    "AVERAGE_POOL_2D": _Builtin("Pool2DOptions", 2, {1: "1.5.0", 2: "1.14.0"}),
    "CONCATENATION": _Builtin("ConcatenationOptions", 2, {1: "1.5.0", 2: "1.14.0"}),
    "CONV_2D": _Builtin("Conv2DOptions", 3, {1: "1.5.0", 3: "1.14.0", 6: "2.9.0"}),
    "DEPTHWISE_CONV_2D": _Builtin("DepthwiseConv2DOptions", 3, {1: "1.5.0", 2: "1.12.0", 3: "1.14.0"}),
    "DEPTH_TO_SPACE": _Builtin("DepthToSpaceOptions", 2, {1: "2.1.0", 2: "2.5.0"}),
    "DEQUANTIZE": _Builtin("DequantizeOptions", 2, {1: "1.13.1", 2: "1.14.0", 3: "1.15.0", 5: "2.7.0"}),
    "ELU": _Builtin("", 1, {1: "1.14.0"}),
    "FULLY_CONNECTED": _Builtin("FullyConnectedOptions", 4, {1: "1.5.0", 4: "1.14.0"}),
    "GELU": _Builtin("GeluOptions", 2, {1: "2.9.0", 2: "2.9.0"}),
    "HARD_SWISH": _Builtin("HardSwishOptions", 1, {1: "1.15.0"}),
    "LEAKY_RELU": _Builtin("LeakyReluOptions", 2, {1: "1.13.1", 2: "2.3.0"}),
    "LOGISTIC": _Builtin("", 2, {1: "1.14.0", 2: "1.14.0"}),
    "MAXIMUM": _Builtin("MaximumMinimumOptions", 2, {1: "1.14.0", 2: "1.14.0"}),
    "MAX_POOL_2D": _Builtin("Pool2DOptions", 2, {1: "1.5.0", 2: "1.14.0"}),
    "MEAN": _Builtin("ReducerOptions", 2, {1: "1.6.0", 2: "1.14.0"}),
    "MINIMUM": _Builtin("MaximumMinimumOptions", 2, {1: "1.14.0", 2: "1.14.0"}),
    "MIRROR_PAD": _Builtin("MirrorPadOptions", 2, {1: "1.13.1", 2: "2.3.0"}),
    "MUL": _Builtin("MulOptions", 2, {1: "1.5.0", 2: "1.14.0", 3: "1.15.0"}),
    "PAD": _Builtin("PadOptions", 2, {1: "1.5.0", 2: "1.14.0"}),
    "PADV2": _Builtin("PadV2Options", 2, {1: "1.9.0", 2: "1.14.0"}),
    "PRELU": _Builtin("", 1, {1: "1.8.0"}),
    "QUANTIZE": _Builtin("QuantizeOptions", 1, {1: "1.14.0"}),
    "RELU": _Builtin("", 2, {1: "1.5.0", 2: "2.1.0"}),
    "RELU6": _Builtin("", 2, {1: "1.5.0", 2: "1.14.0"}),
    "RESIZE_BILINEAR": _Builtin("ResizeBilinearOptions", 2, {1: "1.7.0", 2: "1.14.0", 3: "2.2.0"}),
    "RESIZE_NEAREST_NEIGHBOR": _Builtin("ResizeNearestNeighborOptions", 2, {1: "1.13.1", 2: "1.14.0", 3: "2.3.0"}),
    "SLICE": _Builtin("SliceOptions", 2, {1: "1.14.0", 2: "1.14.0"}),
    "TANH": _Builtin("", 2, {1: "1.14.0", 2: "1.14.0"}),
    "TRANSPOSE": _Builtin("TransposeOptions", 2, {1: "1.6.0", 2: "1.14.0"}),
    "RESHAPE": _Builtin("ReshapeOptions", 1, {1: "1.5.0"}),
}

_DTYPES = ("float32", "float16", "int8", "int32")

# XNNPACK supports a CONCATENATION of two to five inputs.
_MOST_PARTS = 5


def to_bytes(graph: Graph, *, metadata: Mapping[str, str]) -> bytes:
    """The whole .tflite file for `graph`, float or int8; the same graph gives the same bytes.

    Tensors have the Graph's names, and the signature "serving_default" has its inputs and outputs. The Origins of its
    tensors are added to the metadata if there are any, and always for an int8 graph. Raises Unsupported, naming the
    node or tensor, for anything that TFLite cannot represent.
    """
    metadata = {**(origins_metadata(graph.origins) if graph.is_quantized or graph.origins else {}), **metadata}
    if MIN_RUNTIME in metadata:
        raise Unsupported(f"metadata key {MIN_RUNTIME!r} is reserved by TFLite; use another name")
    file = _File(graph, _depthwise_names(graph))
    for name in graph.inputs:
        file.tensor(name)
    for node in graph.nodes:
        _row(node)(file, node)
    model = file.model()
    add_metadata(model, {**metadata, MIN_RUNTIME: file.min_runtime()})
    return finished(model, metadata)


def _row(node: Node) -> Callable[[_File, Node], None]:
    if node.op not in _ROWS:
        raise Unsupported(f"tflite: {node.op} (at {node.output}) is not supported. Supported: {', '.join(_ROWS)}")
    return _ROWS[node.op]


def _is_depthwise(graph: Graph, node: Node) -> bool:
    groups = node.attrs["groups"]
    return 1 < groups == graph[node.inputs[0]].shape[-1]


def _depthwise_names(graph: Graph) -> frozenset[str]:
    """Weights that change layout, and the constants that are dequantized into them."""
    convs = [node for node in graph.nodes if node.op == "conv2d"]
    names = {node.inputs[1] for node in convs if _is_depthwise(graph, node)}
    for node in convs:
        if node.inputs[1] in names and not _is_depthwise(graph, node):
            raise Unsupported(
                f"tflite: {node.output} shares the weight {node.inputs[1]} with a depthwise convolution, which needs "
                "it in another layout; give each its own weight"
            )
    sources = {node.inputs[0] for node in graph.nodes if node.op == "dequantize" and node.output in names}
    return frozenset(names | sources)


# ---- the file while it is written -----------------------------------------------------------------------------------


@dataclass
class _File:
    """Tensors, buffers and operators in the order of their first use, so that the bytes are reproducible."""

    graph: Graph
    depthwise: frozenset[str]
    tensors: list[Any] = field(default_factory=list)
    index: dict[str, int] = field(default_factory=dict)
    buffers: list[Any] = field(default_factory=lambda: [new("Buffer")])  # buffer 0 means "no data"
    buffer_of: dict[bytes, int] = field(default_factory=dict)
    shared: dict[tuple[str, tuple[int, ...], bytes, bytes], str] = field(default_factory=dict)
    codes: dict[tuple[str, int], int] = field(default_factory=dict)
    operators: list[Any] = field(default_factory=list)

    def tensor(self, name: str) -> int:
        """The index of a tensor of the Graph, which is added if it is not there yet."""
        if name not in self.index:
            tensor = self.graph[name]
            self.add(reordered(tensor, DEPTHWISE_ORDER) if name in self.depthwise else tensor)
        return self.index[name]

    def add(self, tensor: Tensor) -> int:
        if tensor.dtype not in _DTYPES and not self._is_pixels(tensor.name):
            raise Unsupported(
                f"tflite: tensor {tensor.name} is {tensor.dtype}, allowed are {', '.join(_DTYPES)}; "
                "quantize with a recipe that has int8 activations"
            )
        self.index[tensor.name] = len(self.tensors)
        self.tensors.append(
            new(
                "Tensor",
                name=tensor.name,
                shape=np.array(tensor.shape, np.int32),
                type=getattr(schema.TensorType, tensor.dtype.upper()),
                buffer=0 if tensor.data is None else self.buffer(tensor.data),
                quantization=_quantization(tensor.qparams),
                hasRank=True,
            )
        )
        return self.index[tensor.name]

    def _is_pixels(self, name: str) -> bool:
        """Whether a tensor is the raw image input: a uint8 input that only conversions read."""
        readers = self.graph.consumers(name)
        converted = all(node.op in ("quantize", "dequantize") for node in readers)
        return name in self.graph.inputs and self.dtype(name) == "uint8" and converted

    def buffer(self, array: np.ndarray) -> int:
        """The index of a buffer with these bytes; equal constants share one."""
        octets = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        if octets not in self.buffer_of:
            self.buffer_of[octets] = len(self.buffers)
            self.buffers.append(new("Buffer", data=np.frombuffer(octets, np.uint8)))
        return self.buffer_of[octets]

    def constant(self, array: np.ndarray, qparams: QParams | None = None) -> str:
        """The name of a constant that is not in the Graph (axes, the 3 of a hard-sigmoid); equal constants share
        one.
        """
        scale = b"" if qparams is None else qparams.scale.tobytes() + qparams.zero_point.tobytes()
        key = (array.dtype.name, array.shape, array.tobytes(), scale)
        if key not in self.shared:
            self.shared[key] = f"const/{len(self.shared)}"
            self.add(Tensor.constant(self.shared[key], array, qparams))
        return self.shared[key]

    def dtype(self, name: str) -> str:
        return self.graph[name].dtype

    def emit(self, op: str, inputs: Sequence[str], output: str, *, version: int | None = None, **options: Any) -> None:
        """Add one operator. `inputs` and `output` are names of tensors of the Graph or of this file."""
        row = _BUILTINS[op]
        indices = [self.tensor(name) for name in inputs]
        if version is None:
            version = row.int8 if self.tensors[indices[0]].type == schema.TensorType.INT8 else 1
        operator = new(
            "Operator",
            opcodeIndex=self.codes.setdefault((op, version), len(self.codes)),
            inputs=np.array(indices, np.int32),
            outputs=np.array([self.tensor(output)], np.int32),
        )
        if row.options:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, row.options)
            operator.builtinOptions = new(row.options, **options)
        self.operators.append(operator)

    def min_runtime(self) -> str:
        releases = [_BUILTINS[op].since[version] for op, version in self.codes]
        return max(releases, key=lambda text: tuple(map(int, text.split("."))), default="1.5.0")

    def model(self) -> Any:
        subgraph = new(
            "SubGraph",
            name="main",
            tensors=self.tensors,
            inputs=np.array([self.tensor(name) for name in self.graph.inputs], np.int32),
            outputs=np.array([self.tensor(name) for name in self.graph.outputs], np.int32),
            operators=self.operators,
        )
        return new(
            "Model",
            version=3,
            description=f"edgemobile {__version__}",
            operatorCodes=[_operator_code(op, version) for op, version in self.codes],
            subgraphs=[subgraph],
            buffers=self.buffers,
            signatureDefs=[self._signature()],
        )

    def _signature(self) -> Any:
        maps = [
            [new("TensorMap", name=name, tensorIndex=self.index[name]) for name in names]
            for names in (self.graph.inputs, self.graph.outputs)
        ]
        return new("SignatureDef", signatureKey="serving_default", inputs=maps[0], outputs=maps[1], subgraphIndex=0)


def _quantization(qparams: QParams | None) -> Any:
    if qparams is None:
        return None
    return new(
        "QuantizationParameters",
        scale=qparams.scale,
        zeroPoint=qparams.zero_point.astype(np.int64),
        quantizedDimension=qparams.axis or 0,
    )


def _operator_code(op: str, version: int) -> Any:
    code = getattr(schema.BuiltinOperator, op)
    # Runtimes before 2.4 read the code from a signed byte.
    return new("OperatorCode", builtinCode=code, deprecatedBuiltinCode=min(code, 127), version=version)


# ---- one function per op --------------------------------------------------------------------------------------------


def _activation(node: Node) -> int:
    kinds = schema.ActivationFunctionType
    return {"": kinds.NONE, "relu": kinds.RELU, "relu6": kinds.RELU6}[node.attrs["activation"]]


def _strides(node: Node) -> dict[str, int]:
    return {"strideH": node.attrs["stride"][0], "strideW": node.attrs["stride"][1]}


def _conv2d(file: _File, node: Node) -> None:
    """CONV_2D or DEPTHWISE_CONV_2D: x [N,H,W,C], weight [O,KH,KW,C/groups] or [1,KH,KW,O], bias [O]."""
    x, weight, bias = node.inputs
    out_channels, *kernel, _ = file.graph[weight].shape
    dilation, groups = node.attrs["dilation"], node.attrs["groups"]
    x, padding = _padded(file, node, kernel, dilation, "PAD")
    options = {
        **_strides(node),
        "padding": padding,
        "dilationHFactor": dilation[0],
        "dilationWFactor": dilation[1],
        "fusedActivationFunction": _activation(node),
    }
    integer = file.dtype(node.inputs[0]) == "int8"
    if _is_depthwise(file.graph, node):
        version = 3 if integer else 2 if dilation != (1, 1) else 1
        options["depthMultiplier"] = out_channels // groups
        file.emit("DEPTHWISE_CONV_2D", (x, weight, bias), node.output, version=version, **options)
    else:
        file.emit("CONV_2D", (x, weight, bias), node.output, version=6 if groups > 1 else None, **options)


def _padded(file: _File, node: Node, kernel: Sequence[int], dilation: Sequence[int], op: str) -> tuple[str, int]:
    """(the input, TFLite's padding); a PAD op is added before it if neither SAME nor VALID is equal to `padding`."""
    x, pads = node.inputs[0], node.attrs["padding"]
    name = padding_name(file.graph[x].shape[1:3], kernel, node.attrs["stride"], dilation, pads)
    if name is not None:
        return x, getattr(schema.Padding, name)
    return _pad(file, node, pads, op), schema.Padding.VALID


def _pad(file: _File, node: Node, pads: Pads, op: str) -> str:
    """The input of `node` padded with zeros (PAD) or with the lowest value (PADV2).

    PAD fills a quantized tensor with its zero point. Every consumer gets its own PAD, because XNNPACK fuses a PAD into
    a convolution only if it has no other consumer.
    """
    x = node.inputs[0]
    source = file.graph[x]
    (top, bottom), (left, right) = pads
    n, height, width, channels = source.shape
    inputs = [x, file.constant(np.array([[0, 0], *pads, [0, 0]], np.int32))]
    if op == "PADV2":
        inputs.append(file.constant(_lowest(source.dtype), source.qparams))
    shape = (n, height + top + bottom, width + left + right, channels)
    name = f"{node.output}/{op.lower()}"
    file.add(Tensor(name, shape, source.dtype, None, source.qparams))
    file.emit(op, inputs, name)
    return name


def _lowest(dtype: str) -> np.ndarray:
    limits = np.finfo(dtype) if dtype.startswith("float") else np.iinfo(dtype)
    return np.array(limits.min, dtype)


def _linear(file: _File, node: Node) -> None:
    file.emit("FULLY_CONNECTED", node.inputs, node.output, fusedActivationFunction=_activation(node))


def _add(file: _File, node: Node) -> None:
    file.emit("ADD", node.inputs, node.output, fusedActivationFunction=_activation(node))


def _mul(file: _File, node: Node) -> None:
    qparams = [file.graph[name].qparams for name in (*node.inputs, node.output)]
    # Version 2 requires that the product of the input scales is less than the output scale.
    scales = [float(each.scale[0]) for each in qparams if each is not None]
    grows = len(scales) == 3 and scales[0] * scales[1] / scales[2] >= 1
    options = {"fusedActivationFunction": _activation(node)}
    file.emit("MUL", node.inputs, node.output, version=3 if grows else None, **options)


def _concat(file: _File, node: Node) -> None:
    _check_one_scale(file, node)
    parts = list(node.inputs)
    while len(parts) > _MOST_PARTS:
        parts = [_joined(file, node, parts[at : at + _MOST_PARTS]) for at in range(0, len(parts), _MOST_PARTS)]
    _emit_concat(file, node, parts, node.output)


def _joined(file: _File, node: Node, parts: Sequence[str]) -> str:
    """Concatenate some of the parts; returns the name of the new tensor."""
    if len(parts) == 1:
        return parts[0]
    result, axis = file.graph[node.output], node.attrs["axis"]
    shapes = [file.tensors[file.tensor(part)].shape for part in parts]
    name = f"{node.output}/concat{len(file.operators)}"
    shape = (*result.shape[:axis], int(sum(shape[axis] for shape in shapes)), *result.shape[axis + 1 :])
    file.add(Tensor(name, shape, result.dtype, None, result.qparams))
    _emit_concat(file, node, parts, name)
    return name


def _emit_concat(file: _File, node: Node, parts: Sequence[str], output: str) -> None:
    kind = schema.ActivationFunctionType.NONE
    file.emit("CONCATENATION", parts, output, axis=node.attrs["axis"], fusedActivationFunction=kind)


def _mean(file: _File, node: Node) -> None:
    axes = file.constant(np.array([1, 2], np.int32))
    file.emit("MEAN", (*node.inputs, axes), node.output, keepDims=True)


def _max_pool2d(file: _File, node: Node) -> None:
    _check_one_scale(file, node)
    # SAME ignores the padding in the maximum; padding with zeros would not.
    x, padding = _padded(file, node, node.attrs["kernel"], (1, 1), "PADV2")
    _pool(file, node, "MAX_POOL_2D", x, padding)


def _avg_pool2d(file: _File, node: Node) -> None:
    _check_one_scale(file, node)
    _pool(file, node, "AVERAGE_POOL_2D", node.inputs[0], schema.Padding.VALID)


def _pool(file: _File, node: Node, op: str, x: str, padding: int) -> None:
    height, width = node.attrs["kernel"]
    file.emit(op, (x,), node.output, padding=padding, filterHeight=height, filterWidth=width, **_strides(node))


def _check_one_scale(file: _File, node: Node) -> None:
    """Raises Unsupported if inputs and output differ in QParams; the TFLite op does not requantize."""
    first, *others = (file.graph[name].qparams for name in (*node.inputs, node.output))
    if not all(first is other or (first and other and first.equals(other)) for other in others):
        raise Unsupported(
            f"tflite: {node.op} at {node.output} must have its input's scale and zero point, found others; give both "
            "the same or add a quantize node after it"
        )


def _slice(file: _File, node: Node) -> None:
    _check_one_scale(file, node)
    before, after = file.graph[node.inputs[0]].shape, file.graph[node.output].shape
    begin = np.array([0] * (len(before) - 1) + [node.attrs["begin"]], np.int32)
    file.emit("SLICE", (*node.inputs, file.constant(begin), file.constant(np.array(after, np.int32))), node.output)


def _channel_shuffle(file: _File, node: Node) -> None:
    """RESHAPE the channels of each pixel to a matrix with a row per group, TRANSPOSE it, RESHAPE back."""
    _check_one_scale(file, node)
    tensor, groups = file.graph[node.output], node.attrs["groups"]
    pixels, size = math.prod(tensor.shape[1:-1]), tensor.shape[-1] // groups
    source = node.inputs[0]
    for ending, shape in (("grouped", (groups, size)), ("turned", (size, groups))):
        whole = (tensor.shape[0], pixels, *shape)
        name = f"{node.output}/{ending}"
        file.add(Tensor(name, whole, tensor.dtype, None, tensor.qparams))
        if ending == "grouped":
            wanted = np.array(whole, np.int32)
            file.emit("RESHAPE", (source, file.constant(wanted)), name, newShape=wanted)
        else:
            file.emit("TRANSPOSE", (source, file.constant(np.array([0, 1, 3, 2], np.int32))), name)
        source = name
    wanted = np.array(tensor.shape, np.int32)
    file.emit("RESHAPE", (source, file.constant(wanted)), node.output, newShape=wanted)


def _resize(file: _File, node: Node) -> None:
    _check_one_scale(file, node)
    coordinates, integer = node.attrs["coordinates"], file.dtype(node.inputs[0]) == "int8"
    op = "RESIZE_BILINEAR" if node.attrs["mode"] == "bilinear" else "RESIZE_NEAREST_NEIGHBOR"
    half_pixel = coordinates == "half_pixel"
    size = file.constant(np.array(node.attrs["size"], np.int32))
    options = {"alignCorners": coordinates == "align_corners", "halfPixelCenters": half_pixel}
    file.emit(op, (*node.inputs, size), node.output, version=3 if half_pixel else 2 if integer else 1, **options)


def _reshape(file: _File, node: Node) -> None:
    _check_one_scale(file, node)
    shape = np.array(file.graph[node.output].shape, np.int32)
    file.emit("RESHAPE", (*node.inputs, file.constant(shape)), node.output, newShape=shape)


def _hardsigmoid(file: _File, node: Node) -> None:
    """As relu6(x + 3) * (1/6), because TFLite has no such op."""
    output = file.graph[node.output]
    if output.dtype != "float32":
        raise Unsupported(
            f"tflite: hardsigmoid at {node.output} is {output.dtype}, allowed is float32; "
            "rewrite it as add and mul before quantizing"
        )
    gate = f"{node.output}/relu6"
    file.add(Tensor(gate, output.shape))
    relu6 = schema.ActivationFunctionType.RELU6
    three, sixth = (file.constant(np.array(value, np.float32)) for value in (3, 1 / 6))
    file.emit("ADD", (*node.inputs, three), gate, fusedActivationFunction=relu6)
    file.emit("MUL", (gate, sixth), node.output)


def _bounded(file: _File, node: Node) -> None:
    """LOGISTIC or TANH; TFLite's specification requires the QParams of their output."""
    qparams, fixed = file.graph[node.output].qparams, FIXED_QPARAMS[node.op]
    scale, zero_point = fixed.scale[0], fixed.zero_point[0]
    if qparams is not None and (qparams.scale[0] != scale or qparams.zero_point[0] != zero_point):
        raise Unsupported(
            f"tflite: {node.op} at {node.output} has scale {qparams.scale[0]:g} and zero point "
            f"{qparams.zero_point[0]}; allowed are 1/{1 / scale:g} and {zero_point}"
        )
    file.emit({"sigmoid": "LOGISTIC", "tanh": "TANH"}[node.op], node.inputs, node.output)


def _leaky_relu(file: _File, node: Node) -> None:
    file.emit("LEAKY_RELU", node.inputs, node.output, alpha=node.attrs["slope"])


def _clip(file: _File, node: Node) -> None:
    """MAXIMUM with the low end, MINIMUM with the high one: RELU_N1_TO_1 and RELU_0_TO_1 are for one range each."""
    _check_one_scale(file, node)
    result, x = file.graph[node.output], node.inputs[0]
    ends = [(op, end) for op, end in (("MAXIMUM", "low"), ("MINIMUM", "high")) if math.isfinite(node.attrs[end])]
    for place, (op, end) in enumerate(ends):
        limit = np.array(node.attrs[end], np.float32)
        stored = limit if result.qparams is None else quantize(limit, result.qparams, result.dtype)
        output = node.output if place == len(ends) - 1 else f"{node.output}/{op.lower()}"
        if output != node.output:
            file.add(Tensor(output, result.shape, result.dtype, None, result.qparams))
        file.emit(op, (x, file.constant(stored.reshape(1), result.qparams)), output)
        x = output


def _depth_to_space(file: _File, node: Node) -> None:
    _check_one_scale(file, node)
    file.emit("DEPTH_TO_SPACE", node.inputs, node.output, blockSize=node.attrs["block"])


def _reflect_pad(file: _File, node: Node) -> None:
    _check_one_scale(file, node)
    pads = file.constant(np.array([[0, 0], *node.attrs["padding"], [0, 0]], np.int32))
    file.emit("MIRROR_PAD", (*node.inputs, pads), node.output, mode=schema.MirrorPadMode.REFLECT)


def _dequantize(file: _File, node: Node) -> None:
    source = file.graph[node.inputs[0]]
    per_channel = source.qparams is not None and source.qparams.axis is not None
    version = 5 if per_channel else {"uint8": 1, "float16": 3}.get(source.dtype, 2)
    file.emit("DEQUANTIZE", node.inputs, node.output, version=version)


def _plain(op: str) -> Callable[[_File, Node], None]:
    return lambda file, node: file.emit(op, node.inputs, node.output)


_ROWS: dict[str, Callable[[_File, Node], None]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "add": _add,
    "mul": _mul,
    "concat": _concat,
    "slice": _slice,
    "channel_shuffle": _channel_shuffle,
    "depth_to_space": _depth_to_space,
    "reflect_pad": _reflect_pad,
    "resize": _resize,
    "mean": _mean,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "relu": _plain("RELU"),
    "relu6": _plain("RELU6"),
    "hardswish": _plain("HARD_SWISH"),
    "hardsigmoid": _hardsigmoid,
    "sigmoid": _bounded,
    "tanh": _bounded,
    "leaky_relu": _leaky_relu,
    "prelu": _plain("PRELU"),
    "elu": _plain("ELU"),
    "gelu": _plain("GELU"),
    "clip": _clip,
    "reshape": _reshape,
    "quantize": _plain("QUANTIZE"),
    "dequantize": _dequantize,
}
