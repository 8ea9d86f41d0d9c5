"""The store keeps every result once it is appended, whatever happens to a later one."""

from __future__ import annotations

import json
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

import pytest
from made_results import RESULT

from edgemobile.errors import EdgemobileError
from edgemobile.results.record import Result
from edgemobile.results.store import append, merge, read


def _valued(value: float) -> Result:
    return replace(RESULT, value=value)


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append(path, [RESULT])
    append(path, [_valued(5), _valued(6)])
    append(path, [])
    assert read(path).results == (RESULT, _valued(5), _valued(6))
    assert [json.loads(line)["value"] for line in path.read_text().splitlines()] == [4.25, 5, 6]


def test_a_line_cut_off_by_a_power_cut_costs_that_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append(path, [RESULT, _valued(5)])
    path.write_bytes(path.read_bytes()[:-30])
    append(path, [_valued(6)])
    found = read(path)
    assert found.results == (RESULT, _valued(6))
    assert [number for number, _ in found.damaged] == [2]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"value": -1}, "negative"),
        ({"value": "4"}, "value is '4'"),
        ({"threads": True}, "threads is True"),
        ({"metric": "speed"}, "latency_ms"),
        ({"created": "2026-01-31T12:00:00"}, "created"),
        ({"version": 2}, "version 2"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_damaged_line_is_named_and_not_counted(change: dict, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append(path, [RESULT])
    with path.open("a") as file:
        file.write(json.dumps({**json.loads(RESULT.to_line()), **change}) + "\n")
    found = read(path)
    assert found.results == (RESULT,)
    assert reason in found.damaged[0][1]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}\n")
    with pytest.raises(EdgemobileError, match="not a results store"):
        read(tmp_path / "run.json")
    with pytest.raises(EdgemobileError, match="cannot read"):
        read(tmp_path / "none.jsonl")


def test_a_result_is_merged_once(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    assert merge(path, [RESULT, _valued(5), RESULT]) == 2
    assert merge(path, [_valued(5), _valued(6)]) == 1
    assert read(path).results == (RESULT, _valued(5), _valued(6))


def _append_many(path: Path, first: int) -> None:
    for value in range(first, first + 50):
        append(path, [_valued(value + 1)])


def test_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_many, args=(path, 50 * number)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = read(path)
    assert sorted(result.value for result in found.results) == list(range(1, 151))
    assert not found.damaged


def test_a_hundred_thousand_results_are_read_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append(path, [_valued(1 + number) for number in range(100_000)])
    started = time.process_time()
    assert len(read(path).results) == 100_000
    # 1.1 s on a quiet core; the bound is for a busy one.
    assert time.process_time() - started < 6
