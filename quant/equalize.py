"""Equalization: gives the channels of a tensor equal ranges before they share one int8 scale.

int8 has 256 steps for the widest channel of a tensor; a channel a tenth as wide gets 25 of them. If everything around a
tensor is linear in it, a channel may be multiplied by any factor in the layers that write it and divided by that factor
in the layers that read it, and the function stays the same (Data-Free Quantization, arXiv:1906.04721, section 4.1, here
over whole groups of tensors that a residual sum connects).

ReLU lets a positive factor through. ReLU6, hard-swish and hard-sigmoid do not, so their inputs keep their scales.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from edgemobile.graph import OPS, Graph, Node, Tensor
from edgemobile.quant.noise import Channels, readers, weight_peaks
from edgemobile.quant.noise_optimal_scaling import noise_optimal_scaling

__all__ = ["equalizable", "equalize", "rescale_randomly", "rescaled"]

# The least width of a channel, as a share of the widest; narrower ones are treated as this wide. A channel that is
# narrow on the calibration images may be wide on other images; enlarged, it would take the range from the others.
_NARROWEST = 1 / 8


def equalize(
    graph: Graph, channels: Mapping[str, Channels], strength: float = 1.0, *, by_noise: bool = True
) -> dict[str, np.ndarray]:
    """tensor name -> f64[C], the factors by which `rescaled` should multiply its channels.

    A channel's width p, as a share of the widest, becomes p^(1 - strength); in a group of tensors that share their
    factors, the largest p is used. With strength 1 the result does not depend on earlier factors of the channels; below
    1, p is at least 1/8. `by_noise`: optimizes the factors from there, for the least noise in the logits.
    """
    groups = equalizable(graph)
    factors: dict[str, np.ndarray] = {}
    if strength == 1:
        channels = _with_reach(graph, groups, channels)
    for group in groups:
        share = _share(group, channels, strength)
        width = np.maximum(share, 0.0 if strength == 1 else _NARROWEST)
        factor = np.where(width > 0, np.maximum(width, 1e-30) ** -strength, 1.0)
        if by_noise:
            factor = noise_optimal_scaling([channels[name] for name in group], factor, readers(graph, group, channels))
        factors |= dict.fromkeys(group, factor)
    return factors


def rescaled(graph: Graph, factors: Mapping[str, np.ndarray]) -> Graph:
    """`graph` with channels multiplied by `factors`, and divided by them in the layers that read them. The function
    stays the same."""
    constants = [tensor for node in graph.nodes if node.has_weights for tensor in _rescaled(graph, node, factors)]
    return graph.replaced(tensors=constants)


def _share(group: list[str], channels: Mapping[str, Channels], strength: float) -> np.ndarray:
    """f64[C]: one width for the channels of all tensors in a group, as a share of the tensor's width.

    Below strength 1 it is the largest share in the group. That depends on the factors that a channel already has, which
    must not matter at strength 1: there it is the geometric mean, which does not depend on them.
    """
    shares = np.stack([_relative(channels[name].width) for name in group])
    if strength < 1:
        return shares.max(axis=0)
    alive = shares.max(axis=0) > 0
    return np.where(alive, _relative(np.exp(np.log(np.maximum(shares, 1e-6)).mean(axis=0))), 0.0)


def _relative(width: np.ndarray) -> np.ndarray:
    return width / max(width.max(initial=0.0), 1e-30)


def _with_reach(graph: Graph, groups: list[list[str]], channels: Mapping[str, Channels]) -> dict[str, Channels]:
    """`channels` with a least width for the channels that ReLU keeps at zero on these images, which other images may
    activate.

    A channel's largest single term is |weight| * input width or |bias|. The least width is a quarter of this term times
    the usual ratio of a channel's width to its largest term.
    """
    wider = dict(channels)
    for group in groups:
        share, reach = _share(group, channels, 1), np.zeros(len(channels[group[0]].high))
        for node in graph.nodes:
            if node.has_weights and node.output in group:
                weight, bias = graph[node.inputs[1]].data, graph[node.inputs[2]].data
                assert weight is not None
                assert bias is not None
                inputs = channels[node.inputs[0]].width[_columns(node, weight)]
                products = weight_peaks(weight) * inputs
                widest = max(channels[node.output].width.max(), 1e-30)
                reach = np.maximum(reach, np.maximum(products.max(axis=1), np.abs(bias)) / widest)
        usual = np.median(share[reach > 0] / reach[reach > 0]) if (reach > 0).any() else 0.0
        for name in group:
            wider[name] = channels[name].at_least(reach * usual / 4)
    return wider


def equalizable(graph: Graph) -> list[list[str]]:
    """Groups of tensors that must share the factors of their channels. The factors may have any positive value."""
    groups = _Groups(graph)
    for node in graph.nodes:
        groups.take(node)
    return groups.free()


class _Groups:
    """Union-find over tensor names. `fixed` has the names of tensors whose channels must keep their scales."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.parent = {name: name for name in graph.tensors}
        self.fixed = {*graph.inputs, *graph.outputs}
        readers: dict[str, int] = {}
        for node in graph.nodes:
            for name in node.inputs:
                readers[name] = readers.get(name, 0) + 1
        self.shared = {name for name, count in readers.items() if count > 1 and graph[name].is_constant}

    def take(self, node: Node) -> None:
        activations = [name for name in node.inputs if not self.graph[name].is_constant]
        if node.attrs.get("activation") == "relu6":
            self.fixed |= {node.output, *(() if node.has_weights else activations)}
        elif node.has_weights:
            if self.shared & set(node.inputs):
                self.fixed |= {node.inputs[0], node.output}
        elif OPS[node.op].channelwise or (node.op == "reshape" and self._flat(node)):
            self._tie(node.inputs[0], node.output)
        elif node.op == "add" and len(activations) == 2 and self._same_shape(*node.inputs, node.output):
            self._tie(node.inputs[0], node.output)
            self._tie(node.inputs[1], node.output)
        elif node.op == "mul":
            self._take_product(node, activations)
        else:
            self.fixed |= {node.output, *activations}

    def _take_product(self, node: Node, activations: list[str]) -> None:
        """The product has the factors of one operand; the other operand, the gate, keeps its scale."""
        full = [name for name in activations if self._same_shape(name, node.output)]
        carriers = sorted(full, key=self._is_gate)
        if carriers:
            self._tie(carriers[0], node.output)
        self.fixed |= set(activations) - set(carriers[:1])
        if not carriers or (len(activations) == 2 and activations[0] == activations[1]):
            self.fixed |= {node.output, *activations}

    def _is_gate(self, name: str) -> bool:
        producer = self.graph.producer(name)
        return producer is not None and producer.attrs.get("activation") == "relu6"

    def _same_shape(self, *names: str) -> bool:
        return len({self.graph[name].shape for name in names}) == 1

    def _flat(self, node: Node) -> bool:
        """Whether a reshape only removes the two dimensions of size 1 of a pooled image."""
        before, after = self.graph[node.inputs[0]].shape, self.graph[node.output].shape
        return before[-1] == after[-1] and all(size == 1 for size in (*before[1:-1], *after[1:-1]))

    def _root(self, name: str) -> str:
        while self.parent[name] != name:
            name = self.parent[name]
        return name

    def _tie(self, a: str, b: str) -> None:
        self.parent[self._root(a)] = self._root(b)

    def free(self) -> list[list[str]]:
        members: dict[str, list[str]] = {}
        for name, tensor in self.graph.tensors.items():
            if not tensor.is_constant:
                members.setdefault(self._root(name), []).append(name)
        fixed = {self._root(name) for name in self.fixed}
        return [names for root, names in members.items() if root not in fixed]


def _rescaled(graph: Graph, node: Node, factors: Mapping[str, np.ndarray]) -> Iterable[Tensor]:
    """The weight and bias of a layer whose input channels come multiplied, and whose output channels must be.

    weight'[o, ..., i] = weight[o, ..., i] * factor_out[o] / factor_in[i],  bias'[o] = bias[o] * factor_out[o]
    """
    x, weight_name, bias_name = node.inputs
    if x not in factors and node.output not in factors:
        return ()
    weight, bias = graph[weight_name].data, graph[bias_name].data
    assert weight is not None
    assert bias is not None
    outputs, inputs = len(weight), weight.shape[-1]
    written = factors.get(node.output, np.ones(outputs))
    read = factors[x][_columns(node, weight)] if x in factors else np.ones((outputs, inputs))
    middle = (1,) * (weight.ndim - 2)
    scale = written.reshape(outputs, *middle, 1) / read.reshape(outputs, *middle, inputs)
    return (
        Tensor.constant(weight_name, (weight * scale).astype(np.float32)),
        Tensor.constant(bias_name, (bias * written).astype(np.float32)),
    )


def _columns(node: Node, weight: np.ndarray) -> np.ndarray:
    """i64[O,I]: the input channel that weight column i of output channel o reads, which is in the group of o."""
    outputs, inputs = len(weight), weight.shape[-1]
    groups = node.attrs.get("groups", 1)
    return (np.arange(outputs) // (outputs // groups) * inputs)[:, None] + np.arange(inputs)


def rescale_randomly(graph: Graph, rng: np.random.Generator, exponents: tuple[int, int] = (-4, 4)) -> Graph:
    """`graph` with channels multiplied by random powers of two, wherever equalization could undo it. The function stays
    the same.

    This makes quantization hard: training does not prevent such channels.
    """
    low, high = exponents
    factors: dict[str, np.ndarray] = {}
    for group in equalizable(graph):
        factors |= dict.fromkeys(group, 2.0 ** rng.integers(low, high + 1, graph[group[0]].shape[-1]))
    return rescaled(graph, factors)
