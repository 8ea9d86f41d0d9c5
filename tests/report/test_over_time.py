"""`edgemobile report --since`: the results of a store since a time, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from made_results import RESULT

from edgemobile.cli import main
from edgemobile.errors import EdgemobileError
from edgemobile.report.over_time import over_time_table
from edgemobile.results.since import start_of
from edgemobile.results.store import append

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
COUNTED = replace(RESULT, metric="instructions_m", low=None, high=None)
RESULTS = [
    replace(COUNTED, created=(FIRST + timedelta(days=day)).isoformat(), value=value, commit=f"{day}abcdef-dirty")
    for day, value in enumerate((16.7, 15.0, 15.0, 18.0))
]
OLD = replace(COUNTED, file="old.tflite", created=FIRST.isoformat())


@pytest.mark.parametrize(
    ("when", "day"), [("2026-01-03", 2), ("24h", 9), ("7d", 3), ("1w", 3), ("2abcdef", 2), ("2abcdef0123", 2)]
)
def test_a_date_an_age_and_a_commit_are_times(when: str, day: int) -> None:
    assert start_of(when, RESULTS, FIRST + timedelta(days=10)) == FIRST + timedelta(days=day)


@pytest.mark.parametrize("when", ["yesterday", "2026-13-01", "7", "-1d", "abc", ""])
def test_another_time_is_refused_with_the_allowed_forms(when: str) -> None:
    with pytest.raises(EdgemobileError, match="2026-11-01, an age such as 24h"):
        start_of(when, RESULTS, FIRST)


def test_a_commit_without_a_result_is_refused_with_the_last_ones() -> None:
    with pytest.raises(EdgemobileError, match="The last ones are 3abcdef-dirty, 2abcdef-dirty"):
        start_of("fffffff", RESULTS, FIRST)


@pytest.mark.parametrize(
    ("day", "count", "changes"),
    [
        (1, "3", "-10.2% better from 2026-01-02 00:00; +20.0% worse from 2026-01-04 00:00"),
        (2, "2", "+20.0% worse from 2026-01-04 00:00"),
    ],
)
def test_changes_since_the_time_are_found_with_the_results_before_it(day: int, count: str, changes: str) -> None:
    table = over_time_table([OLD, *RESULTS], FIRST + timedelta(days=day))
    (row,) = (dict(zip(table.columns, (cell.shown for cell in row), strict=True)) for row in table.rows)
    assert (row["file"], row["results"], row["latest"]) == ("a.tflite", count, "18 M")
    assert row["change"] == changes


def test_one_result_decides_nothing() -> None:
    table = over_time_table([OLD], FIRST)
    assert table.rows[0][table.columns.index("change")].shown == "too few stable results"


def test_nothing_since_then_is_refused_with_the_newest() -> None:
    with pytest.raises(EdgemobileError, match=r"the newest one is a.tflite on pi5, 2026-01-04 00:00 UTC"):
        over_time_table(RESULTS, FIRST + timedelta(days=4))


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    append(Path("results.jsonl"), [OLD, *RESULTS])

    def run(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["edgemobile", "report", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return run


def test_the_page_and_the_markdown_have_the_table(report) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    assert report("--since", "2026-01-02", "--html", "a.html", "--md", "a.md") == 0
    for name in ("a.html", "a.md"):
        text = Path(name).read_text()
        assert "+20.0% worse from 2026-01-04 00:00" in text
        assert "old.tflite" not in text
    assert "<h2>Over time</h2>" in Path("a.html").read_text()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--md", "a.md"), "give at least one RUN, or --since"),
        (("run.json", "--on", "pi5", "--md", "a.md"), "--on selects results of a store"),
        (("--since", "2026-01-01", "--csv", "a.csv"), "--csv and --cards need a RUN"),
        (("--since", "2026-01-01", "--file", "none*", "--md", "a.md"), "It has: a.tflite on pi5"),
        (("--since", "2026-01-01", "--md", "results.jsonl"), "results.jsonl"),
    ],
)
def test_refusals(report, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], error: str) -> None:
    before = Path("results.jsonl").read_bytes()
    assert report(*words) == 2
    assert error in " ".join(capsys.readouterr().err.split())
    assert Path("results.jsonl").read_bytes() == before
