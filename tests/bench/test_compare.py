"""Two runs against each other: what pairs, what is refused, and when it is a regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgemobile.bench.compare import Judgement, compare
from edgemobile.errors import EdgemobileError
from edgemobile.records import INSTRUCTION_CLASSES, RUN_VERSION, Case, Conditions, Core, Facts, Run, Sample, Settings

FACTS = Facts("Pi 5", None, "aarch64", (Core(0, "Cortex-A76", None),), ("dotprod",), 1.0, "D", "6", "3.11", 64, {})


def _case(file: str = "a.tflite", ms: float = 1.0, threads: int = 1, **changes: Any) -> Case:
    """10 rounds of 10 values around `ms`, 1 % apart."""
    values = np.random.default_rng(0).normal(ms * 1e6, ms * 1e4, (10, 10)).astype(int).tolist()
    unknown = ("peak_mib", "runtime_mib", "partitions", "outside", "instructions", "profile", "energy_mj", "idle_w")
    known: dict[str, Any] = {
        "file": file,
        "sha256": "0" * 64,
        "bytes": 1,
        "format": "tflite",
        "precision": "int8",
        "input": "int8 NHWC[1, 2, 2, 3]",
        "batch": 1,
        "runtime": "litert",
        "version": "2.3.0",
        "threads": threads,
        "load_ns": 1,
        "first_ns": 1,
        "warmup_ns": (1,),
        "rounds_ns": tuple(map(tuple, values)),
        "starts": (1,) * len(values),
        **dict.fromkeys(unknown),
    }
    return Case(**{**known, **changes})


def _counted(total: Sequence[int]) -> Case:
    counts = tuple({**dict.fromkeys(INSTRUCTION_CLASSES, 0), "total": one, "other": one} for one in total)
    return _case(load_ns=None, first_ns=None, warmup_ns=(), rounds_ns=(), starts=(), instructions=counts)


def _run(*cases: Case, **changes: Any) -> Run:
    calm = Sample("before", 0.0, Conditions("performance", None, None, None, None, None))
    known: dict[str, Any] = {
        "version": RUN_VERSION,
        "edgemobile": "0",
        "created": "2026",
        "device": "pi5",
        "emulated": bool(cases[0].instructions),
        "facts": FACTS,
        "settings": Settings(),
        "conditions": (calm,),
        "cases": cases,
    }
    return Run(**{**known, **changes})


def test_a_run_against_itself() -> None:
    run = _run(_case(), _case("b.tflite", 2.0))
    compared = compare(run, run)
    assert [pair.ratio for pair in compared.pairs] == [1.0, 1.0]
    assert all(pair.low <= 1 <= pair.high for pair in compared.pairs)
    assert (compared.unlike, compared.unpaired) == ((), ())
    assert compared.pairs[0].judge(0) is Judgement.PASSED


def test_pairs_are_by_name_and_threads() -> None:
    ours = _run(_case("x/a.tflite"), _case("x/a.tflite", threads=4), _case("gone.tflite"))
    theirs = _run(_case("y/a.tflite", 1.2), _case("y/a.tflite", 0.5, threads=4), _case("new.tflite"))
    compared = compare(ours, theirs)
    assert [pair.ratio for pair in compared.pairs] == pytest.approx([1.2, 0.5], rel=1e-3)
    assert sorted(compared.unpaired) == ["gone.tflite (threads: 1)", "new.tflite (threads: 1)"]


def test_one_file_each_is_a_pair_under_any_name() -> None:
    assert compare(_run(_case("old.tflite")), _run(_case("new.tflite", 3.0))).pairs[0].ratio == pytest.approx(
        3, rel=1e-3
    )


def test_nothing_to_compare() -> None:
    ours, theirs = _run(_case("a.tflite"), _case("b.tflite")), _run(_case("c.tflite"), _case("d.tflite"))
    with pytest.raises(EdgemobileError, match=r"a.tflite, b.tflite against c.tflite, d.tflite"):
        compare(ours, theirs)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (_run(_case(), device="pi4"), "device pi5 against pi4"),
        (_run(_case(), facts=replace(FACTS, model="Pi 4")), "board Pi 5 against Pi 4"),
        (_run(_case(), facts=replace(FACTS, features=())), "CPU features dotprod against"),
        (_run(_case(version="2.4.0")), "runtime litert 2.3.0 against litert 2.4.0"),
        (_run(_case(threads=4)), "threads 1 against 4"),
        (_run(_case(batch=8)), "batch 1 against 8"),
        (_run(_case(), settings=Settings(cores="2-3")), "pinned to nothing against 2-3"),
        (_run(_case(), settings=Settings(sustained_s=60)), "sustained for nothing against 60"),
        (_run(_case(), conditions=()), "governor performance against nothing"),
    ],
)
def test_unlike_runs_are_refused_unless_told(other: Run, said: str) -> None:
    with pytest.raises(EdgemobileError, match=said):
        compare(_run(_case()), other)
    assert any(said in words for words in compare(_run(_case()), other, allow_unlike=True).unlike)


def test_time_and_instructions_never_compare() -> None:
    with pytest.raises(EdgemobileError, match="never compare"):
        compare(_run(_case()), _run(_counted([5])), allow_unlike=True)


def test_regressed_passed_or_unsure() -> None:
    pair = compare(_run(_case()), _run(_case(ms=1.1))).pairs[0]
    assert pair.judge(0.05) is Judgement.REGRESSED
    assert pair.judge(0.2) is Judgement.PASSED
    # 1.1 with an interval of some per mille around it.
    assert pair.judge(pair.ratio - 1 - 1e-6) is Judgement.UNSURE
    assert compare(_run(_case()), _run(_case(ms=0.5))).pairs[0].judge(0) is Judgement.PASSED


def test_instructions_are_exact() -> None:
    pair = compare(_run(_counted([1000, 1000, 1000])), _run(_counted([1020, 1020, 1020]))).pairs[0]
    assert (pair.unit, pair.ratio, pair.low, pair.high) == ("instructions", 1.02, 1.02, 1.02)
    assert pair.judge(0.01) is Judgement.REGRESSED
    assert pair.judge(0.02) is Judgement.PASSED


def test_counts_that_vary_give_the_widest_ratio_there_is() -> None:
    pair = compare(_run(_counted([1000, 1010, 1250])), _run(_counted([1000, 1111, 2000]))).pairs[0]
    assert (pair.ratio, pair.low, pair.high) == (1.1, 0.8, 2.0)
    assert pair.judge(0.05) is Judgement.UNSURE
