"""Why an int8 file's outputs are steps away from the arithmetic it was written from (edgemobile.graph.interpreter).

An op has one right integer but for ties: where its exact result is half-way between two, or nearer than float32 can
tell, runtimes round either way. A tie is one step at its op, and a net that amplifies makes tens of steps of it behind.
So each op is computed again from what the file itself fed it: beyond a tie it is a bug.
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

__all__ = ["Strayed", "strayed", "why_it_strays"]


@dataclass(frozen=True)
class Strayed:
    """`wrong` names the ops that are beyond a tie by themselves; `words` say what the file makes of its ties."""

    wrong: tuple[str, ...]
    words: str


def why_it_strays(
    graph: Graph, file: ModelFile, image: np.ndarray, lsb: int, place: ExecutionTarget | None = None
) -> Strayed:
    """Compare `file` with the int8 `graph` behind it, op by op, on `image` f32[1,px,px,3].

    `place` None is the default runtime of its format here. Raises Unsupported where that shows no inner tensors.
    """
    place = place or next(one for one in local_targets() if file.format in one.formats)
    observed, _ = observe(file, place, image, None)
    source = graph[graph.inputs[0]]
    given = image if source.qparams is None else quantize(image, source.qparams, source.dtype)
    return strayed(graph, run(graph, given, keep_all=True), observed, lsb)


def strayed(graph: Graph, values: Mapping[str, np.ndarray], observed: RecordedActivations, lsb: int) -> Strayed:
    """The same of what was observed. `values` has every value of `graph` for the image."""
    nodes, _ = matched(graph, values, observed)
    differences = [(node, op_difference(graph, node, observed, lsb)) for node in nodes]
    wrong = tuple(
        f"{node.output} ({node.op}) is {difference.lsb} steps from the reference arithmetic on equal inputs, and a tie "
        f"is {lsb}: a bug of the runtime or of edgemobile"
        if difference.diverges_in == "arithmetic"
        else f"{node.output} ({node.op}) has other constants than the graph it was written from"
        for node, difference in differences
        if difference.diverges_in
    )
    apart = {node.output: _apart(values[node.output], observed.values[node.output]) for node in nodes}
    first = next((node for node in nodes if apart[node.output]), None)
    if first is None:
        return Strayed(wrong, "no op differs with its inner tensors shown")
    most = max(apart, key=lambda name: apart[name])
    words = (
        f"{first.output} ({first.op}) rounds a tie otherwise, and later layers amplify it, to {apart[most]} steps in "
        f"{most}; by itself no op is more than {lsb} away"
    )
    return Strayed(wrong, words)


def _apart(expected: np.ndarray, found: np.ndarray) -> int:
    """Steps between integers; 0 for reals, which are the integers before them."""
    if found.dtype.kind not in "iu":
        return 0
    return int(np.abs(found.astype(np.int64) - expected).max(initial=0))
