"""Mistakes in the numbers of a layer, one per function: each yields the reference layer's output with that mistake."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgemobile.comparison.diverging_layer import DivergingLayer, Output
from edgemobile.graph import Tensor

__all__ = ["bias", "bias_overflow", "flipped_bit", "pair_saturation", "weights"]

# After a flipped bit is corrected, at most this share of the difference remains, from rounding and quantization.
_FLIP_LEAVES = 0.15


def bias_overflow(case: DivergingLayer) -> Iterator[Output]:
    """The correct bias, b / (s_in s_w), after int32 wraps or saturates it."""
    stored = case.observed.constant_name(case.node.inputs[2]) if case.is_layer else None
    tensor = None if stored is None else case.observed.tensors[stored]
    if tensor is None or tensor.qparams is None or tensor.dtype != "int32":
        return
    bias = case.data(case.node.inputs[2]).astype(np.float64)
    unit = tensor.qparams.scale.astype(np.float64) / case.observed.multiple(case.node.output)
    wanted = np.rint(bias / unit)
    over = np.flatnonzero((wanted >= 2**31) | (wanted < -(2**31)))
    if not over.size:
        return
    forms = {"wraps": np.mod(wanted + 2**31, 2**32) - 2**31, "saturates": np.clip(wanted, -(2**31), 2**31 - 1)}
    own = case.observed.constants(case.graph, case.node).get(case.node.inputs[1], case.data(case.node.inputs[1]))
    for how, values in forms.items():
        words = f"the bias of channel {over[0]} would be {wanted[over[0]]:.4g} steps of its scale, but int32 {how}"
        changed = {case.node.inputs[2]: (values * unit).astype(np.float32)}
        yield from case.outputs(words, constants=changed)
        yield from case.outputs(words, constants={**changed, case.node.inputs[1]: own})


def bias(case: DivergingLayer) -> Iterator[Output]:
    if case.is_layer:
        name = case.node.inputs[2]
        yield from case.outputs("there is no bias", constants={name: np.zeros_like(case.data(name))})
        own = case.observed.constants(case.graph, case.node)
        if name in own:
            yield from case.outputs("the file's bias differs", constants={name: own[name]})


def weights(case: DivergingLayer) -> Iterator[Output]:
    if case.is_layer:
        own = case.observed.constants(case.graph, case.node)
        right = case.data(case.node.inputs[1])
        values = own.get(case.node.inputs[1])
        if values is not None:
            yield from case.outputs(_different_weight(case, values, right), constants={case.node.inputs[1]: values})


def _different_weight(case: DivergingLayer, values: np.ndarray, right: np.ndarray) -> str:
    stored = case.observed.weight(case.graph, case.node)
    if stored is not None and stored[0].qparams is not None:
        # Rounding and the recipe change every int8 number, so the number of wrong ones is not known without another
        # int8 file.
        largest = float(np.abs(stored[0].data - stored[1]).max(initial=0.0))
        return f"the file's weight differs by up to {largest:.3g} of its steps"
    differing = int(np.count_nonzero(values != right))
    return f"{differing} of {right.size} numbers of the file's weight differ"


def flipped_bit(case: DivergingLayer) -> Iterator[Output]:
    """One stored number of a weight or bias that is wrong in a single bit."""
    for name in case.node.inputs[1:] if case.is_layer else ():
        own = case.observed.constants(case.graph, case.node).get(name)
        stored = case.observed.constant_name(name)
        if own is None or stored is None or case.observed.added(stored):
            continue
        right = case.data(name)
        index = np.unravel_index(np.argmax(_distance(own, right)), right.shape)
        unit = _unit(case.observed.tensors[stored], own, index)
        bit = unit and _bit(case.observed.tensors[stored], index, float(right[index]) / unit, float(own[index]) / unit)
        if bit is not None:
            place = f"{stored}{list(map(int, index))}"
            words = f"bit {bit} of {place} is flipped: {own[index]:.9g} instead of {right[index]:.9g}"
            one = right.copy()
            one[index] = own[index]
            yield from case.outputs(words, constants={name: one})


def _distance(own: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.abs(own.astype(np.float64) - right), nan=np.inf)


def _unit(stored: Tensor, own: np.ndarray, index: tuple[np.integer, ...]) -> float | None:
    """The value of one step in the reference's units, in the channels of `index`; None if all their numbers are 0."""
    assert stored.data is not None
    if stored.qparams is None:
        return 1.0
    alike = (index[0],) if own.ndim == 1 else (index[0], ..., index[-1])
    held, real = np.atleast_1d(stored.data[alike]).ravel(), np.atleast_1d(own[alike]).ravel()
    largest = int(np.argmax(np.abs(held.astype(np.int64))))
    return float(real[largest]) / float(held[largest]) if held[largest] else None


def _bit(stored: Tensor, index: tuple[np.integer, ...], right: float, own: float) -> int | None:
    """The bit whose flip changes a stored number back to about `right`; None if no single bit does."""
    assert stored.data is not None
    held = np.array([stored.data[index]])
    octets = held.view(f"u{held.dtype.itemsize}")
    masks = np.array([1 << bit for bit in range(8 * held.dtype.itemsize)], octets.dtype)
    flipped = (octets ^ masks).view(held.dtype).astype(np.float64)
    differences = np.nan_to_num(np.abs(flipped - right), nan=np.inf)
    bit = int(np.argmin(differences))
    return bit if differences[bit] <= _FLIP_LEAVES * abs(own - right) or not math.isfinite(own) else None


def pair_saturation(case: DivergingLayer) -> Iterator[Output]:
    """x86 without VNNI multiplies uint8 by int8 with vpmaddubsw, which adds products in pairs and saturates each sum to
    int16: acc = sum over pairs of clip(x0 w0 + x1 w1, -2^15, 2^15 - 1), pairs in the order height, width, channel.

    Tested only if the layer diverges in its arithmetic. This test uses the file's constants, so it would also explain
    wrong constants.
    """
    held = _int8_layer(case) if case.diverges_in == "arithmetic" else None
    if held is None or case.observed.constant_name(case.node.inputs[1]) in case.observed.unsigned:
        return
    x, weight, bias = held
    taps = _taps(case, x, weight)
    if taps is None:
        return
    zero_point = int(x.zero_point) + 128
    weights = weight.integers.reshape(len(weight.integers), -1).astype(np.int32)
    odd = weights.shape[1] % 2
    taps, weights = np.pad(taps, ((0, 0), (0, odd))), np.pad(weights, ((0, 0), (0, odd)))
    columns = []
    for row, offset in zip(weights, bias.integers, strict=True):
        pairs = (taps * row).reshape(len(taps), -1, 2).sum(axis=2)
        columns.append(np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1) - zero_point * int(row.sum()) + int(offset))
    real = np.stack(columns, axis=1).reshape(case.found.shape) * bias.scale
    low, high = {"": (-np.inf, np.inf), "relu": (0, np.inf), "relu6": (0, 6)}[case.node.attrs["activation"]]
    output = np.clip(real, low, high) / case.observed.multiple(case.node.output)
    yield "pairs of products saturate at int16 (uint8 x int8 without VNNI): store the weights as uint8", output


@dataclass(frozen=True)
class _Integers:
    """A quantized tensor: its integers, their scale f32[1 or C] and zero point."""

    integers: np.ndarray
    scale: np.ndarray
    zero_point: int


def _int8_layer(case: DivergingLayer) -> tuple[_Integers, _Integers, _Integers] | None:
    """(input, weight, bias) of an int8 layer with symmetric weights and one group; None for others."""
    if not case.is_layer or case.node.attrs.get("groups", 1) != 1:
        return None
    name = case.observed.name_of(case.node.inputs[0])
    held = []
    for stored in (name, *map(case.observed.constant_name, case.node.inputs[1:])):
        tensor = None if stored is None else case.observed.tensors.get(stored)
        data = case.observed.values.get(name or "") if stored == name else None if tensor is None else tensor.data
        if tensor is None or tensor.qparams is None or data is None or data.dtype.kind != "i":
            return None
        held.append(_Integers(data, tensor.qparams.scale, int(tensor.qparams.zero_point[0])))
    return None if held[1].zero_point else (held[0], held[1], held[2])


def _taps(case: DivergingLayer, x: _Integers, weight: _Integers) -> np.ndarray | None:
    """The inputs of each output pixel as uint8 values, i32[pixels, KH*KW*I]."""
    seen = x.integers.astype(np.int32) + 128
    if case.node.op == "linear":
        return seen
    if case.node.attrs["dilation"] != (1, 1):
        return None
    padding, (rows, columns) = case.node.attrs["padding"], case.node.attrs["stride"]
    padded = np.pad(seen, ((0, 0), *padding, (0, 0)), constant_values=x.zero_point + 128)
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.integers.shape[1:3], axis=(1, 2))
    ordered = windows[:, ::rows, ::columns].transpose(0, 1, 2, 4, 5, 3)
    return ordered.reshape(-1, weight.integers[0].size)
