"""Compares two files tensor by tensor, as integers: whether they have the same numbers, in any formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgemobile.graph import QParams, Tensor

__all__ = ["TensorDiff", "diff_tensors"]


@dataclass(frozen=True)
class TensorDiff:
    """`compared` names are in both files. `differing` has one line for each that differs.

    `weights`, `biases` and `activations` count what was compared: constants, those of int32, quantized values.
    """

    compared: int
    weights: int
    biases: int
    activations: int
    only_left: tuple[str, ...]
    only_right: tuple[str, ...]
    differing: Mapping[str, str]

    @property
    def same(self) -> bool:
        """At least one tensor was compared, and none differs."""
        return self.compared > 0 and not self.differing

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"same": self.same}


def diff_tensors(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> TensorDiff:
    """Compare tensors with the same name, as returned by read_tensors of an exporter.

    Constants by value, quantized tensors also by scale and zero point; float activations have nothing to compare.
    """
    left, right = ({name: tensor for name, tensor in side.items() if _holds(tensor)} for side in (left, right))
    names = [name for name in left if name in right]
    details = {name: "; ".join(_differences(left[name], right[name])) for name in names}
    constants = [left[name] for name in names if left[name].is_constant]
    biases = sum(tensor.dtype == "int32" for tensor in constants)
    return TensorDiff(
        compared=len(names),
        weights=len(constants) - biases,
        biases=biases,
        activations=len(names) - len(constants),
        only_left=tuple(name for name in left if name not in right),
        only_right=tuple(name for name in right if name not in left),
        differing={name: detail for name, detail in details.items() if detail},
    )


def _holds(tensor: Tensor) -> bool:
    return tensor.is_constant or tensor.qparams is not None


def _differences(a: Tensor, b: Tensor) -> list[str]:
    found = []
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        found.append(f"{a.dtype}{list(a.shape)} and {b.dtype}{list(b.shape)}")
    elif a.data is not None and b.data is not None:
        found += _data_difference(a.data, b.data)
    elif a.is_constant != b.is_constant:
        found.append("constant in one file only")
    return found + _qparams_differences(a.qparams, b.qparams)


def _data_difference(a: np.ndarray, b: np.ndarray) -> list[str]:
    """Bit for bit, so that NaN equals itself; the distance in integers, or in the float's own units."""
    unequal = np.asarray((a != b) & ~((a != a) & (b != b)))
    count = int(np.count_nonzero(unequal))
    if not count:
        return []
    wide = np.int64 if a.dtype.kind in "iu" else np.float64
    peak = np.abs(a.astype(wide) - b.astype(wide)).max()
    return [f"{count} of {a.size} values differ, by at most {peak:g}"]


def _qparams_differences(a: QParams | None, b: QParams | None) -> list[str]:
    if a is None or b is None:
        return [] if a is b else ["quantized in one file only"]
    if a.scale.size != b.scale.size or (a.scale.size > 1 and a.axis != b.axis):
        return [f"{a.scale.size} scales along {a.axis} and {b.scale.size} along {b.axis}"]
    found = []
    scales = np.count_nonzero(a.scale != b.scale)
    if scales:
        ratio = np.abs(a.scale.astype(np.float64) / b.scale - 1).max()
        found.append(f"{scales} of {a.scale.size} scales differ, by at most {ratio:.2g} of their value")
    zeros = np.count_nonzero(a.zero_point != b.zero_point)
    if zeros:
        peak = np.abs(a.zero_point - b.zero_point).max()
        found.append(f"{zeros} of {a.zero_point.size} zero points differ, by at most {peak}")
    return found
