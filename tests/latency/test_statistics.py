"""Intervals, ratios and the verdict on made values, where the right answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from made_runs import make_case, make_run

from edgemobile.devices.host.records import Case, Conditions, Run, Sample, Settings
from edgemobile.latency.statistics import Verdict, _student, ratio_interval, summarize, throttle_words, verdict

CALM = Conditions("performance", (2400.0, 600.0), 50.0, 0, 0.1, 1000.0)


def _run(case: Case, during: Sequence[Conditions] = (CALM, CALM), **changes: Any) -> Run:
    samples = [Sample("during", float(at), one) for at, one in enumerate(during)]
    conditions = (Sample("before", 0.0, CALM), *samples, Sample("after", 9.0, during[-1]))
    return make_run(case, conditions=conditions, **changes)


def _rounds(scale: Sequence[float] = (1.0,) * 10) -> list[list[int]]:
    """10 rounds of 10 values around 1 ms, 1 % apart; a factor a round."""
    rng = np.random.default_rng(0)
    return [[int(factor * value) for value in rng.normal(1e6, 1e4, 10)] for factor in scale]


def test_a_summary_of_known_values() -> None:
    found = summarize([[100, 110], [120, 130], [140]])
    assert (found.median_ns, found.count) == (120, 5)
    assert found.p90_ns == pytest.approx(136)
    assert found.spread == pytest.approx(20 / 120)
    assert found.low_ns <= found.median_ns <= found.high_ns
    with pytest.raises(ValueError, match="no value"):
        summarize([])


def test_identical_values_have_an_interval_of_nothing() -> None:
    found = summarize([[7, 7]] * 5)
    assert (found.low_ns, found.high_ns, found.spread, found.drift) == (7, 7, 0, 0)


def test_the_interval_covers_the_true_median_about_95_times_of_100() -> None:
    rng, inside = np.random.default_rng(1), 0
    for _ in range(100):
        found = summarize((rng.lognormal(0, 0.1, (20, 5)) * 1e6).tolist())
        inside += found.low_ns <= 1e6 <= found.high_ns
    assert 88 <= inside <= 100


def test_rounds_are_drawn_whole() -> None:
    """Values of a disturbed round go together: drawn singly, the interval would be several times too narrow."""
    disturbed = [[1000 + 10 * index] * 50 for index in range(10)]
    found = summarize(disturbed)
    assert found.high_ns - found.low_ns > 40
    singly = summarize([[value] for taken in disturbed for value in taken])
    assert singly.high_ns - singly.low_ns <= 20


def test_a_long_round_counts_as_all_its_values() -> None:
    found = summarize([[1000] * 50] * 5 + [[2000]] * 5)
    assert (found.median_ns, found.low_ns, found.high_ns) == (1000, 1000, 1000)


@pytest.mark.parametrize("rounds_per_process", [(10,), (2,) * 5])
def test_ratios(rounds_per_process: tuple[int, ...]) -> None:
    once, twice = (
        make_case(
            rounds_ns=[[scale * value for value in taken] for taken in _rounds()], rounds_per_process=rounds_per_process
        )
        for scale in (1, 2)
    )
    assert ratio_interval(once, once)[0] == 1
    ratio, low, high = ratio_interval(once, twice)
    assert ratio == pytest.approx(2)
    assert 1.98 < low <= 2 <= high < 2.02


def _processes(rng: np.random.Generator, count: int = 5) -> Case:
    """10 rounds of 1 ms in so many processes: 0.3 % apart within a process, and each process 2 % off by luck."""
    luck = rng.normal(1, 0.02, count).repeat(10 // count)
    rounds = [(one * rng.normal(1e6, 3e3, 10)).astype(int).tolist() for one in luck]
    return make_case(rounds_ns=rounds, rounds_per_process=(10 // count,) * count)


def test_equal_files_differ_about_5_times_of_100() -> None:
    """Though each process has its luck; within one process, nearly all pairs would differ."""
    rng = np.random.default_rng(3)

    def apart(count: int) -> int:
        pairs = [(_processes(rng, count), _processes(rng, count)) for _ in range(200)]
        return sum(low > 1 or high < 1 for _, low, high in (ratio_interval(*pair) for pair in pairs))

    assert 2 <= apart(5) <= 20
    assert apart(1) > 150


def test_the_interval_covers_the_true_median_of_all_processes() -> None:
    rng = np.random.default_rng(4)
    found = [summarize(case.rounds_ns, case.rounds_per_process) for case in (_processes(rng) for _ in range(200))]
    assert 180 <= sum(one.low_ns <= 1e6 <= one.high_ns for one in found) <= 198


@pytest.mark.parametrize(("freedom", "point"), [(2, 4.303), (4, 2.776), (8, 2.306), (30, 2.042)])
def test_students_t_is_that_of_the_tables(freedom: float, point: float) -> None:
    assert _student(freedom) == pytest.approx(point, rel=0.01)


@pytest.mark.parametrize(
    ("rounds", "during", "reason"),
    [
        (_rounds(), (CALM, CALM), None),
        ([[1_000_000] * 4] * 4, (CALM,), "16 values in 4 rounds; at least 20 in 5"),
        ([[900_000, 1_000_000, 1_100_000] * 4] * 5, (CALM,), "the interquartile range is 20%"),
        (_rounds(np.linspace(1, 1.1, 10).tolist()), (CALM,), "+8% from the first rounds to the last"),
        (
            _rounds(),
            (CALM, Conditions("performance", (1500.0, 600.0), 84.0, 0, 1, 1)),
            "the clock went from 1500 to 2400",
        ),
        (_rounds(), (Conditions("performance", None, 84.0, 0x50005, 1, 1),), "under-voltage, throttled during"),
        (_rounds(), (Conditions("performance", None, 84.0, 0x80000, 1, 1),), "soft temperature limit during"),
        (
            _rounds(),
            (Conditions("powersave", None, None, None, None, None),),
            "governor changed (performance, powersave)",
        ),
    ],
)
def test_the_verdict_has_a_reason(rounds: list[list[int]], during: tuple[Conditions, ...], reason: str | None) -> None:
    case = make_case(rounds_ns=rounds)
    found = verdict(case, _run(case, during))
    assert found.stable is (reason is None)
    if reason is not None:
        assert reason in str(found)


def test_what_happened_before_the_run_does_not_count() -> None:
    """Bits "since boot" that stood already, and a clock that idled before."""
    old = Conditions("performance", (2400.0,), 50.0, 0x50000, 0.1, 1000.0)
    case = make_case(rounds_ns=_rounds())
    idle = Sample("before", 0.0, Conditions("performance", (600.0,), 40.0, 0x50000, 0.1, 1000.0))
    run = _run(case, (old, old))
    run = Run(**{**vars(run), "conditions": (idle, *run.conditions[1:])})
    assert verdict(case, run) == Verdict()


@pytest.mark.parametrize("settings", [Settings(), Settings(sustained_s=600)])
def test_a_sustained_run_is_asked_for_drift_and_throttling_as_others_are(settings: Settings) -> None:
    case = make_case(rounds_ns=_rounds(np.linspace(1, 1.235, 10).tolist()))
    hot = Conditions("performance", (2400.0,), 85.0, 0x40004, 4, 1)
    reasons = verdict(case, _run(case, (CALM, hot), settings=settings)).reasons
    assert any("from the first rounds to the last" in reason for reason in reasons)
    assert any("throttled during the measurement" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("share", "threads", "stable"), [(0.99, 1, True), (0.9, 1, False), (0.9, 4, True), (2.9, 4, True)]
)
def test_a_cpu_that_was_shared(share: float, threads: int, stable: bool) -> None:
    """The values themselves are calm: the median does not see who was interrupted now and then."""
    wall = (10**7,) * 10
    cpu = tuple(int(share * one) for one in wall)
    case = make_case(rounds_ns=_rounds(), threads=threads, rounds_wall_ns=wall, rounds_cpu_ns=cpu)
    found = verdict(case, _run(case))
    assert found.stable is stable
    assert stable or found.reasons == ("it had the CPU for 90% of the time: other programs ran on its core",)


def test_one_process_does_not_show_how_far_processes_differ() -> None:
    case = make_case(rounds_ns=_rounds(), rounds_per_process=(10,))
    assert "of 1 processes; at least 3 are needed" in str(verdict(case, _run(case)))
    assert verdict(case, _run(case, settings=Settings(sustained_s=600))).stable


def test_throttle_words() -> None:
    assert throttle_words(0) == ""
    assert throttle_words(0b1001) == "under-voltage, soft temperature limit"
