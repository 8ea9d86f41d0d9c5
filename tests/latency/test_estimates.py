"""From cycles and misses to milliseconds on a board."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import make_counted, make_run

from edgemobile.devices.host.counting import CacheMisses
from edgemobile.devices.host.emulation import CORES
from edgemobile.devices.host.estimating import Estimate
from edgemobile.latency.compare import compare
from edgemobile.latency.estimates import BOARDS, COSTS, KNOWN_ERRORS, Costs, caveat, on_boards
from edgemobile.latency.run import advice

ESTIMATE = Estimate(
    "cortex-a72",
    36e6,
    (CacheMisses(2_000_000, 1_900_000), CacheMisses(500_000, 480_000)),
    0.999,
    "cortex-a72",
    "19.1.7",
)


def test_a_clock_divides_the_cycles_of_the_core_and_leaves_memory_as_it_is() -> None:
    slow, fast = on_boards(ESTIMATE)
    assert [one.board.words for one in (slow, fast)] == ["Raspberry Pi 4, 1.5 GHz", "Raspberry Pi 4, 1.8 GHz"]
    assert slow.ms == pytest.approx(slow.cycles / 1.5e6)
    assert fast.ms < slow.ms < fast.ms * 1.2
    (said,) = on_boards(ESTIMATE, 1500)
    assert (said.board.words, said.ms) == ("1.5 GHz", slow.ms)


def test_what_a_miss_costs() -> None:
    """By hand: 1.5 M lines out of L2, 80,000 of them unforeseen; 0.5 M out of memory, 20,000 of them unforeseen."""
    costs = Costs(1.0, (4.0,), (12.0,), 6.4, 100.0)
    expected = 1_500_000 * 4 + 80_000 * 12 + (500_000 * 64 / 6.4 + 20_000 * 100) * 1.5
    assert costs.memory_cycles(ESTIMATE, 1500) == pytest.approx(expected)
    none = replace(ESTIMATE, caches=(CacheMisses(0, 0), CacheMisses(0, 0)))
    assert costs.memory_cycles(none, 1500) == 0


def test_every_core_has_a_board_and_memory_of_as_many_levels() -> None:
    for cpu, core in CORES.items():
        assert any(board.core == cpu for board in BOARDS)
        assert len(COSTS[cpu].line_cycles) == len(COSTS[cpu].latency_cycles) == len(core.caches) - 1


def test_the_caveat_says_estimated_the_model_and_the_error() -> None:
    words = caveat(ESTIMATE)
    for part in ("estimated, not measured", "llvm-mca 19.1.7's model of cortex-a72", "one thread", "% on average"):
        assert part in words


def test_runs_compare_by_counts_with_the_estimate_beside() -> None:
    float32, int8 = (make_run(make_counted(totals=(total,), estimate=one)) for total, one in _PAIR)
    (pair,) = compare(float32, int8).pairs
    assert pair.ratio == pytest.approx(1.1)
    assert pair.estimated_ratio is not None
    assert pair.estimated_ratio < 1
    (alone,) = compare(float32, make_run(make_counted(totals=(1_100_000,)))).pairs
    assert alone.estimated_ratio is None


def test_more_instructions_in_fewer_cycles_are_not_called_slower() -> None:
    cases = [
        make_counted(file, precision=precision, totals=(total,), estimate=one)
        for (file, precision), (total, one) in zip((("f.tflite", "float32"), ("q.tflite", "int8")), _PAIR, strict=True)
    ]
    assert advice(make_run(*cases)) == []
    assert advice(make_run(*(replace(case, estimate=None) for case in cases)))


_PAIR = ((1_000_000, ESTIMATE), (1_100_000, replace(ESTIMATE, compute_cycles=20e6)))


def test_the_errors_are_those_of_the_page(repo_root: Path) -> None:
    """Mean and largest error of the MobileNets on the boards with a core, from the table of single figures."""
    page = (repo_root / "docs/estimates.md").read_text()
    found = re.findall(r"^\| (mobilenet\w*) \| (.+?), [\d.]+ GHz \| ([\d.]+) ms \| ([\d.]+) ms \|", page, re.M)
    for cpu, known in KNOWN_ERRORS.items():
        boards = {board.name for board in BOARDS if board.core == cpu}
        errors = [abs(float(estimated) / float(ms) - 1) for _, board, ms, estimated in found if board in boards]
        assert known.figures == len(errors)
        assert known.mean == pytest.approx(sum(errors) / len(errors), abs=0.005)
        assert known.largest == pytest.approx(max(errors), abs=0.005)
