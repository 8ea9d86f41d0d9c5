"""Bias correction: move each int8 layer's bias so that its mean output is the float layer's.

Rounding weights shifts a channel's mean, most of all in depthwise layers. The shift is measured, not modelled: float and
int8 graphs run side by side over the calibration images and each layer is corrected before the next one sees it
(Data-Free Quantization, arXiv:1906.04721, section 4.2, in its empirical, sequential form).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgemobile.graph import Graph, Node, QParams, Tensor
from edgemobile.interpreter import dequantize, quantize, run

__all__ = ["correct_bias"]

# Both graphs' activations are held at once; this many images fit the budget, and a few dozen settle a mean.
_BUDGET_BYTES = 2**29
_MAX_IMAGES = 128


def correct_bias(reference: Graph, quantized: Graph, batches: Sequence[np.ndarray]) -> Graph:
    """`quantized` with its int32 biases moved.

    `reference` is the float graph it was made from, with the same node names; `batches` are f32[N,H,W,C].
    """
    sample = np.concatenate(list(batches))[: _image_count(reference)]
    floats = run(reference, sample, keep_all=True)
    originals = {node.output: node for node in reference.nodes}
    tensors = dict(quantized.tensors)
    first = tensors[quantized.inputs[0]]
    values = {first.name: quantize(sample, _qparams(first), first.dtype)}
    for node in quantized.nodes:
        if node.op in ("conv2d", "linear") and tensors[node.output].qparams is not None:
            original = originals[node.output]
            want = _run_bare(original, reference.tensors, floats[original.inputs[0]])
            got = _run_bare(node, *_dequantized(node, tensors, values))
            bias = tensors[node.inputs[2]]
            tensors[bias.name] = _moved(bias, _channel_means(want) - _channel_means(got))
        values[node.output] = _run_node(node, tensors, values)
    return quantized.replaced(tensors=tensors.values())


def _image_count(graph: Graph) -> int:
    per_image = sum(graph[node.output].nbytes // graph[node.output].shape[0] for node in graph.nodes)
    return max(1, min(_MAX_IMAGES, _BUDGET_BYTES // (2 * per_image)))


def _qparams(tensor: Tensor) -> QParams:
    assert tensor.qparams is not None, tensor.name
    return tensor.qparams


def _run_node(node: Node, tensors: Mapping[str, Tensor], values: Mapping[str, np.ndarray]) -> np.ndarray:
    """`node` alone, on the values its inputs have."""
    names = (*node.inputs, node.output)
    inputs = tuple(name for name in dict.fromkeys(node.inputs) if not tensors[name].is_constant)
    alone = Graph(node.output, inputs, (node.output,), (node,), {name: tensors[name] for name in names})
    return run(alone, {name: values[name] for name in inputs})[node.output]


def _run_bare(node: Node, tensors: Mapping[str, Tensor], x: np.ndarray) -> np.ndarray:
    """A layer on input `x` without its fused activation, which would hide a shift."""
    bare = Node(node.op, node.inputs, node.output, {**node.attrs, "activation": ""})
    return _run_node(bare, tensors, {node.inputs[0]: x})


def _dequantized(
    node: Node, tensors: Mapping[str, Tensor], values: Mapping[str, np.ndarray]
) -> tuple[dict[str, Tensor], np.ndarray]:
    """An int8 layer as the float layer its integers stand for, and its input in float."""
    x, *constants = node.inputs
    real = {name: Tensor(name, tensors[name].shape) for name in (x, node.output)}
    for name in constants:
        data = tensors[name].data
        assert data is not None
        real[name] = Tensor.constant(name, dequantize(data, _qparams(tensors[name])))
    return real, dequantize(values[x], _qparams(tensors[x]))


def _channel_means(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=tuple(range(values.ndim - 1)), dtype=np.float64)


def _moved(bias: Tensor, shift: np.ndarray) -> Tensor:
    assert bias.data is not None
    limit = np.iinfo(np.int32).max
    moved = np.clip(np.rint(bias.data + shift / _qparams(bias).scale), -limit, limit)
    return Tensor.constant(bias.name, moved.astype(np.int32), bias.qparams)
