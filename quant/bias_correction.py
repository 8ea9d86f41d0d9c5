"""Bias correction: move each int8 layer's bias so that its mean output is the float layer's.

Rounding weights shifts a channel's mean, most of all in depthwise layers. The shift is measured, not modelled: float
and int8 graphs run side by side over the calibration images and each layer is corrected before the next one sees it
(Data-Free Quantization, arXiv:1906.04721, section 4.2, in its empirical, sequential form).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgemobile.errors import require
from edgemobile.graph import Graph, Node, QParams, Tensor
from edgemobile.interpreter import dequantize
from edgemobile.quant.torch_graph import evaluate, to_nchw

if TYPE_CHECKING:
    import torch

__all__ = ["correct_bias"]

# Too few images add more noise than they remove: the last layers have a handful of pixels an image to take a mean over.
_MAX_IMAGES = 256


def correct_bias(reference: Graph, quantized: Graph, batches: Sequence[np.ndarray]) -> Graph:
    """`quantized` with its int32 biases moved.

    `reference` is the float graph it was made from, with the same node names; `batches` are f32[N,H,W,C]. The int8
    graph is run in real numbers, each tensor rounded to its steps: a mean needs no exact integers.
    """
    sample = to_nchw(np.concatenate(list(batches))[:_MAX_IMAGES])
    originals = {node.output: node for node in reference.nodes}
    tensors = dict(quantized.tensors)
    first = quantized.inputs[0]
    floats = _constants(reference.tensors) | {first: sample}
    reals = _constants(tensors) | {first: _rounded(sample, tensors[first])}
    last_use = {name: index for index, node in enumerate(quantized.nodes) for name in node.inputs}
    last_float_use = {name: index for index, node in enumerate(reference.nodes) for name in node.inputs}
    done = 0
    for index, node in enumerate(quantized.nodes):
        original = originals.get(node.output)
        if node.op in ("conv2d", "linear") and tensors[node.output].qparams is not None:
            assert original is not None
            want, got = (
                _means(graph, bare, values)
                for graph, bare, values in ((reference, _bare(original), floats), (quantized, _bare(node), reals))
            )
            bias = tensors[node.inputs[2]] = _moved(tensors[node.inputs[2]], want - got)
            reals[bias.name] = _real(bias)
        reals[node.output] = _result(quantized, node, tensors, reals)
        _forget(reals, node, last_use, index)
        if original is not None:
            floats[node.output] = evaluate(reference, original, [floats[name] for name in original.inputs])
            _forget(floats, original, last_float_use, done)
            done += 1
    return quantized.replaced(tensors=tensors.values())


def _forget(values: dict[str, torch.Tensor], node: Node, last_use: Mapping[str, int], index: int) -> None:
    """Drop what no later node reads, so that memory stays at the live activations."""
    for name in set(node.inputs):
        if last_use[name] == index:
            del values[name]


def _constants(tensors: Mapping[str, Tensor]) -> dict[str, torch.Tensor]:
    return {name: _real(tensor) for name, tensor in tensors.items() if tensor.is_constant}


def _real(constant: Tensor) -> torch.Tensor:
    assert constant.data is not None
    return to_nchw(constant.data if constant.qparams is None else dequantize(constant.data, constant.qparams))


def _bare(node: Node) -> Node:
    """A layer without its fused activation, which would hide a shift."""
    return Node(node.op, node.inputs, node.output, {**node.attrs, "activation": ""})


def _means(graph: Graph, node: Node, values: Mapping[str, torch.Tensor]) -> np.ndarray:
    """The mean f64[C] of every output channel of `node`."""
    output = evaluate(graph, node, [values[name] for name in node.inputs])
    return output.double().mean([0, *range(2, output.ndim)]).numpy()


def _result(
    graph: Graph, node: Node, tensors: Mapping[str, Tensor], values: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """What a node of the int8 graph gives, as the reals its integers stand for."""
    operands = [values[name] for name in node.inputs]
    exact = operands[0] if node.op in ("quantize", "dequantize") else evaluate(graph, node, operands)
    return _rounded(exact, tensors[node.output])


def _rounded(value: torch.Tensor, tensor: Tensor) -> torch.Tensor:
    if tensor.qparams is None:
        return value
    torch = require("torch", "export")
    scale, zero_point = float(tensor.qparams.scale[0]), int(tensor.qparams.zero_point[0])
    return torch.fake_quantize_per_tensor_affine(value, scale, zero_point, -128, 127)


def _qparams(tensor: Tensor) -> QParams:
    assert tensor.qparams is not None, tensor.name
    return tensor.qparams


def _moved(bias: Tensor, shift: np.ndarray) -> Tensor:
    assert bias.data is not None
    limit = np.iinfo(np.int32).max
    moved = np.clip(np.rint(bias.data + shift / _qparams(bias).scale), -limit, limit)
    return Tensor.constant(bias.name, moved.astype(np.int32), bias.qparams)
