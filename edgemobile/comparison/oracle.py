"""Explains why an int8 file's outputs differ from the reference arithmetic of its graph (edgemobile.graph.interpreter).

An op has one correct integer except for ties: if its exact result is half-way between two integers, or so close to this
that float32 cannot distinguish it, runtimes round up or down. A tie is one step at its op, but later layers may amplify
it to tens of steps. Therefore each op is computed again from its inputs in the file. More than a tie is a bug.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgemobile.comparison.integers import matched, op_difference
from edgemobile.comparison.layers import RecordedActivations
from edgemobile.comparison.observing import ExecutionTarget, local_targets, observe
from edgemobile.graph import Graph
from edgemobile.graph.affine import quantize
from edgemobile.graph.interpreter import run
from edgemobile.model_file.model_file import ModelFile

__all__ = ["OutputDifference", "explain_difference", "explain_observed"]


@dataclass(frozen=True)
class OutputDifference:
    """`wrong` describes the ops that by themselves differ by more than a tie; `words` describe the effect of ties."""

    wrong: tuple[str, ...]
    words: str


def explain_difference(
    graph: Graph, file: ModelFile, image: np.ndarray, lsb: int, place: ExecutionTarget | None = None
) -> OutputDifference:
    """Compare `file`, op by op, with the int8 `graph` that it was written from, on `image` f32[1,px,px,3].

    A tie is at most `lsb` steps. `place` None is the default runtime of the file's format on this machine. Raises
    Unsupported if it cannot return inner tensors.
    """
    place = place or next(target for target in local_targets() if file.format in target.formats)
    observed, _ = observe(file, place, image, None)
    source = graph[graph.inputs[0]]
    given = image if source.qparams is None else quantize(image, source.qparams, source.dtype)
    return explain_observed(graph, run(graph, given, keep_all=True), observed, lsb)


def explain_observed(
    graph: Graph, values: Mapping[str, np.ndarray], observed: RecordedActivations, lsb: int
) -> OutputDifference:
    """As explain_difference, for recorded activations. `values` has every value of `graph` for the image."""
    nodes, _ = matched(graph, values, observed)
    differences = [(node, op_difference(graph, node, observed, lsb)) for node in nodes]
    wrong = tuple(
        f"{node.output} ({node.op}) differs by {difference.lsb} steps from the reference arithmetic on the same "
        f"inputs, and a rounding tie by at most {lsb}: a bug in the runtime or in edgemobile"
        if difference.diverges_in == "arithmetic"
        else f"{node.output} ({node.op}) has other constants than the graph that the file was written from"
        for node, difference in differences
        if difference.diverges_in
    )
    steps = {node.output: _largest_difference(values[node.output], observed.values[node.output]) for node in nodes}
    first = next((node for node in nodes if steps[node.output]), None)
    if first is None:
        return OutputDifference(wrong, "no op differs when the inner tensors are outputs")
    most = max(steps, key=lambda name: steps[name])
    words = (
        f"{first.output} ({first.op}) rounds a tie the other way, and later layers amplify it to {steps[most]} steps "
        f"in {most}; no op by itself differs by more than {lsb}"
    )
    return OutputDifference(wrong, words)


def _largest_difference(expected: np.ndarray, found: np.ndarray) -> int:
    """The largest difference of integers in steps; 0 for floats, which are computed from integers compared before."""
    if found.dtype.kind not in "iu":
        return 0
    return int(np.abs(found.astype(np.int64) - expected).max(initial=0))
