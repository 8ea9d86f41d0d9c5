"""Runs round-trip through JSON, and what is no run is refused with the field that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemobile.errors import EdgemobileError
from edgemobile.records import (
    INSTRUCTION_CLASSES,
    RUN_VERSION,
    Case,
    Conditions,
    Core,
    Facts,
    OpTime,
    Run,
    Sample,
    Settings,
    load_run,
    save_run,
)
from edgemobile.strict_json import decode, encode, parse, to_text

FACTS = Facts(
    "Pi 5",
    "brcm,bcm2712",
    "aarch64",
    (Core(0, "Cortex-A76", 2400.0),),
    ("dotprod",),
    8.0,
    "D",
    "6",
    "3.11",
    64,
    {"litert": "2.3.0"},
)
CONDITIONS = Conditions("ondemand", (2400.0,), 61.25, 0x50000, 0.5, None)


def make_case(**changes: Any) -> Case:
    known: dict[str, Any] = {
        "file": "a; rm -rf ~.tflite",
        "sha256": "0" * 64,
        "bytes": 1,
        "format": "tflite",
        "precision": "int8",
        "input": "int8 NHWC[1, 2, 2, 3]",
        "batch": 2,
        "runtime": "litert",
        "version": "2.3.0",
        "threads": 1,
        "load_ns": 5,
        "first_ns": 6,
        "warmup_ns": (1, 2),
        "rounds_ns": ((10, 20), (30,)),
        "starts": (1, 1),
        "peak_mib": 1.5,
        "runtime_mib": 1.0,
        "partitions": 22,
        "outside": {"HARD_SWISH": 21},
        "instructions": None,
        "profile": (OpTime("conv", "Conv", 1.5),),
        "energy_mj": None,
        "idle_w": None,
    }
    return Case(**{**known, **changes})


def make_run(*cases: Case, **changes: Any) -> Run:
    known: dict[str, Any] = {
        "version": RUN_VERSION,
        "edgemobile": "0.1.0",
        "created": "2026-01-01T00:00:00+00:00",
        "device": "pi5",
        "emulated": False,
        "facts": FACTS,
        "settings": Settings(threads=(1, 4), cores="2-3"),
        "conditions": (Sample("before", 0.0, CONDITIONS), Sample("after", 1.5, CONDITIONS)),
        "cases": cases or (make_case(),),
        "notes": ("a note",),
    }
    return Run(**{**known, **changes})


def test_a_run_comes_back_as_it_was(tmp_path: Path) -> None:
    run = make_run()
    path = tmp_path / "run.json"
    save_run(run, path)
    assert load_run(path) == run
    assert '"warmup_ns": [1, 2]' in path.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_figures_of_a_case() -> None:
    case = make_case()
    assert case.values_ns == (10, 20, 30)
    assert case.median_ns == 20
    assert case.images_per_s == 2e9 / 20


EMULATED = {"load_ns": None, "first_ns": None, "warmup_ns": (), "rounds_ns": (), "starts": ()}
COUNTS = dict.fromkeys(INSTRUCTION_CLASSES, 7)


def test_under_emulation_there_is_no_time() -> None:
    counted = make_case(**EMULATED, instructions=(COUNTS,))
    assert make_run(counted, emulated=True).cases[0].instructions_median["total"] == 7
    with pytest.raises(ValueError, match="time means nothing"):
        make_run(make_case(instructions=(COUNTS,)), emulated=True)
    with pytest.raises(ValueError, match="counts no instructions"):
        make_run(make_case(instructions=(COUNTS,)))
    with pytest.raises(ValueError, match="not emulated is timed"):
        make_run(counted)


def _without(run: dict[str, Any]) -> None:
    del run["cases"][0]["threads"]


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Sets a field of the JSON of a run, by its path; the last is the value."""

    def change(run: Any) -> None:
        *there, key, value = path
        for step in there:
            run = run[step]
        run[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without, r"cases\[0\]: missing threads"),
        (_set("surprise", 1), "unknown 'surprise'"),
        (_set("version", 1), "another version than 3"),
        (_set("emulated", 1), "emulated: expected bool, found 1"),
        (_set("cases", 0, "batch", True), "batch: expected int, found True"),
        (_set("cases", 0, "batch", 0), "batch and threads are at least 1"),
        (_set("cases", 0, "rounds_ns", [[-1]]), "must not be negative"),
        (_set("cases", 0, "rounds_ns", [[]]), "nor a round empty"),
        (_set("cases", 0, "starts", [1, 2]), r"2 rounds are not those of starts of \[1, 2\]"),
        (_set("cases", 0, "starts", [2, 0]), r"2 rounds are not those of starts of \[2, 0\]"),
        (_set("cases", 0, "rounds_ns", [[1.5]]), r"rounds_ns\[0\]\[0\]: expected int, found 1.5"),
        (_set("cases", 0, "sha256", "../../etc"), "64 hexadecimal digits"),
        (_set("cases", 0, "outside", {"A\u001b[2J": 1}), "printable"),
        (_set("cases", 0, "instructions", [{"total": 1}]), "instructions are counts of exactly"),
        (_set("device", "pi\u001b]0;owned\u0007"), "printable"),
        (_set("facts", "model", "x" * 3000), "at most 2000"),
        (_set("facts", "cores", {}), "cores: expected list"),
        (_set("conditions", 0, "when", "later"), "before, during or after"),
        (_set("settings", "threads", []), "threads must be"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str) -> None:
    value = encode(make_run())
    change(value)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(value))
    with pytest.raises(EdgemobileError, match=said) as caught:
        load_run(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": 1, "a": 2}', "a key stands twice"),
        ("[" * 100_000, "not the JSON"),
        ("\udcff", "not the JSON"),
    ],
)
def test_broken_json(text: str, said: str) -> None:
    with pytest.raises(EdgemobileError, match=said):
        parse(text.encode("utf-8", "surrogateescape"), "it", 10**6)


def test_infinity_by_overflow_is_refused() -> None:
    with pytest.raises(EdgemobileError, match="finite"):
        decode(Sample, parse(b'{"when": "before", "at_s": 1e999, "conditions": {}}', "it", 99), "sample")


def test_a_file_that_is_absent_or_something_else(tmp_path: Path) -> None:
    with pytest.raises(EdgemobileError, match="cannot read"):
        load_run(tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(EdgemobileError, match="is no run of edgemobile"):
        load_run(tmp_path / "list.json")


@given(st.lists(st.lists(st.integers(0, 10**12), min_size=1, max_size=5), max_size=5))
def test_any_values_round_trip(rounds: list[list[int]]) -> None:
    case = make_case(rounds_ns=tuple(map(tuple, rounds)), starts=(1,) * len(rounds))
    assert decode(Case, parse(to_text(encode(case)).encode(), "case", 10**6), "case") == case
