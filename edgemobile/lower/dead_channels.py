"""Removes the channels that no output depends on: the same function in a smaller graph.

A channel is dead if it has the same value for every input (its weights are zero, or a ReLU clips its whole range; see
channel_bounds), or if every consumer multiplies it by zero. The contribution of a constant channel is added to the
biases of its consumers. Tensors that are added or multiplied share their channels: a channel is removed from all of
them or from none, so a residual loses a channel only if no block needs it.

If the removed values are zero, every sum has the same terms as before. A constant other than zero is added in another
order, which changes the result by a rounding error of float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from edgemobile.graph import OPS, Graph, Node, Tensor
from edgemobile.graph.padding import unpadded
from edgemobile.lower.channel_bounds import ELEMENTWISE, Bounds, channel_bounds

__all__ = ["removed_channels", "without_dead_channels"]


def without_dead_channels(graph: Graph) -> Graph:
    """The float `graph` without its dead channels; `graph` itself if there are none."""
    return _Removal(graph).graph()


def removed_channels(before: Graph, after: Graph) -> dict[str, int]:
    """Layer -> how many of its output channels in `before` are not in `after`, without layers that lost none."""
    layers = (node.output for node in before.nodes if node.has_weights)
    lost = {name: before[name].shape[-1] - after[name].shape[-1] for name in layers}
    return {name: count for name, count in lost.items() if count}


@dataclass
class _Removal:
    """`kept`: activation -> bool[C], the channels that are kept. It grows until every op has the channels it needs."""

    source: Graph
    bounds: Mapping[str, Bounds] = field(init=False)
    kept: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self.bounds = channel_bounds(self.source)
        ends = {*self.source.inputs, *self.source.outputs}
        self.kept = {name: np.full(len(each.low), name in ends) for name, each in self.bounds.items()}
        self._settle()
        # A tensor needs at least one channel.
        for kept in self.kept.values():
            kept[0] |= not kept.any()
        self._settle()

    def _settle(self) -> None:
        while sum(self._grow(name, channels) for name, channels in self._needs()):
            pass

    def _grow(self, name: str, channels: np.ndarray) -> bool:
        before = self.kept[name]
        self.kept[name] = before | channels
        return bool((self.kept[name] != before).any())

    def _needs(self) -> Iterator[tuple[str, np.ndarray]]:
        """(an activation, bool[C]: its channels that some op needs), given the current `kept`."""
        for node in reversed(self.source.nodes):
            yield from self._needs_of(node)

    def _needs_of(self, node: Node) -> Iterator[tuple[str, np.ndarray]]:
        activations = [name for name in node.inputs if name in self.kept]
        kept = self.kept[node.output]
        if self._shares_constants(node):
            yield from ((name, np.ones_like(self.kept[name])) for name in (*activations, node.output))
        elif node.has_weights:
            yield node.inputs[0], self._read_by_layer(node)
            if self._is_depthwise(node):
                yield node.output, self.kept[node.inputs[0]]
            elif node.attrs.get("groups", 1) > 1:
                yield node.output, np.ones_like(kept)
        elif self._keeps_channels(node):
            for name in activations:
                if len(self.kept[name]) == len(kept):
                    yield name, kept
                    yield node.output, self.kept[name]
                else:
                    yield name, np.ones_like(self.kept[name])
        else:
            yield node.output, np.ones_like(kept)
            for name in activations:
                yield name, np.ones_like(self.kept[name])

    def _shares_constants(self, node: Node) -> bool:
        """Whether another node reads the same constants and might keep other channels."""
        constants = [name for name in node.inputs if self.source[name].is_constant and self.source[name].shape]
        return any(len(self.source.consumers(name)) > 1 for name in constants)

    def _keeps_channels(self, node: Node) -> bool:
        """Whether channel c of the output depends only on channel c of the inputs."""
        op = OPS[node.op]
        return op.channelwise or node.op in ELEMENTWISE or (node.op == "reshape" and self._is_flat(node))

    def _is_flat(self, node: Node) -> bool:
        return self.source[node.inputs[0]].shape[-1] == self.source[node.output].shape[-1]

    def _is_depthwise(self, node: Node) -> bool:
        if node.op != "conv2d":
            return False
        channels = self.source[node.inputs[0]].shape[-1]
        return bool(node.attrs["groups"] == self.source[node.inputs[1]].shape[0] == channels)

    def _read_by_layer(self, node: Node) -> np.ndarray:
        """bool[C]: the channels of its input that a layer needs."""
        weight = self.source[node.inputs[1]].data
        assert weight is not None
        rows = self.kept[node.output] & ~self.bounds[node.output].constant
        if self._is_depthwise(node):
            # A kept output channel needs the same channel of the input, even if it is constant.
            return self.kept[node.output]
        if node.attrs.get("groups", 1) > 1:
            return np.ones(len(self.kept[node.inputs[0]]), bool)
        reads = (weight[rows].reshape(-1, weight.shape[-1]) != 0).any(axis=0)
        return reads & ~self._folded(node)

    def _folded(self, node: Node) -> np.ndarray:
        """bool[C]: the constant channels of a layer's input that fold into its bias; with padding, only zeros."""
        given = self.bounds[node.inputs[0]]
        is_padded = node.attrs.get("padding", unpadded) != unpadded
        return given.constant & ((given.low == 0) | (not is_padded))

    def graph(self) -> Graph:
        if all(kept.all() for kept in self.kept.values()):
            return self.source
        tensors = {name: self._tensor(name) for name in self.kept}
        nodes = []
        for node in self.source.nodes:
            attrs = dict(node.attrs)
            if self._is_depthwise(node):
                attrs["groups"] = int(self.kept[node.output].sum())
            constants = [name for name in node.inputs if name not in self.kept]
            parts = self._layer(node) if node.has_weights else [self._operand(node, name) for name in constants]
            tensors |= {part.name: part for part in parts}
            nodes.append(replace(node, attrs=attrs))
        return self.source.replaced(nodes, tensors.values())

    def _tensor(self, name: str) -> Tensor:
        tensor = self.source[name]
        return replace(tensor, shape=(*tensor.shape[:-1], int(self.kept[name].sum())))

    def _operand(self, node: Node, name: str) -> Tensor:
        """A constant operand, with the channels that are kept."""
        tensor, kept = self.source[name], self.kept[node.output]
        assert tensor.data is not None
        if not self._keeps_channels(node) or tensor.shape[-1:] != kept.shape or kept.all():
            return tensor
        return Tensor.constant(name, np.ascontiguousarray(tensor.data[..., kept]))

    def _layer(self, node: Node) -> tuple[Tensor, Tensor]:
        """The weight and bias of a layer: rows of the kept outputs, columns of the kept inputs."""
        x, weight_name, bias_name = node.inputs
        weight, bias = self.source[weight_name].data, self.source[bias_name].data
        assert weight is not None
        assert bias is not None
        rows, columns = self.kept[node.output], self.kept[x]
        weight, bias = weight[rows], bias[rows]
        if weight.shape[-1] != len(columns):
            return Tensor.constant(weight_name, weight), Tensor.constant(bias_name, bias)
        given = np.where(self._folded(node) & ~columns, self.bounds[x].low, 0.0)
        if given.any():
            added = weight.astype(np.float64).reshape(len(weight), -1, len(columns)).sum(axis=1) @ given
            bias = (bias + added).astype(np.float32)
        kept = np.ascontiguousarray(weight[..., columns])
        constant = self.bounds[node.output].constant[rows]
        if constant.any():
            # The weights of a constant output have no effect, and may belong to removed inputs.
            kept[constant] = 0
            bias = np.where(constant, self.bounds[node.output].low[rows], bias).astype(np.float32)
        return Tensor.constant(weight_name, kept), Tensor.constant(bias_name, bias)
