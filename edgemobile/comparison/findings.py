"""Describes differences between stored numbers as the faults that cause them.

A Finding is found from the numbers that a file stores; nothing is run for it.
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
# Ratios of scales that differ by less are equal up to float32 rounding.
_SAME_RATIO = 1e-4
# Random damage sometimes changes two bits of one byte.
_DOUBLE_HITS = 1.1
# Damage changes a part of a tensor; another recipe changes all of it.
_SPARSE = 0.05


@dataclass(frozen=True)
class Finding:
    """A stored number that is wrong, and the name of its `tensor`. `kind` and `words` are as in Cause."""

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
    """The fault of a weight whose scales are `ratio` f64[1 or C] times the correct ones; None if there is none."""
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
    """The faults in the scale and zero point of a tensor; its `role` is "input", "output" or "activation"."""
    subject = tensor if role == "activation" else f"the {role} {tensor}"
    if found.scale[0] != np.float32(scale):
        ratio, values = times(float(found.scale[0]) / scale), f"{found.scale[0]:.6g} instead of {scale:.6g}"
        yield Finding(f"{role} scale", tensor, f"the scale of {subject} is {ratio} what it should be: {values}")
    if found.zero_point[0] != zero_point:
        words = f"the zero point of {subject} is {found.zero_point[0]} instead of {zero_point}"
        yield Finding(f"{role} zero point", tensor, words)


# ---- integers -------------------------------------------------------------------------------------------------------


def exchanged_rows(found: np.ndarray, right: np.ndarray) -> dict[int, int]:
    """Row of `found` -> the row of `right` with the same numbers, for rows that were permuted; both [rows, columns].

    Rows of zeros are left out, because they are all equal, and so are copies of a row that is still in its place.
    """
    changed = np.flatnonzero((found != right).any(axis=1))
    places = {right[row].tobytes(): int(row) for row in changed if right[row].any()}
    moved = {int(row): places[found[row].tobytes()] for row in changed if found[row].tobytes() in places}
    # A permutation moves every row that it uses; other rows are copies.
    while copies := [row for row in moved if moved[row] not in moved or row not in moved.values()]:
        for row in copies:
            moved.pop(row)
    return moved


def exchange_in_words(moved: Mapping[int, int], tensor: str, what: str = "channels") -> str:
    pairs = [(row, other) for row, other in moved.items() if moved.get(other) == row and row < other]
    if 2 * len(pairs) == len(moved):
        shown = "; ".join(f"{row} and {other}" for row, other in pairs[:_LISTED])
        more = f" and {len(pairs) - _LISTED} more pairs" if len(pairs) > _LISTED else ""
        return f"{what} {shown}{more} of {tensor} are exchanged"
    return f"{len(moved)} {what} of {tensor} are in another order: {listed(sorted(moved))}"


def flipped_bits(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The number of differing bits of each number, for two arrays of one integer dtype."""
    octets = np.ascontiguousarray(found ^ right).view(np.uint8).reshape(*found.shape, found.dtype.itemsize)
    return np.unpackbits(octets, axis=-1).sum(axis=-1, dtype=np.int64)


def changed_numbers(found: np.ndarray, right: np.ndarray, tensor: str) -> Finding | None:
    """Which numbers of an integer tensor differ, and whether flipped bits explain it; None if all are equal."""
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
    largest = int(np.abs(found.astype(np.int64) - right).max())
    kind = "damaged numbers" if len(places) <= _SPARSE * found.size else "weights"
    words = f"{count} of {tensor} differ, by up to {largest} steps; the first is {where}: {values}"
    return Finding(kind, tensor, words)


def rows_of(array: np.ndarray) -> np.ndarray:
    """[channels, ...] reshaped to [channels, all other dimensions]."""
    return array.reshape(len(array), -1)
