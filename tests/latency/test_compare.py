"""Two runs against each other: what pairs, what is refused, and when it is a regression."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_runs import FACTS, make_case, make_counted, make_run

from edgemobile.devices.host.records import Run, Settings
from edgemobile.errors import EdgemobileError
from edgemobile.latency.compare import Judgement, compare


def test_a_run_against_itself() -> None:
    run = make_run(make_case(), make_case("b.tflite", 2.0))
    compared = compare(run, run)
    assert [pair.ratio for pair in compared.pairs] == [1.0, 1.0]
    assert all(pair.low <= 1 <= pair.high for pair in compared.pairs)
    assert (compared.unlike, compared.unpaired) == ((), ())
    assert compared.pairs[0].judge(0) is Judgement.PASSED


def test_pairs_are_by_name_and_threads() -> None:
    ours = make_run(make_case("x/a.tflite"), make_case("x/a.tflite", threads=4), make_case("gone.tflite"))
    theirs = make_run(make_case("y/a.tflite", 1.2), make_case("y/a.tflite", 0.5, threads=4), make_case("new.tflite"))
    compared = compare(ours, theirs)
    assert [pair.ratio for pair in compared.pairs] == pytest.approx([1.2, 0.5], rel=1e-3)
    assert sorted(compared.unpaired) == ["gone.tflite (threads: 1)", "new.tflite (threads: 1)"]


def test_one_file_each_is_a_pair_under_any_name() -> None:
    (pair,) = compare(make_run(make_case("old.tflite")), make_run(make_case("new.tflite", 3.0))).pairs
    assert pair.ratio == pytest.approx(3, rel=1e-3)


def test_nothing_to_compare() -> None:
    ours = make_run(make_case("a.tflite"), make_case("b.tflite"))
    theirs = make_run(make_case("c.tflite"), make_case("d.tflite"))
    with pytest.raises(EdgemobileError, match=r"a.tflite, b.tflite against c.tflite, d.tflite"):
        compare(ours, theirs)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (make_run(make_case(), device="pi4"), "device pi5 against pi4"),
        (make_run(make_case(), facts=replace(FACTS, model="Pi 4")), "board Pi 5 against Pi 4"),
        (make_run(make_case(), facts=replace(FACTS, features=())), "CPU features dotprod against"),
        (make_run(make_case(version="2.4.0")), "runtime litert 2.3.0 against litert 2.4.0"),
        (make_run(make_case(threads=4)), "threads 1 against 4"),
        (make_run(make_case(batch=8)), "batch 1 against 8"),
        (make_run(make_case(), settings=Settings(cores="2-3")), "pinned to nothing against 2-3"),
        (make_run(make_case(), settings=Settings(sustained_s=60)), "sustained for nothing against 60"),
        (make_run(make_case(), conditions=()), "governor performance against nothing"),
    ],
)
def test_unlike_runs_are_refused_unless_told(other: Run, said: str) -> None:
    with pytest.raises(EdgemobileError, match=said):
        compare(make_run(make_case()), other)
    assert any(said in words for words in compare(make_run(make_case()), other, allow_unlike=True).unlike)


def test_time_and_instructions_never_compare() -> None:
    with pytest.raises(EdgemobileError, match="cannot be compared"):
        compare(make_run(make_case()), make_run(make_counted(totals=[5])), allow_unlike=True)


def test_regressed_passed_or_unsure() -> None:
    pair = compare(make_run(make_case()), make_run(make_case(ms=1.1))).pairs[0]
    assert pair.judge(0.05) is Judgement.REGRESSED
    assert pair.judge(0.2) is Judgement.PASSED
    # 1.1 with an interval of some per mille around it.
    assert pair.judge(pair.ratio - 1 - 1e-6) is Judgement.UNSURE
    assert compare(make_run(make_case()), make_run(make_case(ms=0.5))).pairs[0].judge(0) is Judgement.PASSED


def test_instructions_are_exact() -> None:
    ours, theirs = (make_run(make_counted(totals=[total] * 3)) for total in (1000, 1020))
    (pair,) = compare(ours, theirs).pairs
    assert (pair.unit, pair.ratio, pair.low, pair.high) == ("instructions", 1.02, 1.02, 1.02)
    assert pair.judge(0.01) is Judgement.REGRESSED
    assert pair.judge(0.02) is Judgement.PASSED


def test_counts_that_vary_give_the_widest_ratio_there_is() -> None:
    ours, theirs = (make_run(make_counted(totals=totals)) for totals in ([1000, 1010, 1250], [1000, 1111, 2000]))
    (pair,) = compare(ours, theirs).pairs
    assert (pair.ratio, pair.low, pair.high) == (1.1, 0.8, 2.0)
    assert pair.judge(0.05) is Judgement.UNSURE
