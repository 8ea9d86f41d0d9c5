"""Runs the float and the int8 graph together, layer by layer, and corrects each int8 layer before the next one runs.

The int8 graph runs in float arithmetic with each tensor rounded to its int8 steps. This is fast, and exact enough to
fit weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgemobile.errors import require
from edgemobile.graph import Graph, Node, QParams, Tensor
from edgemobile.graph.affine import dequantize
from edgemobile.quant.qparams import bias_tensor, weight_tensor
from edgemobile.quant.torch_graph import evaluate, to_nchw
from edgemobile.util.progress import Report
from edgemobile.util.torch_threads import torch_threads

if TYPE_CHECKING:
    import torch

__all__ = ["Layer", "LayerCorrection", "correct_layers", "fake_quantized"]

# The last layers have few pixels per image, so they need many images; the first layers fill the memory.
_MAX_IMAGES = 512
_MIN_IMAGES = 16
_PIXELS = 2**21


@dataclass(frozen=True)
class Layer:
    """An int8 convolution or linear layer, with its input in the int8 graph and the output of the float layer.

    `node`, `weight` i8[O,KH,KW,I/groups] or [O,I] and `bias` i32[O] are the int8 layer's; `weight` was rounded from
    `float_weight` f32. `x` f32[N,C,H,W] or [N,C] is its dequantized input, and `target` the output of the float layer
    before its activation.
    """

    graph: Graph
    node: Node
    weight: Tensor
    bias: Tensor
    float_weight: np.ndarray
    x: torch.Tensor
    input_scale: float
    target: torch.Tensor

    @property
    def groups(self) -> int:
        return self.node.attrs.get("groups", 1)

    @property
    def weight_scale(self) -> np.ndarray:
        """f64[O or 1]"""
        assert self.weight.qparams is not None
        return self.weight.qparams.scale.astype(np.float64)

    @property
    def per_channel(self) -> bool:
        return self.weight.qparams is not None and self.weight.qparams.axis is not None

    def output(self, weight: torch.Tensor | None = None, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """The layer's output before its activation, for the images `rows`; a float `weight` (NCHW) replaces its own."""
        x = self.x[rows]
        weight = real_values(self.weight) if weight is None else weight
        operands = [x, weight.to(x.device), real_values(self.bias).to(x.device)]
        return evaluate(self.graph, _without_activation(self.node), operands)

    def activated(self, output: torch.Tensor) -> torch.Tensor:
        """`output` after the layer's activation."""
        match self.node.attrs.get("activation"):
            case "relu":
                return output.relu()
            case "relu6":
                return output.clamp(0, 6)
            case _:
                return output

    def error(self, weight: torch.Tensor | None = None, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """The mean squared error of `output` after the layer's activation, a scalar."""
        wanted = self.activated(self.target[rows])
        return (self.activated(self.output(weight, rows)) - wanted).square().mean()

    def rounded(self, weight: np.ndarray, bias: np.ndarray, qparams: QParams) -> Layer:
        """This layer with the integers nearest to a float weight and bias."""
        return self.replaced(
            weight=weight_tensor(self.weight.name, weight, qparams),
            bias=bias_tensor(self.bias.name, bias, self.input_scale, qparams),
            float_weight=weight,
        )

    def replaced(self, **changes: Tensor | np.ndarray) -> Layer:
        return replace(self, **changes)  # type: ignore[arg-type]

    def to(self, device: torch.device) -> Layer:
        return replace(self, x=self.x.to(device), target=self.target.to(device))


LayerCorrection = Callable[[Layer], Layer]


@torch_threads(1)
def correct_layers(
    reference: Graph,
    quantized: Graph,
    batches: Sequence[np.ndarray],
    corrections: Sequence[LayerCorrection],
    floors: Mapping[str, np.ndarray],
    report: Report,
    most_images: int = 0,
) -> Graph:
    """`quantized` with the weights and biases that the `corrections`, applied in order, give each of its layers.

    `reference` is the float graph that it was made from, with the same node names. `batches` are f32[N,H,W,C]. The
    first `most_images` of them are used; 0 means as many as fit in memory, at most 512. `floors`: tensor name ->
    f64[C]; every reader of the tensor treats lower values as this one. `report` is called with the number of layers
    done.
    """
    torch = require("torch", "export")
    images = np.concatenate(list(batches))
    enough = min(_MAX_IMAGES, max(_MIN_IMAGES, _PIXELS // (images.shape[1] * images.shape[2])))
    count = most_images or enough
    with torch.no_grad():
        return _Walk(reference, quantized, to_nchw(images[:count]), corrections, floors).result(report)


class _Walk:
    def __init__(
        self,
        reference: Graph,
        quantized: Graph,
        images: torch.Tensor,
        corrections: Sequence[LayerCorrection],
        floors: Mapping[str, np.ndarray],
    ) -> None:
        self.reference, self.quantized, self.corrections = reference, quantized, corrections
        self.floors = {name: to_nchw(floor[None, None, None].astype(np.float32)) for name, floor in floors.items()}
        self.tensors = dict(quantized.tensors)
        first = quantized.inputs[0]
        self.floats = {name: real_values(tensor) for name, tensor in reference.constants.items()} | {first: images}
        self.dequantized = {name: real_values(tensor) for name, tensor in quantized.constants.items()}
        self.dequantized[first] = _rounded(images, self.tensors[first])

    def result(self, report: Report) -> Graph:
        originals = {node.output: (index, node) for index, node in enumerate(self.reference.nodes)}
        last_use, last_float_use = _last_use(self.quantized), _last_use(self.reference)
        layers = [node.output for node in self.quantized.nodes if self._is_layer(node)]
        for index, node in enumerate(self.quantized.nodes):
            float_index, original = originals.get(node.output, (-1, None))
            if original is not None and self._is_layer(node):
                self._correct(node, original)
                report(layers.index(node.output) + 1, len(layers))
            self.dequantized[node.output] = self._above_floor(node.output, self._int8_output(node))
            _forget(self.dequantized, node, last_use, index)
            if original is not None:
                operands = [self.floats[name] for name in original.inputs]
                exact = evaluate(self.reference, original, operands)
                self.floats[node.output] = self._above_floor(node.output, exact)
                _forget(self.floats, original, last_float_use, float_index)
        return self.quantized.replaced(tensors=self.tensors.values())

    def _is_layer(self, node: Node) -> bool:
        return node.has_weights and self.tensors[node.output].qparams is not None

    def _correct(self, node: Node, original: Node) -> None:
        weight, source = self.reference[original.inputs[1]].data, self.tensors[node.inputs[0]].qparams
        assert weight is not None
        assert source is not None
        layer = Layer(
            self.quantized,
            node,
            self.tensors[node.inputs[1]],
            self.tensors[node.inputs[2]],
            weight,
            self.dequantized[node.inputs[0]],
            float(source.scale[0]),
            evaluate(self.reference, _without_activation(original), [self.floats[name] for name in original.inputs]),
        )
        for correct in self.corrections:
            layer = correct(layer)
        for tensor in (layer.weight, layer.bias):
            self.tensors[tensor.name], self.dequantized[tensor.name] = tensor, real_values(tensor)

    def _above_floor(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """`value`, raised to the floor of its channel: a layer must not be corrected for differences below it, which no
        reader of the tensor can see."""
        return value.maximum(self.floors[name]) if name in self.floors else value

    def _int8_output(self, node: Node) -> torch.Tensor:
        """The output of a node of the int8 graph, dequantized."""
        operands = [self.dequantized[name] for name in node.inputs]
        crossing = node.op in ("quantize", "dequantize")
        exact = operands[0] if crossing else evaluate(self.quantized, node, operands)
        return _rounded(exact, self.tensors[node.output])


def real_values(constant: Tensor) -> torch.Tensor:
    """The values of a constant, dequantized if it is quantized, NCHW."""
    assert constant.data is not None
    return to_nchw(constant.data if constant.qparams is None else dequantize(constant.data, constant.qparams))


def _without_activation(node: Node) -> Node:
    """A layer without its fused activation, which would hide a difference."""
    return Node(node.op, node.inputs, node.output, {**node.attrs, "activation": ""})


def _last_use(graph: Graph) -> dict[str, int]:
    return {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}


def _forget(values: dict[str, torch.Tensor], node: Node, last_use: Mapping[str, int], index: int) -> None:
    """Drop the values that no later node reads, to save memory."""
    for name in set(node.inputs):
        if last_use[name] == index:
            del values[name]


def _rounded(value: torch.Tensor, tensor: Tensor) -> torch.Tensor:
    if tensor.qparams is None:
        return value
    return fake_quantized(value, tensor.qparams)


def fake_quantized(value: torch.Tensor, qparams: QParams) -> torch.Tensor:
    """`value` quantized to int8 with `qparams` and dequantized again."""
    torch = require("torch", "export")
    return torch.fake_quantize_per_tensor_affine(value, float(qparams.scale[0]), int(qparams.zero_point[0]), -128, 127)
