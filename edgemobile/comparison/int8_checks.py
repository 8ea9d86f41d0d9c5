"""Checks the numbers stored in an int8 file against each other and against a float reference, without a run.

    each other       a bias has the scale of its layer's input times that of the weight; the output of a ReLU has its
                     zero point at the end of the range; an op that only moves integers has one scale and zero point on
                     both sides
    the reference    channels are in their places, none is lost, and each has the reference's size; no bias is missing;
                     no number is an outlier in its row and column

Values that a recipe chooses from its images (inner ranges, rounding, small changes by a refit) are not checked here.
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
# Ops whose output has the integers of their input. A concatenation of uint8 may also rescale its parts to one range.
_MOVES_INTEGERS = ("PAD", "PADV2", "RESHAPE", "MAX_POOL_2D", "TRANSPOSE")
_SHARES_A_RANGE = (*_MOVES_INTEGERS, "CONCATENATION")
_RELUS = ("RELU", "RELU6")
# Products of scales that differ by less are equal up to float32 rounding.
_SAME_UNIT = 1e-3
# A rule is checked if at least this share of a file's layers, of at least this number, follow it.
_CONVENTION, _LEAST = 0.8, 4


# ---- against each other ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """The tensors of one layer of a file, by the Graph's names. `unit` f64[1 or C] is the bias's scale over the product
    of the input's and the weight's scales; it is 1 in a correct file."""

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
    """The contradictions within a file. `named` is the Graph's name of each of its values, `weights` is the result of
    check_layers, and `checksums` are those in its metadata."""
    ranges = {name: tensor.qparams for name, tensor in tensors.items() if tensor.qparams is not None}
    inputs = {named[name] for name in contents.inputs}
    scales = {name for name, tensor in tensors.items() if checksums.changed_scales(tensor)}
    return [
        *_bias_units(list(_layers(contents, ranges, named)), inputs, weights, scales),
        *_relu_zero_points(contents, ranges, named),
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
    """`changed` are the tensors whose scales differ from those that the file was written with."""
    off = [layer for layer in layers if layer.is_off]
    if len(layers) < _LEAST or len(layers) - len(off) < _CONVENTION * len(layers):
        return
    reported = {finding.tensor for finding in weights.findings}
    for layer in off:
        if layer.weight in reported or layer.x in reported:
            continue
        others = np.flatnonzero(np.abs(layer.unit - 1) > _SAME_UNIT)
        ratio = 1 / float(layer.unit[others[0]])
        if not layer.is_uniform:
            words = f"the scale of {channels(others)} of {layer.weight} is {times(ratio)} the scale that fits its bias"
            yield Finding("channel scale", layer.weight, words)
        elif layer.weight in changed or _is_the_weight(layer, layers, ratio, weights.sizes):
            words = f"the scale of {layer.weight} is {times(ratio)} the scale that fits its bias"
            yield Finding("layer scale", layer.weight, words)
        else:
            reported.add(layer.x)
            role = "input" if layer.x in inputs else "activation"
            fits = "the scale that fits the biases of the layers that read it"
            words = f"the scale of the {role} {layer.x} is {times(ratio)} {fits}"
            yield Finding(f"{role} scale", layer.x, words)


def _is_the_weight(layer: _Layer, layers: list[_Layer], ratio: float, sizes: Mapping[str, float]) -> bool:
    """Whether the scale of a layer's weight is wrong, not that of its input, which other layers may also read."""
    readers = [other for other in layers if other.x == layer.x]
    if len(readers) > 1:
        return not all(other.is_off for other in readers)
    # If the layer is the only reader, the size of its weights decides; a recipe may change this a little.
    size = sizes.get(layer.weight, 1.0)
    return abs(size - ratio) < abs(size - 1)


def check_checksums(
    contents: Contents,
    tensors: Mapping[str, Tensor],
    named: Mapping[str, str],
    checksums: Checksums,
    reported: Collection[str],
) -> Iterator[Finding]:
    """Numbers that changed since the file was written, of the tensors that are not yet `reported`."""
    roles = {named[name]: "input" for name in contents.inputs} | {named[name]: "output" for name in contents.outputs}
    for name, tensor in tensors.items():
        if name in reported or tensor.qparams is None:
            continue
        if name in checksums.ranges:
            yield from range_faults(name, roles.get(name, "activation"), tensor.qparams, *checksums.ranges[name])
        if checksums.changed_numbers(tensor):
            words = f"the integers of {name} do not match their checksum: they changed after the file was written"
            yield Finding("damaged numbers", name, words)
        if name in checksums.constants and checksums.changed_scales(tensor):
            words = f"the scales of {name} do not match their checksum: they changed after the file was written"
            yield Finding("scales", name, words)


def _relu_zero_points(contents: Contents, ranges: Mapping[str, QParams], named: Mapping[str, str]) -> Iterator[Finding]:
    """A ReLU's output has the lowest integer as zero point, or 0 if the quantizer is symmetric or the range empty."""
    outputs = [op for op in contents.ops if op.kind in _LAYER_KINDS and op.activation in _RELUS]
    found = {named[op.outputs[0]]: ranges[named[op.outputs[0]]] for op in outputs if named[op.outputs[0]] in ranges}
    off = [name for name, qparams in found.items() if qparams.zero_point[0] not in (-128, 0)]
    if len(found) < _LEAST or len(found) - len(off) < _CONVENTION * len(found):
        return
    for name in off:
        if not any(op.kind in _SHARES_A_RANGE for op in contents.consumers.get(name, ())):
            words = f"the zero point of {name} is {found[name].zero_point[0]}; that of a ReLU's output must be -128"
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
    before, after = (f"scale {each.scale[0]:.6g} and zero point {each.zero_point[0]}" for each in (source, output))
    same = np.array_equal(source.scale, output.scale)
    words = f"{name} has {before} before {op.kind}, which only moves integers, and {after} after it"
    yield Finding("activation zero point" if same else "activation scale", name, words)


# ---- against the reference ------------------------------------------------------------------------------------------

# An input's range may exceed the pixels by this many steps, because its limits were rounded.
_ROUNDED_LIMITS = 2.0
# In steps of a channel's largest number: from the first, its size can be measured; below the second, it may be all zero
# after rounding.
_MEASURABLE, _NOT_LOST = 64.0, 8.0
# Only numbers of at least this many steps are used to measure the size of a channel.
_LARGE = 16.0
# A channel matches another one if their relative distance is below _NEAR and _NEARER times smaller than to its own.
_NEAR, _NEARER = 0.2, 3.0
_ALIKE = 0.9  # a cosine
_HARD_SIGMOID = 3.0
# Biases of millions of steps were rounded in float32.
_BIAS_ROUNDING = 1e-4


@dataclass(frozen=True)
class _Allowed:
    """The allowed differences from the reference's weights. `channel_gain` and `layer_gain` limit the relative size of
    a channel within its layer, and of a layer. A number is damaged if its difference is more than `outlier` times the
    usual difference in its row, column and tensor (a percentile), and more than `steps`."""

    channel_gain: float
    layer_gain: float
    outlier: float
    steps: float


# Rounded only, as by TFLiteConverter: within half a step, channels within 0.5 % and layers within 0.2 %.
_ROUNDED = _Allowed(0.05, 0.008, 0.0, 0.75)
# Refitted to the int8 outputs: channels within 6 %, layers within 9 % (one squeeze-and-excite of v3-large), differences
# at most 6 times the usual ones.
_REFITTED = _Allowed(0.25, 0.15, 10.0, 4.0)
_ROUNDED_STEPS = 0.51
# With fewer rows, the usual difference in a column is not known.
_ROWS = 8
# Wrong scales occur in few layers; if more differ, the file scales its channels in its own way.
_FEW_LAYERS = 3
# Batch norms with another eps make many channels smaller, or many larger, in most layers.
_EPS_CHANNELS, _EPS_SIDE, _MOST = 0.25, 0.95, 0.5
# The difference is 0.3 steps rms after rounding, and up to 0.7 after a refit.
_NOISE_STEPS = 1.5


def unused_input(contents: Contents, tensor: Tensor | None, preprocess: Preprocess) -> str:
    """A note if the input's integers cover values that no pixel has; else "".

    This is not a fault by itself: calibration on other images results in such a range.
    """
    if tensor is None or tensor.qparams is None:
        return ""
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    pixels = float((-mean / std).min()), float(((1 - mean) / std).max())
    scale, zero = float(tensor.qparams.scale[0]), int(tensor.qparams.zero_point[0])
    info = np.iinfo(tensor.dtype)
    low, high = (info.min - zero) * scale, (info.max - zero) * scale
    if max((pixels[0] - low) / scale, (high - pixels[1]) / scale) <= _ROUNDED_LIMITS:
        return ""
    return (
        f"its input {contents.inputs[0]} covers {low:.4g} to {high:.4g}, but normalised pixels are from "
        f"{pixels[0]:.4g} to {pixels[1]:.4g}: no image uses the other steps"
    )


@dataclass(frozen=True)
class Weights:
    """The result of check_layers: `findings` in the reference's order, and `sizes`: weight -> its size relative to the
    reference's. `note` states what was not checked."""

    findings: tuple[Finding, ...] = ()
    sizes: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


def check_layers(graph: Graph, observed: RecordedActivations) -> Weights:
    """Check the weights and biases of a file against its float reference."""
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
    other = f"{sum(map(bool, scaled.values()))} of its layers scale their channels differently from the reference"
    return Weights(tuple(findings), sizes, "" if few else f"{other}: the size of its weights is not compared")


@dataclass(frozen=True)
class _Weight:
    """A layer's weight as stored in the file, f64[O,K], and the reference's in the file's steps. `moved`: row -> the
    matching row of the reference, for rows that were permuted. `erased` rows are all zero. `gains` f64[O] is the size
    of each row relative to the reference's, nan if it cannot be measured."""

    name: str
    found: np.ndarray
    right: np.ndarray
    moved: Mapping[int, int]
    erased: np.ndarray
    gains: np.ndarray
    shape: tuple[int, ...]

    @property
    def size(self) -> float:
        """The size of the layer relative to the reference's; nan if it can be measured in too few rows."""
        measured = self.gains[np.isfinite(self.gains)]
        return float(np.median(measured)) if measured.size >= _LEAST else math.nan

    @property
    def is_rounded(self) -> bool:
        """Whether nearly all numbers are the reference's, rounded to the nearest step."""
        return float(np.percentile(np.abs(self.found - self.right), 98)) <= _ROUNDED_STEPS


def _weight(graph: Graph, node: Node, observed: RecordedActivations) -> _Weight | None:
    stored, right, units = observed.weight(graph, node) or (None, None, None)
    if stored is None or stored.data is None or stored.qparams is None or right is None or units is None:
        return None
    found = rows_of(stored.data.astype(np.float64) - stored.qparams.along(stored.data.ndim)[1])
    if stored.qparams.scale.size == 1:
        # With one scale for all channels, the largest numbers saturate on purpose.
        info = np.iinfo(stored.dtype)
        right = np.clip(right, info.min, info.max)
    wanted, steps = rows_of(right), rows_of(np.broadcast_to(units, right.shape))
    not_lost = np.abs(wanted).max(axis=1) >= _NOT_LOST
    erased = np.flatnonzero(not_lost & ~found.any(axis=1))
    moved = _moved_rows(found * steps, wanted * steps, not_lost)
    gains = _gains(found, wanted)
    gains[[*moved, *erased]] = np.nan
    return _Weight(stored.name, found, wanted, moved, erased, gains, stored.shape)


def _moved_rows(found: np.ndarray, right: np.ndarray, not_lost: np.ndarray) -> dict[int, int]:
    """Row -> the matching row of the reference, for rows that were permuted; both in the reference's units."""
    power = np.maximum(np.linalg.norm(right, axis=1), 1e-30)
    own = np.linalg.norm(found - right, axis=1) / power
    suspects = np.flatnonzero(not_lost & (own > _NEAR) & found.any(axis=1))
    if suspects.size < 2:
        return {}
    mine, others = found[suspects], right[suspects]
    squares = (mine**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * mine @ others.T
    differences = np.sqrt(np.maximum(squares, 0)) / power[suspects]
    best = differences.argmin(axis=1)
    near = differences[np.arange(len(best)), best]
    is_moved = (near < _NEAR) & (near * _NEARER < own[suspects]) & (best != np.arange(len(best)))
    moved = {int(suspects[i]): int(suspects[best[i]]) for i in np.flatnonzero(is_moved)}
    return moved if set(moved) == set(moved.values()) else {}


def _gains(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The size of each row relative to the reference's: the median over its numbers, so that a few damaged ones have no
    effect."""
    large = np.abs(right) >= _LARGE
    ratio = np.divide(found, right, out=np.full_like(found, np.nan), where=large)
    cosines = (found * right).sum(axis=1) / np.maximum(
        np.linalg.norm(found, axis=1) * np.linalg.norm(right, axis=1), 1e-30
    )
    measurable = (np.abs(right).max(axis=1) >= _MEASURABLE) & (cosines > _ALIKE)
    gains = np.full(len(found), np.nan)
    gains[measurable] = np.nanmedian(ratio[measurable], axis=1)
    return gains


def _of_all_layers(weights: list[_Weight]) -> Finding | None:
    """A change of the weights before quantization that most layers have; None if there is none."""
    measured = [weight for weight in weights if np.isfinite(weight.gains).sum() >= _LEAST]
    off = [weight.gains[np.abs(weight.gains - 1) > _ROUNDED.channel_gain] for weight in measured]
    shares = [len(gains) / np.isfinite(weight.gains).sum() for gains, weight in zip(off, measured, strict=True)]
    count = sum(share >= _EPS_CHANNELS for share in shares)
    if count > max(_FEW_LAYERS, _MOST * len(measured)):
        gains = np.concatenate(off)
        if max(np.mean(gains < 1), np.mean(gains > 1)) < _EPS_SIDE:
            return None
        amount = f"{gains.min():.3g} to {gains.max():.3g} times the reference's"
        words = f"in {count} of {len(measured)} layers many channels are {amount}"
        return Finding("batch norm eps", "", f"{words}: batch norms were folded with another eps")
    errors = [_rms(weight) for weight, share in zip(measured, shares, strict=True) if share < _EPS_CHANNELS]
    noisy = [rms for rms in errors if rms > _NOISE_STEPS]
    if len(noisy) <= max(_FEW_LAYERS, _MOST * len(measured)):
        return None
    layers, rms = f"{len(noisy)} of {len(measured)} layers", f"{np.median(noisy):.2g} steps rms"
    words = f"in {layers} the weights differ from the reference's by {rms}; rounding causes 0.3 and a refit 0.7"
    return Finding("noise", "", words)


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
    measured = np.flatnonzero(np.isfinite(weight.gains))
    median = weight.size if measured.size >= _LEAST else 1.0
    if abs(median - 1) > allowed.layer_gain:
        words = f"the scale of {weight.name} makes its weights {times(median)} the reference's"
        yield Finding("layer scale", weight.name, words)
    off = _off_rows(weight, allowed)
    if off.size and off.size <= measured.size / 2:
        low, high = weight.gains[off].min(), weight.gains[off].max()
        amount = times(low) if high - low < 0.01 * high else f"{low:.3g} to {high:.3g} times"
        words = f"the scale of {channels(off)} of {weight.name} makes its weights {amount} the reference's"
        yield Finding("channel scale", weight.name, words)


def _off_rows(weight: _Weight, allowed: _Allowed) -> np.ndarray:
    median = weight.size if math.isfinite(weight.size) else 1.0
    return np.flatnonzero(np.abs(weight.gains / median - 1) > allowed.channel_gain)


def _damage(weight: _Weight, allowed: _Allowed) -> Iterator[Finding]:
    """Numbers that are outliers in their row, their column and the tensor. A recipe changes whole rows and columns."""
    rows = np.setdiff1d(np.arange(len(weight.found)), [*weight.moved, *weight.erased])
    if rows.size < 2:
        return
    gains = np.ones(len(weight.found))
    if math.isfinite(weight.size) and abs(weight.size - 1) > allowed.layer_gain:
        gains[:] = weight.size
    off = _off_rows(weight, allowed)
    gains[off] = weight.gains[off]
    differences = np.abs(weight.found - gains[:, None] * weight.right)[rows]
    usual = np.maximum(_percentile90(differences, 1), float(np.percentile(differences, 98)))
    if rows.size >= _ROWS:
        usual = np.maximum(usual, _percentile90(differences, 0))
    places = np.argwhere(differences > np.maximum(allowed.outlier * usual, allowed.steps))
    if not len(places):
        return
    row, column = int(rows[places[0][0]]), int(places[0][1])
    index = [row, *map(int, np.unravel_index(column, weight.shape[1:]))]
    value = f"{weight.found[row, column]:.0f} instead of {weight.right[row, column]:.1f} steps"
    if len(places) == 1:
        yield Finding("flipped bit", weight.name, f"only {weight.name}{index} is an outlier: {value}")
        return
    count = f"at least {len(places)} of {weight.found.size} numbers of {weight.name} are damaged"
    cause = "rounding" if allowed is _ROUNDED else "the changes of a recipe"
    least = f"smaller damage cannot be distinguished from {cause}"
    yield Finding("flipped bits", weight.name, f"{count} ({least}); the first is {weight.name}{index}: {value}")


def _percentile90(differences: np.ndarray, axis: int) -> np.ndarray:
    return np.percentile(differences, 90, axis=axis, keepdims=True)


def _bias_findings(
    graph: Graph, node: Node, observed: RecordedActivations, weight: _Weight, *, is_rounded: bool
) -> Iterator[Finding]:
    """A bias that is missing; for a file that is only rounded, also one that differs."""
    stored, data = observed.bias(graph, node), graph[node.inputs[2]].data
    if stored is None or stored.data is None or stored.qparams is None or data is None or stored.dtype != "int32":
        return
    scale, right = stored.qparams.scale, data * np.asarray(observed.multiple(node.output))
    wanted = right / scale
    if not stored.data.any():
        if np.abs(wanted).max(initial=0) > 1:
            peak = f"{np.abs(right).max():.3g} ({np.abs(wanted).max():.3g} steps)"
            words = f"{stored.name} is all zero, but the reference's largest number is {peak}"
            yield Finding("bias", stored.name, words)
        return
    if not is_rounded:
        return
    places = np.arange(len(right))
    places[list(weight.moved)] = list(weight.moved.values())
    # A converter may include the 3 of a hard-sigmoid after the layer in its bias.
    forms = np.stack([wanted, right[places] / scale, (right + _HARD_SIGMOID) / scale])
    differences = np.abs(stored.data - forms)
    # The float32 rounding of each form is relative to its own numbers: if all weights of a layer are 0, its scale is so
    # small that 3 is tens of millions of steps.
    off = np.flatnonzero((differences > np.maximum(2, _BIAS_ROUNDING * np.abs(forms))).all(axis=0))
    if off.size:
        largest = float((differences.min(axis=0) * scale)[off].max())
        words = (
            f"{off.size} of {len(right)} numbers of {stored.name} differ from the reference's by up to {largest:.3g}"
        )
        yield Finding("bias", stored.name, words)
