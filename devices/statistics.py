"""What a run's raw values say, and whether they can be trusted: median, percentiles, bootstrap intervals, a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgemobile.records import Case, Run, Sample

__all__ = ["LIMITS", "Limits", "Summary", "Verdict", "ratio_interval", "summarize", "throttle_words", "verdict"]

Rounds = Sequence[Sequence[int]]

_RESAMPLES = 1000
_SEED = 0

# Bits of a Raspberry Pi's get_throttled: now in 0 to 3, the same since boot in 16 to 19.
_THROTTLE = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
_NOW, _SINCE_BOOT = 0xF, 0xF0000


@dataclass(frozen=True)
class Limits:
    """Where a measurement stops being trusted. Shares: 0.1 is 10 %."""

    spread: float = 0.10
    drift: float = 0.05
    frequency: float = 0.05
    values: int = 20
    rounds: int = 5


LIMITS = Limits()


@dataclass(frozen=True)
class Summary:
    """Of all values of a case, in ns. `low_ns` to `high_ns` is the 95 % bootstrap interval of the median.

    `spread` is the interquartile range over the median, `drift` the median of the last third of the rounds over that
    of the first, less 1.
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
    """Whether to trust a measurement; `reasons` says why not."""

    reasons: tuple[str, ...] = ()

    @property
    def stable(self) -> bool:
        return not self.reasons

    def __str__(self) -> str:
        return "stable" if self.stable else f"unstable: {'; '.join(self.reasons)}"


def summarize(rounds: Rounds) -> Summary:
    """Raises ValueError where there is no value."""
    if not rounds:
        raise ValueError("no value to summarize")
    values = np.concatenate([np.asarray(taken, float) for taken in rounds])
    quarter, median, three_quarters, p90, p99 = np.percentile(values, (25, 50, 75, 90, 99))
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


def ratio_interval(reference: Rounds, other: Rounds) -> tuple[float, float, float]:
    """(ratio of the medians other / reference, and its 95 % bootstrap interval), rounds resampled on both sides."""
    rng = np.random.default_rng(_SEED)
    ratios = _resampled_medians(other, rng) / _resampled_medians(reference, rng)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return summarize(other).median_ns / summarize(reference).median_ns, float(low), float(high)


def verdict(case: Case, run: Run, limits: Limits = LIMITS) -> Verdict:
    """Whether the times of `case`, taken in `run`, can be trusted.

    Counts of instructions repeat by themselves. In a sustained run heat and drift are what is being measured.
    """
    if run.emulated:
        return Verdict()
    summary = summarize(case.rounds_ns)
    reasons = []
    if summary.count < limits.values or len(case.rounds_ns) < limits.rounds:
        reasons.append(
            f"{summary.count} values in {len(case.rounds_ns)} rounds; at least {limits.values} in {limits.rounds}"
        )
    if run.settings.sustained_s is None:
        if summary.spread > limits.spread:
            reasons.append(f"half of all values spread over {summary.spread:.0%} of the median")
        if abs(summary.drift) > limits.drift:
            reasons.append(f"{summary.drift:+.0%} from the first rounds to the last")
        reasons += _condition_reasons(run.conditions, limits)
    return Verdict(tuple(reasons))


def throttle_words(bits: int) -> str:
    """What is the matter now, of a Raspberry Pi's get_throttled: "under-voltage, throttled"; "" for nothing."""
    return ", ".join(word for bit, word in enumerate(_THROTTLE) if bits >> bit & 1)


def _resampled_medians(rounds: Rounds, rng: np.random.Generator) -> np.ndarray:
    """f64[_RESAMPLES]: the median of as many whole rounds, drawn again.

    Values of one round lie close together, as they share its disturbance: drawing single values would make the interval
    too narrow.
    """
    arrays = [np.asarray(taken, float) for taken in rounds]
    drawn = rng.integers(0, len(arrays), (_RESAMPLES, len(arrays)))
    if len({len(taken) for taken in arrays}) == 1:
        # At most some tens of MB at a time, however long the run was.
        stacked, step = np.stack(arrays), max(1, 4_000_000 // sum(map(len, arrays)))
        parts = (drawn[start : start + step] for start in range(0, _RESAMPLES, step))
        return np.concatenate([np.median(stacked[part].reshape(len(part), -1), axis=1) for part in parts])
    return np.array([np.median(np.concatenate([arrays[index] for index in row])) for row in drawn])


def _drift(rounds: Rounds) -> float:
    third = len(rounds) // 3
    if not third:
        return 0.0
    first, last = (float(np.median(np.concatenate(part))) for part in (rounds[:third], rounds[-third:]))
    return last / first - 1 if first else 0.0


def _condition_reasons(samples: Sequence[Sample], limits: Limits) -> list[str]:
    reasons = []
    during = [sample.conditions for sample in samples if sample.when == "during"]
    throttled = [one.throttled for one in (sample.conditions for sample in samples) if one.throttled is not None]
    now = 0
    for bits in throttled:
        now |= bits & _NOW
    # A bit of "since boot" that came up while we measured tells of a moment between two looks.
    now |= (throttled[-1] & ~throttled[0] & _SINCE_BOOT) >> 16 if throttled else 0
    if now:
        reasons.append(f"{throttle_words(now)} during the measurement")
    fastest = [max(one.freq_mhz) for one in during if one.freq_mhz]
    if fastest and max(fastest) > (1 + limits.frequency) * min(fastest):
        reasons.append(f"the clock went from {min(fastest):.0f} to {max(fastest):.0f} MHz")
    governors = {sample.conditions.governor for sample in samples}
    if len(governors) > 1:
        reasons.append(f"the governor changed ({', '.join(map(str, sorted(governors, key=str)))})")
    return reasons
