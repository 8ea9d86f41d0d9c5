"""Latency of one or several sessions, measured in turns so that a slow phase of the board affects all equally."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Latency", "latency_ns", "warm_up_ns"]

# Steady: the medians of two windows of this many inferences differ by less than this ratio; with a limit on the time.
_WINDOW, _STEADY = 5, 0.02
_MOST_WARMUPS, _LONGEST_WARMUP_NS = 50, 10_000_000_000


class _Invokes(Protocol):
    def invoke(self, prepared: Any) -> Any: ...


@dataclass(frozen=True)
class Latency:
    """Every value of one session in the order measured, with the warm-up separate; nothing is discarded."""

    warmup_ns: tuple[int, ...]
    values_ns: tuple[int, ...]

    @property
    def median_ns(self) -> float:
        return statistics.median(self.values_ns)

    @property
    def spread(self) -> float:
        """Interquartile range over the median: 0.05 is an idle board. 0 for a single value."""
        if len(self.values_ns) < 2 or not self.median_ns:
            return 0.0
        low, _, high = statistics.quantiles(self.values_ns, n=4, method="inclusive")
        return (high - low) / self.median_ns


def latency_ns(
    sessions: Mapping[str, _Invokes],
    prepared: Mapping[str, Any],
    *,
    rounds: int = 50,
    warmup: int = 5,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, Latency]:
    """Time `invoke` of each session on its own prepared input, one call each per round.

    Every round starts with the next session, so that none is always the first of a round.
    Raises ValueError for fewer than one round.
    """
    if rounds < 1 or warmup < 0:
        raise ValueError(f"latency needs rounds >= 1 and warmup >= 0, got {rounds} and {warmup}")
    names = list(sessions)
    values: dict[str, list[int]] = {name: [] for name in names}
    for index in range(warmup + rounds):
        first = index % max(len(names), 1)
        for name in names[first:] + names[:first]:
            start = clock()
            sessions[name].invoke(prepared[name])
            values[name].append(clock() - start)
    return {name: Latency(tuple(taken[:warmup]), tuple(taken[warmup:])) for name, taken in values.items()}


def warm_up_ns(invoke: Callable[[], Any], *, clock: Callable[[], int] = time.perf_counter_ns) -> list[int]:
    """Call `invoke` until it is steady and return every time.

    It is steady when the median of the last 5 is within 2 % of the median of the 5 before. A board that does not become
    steady in 50 calls or 10 s is measured anyway; the verdict on the run states it.
    """
    taken: list[int] = []
    while len(taken) < _MOST_WARMUPS and sum(taken) < _LONGEST_WARMUP_NS:
        start = clock()
        invoke()
        taken.append(clock() - start)
        if len(taken) >= 2 * _WINDOW:
            before, last = (statistics.median(part) for part in (taken[-2 * _WINDOW : -_WINDOW], taken[-_WINDOW:]))
            if abs(last - before) <= _STEADY * before:
                break
    return taken
