"""The numbers an int8 file stores, held to each other and to what a float reference can explain. Nothing is run.

    to each other       a bias is in steps of its input's scale times its weight's; what ReLU gives has its zero at the
                        end of the range; an op that moves integers has one scale and zero point on both sides
    to the reference    channels in their places, none lost, as large as the reference's; a bias that is there; no
                        number far from all others of its row and column; an input that covers no more than pixels reach

What a recipe chooses by its images (the ranges inside, rounding, a refit's small moves) has no right value here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgemobile.exporters.contents import Contents, Op
from edgemobile.graph import Graph, Node, QParams, Tensor
from edgemobile.parity.findings import Finding, channels, exchange_in_words, rows_of, times
from edgemobile.parity.layers import Observed
from edgemobile.preprocess import Preprocess

__all__ = ["check_input_range", "check_layers", "check_units"]

_LAYER_KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "Conv", "Gemm")
_MOVES_INTEGERS = ("PAD", "PADV2", "RESHAPE", "MAX_POOL_2D", "CONCATENATION", "TRANSPOSE")
_RELUS = ("RELU", "RELU6")
# Scales that are one product but for float32.
_SAME_UNIT = 1e-3
# A convention is what most of a file keeps.
_CONVENTION, _LEAST = 0.8, 4


# ---- to each other --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """The tensors of one layer of a file, by the Graph's names. `unit` is the bias's scale over the product of its
    input's and its weight's, f64[1 or C]: 1 in a healthy file."""

    x: str
    weight: str
    bias: str
    unit: np.ndarray

    @property
    def is_off(self) -> bool:
        return bool((np.abs(self.unit - 1) > _SAME_UNIT).any())

    @property
    def is_uniform(self) -> bool:
        return bool(np.ptp(self.unit) <= _SAME_UNIT * self.unit.max())


def check_units(
    contents: Contents, tensors: Mapping[str, Tensor], named: Mapping[str, str], told: Sequence[Finding] = ()
) -> list[Finding]:
    """What of a file contradicts the rest of it. `named` is the Graph's name of each of its values; weights whose scale
    was `told` already are not suspected again."""
    ranges = {name: tensor.qparams for name, tensor in tensors.items() if tensor.qparams is not None}
    return [
        *_bias_units(list(_layers(contents, ranges, named)), {finding.tensor for finding in told}, contents, named),
        *_zero_ends(contents, ranges, named),
        *_moved_integers(contents, ranges, named),
    ]


def _layers(contents: Contents, ranges: Mapping[str, QParams], named: Mapping[str, str]) -> Iterator[_Layer]:
    for op in contents.ops:
        names = [named[name] for name in op.inputs[:3]] if op.kind in _LAYER_KINDS else []
        if len(names) == 3 and all(name in ranges for name in names):
            x, weight, bias = names
            product = ranges[x].scale.astype(np.float64) * ranges[weight].scale
            if ranges[bias].scale.size in (1, product.size):
                yield _Layer(x, weight, bias, ranges[bias].scale / product)


def _bias_units(
    layers: list[_Layer], told: set[str], contents: Contents, named: Mapping[str, str]
) -> Iterator[Finding]:
    off = [layer for layer in layers if layer.is_off]
    if len(layers) < _LEAST or len(layers) - len(off) < _CONVENTION * len(layers):
        return
    inputs = {named[name] for name in contents.inputs}
    suspected: set[str] = set()
    for layer in off:
        others = np.flatnonzero(np.abs(layer.unit - 1) > _SAME_UNIT)
        readers = [other for other in layers if other.x == layer.x]
        ratio = 1 / float(layer.unit[others[0]])
        if layer.weight in told or layer.x in suspected:
            continue
        if not layer.is_uniform:
            words = f"the scale of {channels(others)} of {layer.weight} is {times(ratio)} what its bias is in steps of"
            yield Finding("channel scale", layer.weight, words)
        elif all(other.is_off for other in readers):
            suspected.add(layer.x)
            role = "input" if layer.x in inputs else "activation"
            words = f"the scale of the {role} {layer.x} is {times(ratio)} what the biases behind it are in steps of"
            yield Finding(f"{role} scale", layer.x, words)
        else:
            words = f"the scale of {layer.weight} is {times(ratio)} what its bias is in steps of"
            yield Finding("layer scale", layer.weight, words)


def _zero_ends(contents: Contents, ranges: Mapping[str, QParams], named: Mapping[str, str]) -> Iterator[Finding]:
    """A ReLU output's zero point is the lowest integer; 0 where a quantizer is symmetric, or the range was empty."""
    outputs = [op for op in contents.ops if op.kind in _LAYER_KINDS and op.activation in _RELUS]
    found = {named[op.outputs[0]]: ranges[named[op.outputs[0]]] for op in outputs if named[op.outputs[0]] in ranges}
    off = [name for name, qparams in found.items() if qparams.zero_point[0] not in (-128, 0)]
    if len(found) < _LEAST or len(found) - len(off) < _CONVENTION * len(found):
        return
    for name in off:
        if not any(op.kind in _MOVES_INTEGERS for op in contents.consumers.get(name, ())):
            words = f"the zero point of {name} is {found[name].zero_point[0]}, and what ReLU gives is never below -128"
            yield Finding("activation zero point", name, words)


def _moved_integers(contents: Contents, ranges: Mapping[str, QParams], named: Mapping[str, str]) -> Iterator[Finding]:
    for op in contents.ops:
        if op.kind in _MOVES_INTEGERS and not op.activation:
            yield from _moved_by(op, ranges, named)


def _moved_by(op: Op, ranges: Mapping[str, QParams], named: Mapping[str, str]) -> Iterator[Finding]:
    output = ranges.get(named[op.outputs[0]])
    sources = op.inputs if op.kind == "CONCATENATION" else op.inputs[:1]
    for name in (named[source] for source in sources if source):
        if output is None or name not in ranges or ranges[name].equals(output):
            continue
        scales = f"scale {ranges[name].scale[0]:.6g} and zero point {ranges[name].zero_point[0]}"
        others = f"{output.scale[0]:.6g} and {output.zero_point[0]}"
        same = np.array_equal(ranges[name].scale, output.scale)
        words = f"{name} has {scales} in front of {op.kind}, which only moves integers, and {others} behind it"
        yield Finding("activation zero point" if same else "activation scale", name, words)


# ---- to the reference -----------------------------------------------------------------------------------------------

# How many steps an input's range may reach beyond pixels: its ends were rounded.
_ROUNDED_ENDS = 2.0
# A channel whose reference has less than this at its largest, in the file's steps, says nothing.
_LOUD = 8.0
_OTHER, _SAME = 0.9, 0.98  # cosines of two channels


@dataclass(frozen=True)
class _Allowed:
    """How far a healthy file's weights are from the reference's: `channel_gain` and `layer_gain` are of the size of a
    channel among its layer's, and of a layer; `stands_out` times as far as the ninth tenth of its row, column and
    tensor, and at least `apart` steps, is damage."""

    channel_gain: float
    layer_gain: float
    stands_out: float
    apart: float


# Rounded and no more, as TFLiteConverter does: within half a step, channels within 0.5 % and layers within 0.2 %.
_ROUNDED = _Allowed(0.05, 0.008, 0.0, 1.0)
# Refitted to what int8 gives: channels within 6 %, layers within 1.8 %, a number at most 6 times as far as its company.
_REFITTED = _Allowed(0.25, 0.05, 10.0, 4.0)
_ROUNDED_APART = 0.51
# Fewer rows do not tell what is usual of a column.
_ROWS = 8
_HARD_SIGMOID = 3.0
# Biases of millions of steps are products of float32.
_BIAS_ROUNDING = 1e-4


def check_input_range(contents: Contents, tensor: Tensor | None, preprocess: Preprocess) -> list[Finding]:
    """Whether the input's integers reach values that no pixel has."""
    if tensor is None or tensor.qparams is None:
        return []
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    reach = float((-mean / std).min()), float(((1 - mean) / std).max())
    scale, zero = float(tensor.qparams.scale[0]), int(tensor.qparams.zero_point[0])
    ends = (-128 - zero) * scale, (127 - zero) * scale
    beyond = (reach[0] - ends[0]) / scale, (ends[1] - reach[1]) / scale
    if max(beyond) <= _ROUNDED_ENDS:
        return []
    kind = "input scale" if min(beyond) > -_ROUNDED_ENDS else "input zero point"
    words = f"the input {contents.inputs[0]} covers {ends[0]:.4g} to {ends[1]:.4g}, and normalised pixels are from "
    return [Finding(kind, tensor.name, f"{words}{reach[0]:.4g} to {reach[1]:.4g}")]


def check_layers(graph: Graph, observed: Observed) -> list[Finding]:
    """The weights and biases of a file that its float reference does not explain, in the reference's order."""
    pairs = [(node, _weight(graph, node, observed)) for node in graph.nodes]
    layers = [(node, weight) for node, weight in pairs if weight is not None]
    rounded = np.mean([weight.is_rounded for _, weight in layers]) >= _CONVENTION if layers else False
    allowed = _ROUNDED if rounded else _REFITTED
    findings: list[Finding] = []
    for node, weight in layers:
        findings += _weight_findings(weight, allowed)
        findings += _bias_findings(graph, node, observed, weight, is_rounded=bool(rounded))
    return findings


@dataclass(frozen=True)
class _Weight:
    """A layer's weight as the file stores it, f64[O,K], and the reference's in the file's steps. `moved`: row -> the
    row of the reference that stands there. `erased` rows are all zero."""

    name: str
    found: np.ndarray
    right: np.ndarray
    moved: Mapping[int, int]
    erased: np.ndarray
    shape: tuple[int, ...]

    @property
    def is_rounded(self) -> bool:
        """Whether nearly all of it is the reference's weight rounded to the nearest step."""
        return float(np.percentile(np.abs(self.found - self.right), 98)) <= _ROUNDED_APART


def _weight(graph: Graph, node: Node, observed: Observed) -> _Weight | None:
    pair = observed.weight(graph, node)
    if pair is None:
        return None
    stored, right = pair
    if stored.data is None or stored.qparams is None:
        return None
    found = rows_of(stored.data.astype(np.float64) - stored.qparams.along(stored.data.ndim)[1])
    # With one scale for all channels the largest are meant to saturate.
    info = np.iinfo(stored.dtype)
    wanted = rows_of(np.clip(right, info.min, info.max))
    loud = np.abs(wanted).max(axis=1) >= _LOUD
    erased = np.flatnonzero(loud & ~found.any(axis=1))
    return _Weight(stored.name, found, wanted, _moved_rows(found, wanted, loud), erased, stored.shape)


def _cosines(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    """f64[rows of found, rows of right]."""
    a, b = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30) for rows in (found, right))
    return a @ b.T


def _moved_rows(found: np.ndarray, right: np.ndarray, loud: np.ndarray) -> dict[int, int]:
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(right, axis=1)
    own = (found * right).sum(axis=1) / np.maximum(norms, 1e-30)
    suspects = np.flatnonzero(loud & (own < _OTHER) & found.any(axis=1))
    if suspects.size < 2:
        return {}
    cosines = _cosines(found[suspects], right[suspects])
    best = cosines.argmax(axis=1)
    moved = {int(suspects[i]): int(suspects[j]) for i, j in enumerate(best) if i != j and cosines[i, j] > _SAME}
    return moved if set(moved) == set(moved.values()) else {}


def _weight_findings(weight: _Weight, allowed: _Allowed) -> Iterator[Finding]:
    if weight.moved:
        yield Finding("swapped channels", weight.name, exchange_in_words(weight.moved, weight.name))
    if weight.erased.size:
        yield Finding("erased channels", weight.name, f"{channels(weight.erased)} of {weight.name} are all zero")
    rows = np.setdiff1d(np.arange(len(weight.found)), [*weight.moved, *weight.erased])
    gains = _gains(weight, rows)
    yield from _gain_findings(weight, rows, gains, allowed)
    yield from _damage(weight, rows, np.where(np.isfinite(gains), gains, 1.0), allowed)


def _gains(weight: _Weight, rows: np.ndarray) -> np.ndarray:
    """How many times the reference's each of the rows is; nan for those that say nothing."""
    found, right = weight.found[rows], weight.right[rows]
    power = (right**2).sum(axis=1)
    gains = (found * right).sum(axis=1) / np.maximum(power, 1e-30)
    alike = gains * np.sqrt(power) / np.maximum(np.linalg.norm(found, axis=1), 1e-30)
    return np.where((np.abs(right).max(axis=1, initial=0) >= _LOUD) & (alike > _OTHER), gains, np.nan)


def _gain_findings(weight: _Weight, rows: np.ndarray, gains: np.ndarray, allowed: _Allowed) -> Iterator[Finding]:
    told = np.flatnonzero(np.isfinite(gains))
    middle = float(np.median(gains[told])) if told.size else 1.0
    if told.size >= _LEAST and abs(middle - 1) > allowed.layer_gain:
        words = f"the scale of {weight.name} makes its weights {times(middle)} the reference's"
        yield Finding("layer scale", weight.name, words)
    off = told[np.abs(gains[told] / middle - 1) > allowed.channel_gain]
    if off.size and off.size <= told.size / 2:
        low, high = gains[off].min(), gains[off].max()
        amount = times(low) if high - low < 0.01 * high else f"{low:.3g} to {high:.3g} times"
        words = f"the scale of {channels(rows[off])} of {weight.name} makes its weights {amount} the reference's"
        yield Finding("channel scale", weight.name, words)


def _damage(weight: _Weight, rows: np.ndarray, gains: np.ndarray, allowed: _Allowed) -> Iterator[Finding]:
    """Numbers that stand out of their row, their column and the tensor. A recipe moves whole rows and columns."""
    if rows.size < 2:
        return
    apart = np.abs(weight.found[rows] - gains[:, None] * weight.right[rows])
    usual = np.maximum(_ninth_tenth(apart, 1), float(np.percentile(apart, 98)))
    if rows.size >= _ROWS:
        usual = np.maximum(usual, _ninth_tenth(apart, 0))
    places = np.argwhere(apart > np.maximum(allowed.stands_out * usual, allowed.apart))
    if not len(places):
        return
    row, column = int(rows[places[0][0]]), int(places[0][1])
    index = [row, *map(int, np.unravel_index(column, weight.shape[1:]))]
    value = f"{weight.found[row, column]:.0f} where the reference has {weight.right[row, column]:.1f} of its steps"
    if len(places) == 1:
        yield Finding("flipped bit", weight.name, f"{weight.name}{index} stands alone: {value}")
        return
    count = f"{len(places)} of {weight.found.size} numbers of {weight.name} are damaged"
    if allowed is not _ROUNDED:
        count = f"at least {count}, what is smaller cannot be told from a recipe's moves"
    yield Finding("flipped bits", weight.name, f"{count}; the first is {weight.name}{index}: {value}")


def _ninth_tenth(apart: np.ndarray, axis: int) -> np.ndarray:
    return np.percentile(apart, 90, axis=axis, keepdims=True)


def _bias_findings(
    graph: Graph, node: Node, observed: Observed, weight: _Weight, *, is_rounded: bool
) -> Iterator[Finding]:
    """A bias that is gone; of a file that only rounds also one that is another."""
    stored, right = observed.bias(graph, node), graph[node.inputs[2]].data
    if (
        stored is None
        or stored.data is None
        or stored.qparams is None
        or right is None
        or stored.data.dtype != np.int32
    ):
        return
    wanted = right * np.asarray(observed.multiple(node.output)) / stored.qparams.scale
    if not stored.data.any():
        if np.abs(wanted).max(initial=0) > 1:
            reach = f"{np.abs(right).max():.3g}, {np.abs(wanted).max():.3g} of its steps"
            yield Finding("bias", stored.name, f"{stored.name} is all zero, and the reference's reaches {reach}")
        return
    if not is_rounded:
        return
    places = np.arange(len(wanted))
    places[list(weight.moved)] = list(weight.moved.values())
    # A converter may put the 3 of a hard-sigmoid behind the layer into its bias.
    forms = (wanted, wanted[places], wanted + _HARD_SIGMOID / stored.qparams.scale)
    apart = np.min([np.abs(stored.data - form) for form in forms], axis=0)
    off = np.flatnonzero(apart > np.maximum(2, _BIAS_ROUNDING * np.abs(wanted)))
    if off.size:
        furthest = float((apart * stored.qparams.scale)[off].max())
        words = f"{off.size} of {len(wanted)} numbers of {stored.name} are not the reference's, by up to {furthest:.3g}"
        yield Finding("bias", stored.name, words)
