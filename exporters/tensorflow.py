"""Graph -> TFLite with TensorFlow's own converter, for comparison with the native writer and as an alternative.

A float Graph becomes one tf.function over NHWC, which TFLiteConverter converts. It is slower, needs a large package and
decides what to fuse, so the native writer is the default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from edgemobile.errors import EdgemobileError, Unsupported, first_line, require
from edgemobile.exporters.padding import padding_name
from edgemobile.graph import Graph, Node
from edgemobile.graph.checksums import checksums_metadata
from edgemobile.util.quiet import quiet_stderr

__all__ = ["to_bytes"]


def to_bytes(
    graph: Graph,
    *,
    metadata: Mapping[str, str] | None = None,
    representative: Iterable[np.ndarray] | None = None,
    dynamic_range: bool = False,
) -> bytes:
    """The .tflite file that TFLiteConverter makes from a float `graph`.

    With `representative`, arrays f32[N,H,W,C] for the graph's one input, it is full-integer int8, inputs and outputs
    included; the converter chooses the ranges. With `dynamic_range` only the weights are int8. Raises Unsupported for
    an int8 graph and if the converter refuses the graph.
    """
    _check_float(graph)
    with quiet_stderr():
        tf = require("tensorflow", "tensorflow")
        data = _convert(tf, graph, representative, dynamic_range)
    if metadata:
        from edgemobile.exporters.tflite_file import read_tensors, with_metadata

        checksums = {} if representative is None else checksums_metadata(read_tensors(data))
        data = with_metadata(data, {**metadata, **checksums})
    return data


def _check_float(graph: Graph) -> None:
    for node in graph.nodes:
        if node.op not in _ROWS or graph[node.output].dtype != "float32":
            raise Unsupported(
                f"the tensorflow backend takes float graphs, found {node.op} ({graph[node.output].dtype}) at "
                f"{node.output}. Supported: {', '.join(_ROWS)}; give it the graph before quantization"
            )
    if len(graph.inputs) != 1:
        raise Unsupported(f"the tensorflow backend takes one input, found {', '.join(graph.inputs)}")


def _convert(tf: Any, graph: Graph, representative: Iterable[np.ndarray] | None, dynamic_range: bool) -> bytes:
    module = tf.Module()
    module.function = tf.function(lambda x: _outputs(tf, graph, x))
    spec = tf.TensorSpec(graph[graph.inputs[0]].shape, tf.float32, name=graph.inputs[0])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.function.get_concrete_function(spec)], module)
    if representative is not None:
        _ask_for_int8(tf, converter, representative, graph[graph.inputs[0]].shape[0])
    elif dynamic_range:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    try:
        return converter.convert()
    except EdgemobileError:
        raise
    except Exception as error:
        reason = first_line(error)
        raise Unsupported(
            f"TFLiteConverter refuses {graph.name}: {reason}; export without --backend tensorflow"
        ) from error


def _ask_for_int8(tf: Any, converter: Any, representative: Iterable[np.ndarray], batch_size: int) -> None:
    images = [image for batch in representative for image in np.asarray(batch, np.float32)]
    if not images:
        raise Unsupported("int8 through tensorflow needs at least one representative image, found none")
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([np.stack([image] * batch_size)] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8


def _outputs(tf: Any, graph: Graph, x: Any) -> dict[str, Any]:
    values = {name: tensor.data for name, tensor in graph.constants.items()}
    values[graph.inputs[0]] = x
    for node in graph.nodes:
        operands = [values[name] for name in node.inputs]
        values[node.output] = _ROWS[node.op](tf, graph, node, *operands)
    return {name: tf.identity(values[name]) for name in graph.outputs}


# ---- one function per op --------------------------------------------------------------------------------------------


def _activate(tf: Any, node: Node, x: Any) -> Any:
    return {"": tf.identity, "relu": tf.nn.relu, "relu6": tf.nn.relu6}[node.attrs["activation"]](x)


def _conv2d(tf: Any, graph: Graph, node: Node, x: Any, weight: np.ndarray, bias: np.ndarray) -> Any:
    """weight [O,KH,KW,C/groups] -> TensorFlow's [KH,KW,C/groups,O], or [KH,KW,C,O/C] if it is depthwise."""
    out_channels, *kernel, _ = weight.shape
    stride, dilation, groups = node.attrs["stride"], node.attrs["dilation"], node.attrs["groups"]
    x, padding = _padded(tf, graph, node, x, kernel, dilation, 0.0)
    if 1 < groups == x.shape[-1]:
        if stride[0] != stride[1]:
            raise Unsupported(f"tensorflow: depthwise {node.output} has stride {stride}; both must be equal")
        filters = weight.reshape(groups, out_channels // groups, *kernel).transpose(2, 3, 0, 1)
        y = tf.nn.depthwise_conv2d(x, filters, (1, *stride, 1), padding, dilations=dilation)
    else:
        y = tf.nn.conv2d(x, weight.transpose(1, 2, 3, 0), stride, padding, dilations=dilation)
    return _activate(tf, node, y + bias)


def _padded(
    tf: Any, graph: Graph, node: Node, x: Any, kernel: list[int], dilation: tuple[int, int], rim: float
) -> tuple[Any, str]:
    pads = node.attrs["padding"]
    name = padding_name(graph[node.inputs[0]].shape[1:3], kernel, node.attrs["stride"], dilation, pads)
    if name is not None:
        return x, name
    return tf.pad(x, [[0, 0], *pads, [0, 0]], constant_values=rim), "VALID"


def _max_pool2d(tf: Any, graph: Graph, node: Node, x: Any) -> Any:
    kernel, stride = node.attrs["kernel"], node.attrs["stride"]
    x, padding = _padded(tf, graph, node, x, kernel, (1, 1), float(np.finfo(np.float32).min))
    return tf.nn.max_pool2d(x, kernel, stride, padding)


def _resize(tf: Any, graph: Graph, node: Node, x: Any) -> Any:
    op = tf.raw_ops.ResizeBilinear if node.attrs["mode"] == "bilinear" else tf.raw_ops.ResizeNearestNeighbor
    coordinates = node.attrs["coordinates"]
    return op(
        images=x,
        size=node.attrs["size"],
        align_corners=coordinates == "align_corners",
        half_pixel_centers=coordinates == "half_pixel",
    )


def _reflect_pad(tf: Any, graph: Graph, node: Node, x: Any) -> Any:
    return tf.pad(x, [[0, 0], *node.attrs["padding"], [0, 0]], mode="REFLECT")


def _prelu(tf: Any, graph: Graph, node: Node, x: Any, slope: np.ndarray) -> Any:
    return tf.nn.relu(x) - slope * tf.nn.relu(-x)


def _channel_shuffle(tf: Any, graph: Graph, node: Node, x: Any) -> Any:
    shape, groups = graph[node.output].shape, node.attrs["groups"]
    pixels = math.prod(shape[1:-1])
    grouped = tf.reshape(x, (shape[0], pixels, groups, shape[-1] // groups))
    return tf.reshape(tf.transpose(grouped, (0, 1, 3, 2)), shape)


def _hardswish(tf: Any, graph: Graph, node: Node, x: Any) -> Any:
    # The converter recognises HARD_SWISH only with this order of factors.
    return x * tf.nn.relu6(x + 3.0) * np.float32(1 / 6)


_ROWS: dict[str, Callable[..., Any]] = {
    "conv2d": _conv2d,
    "linear": lambda tf, graph, node, x, w, b: _activate(tf, node, tf.matmul(x, w, transpose_b=True) + b),
    "add": lambda tf, graph, node, a, b: _activate(tf, node, tf.add(a, b)),
    "mul": lambda tf, graph, node, a, b: _activate(tf, node, tf.multiply(a, b)),
    "concat": lambda tf, graph, node, *parts: tf.concat(parts, axis=node.attrs["axis"]),
    "slice": lambda tf, graph, node, x: x[..., node.attrs["begin"] : node.attrs["end"]],
    "channel_shuffle": _channel_shuffle,
    "depth_to_space": lambda tf, graph, node, x: tf.nn.depth_to_space(x, node.attrs["block"]),
    "reflect_pad": _reflect_pad,
    "resize": _resize,
    "mean": lambda tf, graph, node, x: tf.reduce_mean(x, axis=(1, 2), keepdims=True),
    "max_pool2d": _max_pool2d,
    "avg_pool2d": lambda tf, graph, node, x: tf.nn.avg_pool2d(x, node.attrs["kernel"], node.attrs["stride"], "VALID"),
    "relu": lambda tf, graph, node, x: tf.nn.relu(x),
    "relu6": lambda tf, graph, node, x: tf.nn.relu6(x),
    "hardswish": _hardswish,
    "hardsigmoid": lambda tf, graph, node, x: tf.nn.relu6(x + 3.0) * np.float32(1 / 6),
    "tanh": lambda tf, graph, node, x: tf.tanh(x),
    "leaky_relu": lambda tf, graph, node, x: tf.nn.leaky_relu(x, node.attrs["slope"]),
    "prelu": _prelu,
    "elu": lambda tf, graph, node, x: tf.nn.elu(x),
    "gelu": lambda tf, graph, node, x: tf.nn.gelu(x),
    "clip": lambda tf, graph, node, x: tf.clip_by_value(x, node.attrs["low"], node.attrs["high"]),
    "sigmoid": lambda tf, graph, node, x: tf.sigmoid(x),
    "reshape": lambda tf, graph, node, x: tf.reshape(x, graph[node.output].shape),
}
