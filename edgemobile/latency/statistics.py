"""Summarizes a run's raw values: median, percentiles, intervals, and a verdict whether they can be trusted.

A median varies less within a process than between processes, because the random memory layout of a file lasts as long
as the process. Intervals are therefore computed from the medians of the processes, with Student's t of their
logarithms. With only one process, as under --sustained, whole rounds are resampled (bootstrap), and the interval is for
that process only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from edgemobile.devices.host.records import Case, Run, Sample

__all__ = [
    "LIMITS",
    "Limits",
    "Summary",
    "Verdict",
    "ratio_interval",
    "summarize",
    "throttle_words",
    "throttled_now",
    "verdict",
]

Rounds = Sequence[Sequence[int]]

_RESAMPLES = 1000
_SEED = 0

# Bits of a Raspberry Pi's get_throttled: 0 to 3 are current, 16 to 19 are the same since boot.
_THROTTLE = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
_NOW, _SINCE_BOOT = 0xF, 0xF0000


@dataclass(frozen=True)
class Limits:
    """The limits beyond which a measurement is not trusted. Relative: 0.1 is 10 %."""

    spread: float = 0.10
    drift: float = 0.05
    frequency: float = 0.05
    stolen_cpu: float = 0.05
    values: int = 20
    rounds: int = 5
    processes: int = 3


LIMITS = Limits()


@dataclass(frozen=True)
class Summary:
    """The summary of all values of a case, in ns. `low_ns` to `high_ns` is the 95 % interval of the median.

    `spread` is the interquartile range over the median, `drift` is the median of the last third of the rounds over that
    of the first, minus 1.
    """

    median_ns: float
    low_ns: float
    high_ns: float
    p90_ns: float
    p99_ns: float
    count: int
    spread: float
    drift: float


@dataclass(frozen=True)
class Verdict:
    """Whether to trust a measurement; `reasons` are those against it."""

    reasons: tuple[str, ...] = ()

    @property
    def stable(self) -> bool:
        return not self.reasons

    def __str__(self) -> str:
        return "stable" if self.stable else f"unstable: {'; '.join(self.reasons)}"


def summarize(rounds: Rounds, rounds_per_process: Sequence[int] = ()) -> Summary:
    """`rounds_per_process` is how many of the rounds each process ran. Raises ValueError if there is no value."""
    if not rounds:
        raise ValueError("no value to summarize")
    values = np.concatenate([np.asarray(taken, float) for taken in rounds])
    quarter, median, three_quarters, p90, p99 = np.percentile(values, (25, 50, 75, 90, 99))
    if len(rounds_per_process) > 1:
        off = _half_width(_log_medians(rounds, rounds_per_process))
        low, high = median * math.exp(-off), median * math.exp(off)
    else:
        low, high = np.percentile(_resampled_medians(rounds, np.random.default_rng(_SEED)), (2.5, 97.5))
    return Summary(
        median_ns=float(median),
        low_ns=float(low),
        high_ns=float(high),
        p90_ns=float(p90),
        p99_ns=float(p99),
        count=len(values),
        spread=float((three_quarters - quarter) / median) if median else 0.0,
        drift=_drift(rounds),
    )


def ratio_interval(reference: Case, other: Case) -> tuple[float, float, float]:
    """(ratio of the medians other / reference, and its 95 % interval)."""
    ratio = float(np.median(other.values_ns) / np.median(reference.values_ns))
    if len(reference.rounds_per_process) > 1 and len(other.rounds_per_process) > 1:
        off = _half_width(*(_log_medians(case.rounds_ns, case.rounds_per_process) for case in (reference, other)))
        return ratio, ratio * math.exp(-off), ratio * math.exp(off)
    rng = np.random.default_rng(_SEED)
    low, high = np.percentile(
        _resampled_medians(other.rounds_ns, rng) / _resampled_medians(reference.rounds_ns, rng), (2.5, 97.5)
    )
    return ratio, float(low), float(high)


def verdict(case: Case, run: Run, limits: Limits = LIMITS) -> Verdict:
    """Whether the times of `case`, measured in `run`, can be trusted.

    Counts of instructions are reproducible and always trusted. A sustained run may have only one process.
    """
    if run.emulated:
        return Verdict()
    summary = summarize(case.rounds_ns, case.rounds_per_process)
    reasons = []
    if summary.count < limits.values or len(case.rounds_ns) < limits.rounds:
        reasons.append(
            f"{summary.count} values in {len(case.rounds_ns)} rounds; at least {limits.values} in "
            f"{limits.rounds} are needed"
        )
    if run.settings.sustained_s is None and len(case.rounds_per_process) < limits.processes:
        reasons.append(
            f"of {len(case.rounds_per_process)} processes; at least {limits.processes} are needed to measure how much "
            "they differ"
        )
    # Several threads wait for each other as well.
    share = case.cpu_share if case.threads == 1 else None
    if share is not None and share < 1 - limits.stolen_cpu:
        reasons.append(f"it had the CPU for {share:.0%} of the time: other programs ran on its core")
    if summary.spread > limits.spread:
        reasons.append(f"the interquartile range is {summary.spread:.0%} of the median")
    if abs(summary.drift) > limits.drift:
        reasons.append(f"{summary.drift:+.0%} from the first rounds to the last")
    reasons += _condition_reasons(run.conditions, limits)
    return Verdict(tuple(reasons))


def throttle_words(bits: int) -> str:
    """The current problems in a Raspberry Pi's get_throttled: "under-voltage, throttled"; "" for none."""
    return ", ".join(word for bit, word in enumerate(_THROTTLE) if bits >> bit & 1)


def throttled_now(samples: Sequence[Sample]) -> int:
    """The bits of get_throttled that were set at any time of the measurement, as `throttle_words` takes them."""
    throttled = [one.throttled for one in (sample.conditions for sample in samples) if one.throttled is not None]
    now = 0
    for bits in throttled:
        now |= bits & _NOW
    # A "since boot" bit that was set during the measurement shows an event between two readings.
    return now | ((throttled[-1] & ~throttled[0] & _SINCE_BOOT) >> 16 if throttled else 0)


def _resampled_medians(rounds: Rounds, rng: np.random.Generator) -> np.ndarray:
    """f64[_RESAMPLES]: medians of the same number of resampled whole rounds.

    Values of one round are correlated, because they share its disturbances: resampling single values would make the
    interval too narrow.
    """
    arrays = [np.asarray(taken, float) for taken in rounds]
    drawn = rng.integers(0, len(arrays), (_RESAMPLES, len(arrays)))
    if len({len(taken) for taken in arrays}) == 1:
        # At most some tens of MB at a time, for any length of run.
        stacked, step = np.stack(arrays), max(1, 4_000_000 // sum(map(len, arrays)))
        parts = (drawn[start : start + step] for start in range(0, _RESAMPLES, step))
        return np.concatenate([np.median(stacked[part].reshape(len(part), -1), axis=1) for part in parts])
    return np.array([np.median(np.concatenate([arrays[index] for index in row])) for row in drawn])


def _log_medians(rounds: Rounds, rounds_per_process: Sequence[int]) -> np.ndarray:
    """f64[processes]: the logarithm of the median of each."""
    bounds = pairwise((0, *accumulate(rounds_per_process)))
    return np.log([max(np.median(np.concatenate(rounds[first:last])), 1) for first, last in bounds])


def _half_width(*groups: np.ndarray) -> float:
    """Half of the 95 % interval of a mean of f64[N], or of the difference of two means (Welch), N > 1."""
    parts = [float(group.var(ddof=1)) / len(group) for group in groups]
    if not sum(parts):
        return 0.0
    freedom = sum(parts) ** 2 / sum(part**2 / (len(group) - 1) for part, group in zip(parts, groups, strict=True))
    return _student(freedom) * math.sqrt(sum(parts))


def _student(freedom: float) -> float:
    """The 97.5 % point of Student's t: Abramowitz and Stegun 26.7.5, within 1 % from 2 degrees of freedom."""
    z = 1.959964
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def _drift(rounds: Rounds) -> float:
    third = len(rounds) // 3
    if not third:
        return 0.0
    first, last = (float(np.median(np.concatenate(part))) for part in (rounds[:third], rounds[-third:]))
    return last / first - 1 if first else 0.0


def _condition_reasons(samples: Sequence[Sample], limits: Limits) -> list[str]:
    reasons = []
    during = [sample.conditions for sample in samples if sample.when == "during"]
    if now := throttled_now(samples):
        reasons.append(f"{throttle_words(now)} during the measurement")
    fastest = [max(one.freq_mhz) for one in during if one.freq_mhz]
    if fastest and max(fastest) > (1 + limits.frequency) * min(fastest):
        reasons.append(f"the clock went from {min(fastest):.0f} to {max(fastest):.0f} MHz")
    governors = {sample.conditions.governor for sample in samples}
    if len(governors) > 1:
        reasons.append(f"the governor changed ({', '.join(map(str, sorted(governors, key=str)))})")
    return reasons
