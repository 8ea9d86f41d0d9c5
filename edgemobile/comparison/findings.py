"""What differs between two lists of integers, told as the fault that makes such a difference.

A Finding is read off the numbers a file stores; nothing is run for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgemobile.graph import QParams

__all__ = [
    "Finding",
    "changed_numbers",
    "channels",
    "exchange_in_words",
    "exchanged_rows",
    "flipped_bits",
    "listed",
    "range_faults",
    "rows_of",
    "scale_fault",
    "times",
]

_LISTED = 4
# Ratios of scales that are one number, but for float32.
_SAME_RATIO = 1e-4
# Random damage hits a byte twice now and then, and then more than one of its bits differs.
_DOUBLE_HITS = 1.1
# Damage hits a part of a tensor, another recipe all of it.
_SPARSE = 0.05


@dataclass(frozen=True)
class Finding:
    """A stored number that is wrong. `kind` and `words` are as of a Cause, `tensor` is the name of its tensor."""

    kind: str
    tensor: str
    words: str


def listed(indices: Sequence[int] | np.ndarray) -> str:
    """ "3, 7, 9, 12 and 6 more" """
    shown = ", ".join(map(str, indices[:_LISTED]))
    return shown if len(indices) <= _LISTED else f"{shown} and {len(indices) - _LISTED} more"


def times(ratio: float) -> str:
    return f"{ratio:.4g} times"


def channels(indices: Sequence[int] | np.ndarray) -> str:
    return f"channel{'s' if len(indices) > 1 else ''} {listed(indices)}"


# ---- scales ---------------------------------------------------------------------------------------------------------


def scale_fault(tensor: str, ratio: np.ndarray) -> Finding | None:
    """What is wrong with the scales f64[1 or C] of a weight that are `ratio` times the right ones; None for nothing."""
    others = np.flatnonzero(np.abs(ratio - 1) > _SAME_RATIO)
    if not others.size:
        return None
    if np.ptp(ratio) <= _SAME_RATIO * abs(ratio[0]):
        return Finding("layer scale", tensor, f"the scale of {tensor} is {times(ratio[0])} what it should be")
    low, high = ratio[others].min(), ratio[others].max()
    amount = times(low) if high - low <= _SAME_RATIO * high else f"{low:.4g} to {high:.4g} times"
    return Finding(
        "channel scale", tensor, f"the scale of {channels(others)} of {tensor} is {amount} what it should be"
    )


def range_faults(tensor: str, role: str, found: QParams, scale: float, zero_point: int) -> Iterator[Finding]:
    """What is wrong with the range of an activation; its `role` is input, output or activation."""
    subject = tensor if role == "activation" else f"the {role} {tensor}"
    if found.scale[0] != np.float32(scale):
        ratio, values = times(float(found.scale[0]) / scale), f"{found.scale[0]:.6g} instead of {scale:.6g}"
        yield Finding(f"{role} scale", tensor, f"the scale of {subject} is {ratio} what it should be: {values}")
    if found.zero_point[0] != zero_point:
        words = f"the zero point of {subject} is {found.zero_point[0]} instead of {zero_point}"
        yield Finding(f"{role} zero point", tensor, words)


# ---- integers -------------------------------------------------------------------------------------------------------


def exchanged_rows(found: np.ndarray, right: np.ndarray) -> dict[int, int]:
    """Row of `found` -> the row of `right` that stands there, for rows that only changed places; both [rows, columns].

    Rows of zeros are all alike, and rows that no other row replaces are not among them.
    """
    changed = np.flatnonzero((found != right).any(axis=1))
    places = {right[row].tobytes(): int(row) for row in changed if right[row].any()}
    moved = {int(row): places[found[row].tobytes()] for row in changed if found[row].tobytes() in places}
    # What came from a row that is neither gone nor moved itself is a copy, not an exchange.
    while strays := [row for row in moved if moved[row] not in moved or row not in moved.values()]:
        for row in strays:
            moved.pop(row)
    return moved


def exchange_in_words(moved: Mapping[int, int], tensor: str, what: str = "channels") -> str:
    pairs = [(row, other) for row, other in moved.items() if moved.get(other) == row and row < other]
    if 2 * len(pairs) == len(moved):
        shown = "; ".join(f"{row} and {other}" for row, other in pairs[:_LISTED])
        more = f"; {len(pairs) - _LISTED} pairs more" if len(pairs) > _LISTED else ""
        return f"{what} {shown}{more} of {tensor} are exchanged"
    return f"{len(moved)} {what} of {tensor} are in another order: {listed(sorted(moved))}"


def flipped_bits(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How many bits of each number differ, of two arrays of one integer dtype."""
    octets = np.ascontiguousarray(found ^ right).view(np.uint8).reshape(*found.shape, found.dtype.itemsize)
    return np.unpackbits(octets, axis=-1).sum(axis=-1, dtype=np.int64)


def changed_numbers(found: np.ndarray, right: np.ndarray, tensor: str) -> Finding | None:
    """Which numbers of an integer tensor are others, and whether single bits explain that; None where none is."""
    places = np.argwhere(found != right)
    if not len(places):
        return None
    first = tuple(map(int, places[0]))
    where, values = f"{tensor}{list(first)}", f"{found[first]} instead of {right[first]}"
    flips = int(flipped_bits(found, right).sum())
    if len(places) == flips == 1:
        bit = int(abs(int(found[first]) - int(right[first]))).bit_length() - 1
        return Finding("flipped bit", tensor, f"bit {bit} of {where} is flipped: {values}")
    count = f"{len(places)} of {found.size} numbers"
    if flips <= _DOUBLE_HITS * len(places):
        words = f"{flips} bits of {tensor} are flipped, in {count}; the first is in {where}: {values}"
        return Finding("flipped bits", tensor, words)
    furthest = int(np.abs(found.astype(np.int64) - right).max())
    kind = "damaged numbers" if len(places) <= _SPARSE * found.size else "weights"
    words = f"{count} of {tensor} are others, by up to {furthest} steps; the first is {where}: {values}"
    return Finding(kind, tensor, words)


def rows_of(array: np.ndarray) -> np.ndarray:
    """[channels, ...] as [channels, everything else]."""
    return array.reshape(len(array), -1)
