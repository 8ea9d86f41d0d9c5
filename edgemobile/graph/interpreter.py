"""A numpy implementation of the graph's arithmetic, float and int8: the reference for every exported file.

Integer arithmetic follows the TFLite 8-bit quantization specification: int32 accumulators, bias at
scale_in * scale_weight, one float32 multiplier per channel, round half to even, saturate. XNNPACK and onnxruntime's
QLinear kernels do the same, so if one layer of an int8 file differs from this by more than 1, the file is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgemobile.graph import Graph, GraphError, Node, QParams, Tensor
from edgemobile.graph.affine import activation_range, dequantize, quantize, rounded
from edgemobile.graph.ops import OPS
from edgemobile.graph.resizing import linear_taps, nearest_taps

__all__ = ["evaluate_real", "run", "run_real"]

_Arrays = dict[str, np.ndarray]


def run(graph: Graph, inputs: np.ndarray | Mapping[str, np.ndarray], *, keep_all: bool = False) -> _Arrays:
    """Run `graph` and return its outputs by name, or every computed tensor with `keep_all`.

    Inputs are NHWC, in the dtype of the graph; a single array is the first input. The batch size may be any.
    Values that no later node reads are dropped, so only the live activations are in memory.
    """
    given = dict(inputs) if isinstance(inputs, Mapping) else {graph.inputs[0]: inputs}
    values: _Arrays = {name: tensor.data for name, tensor in graph.constants.items() if tensor.data is not None}
    for name in graph.inputs:
        tensor, array = graph[name], np.asarray(given[name])
        if array.dtype.name != tensor.dtype or array.shape[1:] != tensor.shape[1:]:
            raise ValueError(
                f"input {name} is {tensor.dtype}{list(tensor.shape)} (batch free), got {array.dtype}{list(array.shape)}"
            )
        values[name] = array
    last_use = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
    for index, node in enumerate(graph.nodes):
        values[node.output] = _evaluate(graph, node, [values[name] for name in node.inputs])
        if not keep_all:
            for name in set(node.inputs):
                if last_use[name] == index and name not in graph.outputs:
                    del values[name]
    constants = graph.constants
    wanted = [name for name in values if name not in constants] if keep_all else graph.outputs
    return {name: values[name] for name in wanted}


def run_real(graph: Graph, images: np.ndarray) -> np.ndarray:
    """The outputs f32[N,values] for images f32[N,H,W,C], dequantized and concatenated; logits for a classifier.

    The input of the graph may be quantized or float.
    """
    source = graph[graph.inputs[0]]
    given = images if source.qparams is None else quantize(images, source.qparams, source.dtype)
    reals = [_real(graph[name], array) for name, array in run(graph, given).items()]
    return np.concatenate([array.reshape(len(array), -1) for array in reals], axis=1)


def evaluate_real(node: Node, output: Tensor, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The float result of one node for f32 operands, images NHWC, before it is quantized."""
    return _FLOAT[node.op](node, output, *arrays)


def _evaluate(graph: Graph, node: Node, arrays: list[np.ndarray]) -> np.ndarray:
    output = graph[node.output]
    operands = [graph[name] for name in node.inputs]
    if node.op == "quantize":
        return _quantize_node(operands[0], output, arrays[0])
    if node.op == "dequantize":
        source = operands[0]
        return arrays[0].astype(np.float32) if source.qparams is None else dequantize(arrays[0], source.qparams)
    if output.qparams is None:
        for tensor in operands:
            if tensor.qparams is not None:
                raise GraphError(
                    f"{node.op} {node.output} is float but reads the integer tensor {tensor.name}: dequantize it"
                )
        return evaluate_real(node, output, arrays)
    return _evaluate_integer(node, operands, output, arrays)


def _quantize_node(source: Tensor, output: Tensor, array: np.ndarray) -> np.ndarray:
    assert output.qparams is not None
    real = array if source.qparams is None else dequantize(array, source.qparams)
    return quantize(real, output.qparams, output.dtype)


# ---- float ----------------------------------------------------------------------------------------------------------


def _activate(node: Node, x: np.ndarray) -> np.ndarray:
    match node.attrs["activation"]:
        case "relu":
            return np.maximum(x, 0)
        case "relu6":
            return np.clip(x, 0, 6)
        case _:
            return x


def _hardsigmoid(x: np.ndarray) -> np.ndarray:
    return np.clip(x + 3, 0, 6) / 6


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # The argument of exp is never positive, so it cannot overflow.
    small = np.exp(-np.abs(x))
    return (np.where(x < 0, small, 1) / (1 + small)).astype(x.dtype)


def _elu(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, np.expm1(np.minimum(x, 0)), x)


def _gelu(x: np.ndarray) -> np.ndarray:
    erf = np.asarray(np.frompyfunc(math.erf, 1, 1)(x.astype(np.float64) / math.sqrt(2)), np.float64)
    return (x * (1 + erf) / 2).astype(x.dtype)


def _softmax(x: np.ndarray) -> np.ndarray:
    shares = np.exp(x - x.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def _mean(node: Node, output: Tensor, x: np.ndarray) -> np.ndarray:
    return x.mean(axis=(1, 2), keepdims=len(output.shape) != 2, dtype=np.float32)


def _max_pool(node: Node, output: Tensor, x: np.ndarray) -> np.ndarray:
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    padded = np.pad(x, ((0, 0), *node.attrs["padding"], (0, 0)), constant_values=lowest)
    return _windows(padded, node.attrs["kernel"], node.attrs["stride"]).max(axis=(3, 4))


def _avg_pool(node: Node, output: Tensor, x: np.ndarray) -> np.ndarray:
    return _windows(x, node.attrs["kernel"], node.attrs["stride"]).mean(axis=(3, 4), dtype=np.float32)


def _resize(node: Node, output: Tensor, x: np.ndarray) -> np.ndarray:
    (height, width), coordinates = node.attrs["size"], node.attrs["coordinates"]
    if node.attrs["mode"] == "nearest":
        rows, columns = nearest_taps(x.shape[1], height, coordinates), nearest_taps(x.shape[2], width, coordinates)
        return x[:, rows][:, :, columns]
    first, second, share = linear_taps(x.shape[2], width, coordinates)
    weight = share[:, None]
    x = x[:, :, first] * (1 - weight) + x[:, :, second] * weight
    first, second, share = linear_taps(x.shape[1], height, coordinates)
    weight = share[:, None, None]
    return x[:, first] * (1 - weight) + x[:, second] * weight


def _channel_shuffle(node: Node, output: Tensor, x: np.ndarray) -> np.ndarray:
    grouped = x.reshape(*x.shape[:-1], node.attrs["groups"], -1)
    return grouped.swapaxes(-1, -2).reshape(x.shape)


def _depth_to_space(node: Node, output: Tensor, x: np.ndarray) -> np.ndarray:
    (images, height, width, _), block = x.shape, node.attrs["block"]
    squares = x.reshape(images, height, width, block, block, -1)
    return squares.transpose(0, 1, 3, 2, 4, 5).reshape(images, height * block, width * block, -1)


def _reflect_pad(node: Node, output: Tensor, x: np.ndarray) -> np.ndarray:
    return np.pad(x, ((0, 0), *node.attrs["padding"], (0, 0)), mode="reflect")


def _clip(node: Node, output: Tensor, x: np.ndarray) -> np.ndarray:
    return np.clip(x, np.float32(node.attrs["low"]), np.float32(node.attrs["high"]))


def _reshape(node: Node, output: Tensor, x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), *output.shape[1:])


_FLOAT: dict[str, Callable[..., np.ndarray]] = {
    "conv2d": lambda node, out, x, w, b: _activate(node, _convolve(node, x, w) + b),
    "linear": lambda node, out, x, w, b: _activate(node, _rows(x, w) @ w.T + b),
    "add": lambda node, out, a, b: _activate(node, a + b),
    "mul": lambda node, out, a, b: _activate(node, a * b),
    "concat": lambda node, out, *parts: np.concatenate(parts, axis=node.attrs["axis"]),
    "slice": lambda node, out, x: x[..., node.attrs["begin"] : node.attrs["end"]],
    "channel_shuffle": _channel_shuffle,
    "depth_to_space": _depth_to_space,
    "reflect_pad": _reflect_pad,
    "resize": _resize,
    "mean": _mean,
    "max_pool2d": _max_pool,
    "avg_pool2d": _avg_pool,
    "relu": lambda node, out, x: np.maximum(x, 0),
    "relu6": lambda node, out, x: np.clip(x, 0, 6),
    "clip": _clip,
    "relu1": lambda node, out, x: np.clip(x, 0, 1),
    "hardswish": lambda node, out, x: x * _hardsigmoid(x),
    "hardsigmoid": lambda node, out, x: _hardsigmoid(x),
    "sigmoid": lambda node, out, x: _sigmoid(x),
    "tanh": lambda node, out, x: np.tanh(x),
    "leaky_relu": lambda node, out, x: np.where(x < 0, np.float32(node.attrs["slope"]) * x, x),
    "prelu": lambda node, out, x, slope: np.where(x < 0, slope * x, x),
    "elu": lambda node, out, x: _elu(x),
    "gelu": lambda node, out, x: _gelu(x),
    "round": lambda node, out, x: rounded(x),
    "softmax": lambda node, out, x: _softmax(x),
    "reshape": _reshape,
    "transpose": lambda node, out, x: x.transpose(node.attrs["perm"]),
}


def _rows(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """x [N,in] or [N,1,1,in] as [N,in], for a weight [out,in]."""
    return x.reshape(len(x), weight.shape[1])


def _windows(
    x: np.ndarray, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int] = (1, 1)
) -> np.ndarray:
    """A view of `x` [N,H,W,C] as windows [N,out_h,out_w,kernel_h,kernel_w,C]."""
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, span, axis=(1, 2))
    view = view[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]
    return np.moveaxis(view, 3, 5)


def _convolve(node: Node, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Convolve x [N,H,W,C] with weight [O,KH,KW,C/groups], in the dtype of the operands; no bias.

    A depthwise convolution (one input and one output channel per group) is computed as a sum over the kernel's taps,
    which is much faster than C small matrix products.
    """
    groups = node.attrs["groups"]
    out_c, kernel_h, kernel_w, in_c = weight.shape
    padded = np.pad(x, ((0, 0), *node.attrs["padding"], (0, 0)))
    windows = _windows(padded, (kernel_h, kernel_w), node.attrs["stride"], node.attrs["dilation"])
    if groups == out_c and in_c == 1:
        depthwise = np.zeros((*windows.shape[:3], out_c), x.dtype)
        for row in range(kernel_h):
            for column in range(kernel_w):
                depthwise += windows[:, :, :, row, column] * weight[:, row, column, 0]
        return depthwise
    parts = []
    for group in range(groups):
        channels = slice(group * in_c, (group + 1) * in_c)
        filters = weight[group * out_c // groups : (group + 1) * out_c // groups]
        columns = windows[..., channels].reshape(-1, kernel_h * kernel_w * in_c)
        parts.append((columns @ filters.reshape(len(filters), -1).T).reshape(*windows.shape[:3], -1))
    return parts[0] if groups == 1 else np.concatenate(parts, axis=-1)


# ---- int8 -----------------------------------------------------------------------------------------------------------


def _evaluate_integer(node: Node, operands: list[Tensor], output: Tensor, arrays: list[np.ndarray]) -> np.ndarray:
    if node.has_weights:
        return _integer_matmul(node, operands, output, *arrays)
    if OPS[node.op].selects:
        if not all(_qparams(operand).equals(_qparams(output)) for operand in operands):
            raise GraphError(
                f"{node.op} {node.output} moves integers: input and output must share scale and zero_point"
            )
        return _FLOAT[node.op](node, output, *arrays)
    reals = [_real(tensor, array) for tensor, array in zip(operands, arrays, strict=True)]
    return quantize(evaluate_real(node, output, reals), _qparams(output), output.dtype)


def _real(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    return array if tensor.qparams is None else dequantize(array, tensor.qparams)


def _qparams(tensor: Tensor) -> QParams:
    if tensor.qparams is None:
        raise GraphError(f"tensor {tensor.name} must be quantized here")
    return tensor.qparams


def _integer_matmul(
    node: Node, operands: list[Tensor], output: Tensor, x: np.ndarray, weight: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """acc = sum (x - zx) * (w - zw) + b in int32; y = rint(acc * sx * sw / sy) + zy.

    The sum is computed in float64, which represents every int32 exactly and has a fast matmul.
    """
    qx, qw, qy = _qparams(operands[0]), _qparams(operands[1]), _qparams(output)
    centred = x.astype(np.float64) - qx.zero_point[0]
    filters = weight.astype(np.float64) - qw.along(weight.ndim)[1]
    acc = _convolve(node, centred, filters) if node.op == "conv2d" else _rows(centred, filters) @ filters.T
    acc = acc + bias
    if np.abs(acc).max(initial=0) >= 2**31:
        raise OverflowError(f"{node.output}: the int32 accumulator overflows ({np.abs(acc).max():.3g})")
    # All in float32, as in both runtimes: another last bit of the multiplier would round some ties differently.
    multiplier = qx.scale * qw.scale / qy.scale
    steps = np.rint(acc.astype(np.float32) * multiplier).astype(np.int64) + qy.zero_point[0]
    low, high = activation_range(node.attrs["activation"], qy, output.dtype)
    return np.clip(steps, low, high).astype(output.dtype)
