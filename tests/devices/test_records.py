"""Runs round-trip through JSON, and what is no run is refused with the field that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import make_case, make_run

from edgemobile.devices.host.records import (
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
from edgemobile.devices.runtimes.job import INSTRUCTION_CLASSES, JobSettings
from edgemobile.errors import EdgemobileError
from edgemobile.util.strict_json import decode, encode, parse, to_text

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


def _case(**changes: Any) -> Case:
    known = {
        "batch": 2,
        "warmup_ns": (1, 2),
        "rounds_ns": ((10, 20), (30,)),
        "peak_mib": 1.5,
        "runtime_mib": 1.0,
        "partitions": 22,
        "outside": {"HARD_SWISH": 21},
        "profile": (OpTime("conv", "Conv", 1.5),),
    }
    return make_case("a; rm -rf ~.tflite", **{**known, **changes})


def _run(*cases: Case, **changes: Any) -> Run:
    known = {
        "emulated": False,
        "facts": FACTS,
        "settings": Settings(threads=(1, 4), cores="2-3"),
        "conditions": (Sample("before", 0.0, CONDITIONS), Sample("after", 1.5, CONDITIONS)),
        "notes": ("a note",),
    }
    return make_run(*(cases or (_case(),)), **{**known, **changes})


def test_a_run_comes_back_as_it_was(tmp_path: Path) -> None:
    run = _run()
    path = tmp_path / "run.json"
    save_run(run, path)
    assert load_run(path) == run
    assert '"warmup_ns": [1, 2]' in path.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_figures_of_a_case() -> None:
    case = _case()
    assert case.values_ns == (10, 20, 30)
    assert case.median_ns == 20
    assert case.images_per_s == 2e9 / 20
    # One interrupted inference: the median is as before, and fewer images were done.
    late = _case(rounds_ns=((10, 20), (60,)))
    assert (late.median_ns, late.images_per_s) == (20, 2e9 / 30)
    assert case.cpu_share is None
    assert _case(rounds_wall_ns=(40, 60), rounds_cpu_ns=(30, 30)).cpu_share == 0.6


EMULATED = {"load_ns": None, "first_ns": None, "warmup_ns": (), "rounds_ns": ()}
COUNTS = dict.fromkeys(INSTRUCTION_CLASSES, 7)


def test_under_emulation_there_is_no_time() -> None:
    counted = _case(**EMULATED, instructions=(COUNTS,))
    assert _run(counted, emulated=True).cases[0].instructions_median["total"] == 7
    with pytest.raises(ValueError, match="an emulated board has no times"):
        _run(_case(instructions=(COUNTS,)), emulated=True)
    with pytest.raises(ValueError, match="and no instructions"):
        _run(_case(instructions=(COUNTS,)))
    with pytest.raises(ValueError, match="not emulated has times"):
        _run(counted)


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
        (_set("version", 1), "a version other than 6"),
        (_set("emulated", 1), "emulated: expected bool, found 1"),
        (_set("cases", 0, "batch", True), "batch: expected int, found True"),
        (_set("cases", 0, "batch", 0), "batch is 1 to 65536"),
        (_set("cases", 0, "rounds_ns", [[-1]]), "at least 1 ns"),
        (_set("cases", 0, "rounds_ns", [[0]]), "at least 1 ns"),
        (_set("cases", 0, "rounds_ns", [[10**400]]), "64-bit integer"),
        (_set("cases", 0, "batch", 10**9), "batch is 1 to 65536"),
        (_set("cases", 0, "energy_mj", -5.0), "must not be negative"),
        (_set("cases", 0, "rounds_ns", [[]]), "no round is empty"),
        (_set("cases", 0, "rounds_per_process", [1, 2]), r"rounds_per_process is \[1, 2\], and there are 2 rounds"),
        (_set("cases", 0, "rounds_cpu_ns", [1]), "with 0 wall and 1 CPU times"),
        (_set("cases", 0, "rounds_per_process", [2, 0]), r"rounds_per_process is \[2, 0\], and there are 2 rounds"),
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
    value = encode(_run())
    change(value)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(value))
    with pytest.raises(EdgemobileError, match=said) as caught:
        load_run(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": 1, "a": 2}', "a key occurs twice"),
        ("[" * 100_000, "not valid JSON"),
        ("\udcff", "not valid JSON"),
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
    with pytest.raises(EdgemobileError, match="is not a valid run"):
        load_run(tmp_path / "list.json")


@given(st.lists(st.lists(st.integers(1, 10**12), min_size=1, max_size=5), max_size=5))
def test_any_values_round_trip(rounds: list[list[int]]) -> None:
    case = _case(rounds_ns=rounds)
    assert decode(Case, parse(to_text(encode(case)).encode(), "case", 10**6), "case") == case


def test_a_board_is_told_every_setting_and_nothing_else() -> None:
    """Boards have the names from runtimes.job: they cannot import the record, which needs a newer Python."""
    here_only = {"clock_mhz"}
    assert set(JobSettings.__annotations__) == {field.name for field in fields(Settings)} - here_only
