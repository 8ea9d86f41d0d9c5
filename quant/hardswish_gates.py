"""Split gates: a form of hard-swish in which the channels of x may be multiplied by any factor.

    gate = relu6(x + 3);          y = x * gate      the delegated form: x must keep its scale
    gate = relu6(w * x + 3);      y = x * gate      the split form: w is a 1x1 depthwise convolution, 1 in each channel

Both are the same function. In the delegated form all channels of x share one int8 step, because hard-swish lets no
factor through. In the split form equalization may multiply a channel of x by a factor and divide its w by it: narrow
channels get all 256 steps, and the product passes the factors on to the next layer. This costs one multiplication per
value instead of an addition. It matters most in the stem: its few channels have very different ranges, and their noise
reaches every later layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgemobile.graph import Graph, Node, Tensor
from edgemobile.quant.hswish import is_gate
from edgemobile.quant.noise import Channels

__all__ = ["GATES", "highest_cost", "split_gates"]

# `highest_cost` splits no gate that removes less than this share of the noise of all activations. It stops when the
# logits are predicted to reach this SQNR: the noise of the weights and of higher order takes about 3 dB off it, and
# then about one answer in a hundred changes.
_LEAST_SAVED = 0.02
_ENOUGH_DB = 32.0


def split_gates(graph: Graph, wanted: Callable[[Node], bool]) -> tuple[Graph, list[str]]:
    """(`graph` with split gates at the convolutions that are `wanted`, the names of those convolutions).

    `graph` is in the delegated form. A convolution that has readers other than one hard-swish is left unchanged.
    """
    nodes: list[Node] = []
    tensors: list[Tensor] = []
    split: list[str] = []
    for node in graph.nodes:
        if node.op == "add" and node.inputs[0] in split:
            node, constants = _gate(graph, node)
            tensors += constants
        elif node.op == "conv2d" and _feeds_one_hswish(graph, node) and wanted(node):
            split.append(node.output)
        nodes.append(node)
    return graph.replaced(nodes, tensors), split


def highest_cost(
    graph: Graph,
    split: Sequence[str],
    groups: Sequence[Sequence[str]],
    channels: Mapping[str, Channels],
    factors: Mapping[str, np.ndarray],
    signal: float,
) -> set[str]:
    """The convolutions of `split` whose gates are worth splitting: the stem's, and those that save the most noise.

    `graph` has all its gates split. `groups` are the groups of equalization, and `factors` its factors for their
    channels; a group whose gate is not split has the factor 1. `signal` is the sum of an image's squared logits.
    """
    grouped = {name for group in groups for name in group}
    noise = sum(of.noise() for name, of in channels.items() if name not in grouped)
    kept = {name for name in split if (layer := graph.producer(name)) and _is_stem(graph, layer)}
    saved: dict[str, float] = {}
    for group in groups:
        least, plain = (sum(channels[name].noise(by) for name in group) for by in (factors[group[0]], 1.0))
        x = next((name for name in split if name in group), None)
        if x is not None and x not in kept:
            noise += plain
            saved[x] = plain - least
        else:
            noise += least
    for x in sorted(saved, key=lambda x: -saved[x]):
        if noise <= signal / 10 ** (_ENOUGH_DB / 10) or saved[x] < _LEAST_SAVED * noise:
            break
        noise -= saved[x]
        kept.add(x)
    return kept


def _gate(graph: Graph, add: Node) -> tuple[Node, tuple[Tensor, Tensor]]:
    x = add.inputs[0]
    channels = graph[x].shape[-1]
    constants = (
        Tensor.constant(f"{add.output}.weight", np.ones((channels, 1, 1, 1), np.float32)),
        Tensor.constant(f"{add.output}.bias", np.full(channels, 3, np.float32)),
    )
    attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": channels}
    names = (x, *(tensor.name for tensor in constants))
    return Node("conv2d", names, add.output, {**attrs, "activation": "relu6"}), constants


def _feeds_one_hswish(graph: Graph, node: Node) -> bool:
    consumers = graph.consumers(node.output)
    if node.attrs["activation"] or node.output in graph.outputs or len(consumers) != 2:
        return False
    gate = next((other for other in consumers if other.op == "add"), None)
    product = next((other for other in consumers if other.op == "mul"), None)
    if gate is None or product is None or set(product.inputs) != {node.output, gate.output}:
        return False
    return is_gate(graph, gate)


def _is_stem(graph: Graph, node: Node) -> bool:
    """Whether a layer reads the input image."""
    return node.inputs[0] in graph.inputs


# The layers whose gates are split, for each value of a recipe's `split_gates`.
GATES: dict[str, Callable[[Graph, Node], bool]] = {
    "none": lambda graph, node: False,
    "stem": _is_stem,
    "highest_cost": _is_stem,  # the function `highest_cost` finds the others
    "all": lambda graph, node: True,
}
