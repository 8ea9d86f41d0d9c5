"""`edgemobile results`: what it lists, what it calls a change, and what it refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from made_results import RESULT
from made_runs import make_case, make_counted, make_run

from edgemobile.cli import main
from edgemobile.devices.host.records import save_run
from edgemobile.results.store import append, read

Results = Callable[..., int]


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Results:
    """`edgemobile results` as a shell runs it, in a folder of its own; gives the exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["edgemobile", "results", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return run


def _store(values: Sequence[float], **changes: object) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        replace(RESULT, created=(start + timedelta(days=day)).isoformat(), value=value, **changes)
        for day, value in enumerate(values)
    ]
    append(Path("results.jsonl"), rows)


def test_saved_runs_are_added_once_and_listed(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    save_run(make_run(make_case("v3.tflite", ms=4.0)), Path("run.json"))
    save_run(make_run(make_counted("v3.tflite", (15_000_000,)), emulated=True), Path("counts.json"))
    assert results("add", "run.json", "counts.json") == 0
    assert results("add", "run.json") == 0
    assert "added 0 results to results.jsonl; 1 were there already" in capsys.readouterr().out
    assert [result.metric for result in read(Path("results.jsonl")).results] == ["latency_ms", "instructions_m"]
    assert results("list", "v3*") == 0
    shown = capsys.readouterr().out
    assert "4 ms" in shown
    assert "15 M" in shown


def test_an_evaluation_is_added_with_the_date_of_its_file(results: Results) -> None:
    file = {"file": "out/v3.tflite", "sha256": "0" * 64, "precision": "int8", "runtime": "litert 2.3.0", "count": 10}
    file |= {"top1": 0.9, "top1_interval95": [0.6, 0.98], "top5": 1.0, "not_finite": 0}
    record = {"data": "d/cifar10.zip", "split": "test", "limit": None, "seed": 0, "on": None, "threads": 1}
    Path("eval.json").write_text(json.dumps({**record, "files": [file], "images": []}))
    os.utime("eval.json", (0, 0))
    assert results("add", "eval.json") == 0
    top1, top5 = read(Path("results.jsonl")).results
    assert (top1.metric, top1.value, top1.low, top1.count) == ("top1", 0.9, 0.6, 10)
    assert (top1.file, top1.device, top1.data) == ("v3.tflite", "local", "cifar10.zip, test")
    assert top1.created == "1970-01-01T00:00:00+00:00"
    assert (top5.metric, top5.value) == ("top5", 1.0)


def test_the_trend_marks_the_change(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    _store([16.7, 16.7, 15.46], metric="instructions_m", low=None, high=None)
    assert results("trend", "a.tflite") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "██▁" in lines[0]
    (marked,) = (line for line in lines if "better" in line)
    assert "-7.4%" in marked
    assert "2026-01-03" in marked
    assert results("trend", "a.tflite", "--json") == 0
    (series,) = json.loads(capsys.readouterr().out)
    assert [change["at"] for change in series["changes"]] == [2]


def test_few_times_are_said_to_decide_nothing(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    _store([4.0, 8.0])
    assert results("trend", "a.tflite") == 0
    assert "at least 10 stable results are needed" in capsys.readouterr().out


def test_another_store_is_imported_without_what_is_there(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    _store([4.0, 5.0])
    append(Path("theirs.jsonl"), [*read(Path("results.jsonl")).results, replace(RESULT, device="their-pi")])
    with Path("theirs.jsonl").open("a") as file:
        file.write("{\n")
    assert results("import", "theirs.jsonl") == 0
    printed = capsys.readouterr()
    assert "added 1 results to results.jsonl; 2 were there already" in printed.out
    assert "theirs.jsonl, line 4" in printed.err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("list", "none*"), "It has: a.tflite on pi5"),
        (("trend", "a.tflite", "--on", "pi4"), "no result in results.jsonl matches"),
        (("list", "--metric", "speed"), "latency_ms"),
        (("list", "--store", "absent.jsonl"), "cannot read absent.jsonl"),
        (("add", "results.jsonl"), "not valid JSON"),
    ],
)
def test_what_is_not_there_is_refused(
    words: Sequence[str], error: str, results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    _store([4.0, 5.0])
    assert results(*words) == 2
    assert error in capsys.readouterr().err
