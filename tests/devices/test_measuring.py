"""How many inferences in which order, cooling, energy: on cases and sensors made here."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemobile.devices.board import measuring
from edgemobile.devices.runtimes.sessions import Delegation, Port, Session, _delegation
from edgemobile.errors import EdgemobileError, Unsupported

QUIET = {"governor": None, "freq_mhz": None, "temp_c": None, "throttled": None, "load1": None, "available_mib": None}


class _Session(Session):
    runtime, version = "fake", "1"

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls
        self.input = self.output = Port("x", (1, 3), "float32")

    def invoke(self, prepared: np.ndarray) -> np.ndarray:
        self.calls.append(self.name)
        return prepared


class _Job:
    def __init__(self, **settings: Any) -> None:
        unset = dict.fromkeys(("runs", "seconds", "processes", "sustained_s", "cooldown_c"))
        self.spec = {"settings": {**unset, **settings}}
        self.folder = Path()
        self.events: list[dict[str, Any]] = []

    def emit(self, event: str, **facts: Any) -> None:
        self.events.append({"event": event, **facts})

    def check(self) -> None: ...


def _cases(calls: list[str], names: str = "ab") -> list[measuring._Case]:
    return [measuring._Case({"file": name}, 1, _Session(name, calls), [np.zeros(3)]) for name in names]


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(measuring, "conditions", lambda: dict(QUIET))
    return


def test_cases_take_turns_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "warm_up_ns", lambda invoke: [1])
    calls: list[str] = []
    cases = _cases(calls)
    measuring._time(_Job(runs=20, processes=1), cases, measuring._ConditionsLog(0), 0)
    # A warm call and two that count; every round begins with the other.
    assert "".join(calls) == "aaabbbbbbaaa" * 5
    assert [[len(taken) for taken in case.rounds_ns] for case in cases] == [[2] * 10] * 2
    assert [len(case.warmup_ns) for case in cases] == [1 + 10] * 2


def test_counted_inferences_stand_between_their_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some warm it up before, between marks that nobody counts; the numbers go on from file to file."""
    calls: list[str] = []
    monkeypatch.setattr(
        measuring, "_mark", lambda which, value: calls.append(str(value) if which == measuring.MARK else "-")
    )
    for number, case in enumerate(_cases(calls)):
        measuring._count(_Job(), case, 2 * number, 2)
    warm = measuring._COUNTED_WARMUPS
    assert measuring._NO_MARK != measuring.MARK
    assert " ".join(calls) == f"{'- a - ' * warm}0 a 1 2 a 3 {'- b - ' * warm}4 b 5 6 b 7"


def test_other_memory_is_read_before_each_counted_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as asked for, an element of every line, and outside of the marks."""
    calls: list[str] = []

    class _Read:
        def sum(self) -> None:
            calls.append("read")

    assert measuring._displacing(6400).strides == (64,)
    assert (len(measuring._displacing(6400)), len(measuring._displacing(0))) == (100, 0)
    monkeypatch.setattr(measuring, "_displacing", lambda count: calls.append(str(count)) or _Read())
    monkeypatch.setattr(measuring, "_mark", lambda which, value: calls.append("-"))
    (case,) = _cases(calls, "a")
    measuring._count(_Job(), case, 0, 1, 6400)
    assert " ".join(calls) == "6400" + " read - a -" * (measuring._COUNTED_WARMUPS + 1)


@pytest.mark.parametrize(
    ("runs", "block", "rounds"),
    [(1, 1, [1]), (3, 1, [1, 1, 1]), (7, 1, [2, 2, 1, 1, 1]), (25, 3, [2, 2, 2, 2, 1]), (1000, 100, [2] * 5)],
)
def test_runs_are_cut_into_about_ten_rounds_of_five_processes(runs: int, block: int, rounds: list[int]) -> None:
    settings, cases = _Job(runs=runs).spec["settings"], _cases([], "a")
    assert measuring._processes(settings) == len(rounds)
    plans = [measuring._plan(settings, cases, number) for number in range(len(rounds))]
    assert [least for _, least, _ in plans] == rounds
    assert all((list(blocks.values()), seconds) == ([block], 0) for blocks, _, seconds in plans)


@pytest.mark.parametrize(("ms", "block", "timed_block"), [(0.1, 100, 100), (2, 25, 25), (10, 10, 5), (200, 10, 3)])
def test_a_block_is_a_twentieth_of_a_second(ms: float, block: int, timed_block: int) -> None:
    cases = _cases([], "ab")
    for case in cases:
        case.warmup_ns = [int(ms * 1e6)] * 10
    blocks, least, seconds = measuring._plan(_Job().spec["settings"], cases, 0)
    assert (set(blocks.values()), least, seconds) == ({block}, 2, 0)
    blocks, least, seconds = measuring._plan(_Job(seconds=3).spec["settings"], cases, 0)
    assert (set(blocks.values()), least, seconds) == ({timed_block}, 1, pytest.approx(6 / 5))
    assert measuring._plan(_Job(sustained_s=600).spec["settings"], cases, 0)[2] == 600


def test_processes_are_joined() -> None:
    first = {"file": "a", "warmup_ns": [1], "rounds_ns": [[2], [3]], "rounds_per_process": [2], "load_ns": 9}
    first |= {"rounds_wall_ns": [2, 3], "rounds_cpu_ns": [1, 1]}
    first |= {"profile": None, "energy_mj": None, "idle_w": None}
    second = {**first, "warmup_ns": [4], "rounds_ns": [[5]], "rounds_per_process": [1], "load_ns": 8, "energy_mj": 7.0}
    second |= {"rounds_wall_ns": [6], "rounds_cpu_ns": [4]}
    (joined,) = measuring._joined([first], [second])
    assert joined == {
        **first,
        "warmup_ns": [1, 4],
        "rounds_ns": [[2], [3], [5]],
        "rounds_per_process": [2, 1],
        "rounds_wall_ns": [2, 3, 6],
        "rounds_cpu_ns": [1, 1, 4],
        "energy_mj": 7.0,
    }


def test_conditions_are_seen_during_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = itertools.count(0, 0.3)
    monkeypatch.setattr(measuring.time, "monotonic", lambda: next(moments))
    log = measuring._ConditionsLog(0)
    for when in ("before", *["during"] * 6, "after"):
        log.sample(when)
    # At most one sample per half second.
    assert [sample["when"] for sample in log.samples] == ["before", "during", "during", "during", "after"]


def test_cooling_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine here throttles: the temperatures are synthetic."""
    temperatures = iter([71.0, 65.0, 60.0])
    monkeypatch.setattr(measuring, "conditions", lambda: {**QUIET, "temp_c": next(temperatures)})
    naps: list[float] = []
    monkeypatch.setattr(measuring.time, "sleep", naps.append)
    job = _Job()
    measuring._cool(job, 60)
    assert len(naps) == 2
    assert [event["temp_c"] for event in job.events] == [71.0, 65.0]


def test_cooling_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unsupported, match="this board does not report one"):
        measuring._cool(_Job(), 60)
    monkeypatch.setattr(measuring, "conditions", lambda: {**QUIET, "temp_c": 80.0})
    monkeypatch.setattr(measuring.time, "sleep", lambda s: None)
    with pytest.raises(EdgemobileError, match="at 80 C and does not cool to 60 C"):
        measuring._cool(_Job(), 60)


def test_energy_is_power_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 W while 1000 inferences take 2 s are 10 mJ each."""
    measured = iter([(2.0, 1.0), (5.0, 0.002)])
    monkeypatch.setattr(measuring, "power_w", lambda: 5.0)
    monkeypatch.setattr(measuring, "_mean_power_w", lambda call, seconds: next(measured))
    (case,) = cases = _cases([], "a")
    measuring._measure_energy(_Job(), cases)
    assert case.extra == {"energy_mj": pytest.approx(10), "idle_w": 2.0}


def test_power_is_watched_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "power_w", lambda: 4.0)
    monkeypatch.setattr(measuring, "_POWER_EVERY_S", 0.01)
    calls: list[str] = []
    watts, seconds = measuring._mean_power_w(lambda: calls.append("x") or measuring.time.sleep(0.01), 0.1)
    assert watts == 4.0
    assert 0.005 < seconds < 0.1
    assert calls


def test_no_sensor_no_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "power_w", lambda: None)
    (case,) = cases = _cases([], "a")
    measuring._measure_energy(_Job(), cases)
    assert case.extra == {}


def _op(index: int, name: str, inputs: list[int], outputs: list[int]) -> dict[str, Any]:
    return {"index": index, "op_name": name, "inputs": np.array(inputs), "outputs": np.array(outputs)}


def test_what_runs_outside_of_the_delegate() -> None:
    """conv and add are in one partition, hard-swish is not, the last conv is in another; a constant has no maker."""
    ops = [
        _op(0, "CONV_2D", [0, 90], [1]),
        _op(1, "ADD", [1, 0], [2]),
        _op(2, "HARD_SWISH", [2], [3]),
        _op(3, "CONV_2D", [3, 91], [4]),
        _op(4, "DELEGATE", [0, 90], [2]),
        _op(5, "DELEGATE", [3, 91], [4]),
    ]
    assert _delegation(ops, [4]) == Delegation(2, {"HARD_SWISH": 1})
    assert _delegation(ops[:4], [4]) == Delegation(0, {"ADD": 1, "CONV_2D": 2, "HARD_SWISH": 1})
