"""Compares two int8 files of one quantization exactly: every constant, scale, zero point and connection.

Representations that are specific to a format are not differences: uint8 weights (+128), a tensor whose Origin states a
multiple of the other (graph/origin.py), and a ReLU that the output's integers clamp anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgemobile.comparison.findings import (
    Finding,
    changed_numbers,
    channels,
    exchange_in_words,
    exchanged_rows,
    range_faults,
    rows_of,
    scale_fault,
)
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.affine import activation_range, dequantize
from edgemobile.graph.origin import path_of

__all__ = ["Pair", "different_numbers", "different_wiring", "pair_of"]

# Files of one quantization have nearly all names in common, and most ranges even if a fault changed some.
_SHARED, _ALIKE = 0.9, 0.5
# The rounding error of dividing a scale by 6 in float32.
_FLOAT32 = 1e-6
# The rounding error of products in float32: a bias's scale, the 3 of a gate in whole steps.
_PRODUCT = 1e-5
# A layer that was quantized again has other scales in most channels, or many other numbers.
_MOST, _MANY, _SPARSE = 0.5, 0.01, 0.1
_HALF_ULP = 2.0**-10  # of float16
# The mean of noise is below this share of its rms.
_CENTRED = 0.1


@dataclass(frozen=True)
class Pair:
    """Two files of one quantization: the tensors of both, with the same names and units. `outputs` and `inputs` are the
    reference's."""

    found: Mapping[str, Tensor]
    right: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def shared(self) -> list[str]:
        return [name for name in self.right if name in self.found]


def pair_of(
    found: Mapping[str, Tensor], right: Mapping[str, Tensor], inputs: tuple[str, ...], outputs: tuple[str, ...]
) -> Pair | str:
    """The tensors of both files for an exact comparison, or in words why their quantizations differ."""
    names = _names(right)
    ports = (tuple(names.get(name, name) for name in each) for each in (inputs, outputs))
    pair = Pair(_in_one_unit(found), _in_one_unit(right), *ports)
    ranges = [_ranges(side) for side in (pair.found, pair.right)]
    shared = [name for name in ranges[1] if name in ranges[0]]
    if not shared or len(shared) < _SHARED * min(map(len, ranges)):
        return f"{len(shared)} of {len(ranges[1])} quantized tensors have the same names"
    alike = sum(_same_range(pair.found[name], pair.right[name]) for name in shared)
    if alike < _ALIKE * len(shared):
        return f"{alike} of {len(shared)} ranges are the same"
    return pair


def _ranges(tensors: Mapping[str, Tensor]) -> list[str]:
    return [name for name, tensor in tensors.items() if tensor.qparams is not None and not tensor.is_constant]


def _in_one_unit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by `_names`; those with PyTorch's name have their scale in PyTorch's units."""
    names = _names(tensors)
    return {
        names[name]: _plain(tensor) if names[name] == path_of(name, tensor.origin) else tensor
        for name, tensor in tensors.items()
    }


def _names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Tensor -> its name in PyTorch; its own name if two tensors share one, as a multiple and its quotient do.

    A bias with an added constant keeps its own name.
    """
    paths = {
        name: name if tensor.origin is not None and tensor.origin.added else path_of(name, tensor.origin)
        for name, tensor in tensors.items()
    }
    counts = Counter(paths.values())
    return {name: name if counts[path] > 1 else path for name, path in paths.items()}


def _plain(tensor: Tensor) -> Tensor:
    multiple = 1.0 if tensor.origin is None else tensor.origin.factor
    if multiple == 1 or tensor.qparams is None:
        return tensor
    return replace(tensor, qparams=replace(tensor.qparams, scale=tensor.qparams.scale / np.float32(multiple)))


def _same_range(a: Tensor, b: Tensor) -> bool:
    if a.qparams is None or b.qparams is None:
        return a.qparams is b.qparams
    return a.qparams.scale.shape == b.qparams.scale.shape and not (
        (np.abs(_ratio(a, b) - 1) > _FLOAT32).any() or (a.qparams.zero_point != b.qparams.zero_point).any()
    )


def _ratio(found: Tensor, right: Tensor) -> np.ndarray:
    """The scales of one tensor as multiples of the other's, f64[1 or C]."""
    assert found.qparams is not None
    assert right.qparams is not None
    ratio = found.qparams.scale.astype(np.float64) / right.qparams.scale
    ratio[np.abs(ratio - 1) <= _FLOAT32] = 1
    return ratio


# ---- numbers --------------------------------------------------------------------------------------------------------


def different_numbers(pair: Pair) -> list[Finding]:
    """The differences, in the reference's order; a fault of all layers is reported once."""
    ranges = [finding for name in pair.shared for finding in _range_findings(name, pair)]
    everywhere = _of_all_layers(pair)
    return [*ranges, everywhere] if everywhere else [*ranges, *_constants_findings(pair)]


def _constants_findings(pair: Pair) -> Iterator[Finding]:
    exchanges: list[Mapping[int, int]] = []
    constants = [name for name in pair.shared if pair.right[name].is_constant]
    # Weights come first: the effect of a weight's fault on the bias is reported with the weight.
    for name in sorted(constants, key=lambda name: pair.right[name].dtype == "int32"):
        found, right = pair.found[name], pair.right[name]
        if found.shape != right.shape or found.dtype != right.dtype:
            words = f"{name} is {found.dtype}{list(found.shape)} instead of {right.dtype}{list(right.shape)}"
            yield Finding("weights", name, words)
        elif right.dtype == "int32" and right.qparams is not None:
            yield from _bias_findings(name, pair, exchanges)
        elif right.dtype == "int8" and len(right.shape) > 1:
            yield from _weight_findings(name, found, right, exchanges)
        elif not np.array_equal(_numbers(found), _numbers(right), equal_nan=right.dtype.startswith("float")):
            count = int(np.count_nonzero(_numbers(found) != _numbers(right)))
            yield Finding("weights", name, f"{count} of {_numbers(right).size} numbers of {name} differ")


def _numbers(tensor: Tensor) -> np.ndarray:
    assert tensor.data is not None
    return tensor.data


def _range_findings(name: str, pair: Pair) -> Iterator[Finding]:
    found, right = pair.found[name], pair.right[name]
    if right.is_constant or right.qparams is None or found.qparams is None:
        return
    role = "input" if name in pair.inputs else "output" if name in pair.outputs else "activation"
    scale = float(right.qparams.scale[0]) if _ratio(found, right)[0] != 1 else float(found.qparams.scale[0])
    yield from range_faults(name, role, found.qparams, scale, int(right.qparams.zero_point[0]))


def _weight_findings(name: str, found: Tensor, right: Tensor, exchanges: list[Mapping[int, int]]) -> Iterator[Finding]:
    mine, wanted = rows_of(_numbers(found)), rows_of(_numbers(right))
    moved = exchanged_rows(mine, wanted)
    if moved:
        exchanges.append(moved)
        yield Finding("swapped channels", name, exchange_in_words(moved, name))
    erased = np.flatnonzero(wanted.any(axis=1) & ~mine.any(axis=1))
    if erased.size and not mine.any():
        yield Finding("weights", name, f"{name} is all zero")
    elif erased.size:
        yield Finding("erased channels", name, f"{channels(erased)} of {name} are all zero")
    places = _places(moved, len(wanted))
    expected = _numbers(right)[places]
    expected[erased] = 0
    if numbers := changed_numbers(_numbers(found), expected, name):
        yield numbers
    if found.qparams is None or right.qparams is None:
        return
    ratio = _ratio(found, right)
    if moved and ratio.size == len(places) and not np.array_equal(ratio, np.ones(ratio.size)):
        # The scales were permuted with their rows.
        ratio = found.qparams.scale / right.qparams.scale[places].astype(np.float64)
    if fault := scale_fault(name, ratio):
        yield fault


def _places(moved: Mapping[int, int], size: int) -> np.ndarray:
    """The reference's channel at each position."""
    places = np.arange(size)
    places[list(moved)] = list(moved.values())
    return places


def _bias_findings(name: str, pair: Pair, exchanges: list[Mapping[int, int]]) -> Iterator[Finding]:
    found, right = pair.found[name], pair.right[name]
    mine, wanted = _numbers(found), _numbers(right)
    fault = scale_fault(name, _ratio(found, right))
    if fault and not exchanges and not _scale_is_reported(_ratio(found, right), pair):
        yield replace(fault, kind="bias")
    if np.array_equal(mine, wanted):
        return
    if not mine.any():
        yield Finding("bias", name, f"{name} is all zero")
    elif not any(np.array_equal(mine, wanted[_places(moved, len(wanted))]) for moved in _fitting(exchanges, wanted)):
        numbers = changed_numbers(mine, wanted, name)
        assert numbers is not None
        yield numbers if numbers.kind == "flipped bit" else replace(numbers, kind="bias")


def _fitting(exchanges: list[Mapping[int, int]], bias: np.ndarray) -> list[Mapping[int, int]]:
    return [moved for moved in exchanges if max(moved) < len(bias)]


def _scale_is_reported(ratio: np.ndarray, pair: Pair) -> bool:
    """Whether a weight or an activation has the same fault, because a bias has the product of their scales."""
    others = (
        _ratio(pair.found[name], pair.right[name])
        for name in pair.shared
        if pair.right[name].dtype == "int8" and pair.found[name].qparams and pair.right[name].qparams
    )
    return any(other.size in (1, ratio.size) and np.allclose(ratio, other, rtol=_PRODUCT) for other in others)


# ---- faults of all layers -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """A weight in both files: `ratio` f64[C] of the scales, `differences` i64 of the integers."""

    found: Tensor
    right: Tensor
    ratio: np.ndarray
    differences: np.ndarray

    @property
    def moved(self) -> bool:
        """Whether most of its scales or many of its numbers differ, as if the layer was quantized again."""
        return bool(np.mean(self.ratio != 1) > _MOST or np.mean(self.differences != 0) > _MANY)


def _of_all_layers(pair: Pair) -> Finding | None:
    """A change of the weights before quantization that most layers have; None if there is none."""
    layers = [_layer(pair.found[name], pair.right[name]) for name in pair.shared if _is_weight(name, pair)]
    moved = [layer for layer in layers if layer.moved]
    if len(moved) < max(3, _MOST * len(layers)):
        return None
    where = f"in {len(moved)} of {len(layers)} layers"
    ratios = np.concatenate([layer.ratio for layer in moved])
    differences = np.concatenate([layer.differences.ravel() for layer in moved])
    share, spread = float(np.mean(differences != 0)), f"{ratios.min():.4g} to {ratios.max():.4g} times"
    if (
        np.quantile(np.abs(ratios - 1), 1 - _SPARSE) < _HALF_ULP
        and _has_float16_peaks(moved, "found")
        and not _has_float16_peaks(moved, "right")
    ):
        words = f"{where} the largest weight of each channel is a float16 number, unlike in the reference"
        return Finding("float16 weights", "", words)
    if share < _MANY and (ratios.max() <= 1 + _FLOAT32 or ratios.min() >= 1 - _FLOAT32):
        words = f"{where} each channel is {spread} the reference's, with the same integers"
        return Finding("batch norm eps", "", f"{words}: batch norms were folded with another eps")
    steps = float(np.sqrt(np.mean(differences.astype(np.float64) ** 2)))
    bias = abs(float(np.mean(differences)))
    words = f"{where} {share:.1%} of the weights differ, by {steps:.2g} steps rms and {bias:.2g} on average"
    if bias < _CENTRED * steps:
        return Finding("noise", "", f"{words}: noise was added, or another recipe rounded them")
    return Finding("weights", "", words)


def _is_weight(name: str, pair: Pair) -> bool:
    found, right = pair.found[name], pair.right[name]
    same = found.shape == right.shape and found.dtype == right.dtype == "int8" and len(right.shape) > 1
    return same and found.is_constant and right.is_constant and bool(found.qparams and right.qparams)


def _layer(found: Tensor, right: Tensor) -> _Layer:
    differences = rows_of(_numbers(found)).astype(np.int64) - rows_of(_numbers(right))
    return _Layer(found, right, _ratio(found, right), differences)


def _has_float16_peaks(layers: list[_Layer], side: str) -> bool:
    """Whether the largest weight of nearly every channel is a float16 number; a scale is this weight over 127."""
    peaks = []
    for layer in layers:
        tensor = getattr(layer, side)
        peaks.append(tensor.qparams.scale * np.abs(rows_of(_numbers(tensor)).astype(np.int32)).max(axis=1))
    values = np.concatenate(peaks)
    return float(np.mean(np.abs(values.astype(np.float16) - values) <= _FLOAT32 * values)) > 1 - _SPARSE


# ---- wiring ---------------------------------------------------------------------------------------------------------


def different_wiring(found: Graph, right: Graph) -> list[Finding]:
    """The ops that read other tensors, are other ops or have other attributes, by the names of their outputs."""
    ours, theirs = _names(found.tensors), _names(right.tensors)
    mine = {ours[node.output]: node for node in found.nodes}
    findings = []
    for wanted in right.nodes:
        name = theirs[wanted.output]
        node = mine.get(name)
        if node is None or {node.op, wanted.op} & {"quantize", "dequantize"}:
            continue
        reads, should = [ours[source] for source in node.inputs], [theirs[source] for source in wanted.inputs]
        same = len(reads) == len(should) and all(
            read == should[place] or _same_number(found[node.inputs[place]], right[wanted.inputs[place]])
            for place, read in enumerate(reads)
        )
        if node.op != wanted.op:
            findings.append(Finding("wiring", name, f"{name} is {node.op} instead of {wanted.op}"))
        elif not same:
            words = f"{name} ({node.op}) reads {', '.join(reads)} instead of {', '.join(should)}"
            findings.append(Finding("wiring", name, words))
        elif attrs := _different_attrs(node, wanted, right[wanted.output]):
            findings.append(Finding("wiring", name, f"{name} ({node.op}) has {attrs}"))
    return findings


def _same_number(found: Tensor, right: Tensor) -> bool:
    """Whether both are constants with the same value: gates may share one constant 3 or have one each."""
    if not (found.is_constant and right.is_constant):
        return False
    values, others = _real(found).ravel(), _real(right).ravel()
    return values.size == others.size and np.allclose(values, others, rtol=_PRODUCT, atol=0)


def _real(constant: Tensor) -> np.ndarray:
    return _numbers(constant) if constant.qparams is None else dequantize(_numbers(constant), constant.qparams)


def _different_attrs(node: Node, wanted: Node, output: Tensor) -> str:
    differing = [key for key in wanted.attrs if node.attrs[key] != wanted.attrs[key]]
    if "activation" in differing:
        clamps = [_clamp(output, each.attrs["activation"]) for each in (node, wanted)]
        differing = [key for key in differing if key != "activation" or clamps[0] != clamps[1]]
    return ", ".join(f"{key} {node.attrs[key]!r} instead of {wanted.attrs[key]!r}" for key in differing)


def _clamp(output: Tensor, activation: str) -> tuple[int, int] | str:
    """The range of integers after an activation; the name of the activation for a float tensor."""
    if output.qparams is None:
        return str(activation)
    return activation_range(activation, output.qparams, output.dtype)
