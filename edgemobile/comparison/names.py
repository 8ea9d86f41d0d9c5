"""Which tensor of a stranger's file is which of the reference: by name where names agree, else by order.

Files of other tools name tensors as they like. Their convolutions and linear layers still come in the model's order;
where all of them agree in number and shape, the k-th is the k-th.
"""

from __future__ import annotations

from edgemobile.graph import Graph, Node
from edgemobile.graph.tensor_names import split_name

__all__ = ["matched_by_order"]

_LAYERS = ("conv2d", "linear")


def matched_by_order(reference: Graph, other: Graph) -> dict[str, str]:
    """Reference tensor -> the other's: outputs, inputs and constants of layers, and all between where ops agree too.

    Empty where names agree already, or the layers do not.
    """
    ours, theirs = _layers(reference), _layers(other)
    known = {split_name(node.output)[0] for node in other.nodes}
    if sum(split_name(node.output)[0] in known for node in ours) * 2 >= len(ours):
        return {}
    if [_signature(reference, node) for node in ours] != [_signature(other, node) for node in theirs]:
        return {}
    pairs = list(zip(ours, theirs, strict=True))
    if [node.op for node in _computing(reference)] == [node.op for node in _computing(other)]:
        pairs = list(zip(_computing(reference), _computing(other), strict=True))
    renamed = dict(zip(reference.inputs, other.inputs, strict=False))
    for left, right in pairs:
        renamed[left.output] = right.output
        for a, b in zip(left.inputs, right.inputs, strict=False):
            source = _stored(other, b)
            if reference[a].is_constant or reference[a].shape[1:] == other[source].shape[1:]:
                renamed.setdefault(a, source)
    return renamed


def _layers(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op in _LAYERS]


def _computing(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op not in ("quantize", "dequantize")]


def _signature(graph: Graph, node: Node) -> tuple[tuple[int, ...], ...]:
    # Without the batch, which a file may leave free.
    return graph[_stored(graph, node.inputs[1])].shape, graph[node.output].shape[1:]


def _stored(graph: Graph, name: str) -> str:
    """The constant behind a dequantize node; the tensor itself elsewhere."""
    producer = graph.producer(name)
    return producer.inputs[0] if producer is not None and producer.op == "dequantize" else name
