"""The numbers an int8 file stores, held to each other and to what a float reference can explain. Nothing is run.

    to each other       a bias is in steps of its input's scale times its weight's; what ReLU gives has its zero at the
                        end of the range; an op that moves integers has one scale and zero point on both sides
    to the reference    channels in their places, none lost, as large as the reference's; a bias that is there; no
                        number far from all others of its row and column

What a recipe chooses by its images (the ranges inside, rounding, a refit's small moves) has no right value here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from edgemobile.comparison.findings import Finding, channels, exchange_in_words, range_faults, rows_of, times
from edgemobile.comparison.layers import RecordedActivations
from edgemobile.graph import Graph, Node, QParams, Tensor
from edgemobile.graph.checksums import Checksums
from edgemobile.model_file.contents import Contents, Op
from edgemobile.preprocess import Preprocess

__all__ = ["Weights", "check_checksums", "check_layers", "check_units", "unused_input"]

_LAYER_KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "Conv", "Gemm")
# What gives the integers it reads. A concatenation of uint8 may also bring its parts to one range.
_MOVES_INTEGERS = ("PAD", "PADV2", "RESHAPE", "MAX_POOL_2D", "TRANSPOSE")
_SHARES_A_RANGE = (*_MOVES_INTEGERS, "CONCATENATION")
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
    contents: Contents,
    tensors: Mapping[str, Tensor],
    named: Mapping[str, str],
    weights: Weights,
    checksums: Checksums,
) -> list[Finding]:
    """What of a file contradicts the rest of it. `named` is the Graph's name of each of its values, `weights` what is
    known of them, and `checksums` what it was written with."""
    ranges = {name: tensor.qparams for name, tensor in tensors.items() if tensor.qparams is not None}
    inputs = {named[name] for name in contents.inputs}
    scales = {name for name, tensor in tensors.items() if checksums.changed_scales(tensor)}
    return [
        *_bias_units(list(_layers(contents, ranges, named)), inputs, weights, scales),
        *_zero_ends(contents, ranges, named),
        *_moved_integers(contents, ranges, named),
    ]


def _layers(contents: Contents, ranges: Mapping[str, QParams], named: Mapping[str, str]) -> Iterator[_Layer]:
    for op in contents.ops:
        if op.kind not in _LAYER_KINDS or len(op.inputs) < 3:
            continue
        x, weight, bias = (named[name] for name in (_unpadded(op.inputs[0], contents), *op.inputs[1:3]))
        if ranges.keys() >= {x, weight, bias}:
            product = ranges[x].scale.astype(np.float64) * ranges[weight].scale
            if ranges[bias].scale.size in (1, product.size):
                yield _Layer(x, weight, bias, ranges[bias].scale / product)


def _unpadded(name: str, contents: Contents) -> str:
    producer = contents.producers.get(name)
    return producer.inputs[0] if producer is not None and producer.kind in ("PAD", "PADV2") else name


def _bias_units(
    layers: list[_Layer], inputs: set[str], weights: Weights, changed: Collection[str]
) -> Iterator[Finding]:
    """`changed` are the tensors whose scales are not those they were written with."""
    off = [layer for layer in layers if layer.is_off]
    if len(layers) < _LEAST or len(layers) - len(off) < _CONVENTION * len(layers):
        return
    told = {finding.tensor for finding in weights.findings}
    for layer in off:
        if layer.weight in told or layer.x in told:
            continue
        others = np.flatnonzero(np.abs(layer.unit - 1) > _SAME_UNIT)
        ratio = 1 / float(layer.unit[others[0]])
        if not layer.is_uniform:
            words = f"the scale of {channels(others)} of {layer.weight} is {times(ratio)} what its bias is in steps of"
            yield Finding("channel scale", layer.weight, words)
        elif layer.weight in changed or _is_the_weight(layer, layers, ratio, weights.sizes):
            words = f"the scale of {layer.weight} is {times(ratio)} what its bias is in steps of"
            yield Finding("layer scale", layer.weight, words)
        else:
            told.add(layer.x)
            role = "input" if layer.x in inputs else "activation"
            words = f"the scale of the {role} {layer.x} is {times(ratio)} what the biases behind it are in steps of"
            yield Finding(f"{role} scale", layer.x, words)


def _is_the_weight(layer: _Layer, layers: list[_Layer], ratio: float, sizes: Mapping[str, float]) -> bool:
    """Whether a layer's weight has the wrong scale, and not its input, which others read too."""
    readers = [other for other in layers if other.x == layer.x]
    if len(readers) > 1:
        return not all(other.is_off for other in readers)
    # Of a single reader only the size of its weights can tell, which a recipe may move a little.
    size = sizes.get(layer.weight, 1.0)
    return abs(size - ratio) < abs(size - 1)


def check_checksums(
    contents: Contents,
    tensors: Mapping[str, Tensor],
    named: Mapping[str, str],
    checksums: Checksums,
    told: Collection[str],
) -> Iterator[Finding]:
    """What is not as the file was written, but for the tensors that were `told`."""
    ends = {named[name]: "input" for name in contents.inputs} | {named[name]: "output" for name in contents.outputs}
    for name, tensor in tensors.items():
        if name in told or tensor.qparams is None:
            continue
        if name in checksums.ranges:
            yield from range_faults(name, ends.get(name, "activation"), tensor.qparams, *checksums.ranges[name])
        if checksums.changed_numbers(tensor):
            words = f"the integers of {name} are not those the file was written with, as its checksum says"
            yield Finding("damaged numbers", name, words)
        if name in checksums.constants and checksums.changed_scales(tensor):
            words = f"the scales of {name} are not those the file was written with, as their checksum says"
            yield Finding("scales", name, words)


def _zero_ends(contents: Contents, ranges: Mapping[str, QParams], named: Mapping[str, str]) -> Iterator[Finding]:
    """A ReLU output's zero point is the lowest integer; 0 where a quantizer is symmetric, or the range was empty."""
    outputs = [op for op in contents.ops if op.kind in _LAYER_KINDS and op.activation in _RELUS]
    found = {named[op.outputs[0]]: ranges[named[op.outputs[0]]] for op in outputs if named[op.outputs[0]] in ranges}
    off = [name for name, qparams in found.items() if qparams.zero_point[0] not in (-128, 0)]
    if len(found) < _LEAST or len(found) - len(off) < _CONVENTION * len(found):
        return
    for name in off:
        if not any(op.kind in _SHARES_A_RANGE for op in contents.consumers.get(name, ())):
            words = f"the zero point of {name} is {found[name].zero_point[0]}, and what ReLU gives is never below -128"
            yield Finding("activation zero point", name, words)


def _moved_integers(contents: Contents, ranges: Mapping[str, QParams], named: Mapping[str, str]) -> Iterator[Finding]:
    for op in contents.ops:
        if op.kind in _MOVES_INTEGERS and not op.activation:
            yield from _moved_by(op, ranges, named)


def _moved_by(op: Op, ranges: Mapping[str, QParams], named: Mapping[str, str]) -> Iterator[Finding]:
    name = named[op.inputs[0]]
    source, output = ranges.get(name), ranges.get(named[op.outputs[0]])
    if source is None or output is None or source.equals(output):
        return
    mine, others = (f"{each.scale[0]:.6g} and zero point {each.zero_point[0]}" for each in (source, output))
    same = np.array_equal(source.scale, output.scale)
    words = f"{name} has the scale {mine} in front of {op.kind}, which only moves integers, and {others} behind it"
    yield Finding("activation zero point" if same else "activation scale", name, words)


# ---- to the reference -----------------------------------------------------------------------------------------------

# How many steps an input's range may reach beyond pixels: its ends were rounded.
_ROUNDED_ENDS = 2.0
# Rounding leaves the size of a channel that is this many steps at its largest alone; one of fewer may be lost in it.
_LOUD, _HEARD = 64.0, 8.0
# Numbers of fewer steps than this say little of a channel's size.
_TELLING = 16.0
# A channel looks like another one where it is this near to it, and much nearer than to its own; of its own size.
_NEAR, _NEARER = 0.2, 3.0
_ALIKE = 0.9  # a cosine
_HARD_SIGMOID = 3.0
# Biases of millions of steps are products of float32.
_BIAS_ROUNDING = 1e-4


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
_ROUNDED = _Allowed(0.05, 0.008, 0.0, 0.75)
# Refitted to what int8 gives: channels within 6 %, layers within 9 % (one squeeze-and-excite of v3-large), a number at
# most 6 times as far as its company.
_REFITTED = _Allowed(0.25, 0.15, 10.0, 4.0)
_ROUNDED_APART = 0.51
# Fewer rows do not tell what is usual of a column.
_ROWS = 8
# Faults of scales are in few layers; where more differ, the file scales its channels in a way of its own.
_FEW_LAYERS = 3
# Batch norms with another eps make many channels smaller, or many larger, in most layers.
_EPS_CHANNELS, _EPS_SIDE, _MOST = 0.25, 0.95, 0.5
# Rounding leaves 0.3 steps rms, a refit up to 0.7.
_NOISE_STEPS = 1.5


def unused_input(contents: Contents, tensor: Tensor | None, preprocess: Preprocess) -> str:
    """In words that the input's integers reach values that no pixel has; "" where they do not.

    It is no fault by itself: who calibrates on other images gets such a range.
    """
    if tensor is None or tensor.qparams is None:
        return ""
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    reach = float((-mean / std).min()), float(((1 - mean) / std).max())
    scale, zero = float(tensor.qparams.scale[0]), int(tensor.qparams.zero_point[0])
    info = np.iinfo(tensor.dtype)
    ends = (info.min - zero) * scale, (info.max - zero) * scale
    beyond = (reach[0] - ends[0]) / scale, (ends[1] - reach[1]) / scale
    if max(beyond) <= _ROUNDED_ENDS:
        return ""
    words = f"its input {contents.inputs[0]} covers {ends[0]:.4g} to {ends[1]:.4g}, and normalised pixels are from "
    return f"{words}{reach[0]:.4g} to {reach[1]:.4g}: steps that no image uses"


@dataclass(frozen=True)
class Weights:
    """What the weights and biases of a file say: `findings` in the reference's order, and `sizes`: weight -> how many
    times the reference's it is. `note` says what was left open."""

    findings: tuple[Finding, ...] = ()
    sizes: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


def check_layers(graph: Graph, observed: RecordedActivations) -> Weights:
    """The weights and biases of a file that its float reference does not explain."""
    pairs = [(node, _weight(graph, node, observed)) for node in graph.nodes]
    layers = [(node, weight) for node, weight in pairs if weight is not None]
    weights = [weight for _, weight in layers]
    if not weights:
        return Weights()
    is_rounded = float(np.mean([weight.is_rounded for weight in weights])) >= _CONVENTION
    allowed = _ROUNDED if is_rounded else _REFITTED
    sizes = {weight.name: weight.size for weight in weights if math.isfinite(weight.size)}
    if everywhere := _of_all_layers(weights):
        return Weights((everywhere,), sizes)
    scaled = {weight.name: list(_gain_findings(weight, allowed)) for weight in weights}
    few = sum(map(bool, scaled.values())) <= _FEW_LAYERS
    findings: list[Finding] = []
    for node, weight in layers:
        findings += _place_findings(weight)
        if few:
            findings += scaled[weight.name]
        findings += [*_damage(weight, allowed), *_bias_findings(graph, node, observed, weight, is_rounded=is_rounded)]
    own = f"{sum(map(bool, scaled.values()))} of its layers scale their channels in another way than the reference"
    return Weights(tuple(findings), sizes, "" if few else f"{own}: how large its weights are is not compared")


@dataclass(frozen=True)
class _Weight:
    """A layer's weight as the file stores it, f64[O,K], and the reference's in the file's steps. `moved`: row -> the
    row of the reference that stands there. `erased` rows are all zero. `gains` f64[O] is how many times the reference's
    each row is, nan where that cannot be told."""

    name: str
    found: np.ndarray
    right: np.ndarray
    moved: Mapping[int, int]
    erased: np.ndarray
    gains: np.ndarray
    shape: tuple[int, ...]

    @property
    def size(self) -> float:
        """How many times the reference's the layer is; nan where too few of its rows tell."""
        told = self.gains[np.isfinite(self.gains)]
        return float(np.median(told)) if told.size >= _LEAST else math.nan

    @property
    def is_rounded(self) -> bool:
        """Whether nearly all of it is the reference's weight rounded to the nearest step."""
        return float(np.percentile(np.abs(self.found - self.right), 98)) <= _ROUNDED_APART


def _weight(graph: Graph, node: Node, observed: RecordedActivations) -> _Weight | None:
    stored, right, units = observed.weight(graph, node) or (None, None, None)
    if stored is None or stored.data is None or stored.qparams is None or right is None or units is None:
        return None
    found = rows_of(stored.data.astype(np.float64) - stored.qparams.along(stored.data.ndim)[1])
    if stored.qparams.scale.size == 1:
        # With one scale for all channels the largest are meant to saturate.
        info = np.iinfo(stored.dtype)
        right = np.clip(right, info.min, info.max)
    wanted, steps = rows_of(right), rows_of(np.broadcast_to(units, right.shape))
    heard = np.abs(wanted).max(axis=1) >= _HEARD
    erased = np.flatnonzero(heard & ~found.any(axis=1))
    moved = _moved_rows(found * steps, wanted * steps, heard)
    gains = _gains(found, wanted)
    gains[[*moved, *erased]] = np.nan
    return _Weight(stored.name, found, wanted, moved, erased, gains, stored.shape)


def _moved_rows(found: np.ndarray, right: np.ndarray, heard: np.ndarray) -> dict[int, int]:
    """Row -> the row of the reference it is, for rows that changed places; both in the reference's units."""
    power = np.maximum(np.linalg.norm(right, axis=1), 1e-30)
    own = np.linalg.norm(found - right, axis=1) / power
    suspects = np.flatnonzero(heard & (own > _NEAR) & found.any(axis=1))
    if suspects.size < 2:
        return {}
    mine, others = found[suspects], right[suspects]
    squares = (mine**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * mine @ others.T
    apart = np.sqrt(np.maximum(squares, 0)) / power[suspects]
    best = apart.argmin(axis=1)
    near = apart[np.arange(len(best)), best]
    is_moved = (near < _NEAR) & (near * _NEARER < own[suspects]) & (best != np.arange(len(best)))
    moved = {int(suspects[i]): int(suspects[best[i]]) for i in np.flatnonzero(is_moved)}
    return moved if set(moved) == set(moved.values()) else {}


def _gains(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How many times the reference's each row is, by the middle of its numbers: damage to a few changes nothing."""
    loud = np.abs(right) >= _TELLING
    ratio = np.divide(found, right, out=np.full_like(found, np.nan), where=loud)
    cosines = (found * right).sum(axis=1) / np.maximum(
        np.linalg.norm(found, axis=1) * np.linalg.norm(right, axis=1), 1e-30
    )
    told = (np.abs(right).max(axis=1) >= _LOUD) & (cosines > _ALIKE)
    gains = np.full(len(found), np.nan)
    gains[told] = np.nanmedian(ratio[told], axis=1)
    return gains


def _of_all_layers(weights: list[_Weight]) -> Finding | None:
    """What was done to the weights before they were quantized, where most layers show it."""
    told = [weight for weight in weights if np.isfinite(weight.gains).sum() >= _LEAST]
    off = [weight.gains[np.abs(weight.gains - 1) > _ROUNDED.channel_gain] for weight in told]
    shares = [len(gains) / np.isfinite(weight.gains).sum() for gains, weight in zip(off, told, strict=True)]
    count = sum(share >= _EPS_CHANNELS for share in shares)
    if count > max(_FEW_LAYERS, _MOST * len(told)):
        gains = np.concatenate(off)
        if max(np.mean(gains < 1), np.mean(gains > 1)) < _EPS_SIDE:
            return None
        words = f"in {count} of {len(told)} layers many channels are {gains.min():.3g} to {gains.max():.3g} times the "
        return Finding("batch norm eps", "", f"{words}reference's: batch norms were folded with another eps")
    loud = [_rms(weight) for weight, share in zip(told, shares, strict=True) if share < _EPS_CHANNELS]
    noisy = [rms for rms in loud if rms > _NOISE_STEPS]
    if len(noisy) <= max(_FEW_LAYERS, _MOST * len(told)):
        return None
    words = (
        f"in {len(noisy)} of {len(told)} layers the weights are {np.median(noisy):.2g} steps rms from the reference's"
    )
    return Finding("noise", "", f"{words}, where rounding leaves 0.3 and a refit 0.7")


def _rms(weight: _Weight) -> float:
    return float(np.sqrt(np.mean((weight.found - weight.right) ** 2)))


def _place_findings(weight: _Weight) -> Iterator[Finding]:
    if weight.moved:
        yield Finding("swapped channels", weight.name, exchange_in_words(weight.moved, weight.name))
    if weight.erased.size and not weight.found.any():
        yield Finding("weights", weight.name, f"{weight.name} is all zero")
    elif weight.erased.size:
        yield Finding("erased channels", weight.name, f"{channels(weight.erased)} of {weight.name} are all zero")


def _gain_findings(weight: _Weight, allowed: _Allowed) -> Iterator[Finding]:
    told = np.flatnonzero(np.isfinite(weight.gains))
    middle = weight.size if told.size >= _LEAST else 1.0
    if abs(middle - 1) > allowed.layer_gain:
        words = f"the scale of {weight.name} makes its weights {times(middle)} the reference's"
        yield Finding("layer scale", weight.name, words)
    off = _off_rows(weight, allowed)
    if off.size and off.size <= told.size / 2:
        low, high = weight.gains[off].min(), weight.gains[off].max()
        amount = times(low) if high - low < 0.01 * high else f"{low:.3g} to {high:.3g} times"
        words = f"the scale of {channels(off)} of {weight.name} makes its weights {amount} the reference's"
        yield Finding("channel scale", weight.name, words)


def _off_rows(weight: _Weight, allowed: _Allowed) -> np.ndarray:
    middle = weight.size if math.isfinite(weight.size) else 1.0
    return np.flatnonzero(np.abs(weight.gains / middle - 1) > allowed.channel_gain)


def _damage(weight: _Weight, allowed: _Allowed) -> Iterator[Finding]:
    """Numbers that stand out of their row, their column and the tensor. A recipe moves whole rows and columns."""
    rows = np.setdiff1d(np.arange(len(weight.found)), [*weight.moved, *weight.erased])
    if rows.size < 2:
        return
    gains = np.ones(len(weight.found))
    if math.isfinite(weight.size) and abs(weight.size - 1) > allowed.layer_gain:
        gains[:] = weight.size
    off = _off_rows(weight, allowed)
    gains[off] = weight.gains[off]
    apart = np.abs(weight.found - gains[:, None] * weight.right)[rows]
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
    count = f"at least {len(places)} of {weight.found.size} numbers of {weight.name} are damaged"
    least = "smaller damage cannot be told from " + ("rounding" if allowed is _ROUNDED else "what a recipe moves")
    yield Finding("flipped bits", weight.name, f"{count}, {least}; the first is {weight.name}{index}: {value}")


def _ninth_tenth(apart: np.ndarray, axis: int) -> np.ndarray:
    return np.percentile(apart, 90, axis=axis, keepdims=True)


def _bias_findings(
    graph: Graph, node: Node, observed: RecordedActivations, weight: _Weight, *, is_rounded: bool
) -> Iterator[Finding]:
    """A bias that is gone; of a file that only rounds also one that is another."""
    stored, data = observed.bias(graph, node), graph[node.inputs[2]].data
    if stored is None or stored.data is None or stored.qparams is None or data is None or stored.dtype != "int32":
        return
    scale, right = stored.qparams.scale, data * np.asarray(observed.multiple(node.output))
    wanted = right / scale
    if not stored.data.any():
        if np.abs(wanted).max(initial=0) > 1:
            reach = f"{np.abs(right).max():.3g}, {np.abs(wanted).max():.3g} of its steps"
            yield Finding("bias", stored.name, f"{stored.name} is all zero, and the reference's reaches {reach}")
        return
    if not is_rounded:
        return
    places = np.arange(len(right))
    places[list(weight.moved)] = list(weight.moved.values())
    # A converter may put the 3 of a hard-sigmoid behind the layer into its bias.
    forms = np.stack([wanted, right[places] / scale, (right + _HARD_SIGMOID) / scale])
    apart = np.abs(stored.data - forms)
    # Each form has float32's rounding of its own numbers: in steps of a dead layer's scale, 3 is tens of millions.
    off = np.flatnonzero((apart > np.maximum(2, _BIAS_ROUNDING * np.abs(forms))).all(axis=0))
    if off.size:
        furthest = float((apart.min(axis=0) * scale)[off].max())
        words = f"{off.size} of {len(right)} numbers of {stored.name} are not the reference's, by up to {furthest:.3g}"
        yield Finding("bias", stored.name, words)
