"""Finds the likely cause of a diverging layer: known mistakes are applied to the reference layer, and the mistake whose
output matches the file's output is the cause.

The reference layer runs on the inputs that it has in the file. A hypothesis is the layer's output with one mistake. It
is accepted if it is much closer to the file's output than the output of the correct layer. Names are not evidence.

To add a cause: a function in structural_faults or numeric_faults that yields (words, output), and a row in CAUSES.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgemobile.comparison import numeric_faults, structural_faults
from edgemobile.comparison.diverging_layer import DivergingLayer, Normalisation, Output
from edgemobile.comparison.layers import LayerParity, RecordedActivations, channel_db, fused_to, rerun, sources
from edgemobile.graph import Graph
from edgemobile.util.strict_json import Real

__all__ = ["CAUSES", "Cause", "Normalisation", "likely_cause"]

# A hypothesis explains a difference if it removes nine tenths of the noise and little remains.
_GAIN_DB = 10.0
_LEAST_DB = 10.0
_UNIT_ROUNDOFF = 2.0**-24

CAUSES: Mapping[str, Callable[[DivergingLayer], Iterator[Output]]] = {
    "padding": structural_faults.padding,
    "layout": structural_faults.layout,
    "channel order": structural_faults.channel_order,
    "normalisation": structural_faults.normalised,
    "hard-swish form": structural_faults.hswish_form,
    "activation": structural_faults.activation,
    "wiring": structural_faults.rewired,
    "bias overflow": numeric_faults.bias_overflow,
    "flipped bit": numeric_faults.flipped_bit,
    "int16 saturation": numeric_faults.pair_saturation,
}

# General causes, reported only if no specific one explains the layer.
_GENERAL: Mapping[str, Callable[[DivergingLayer], Iterator[Output]]] = {
    "bias": numeric_faults.bias,
    "weights": numeric_faults.weights,
}


@dataclass(frozen=True)
class Cause:
    """`kind` is a name of CAUSES, or the kind of a Finding. `explained_db` is the SQNR of the file's output against the
    layer with the mistake, `right_db` against the correct layer, both of the worst channel. They are None for a
    Finding, because nothing was run for it.
    """

    kind: str
    words: str
    explained_db: Real | None = None
    right_db: Real | None = None


def likely_cause(
    graph: Graph,
    layer: LayerParity,
    observed: RecordedActivations,
    normalisation: Normalisation | None = None,
    from_numbers: Cause | None = None,
) -> Cause | None:
    """The known mistake with which the reference layer computes the file's output; None if there is none.

    `from_numbers` is the cause found in the stored numbers. It is returned unless a mistake in the layer's structure or
    in a single number explains more. Mistakes are applied in float, so the layers of an int8 reference are not tested.
    """
    node = graph.producer(layer.name)
    if node is None or not layer.diverges_in or graph[layer.name].qparams is not None:
        return from_numbers
    source = fused_to(graph, node, observed)
    if any(map(observed.problem, (*sources(graph, source or node), node.output))):
        return from_numbers
    inputs = {name: observed.real(name) for name in sources(graph, source or node)}
    found = observed.real(layer.name)
    # If the weights differ, the file's own weights would explain the whole difference without a cause.
    constants: tuple[Mapping[str, np.ndarray], ...] = ({},)
    if layer.diverges_in == "arithmetic" and (own := observed.constants(graph, source or node)):
        constants = (own, {})
    diverges_in, fused = layer.diverges_in, node if source else None
    cases = [
        DivergingLayer(graph, source or node, inputs, found, observed, constants, normalisation, fused, diverges_in)
    ]
    if source is not None:
        fed = {source.output: rerun(graph, source, inputs, constants[0])}
        cases.append(DivergingLayer(graph, node, fed, found, observed, ({},), normalisation, diverges_in=diverges_in))
    right = layer.arithmetic_sqnr_db if layer.diverges_in == "arithmetic" else layer.weights_sqnr_db
    right_db = -math.inf if right is None or math.isnan(right) else right
    if layer.is_damaged:
        # One weight is an outlier. It is the cause, unless the layer with it matches worse than the correct layer.
        flipped = next(_scored(cases[0], "flipped bit", numeric_faults.flipped_bit, right_db), None)
        if flipped is not None and _explained(flipped) >= right_db:
            return flipped
    specific = _best(CAUSES, cases, right_db)
    if specific is not None:
        return specific
    general = _best(_GENERAL, cases, right_db)
    if from_numbers is not None:
        # The finding is more specific than "the weights differ"; the measured SQNR is kept.
        return from_numbers if general is None else replace(general, kind=from_numbers.kind, words=from_numbers.words)
    return general or _rounding(cases[0], right_db)


def _explained(cause: Cause) -> float:
    return -math.inf if cause.explained_db is None else cause.explained_db


def _best(
    rows: Mapping[str, Callable[[DivergingLayer], Iterator[Output]]], cases: Sequence[DivergingLayer], right_db: float
) -> Cause | None:
    found = [cause for case in cases for kind, make in rows.items() for cause in _scored(case, kind, make, right_db)]
    explaining = [cause for cause in found if _explained(cause) >= max(right_db + _GAIN_DB, _LEAST_DB)]
    return max(explaining, key=_explained, default=None)


def _scored(
    case: DivergingLayer, kind: str, make: Callable[[DivergingLayer], Iterator[Output]], right_db: float
) -> Iterator[Cause]:
    with np.errstate(over="ignore", invalid="ignore"):
        for words, output in make(case):
            if output.shape == case.found.shape:
                yield Cause(kind, words, channel_db(case.seen(output), case.found), right_db)


def _rounding(case: DivergingLayer, right_db: float) -> Cause | None:
    """Float sums in another order: every difference is within K u sum |x w|, the rounding bound of K products."""
    if not case.is_layer or case.observed.steps(case.node.output) is not None:
        return None
    weight, bias = (case.data(name) for name in case.node.inputs[1:])
    size = {case.node.inputs[1]: np.abs(weight), case.node.inputs[2]: np.abs(bias)}
    linear = case.changed(activation="")
    terms = rerun(case.graph, linear, {name: np.abs(x) for name, x in case.inputs.items()}, size)
    products = weight[0].size + 1
    right = rerun(case.graph, case.node, case.inputs, case.constants[0])
    if right.shape != case.found.shape or not (np.abs(right - case.found) <= products * _UNIT_ROUNDOFF * terms).all():
        return None
    return Cause(
        "accumulation order",
        f"{products} terms are summed in another order; the difference is within float32's rounding bound",
        right_db,
        right_db,
    )
