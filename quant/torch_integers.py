"""An int8 Graph in PyTorch that can be trained: its forward pass computes the same integers as the interpreter.

Scales and zero points are fixed. The weights are trained in steps of their scale, and the biases in steps of the
layer's output, so one learning rate suits all layers. The gradient passes through rounding unchanged and is zero where
an integer saturates (the straight-through estimator, Bengio et al., arXiv:1308.3432).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from edgemobile.errors import Unsupported
from edgemobile.graph import OPS, Graph, Node, QParams, Tensor
from edgemobile.graph.affine import activation_range
from edgemobile.graph.interpreter import evaluate_real
from edgemobile.quant.torch_graph import evaluate, to_nchw, to_nhwc

__all__ = ["IntegerNet"]

# float32 represents every integer up to this one, so sums below it are exact in any order.
_EXACT = 2**24
# An int32 bias leaves room for the products that are added to it, as in quant/qparams.py.
_BIAS_LIMIT = 2**30
# The ops whose results are bit-exact between torch and numpy. Others add in another order or approximate differently,
# and a tie could round the other way.
_SAME_IN_TORCH = ("add", "mul")


class IntegerNet(torch.nn.Module):
    """The int8 `graph` with trainable weights and biases: preprocessed images f32[N,3,H,W] -> its dequantized output.

    The values between layers are integers minus their zero point, as float32. Raises Unsupported for a graph with a
    float tensor, or with more than one input or output.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        _check(graph)
        self._graph = graph
        self._layers = [node for node in graph.nodes if node.has_weights]
        self._layer_index = {node.output: index for index, node in enumerate(self._layers)}
        self._last_use = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
        weights = [to_nchw(_data(graph, node.inputs[1]).astype(np.float32)) for node in self._layers]
        self.weights = torch.nn.ParameterList(weight.clone() for weight in weights)
        # The bias is that of the graph plus this.
        self.bias_changes = torch.nn.ParameterList(torch.zeros(len(weight)) for weight in weights)
        self._multipliers = [torch.from_numpy(_multiplier(graph, node)) for node in self._layers]
        self._constants = {
            name: to_nchw(_centred(tensor)) for name, tensor in graph.constants.items() if tensor.dtype == "int8"
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> IntegerNet:
        # The graph is immutable, and it cannot be copied.
        copied = IntegerNet(self._graph)
        copied.load_state_dict(self.state_dict())
        return copied

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        graph = self._graph
        source = graph[graph.inputs[0]]
        values = {**self._constants, source.name: _quantized(images, source)}
        for index, node in enumerate(graph.nodes):
            values[node.output] = self._node(node, values)
            for name in set(node.inputs) & values.keys():
                if self._last_use[name] == index and name not in (*graph.outputs, *self._constants):
                    del values[name]
        output = graph[graph.outputs[0]]
        return values[output.name] * _scale(output)

    def graph(self) -> Graph:
        """The int8 graph with the weights and biases as they are now."""
        tensors = []
        for place, node in enumerate(self._layers):
            weight, bias = (self._graph[name] for name in node.inputs[1:])
            integers, changed = self._integers(place)
            tensors.append(_with_data(weight, to_nhwc(integers)))
            tensors.append(_with_data(bias, to_nhwc(changed)))
        return self._graph.replaced(tensors=tensors)

    def _node(self, node: Node, values: dict[str, torch.Tensor]) -> torch.Tensor:
        if node.has_weights:
            return self._layer(node, values[node.inputs[0]])
        operands = [values[name] for name in node.inputs]
        if OPS[node.op].selects:
            return evaluate(self._graph, node, operands)
        output = self._graph[node.output]
        dequantized = [value * _scale(self._graph[name]) for name, value in zip(node.inputs, operands, strict=True)]
        if node.op == "quantize":
            return _quantized(dequantized[0], output)
        real = evaluate(self._graph, node, dequantized)
        if node.op not in _SAME_IN_TORCH:
            arrays = [np.ascontiguousarray(to_nhwc(value)) for value in dequantized]
            real = _Replaced.apply(real, to_nchw(evaluate_real(node, output, arrays)))
        return _quantized(real, output)

    def _layer(self, node: Node, x: torch.Tensor) -> torch.Tensor:
        """y = rint(acc * multiplier), clamped, with acc = sum x * w + b: a convolution or a linear layer."""
        place, output = self._layer_index[node.output], self._graph[node.output]
        weight, bias = self._integers(place)
        # float64 is several times slower, and few layers need it.
        most = 255 * float(weight.detach().abs().flatten(1).sum(1).max())
        dtype = torch.float32 if most < _EXACT else torch.float64
        bare = Node(node.op, node.inputs, node.output, {**node.attrs, "activation": ""})
        x = x.flatten(1) if node.op == "linear" else x
        products = evaluate(self._graph, bare, [x.to(dtype), weight.to(dtype), torch.zeros(len(weight), dtype=dtype)])
        if most + float(bias.detach().abs().max()) >= _EXACT:
            products = products.double()
        acc = (products + _broadcastable(bias.to(products.dtype), products)).float()
        low, high = activation_range(node.attrs["activation"], _qparams(output), output.dtype)
        zero = int(_qparams(output).zero_point[0])
        return _Rounded.apply(acc * _broadcastable(self._multipliers[place], acc), low - zero, high - zero)

    def _integers(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(weight f32, bias f64) as integers of the file, with their gradients."""
        weight = _Rounded.apply(self.weights[place], -127, 127)
        first = torch.from_numpy(_data(self._graph, self._layers[place].inputs[2]).astype(np.float64))
        changes = self.bias_changes[place].double() / self._multipliers[place].double()
        most = max(_BIAS_LIMIT, int(first.abs().max()))
        return weight, _Rounded.apply(first + changes, -most, most)


class _Rounded(torch.autograd.Function):
    """Round half to even and clamp to `low` ... `high`; the gradient is 1 inside, and 0 where a value saturates."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, low: int, high: int) -> torch.Tensor:
        ctx.save_for_backward((x >= low - 0.5) & (x <= high + 0.5))
        return x.round().clamp(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None


class _Replaced(torch.autograd.Function):
    """`exact` in place of `x`, with the gradient of `x`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
        return exact.reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


def _check(graph: Graph) -> None:
    ends = {"inputs": graph.inputs, "outputs": graph.outputs}
    for what, names in ends.items():
        if len(names) != 1:
            raise Unsupported(f"int8 training of {graph.name}: it has {len(names)} {what}. Supported: one")
    floats = [name for name in (*graph.inputs, *(node.output for node in graph.nodes)) if graph[name].qparams is None]
    if floats:
        raise Unsupported(
            f"int8 training of {graph.name}: {floats[0]} is float. Supported: graphs with int8 tensors only"
        )


def _quantized(real: torch.Tensor, tensor: Tensor) -> torch.Tensor:
    """Values quantized like `tensor`: integers minus the zero point."""
    zero = int(_qparams(tensor).zero_point[0])
    info = np.iinfo(tensor.dtype)
    return _Rounded.apply(real / _scale(tensor), info.min - zero, info.max - zero)


def _multiplier(graph: Graph, node: Node) -> np.ndarray:
    """f32[O] or f32[1]: output steps per step of the accumulator, computed in the interpreter's order of operations."""
    qx, qw = (_qparams(graph[name]) for name in node.inputs[:2])
    return qx.scale * qw.scale / _qparams(graph[node.output]).scale


def _broadcastable(values: torch.Tensor, acc: torch.Tensor) -> torch.Tensor:
    """[O] or [1], shaped to broadcast against [N,O,H,W] or [N,O]."""
    return values.view(-1, 1, 1) if acc.ndim == 4 else values


def _scale(tensor: Tensor) -> torch.Tensor:
    return torch.from_numpy(_qparams(tensor).scale)[0]


def _qparams(tensor: Tensor) -> QParams:
    assert tensor.qparams is not None
    return tensor.qparams


def _data(graph: Graph, name: str) -> np.ndarray:
    data = graph[name].data
    assert data is not None
    return data


def _centred(tensor: Tensor) -> np.ndarray:
    assert tensor.data is not None
    return tensor.data.astype(np.float32) - _qparams(tensor).along(tensor.data.ndim)[1].astype(np.float32)


def _with_data(tensor: Tensor, data: np.ndarray) -> Tensor:
    return Tensor.constant(tensor.name, np.ascontiguousarray(data).astype(tensor.dtype), tensor.qparams)
