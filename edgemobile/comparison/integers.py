"""Compares two int8 files of the same integers op by op. Each op is computed again from its inputs in the file, with
the reference arithmetic (edgemobile.graph.interpreter), and must match within one step.

The outputs of the files may differ by more, because a tie that is rounded the other way affects all later layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgemobile.comparison.layers import LayerParity, RecordedActivations, channel_db, rerun
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.affine import dequantize
from edgemobile.metrics.measures import cosine, max_abs, sqnr_db

__all__ = ["OpDifference", "compare_integers", "matched", "op_difference", "same_integers"]


def same_integers(graph: Graph, observed: RecordedActivations) -> bool:
    """Whether most quantized activations of `graph` are in the file with the same names and scales."""
    names = [node.output for node in graph.nodes if graph[node.output].qparams is not None]
    return bool(names) and sum(_alike(graph[name], observed) for name in names) >= 0.9 * len(names)


def compare_integers(
    graph: Graph, reference: Mapping[str, np.ndarray], observed: RecordedActivations, lsb: int
) -> tuple[list[LayerParity], list[tuple[str, str]]]:
    """(the layers of `graph` that are in the file, the others with the reason).

    `reference` has every value of `graph`, as integers, for the images that the file ran on. A layer diverges in its
    "arithmetic" if an integer differs by more than `lsb` steps, and in its "constants" if its weight or bias differs.
    """
    found, unmatched = matched(graph, reference, observed)
    return [_layer(graph, node, reference[node.output], observed, lsb) for node in found], unmatched


def matched(
    graph: Graph, reference: Mapping[str, np.ndarray], observed: RecordedActivations
) -> tuple[list[Node], list[tuple[str, str]]]:
    """(the nodes of `graph` whose outputs are in the file, the others with the reason)."""
    found, unmatched = [], []
    for node in graph.nodes:
        if node.output not in observed.values:
            unmatched.append((node.output, "the file has no tensor of this name"))
        elif observed.values[node.output].shape != reference[node.output].shape:
            unmatched.append((node.output, f"its shape is {list(observed.values[node.output].shape)}"))
        else:
            found.append(node)
    return found, unmatched


@dataclass(frozen=True)
class OpDifference:
    """The difference between an op of a file and the reference arithmetic on the op's inputs in the file.

    `right` is the result of the arithmetic, None if the file's op has other scales. `lsb` is the largest difference in
    steps, None for a float op. `diverges_in` is as in LayerParity.
    """

    right: np.ndarray | None
    lsb: int | None
    diverges_in: str


def op_difference(graph: Graph, node: Node, observed: RecordedActivations, lsb: int) -> OpDifference:
    """The difference of one op of `graph` that is in the file. It diverges if it differs by more than `lsb` steps."""
    found = observed.values[node.output]
    tensors = [node.output, *(name for name in node.inputs if not graph[name].is_constant)]
    different = next((name for name in tensors if not _alike(graph[name], observed)), None)
    if different is not None:
        diverges_in = "constants" if different == node.output and found.dtype.kind in "iu" else ""
        return OpDifference(None, None, diverges_in)
    right = rerun(graph, node, {name: observed.values[name] for name in tensors[1:]}, {})
    steps = int(np.abs(found.astype(np.int64) - right).max(initial=0)) if found.dtype.kind in "iu" else None
    other = any(_differs(graph[name], observed) for name in node.inputs if graph[name].is_constant)
    return OpDifference(
        right, steps, "constants" if other else "arithmetic" if steps is not None and steps > lsb else ""
    )


def _layer(graph: Graph, node: Node, reference: np.ndarray, observed: RecordedActivations, lsb: int) -> LayerParity:
    output = graph[node.output]
    expected, real = _real(reference, output), _real(observed.values[node.output], output)
    layer = LayerParity(node.output, node.op, sqnr_db(expected, real), max_abs(expected, real), cosine(expected, real))
    difference = op_difference(graph, node, observed, lsb)
    if difference.right is None:
        return replace(layer, diverges_in=difference.diverges_in)
    db = channel_db(_real(difference.right, output), real)
    return replace(
        layer,
        arithmetic_sqnr_db=db,
        weights_sqnr_db=db,
        lsb=difference.lsb,
        diverges_in=difference.diverges_in,
    )


def _alike(tensor: Tensor, observed: RecordedActivations) -> bool:
    """Whether the file has this activation with the same scale."""
    if tensor.name not in observed.values:
        return False
    qparams = observed.qparams(tensor.name)
    if tensor.qparams is None or qparams is None:
        return tensor.qparams is None and qparams is None
    return np.array_equal(tensor.qparams.scale, qparams.scale) and np.array_equal(
        tensor.qparams.zero_point, qparams.zero_point
    )


def _differs(tensor: Tensor, observed: RecordedActivations) -> bool:
    """Whether the file's constant of this name has other numbers. A single number may be [] in one format and [1] in
    the other."""
    other = observed.tensors.get(tensor.name)
    if other is None:
        return False
    found, expected = np.squeeze(np.asarray(other.data)), np.squeeze(np.asarray(tensor.data))
    return other.dtype != tensor.dtype or not np.array_equal(found, expected)


def _real(values: np.ndarray, tensor: Tensor) -> np.ndarray:
    return values if tensor.qparams is None or values.dtype.kind == "f" else dequantize(values, tensor.qparams)
