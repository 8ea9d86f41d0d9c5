"""Several runs of one device: each can be distinguished, and a note about several runs appears once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgemobile.report.cards import model_cards
from edgemobile.report.tables import case_table
from edgemobile.report.text import as_markdown
from edgemobile.report.words import all_notes, line_words

FLOAT, INT8 = "a" * 64, "b" * 64


@pytest.fixture
def make(request: pytest.FixtureRequest):
    """The makers of conftest.py."""
    return next(one for one in request.config.pluginmanager.get_plugins() if hasattr(one, "make_scores"))


@pytest.fixture
def run_at(make):
    """A run of files at a time, "19:31:05"."""

    def at(time: str, *shas: str, notes: tuple[str, ...] = (), device: str = "pi5", **given: object):
        cases = [make.make_case(f"{sha256[0]}.onnx", sha256, 2.0, **given) for sha256 in shas or (INT8,)]
        return replace(make.make_run(*cases, notes=notes, device=device), created=f"2026-11-27T{time}+00:00")

    return at


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (("19:31:05",), [""]),
        (("19:31:05", "19:40:00"), [", 2026-11-27 19:31 UTC", ", 2026-11-27 19:40 UTC"]),
        (("19:31:05", "19:31:50"), [", 2026-11-27 19:31:05 UTC", ", 2026-11-27 19:31:50 UTC"]),
    ],
)
def test_the_time_tells_runs_of_one_device_apart(found, run_at, times: tuple[str, ...], words: list[str]) -> None:
    all_of = found(*map(run_at, times))
    assert [line_words(line) for line in all_of.lines] == [f"pi5, 1 thread{more}" for more in words]


def test_runs_of_one_second_are_numbered(found, run_at) -> None:
    words = [line_words(line) for line in found(run_at("19:31:05"), run_at("19:31:05", notes=("x",))).lines]
    assert words == ["pi5, 1 thread, 2026-11-27 19:31:05 UTC", "pi5, 1 thread, 2026-11-27 19:31:05 UTC (2)"]


def test_what_tells_lines_apart_already_needs_no_time(found, run_at) -> None:
    all_of = found(run_at("19:31:05"), run_at("19:40:00", threads=2), run_at("19:50:00", device="pi4"))
    assert [line_words(line) for line in all_of.lines] == ["pi5, 1 thread", "pi5, 2 threads", "pi4, 1 thread"]


def test_a_line_of_several_runs_has_the_first_time_and_the_last(found, run_at) -> None:
    all_of = found(run_at("19:31:05", INT8), run_at("19:40:00", FLOAT), run_at("19:50:00", INT8, FLOAT))
    assert [line.when for line in all_of.lines] == ["2026-11-27 19:31 to 2026-11-27 19:40 UTC", "2026-11-27 19:50 UTC"]


def test_files_of_one_run_stay_together(found, run_at) -> None:
    """A file that is not in the first run is joined with the file that it was interleaved with."""
    all_of = found(run_at("19:31:05", INT8), run_at("19:40:00", INT8, FLOAT))
    assert [{timing.run.created[11:16] for _, timing in line.points} for line in all_of.lines] == [{"19:31"}, {"19:40"}]


def test_tables_and_cards_say_when_each_case_was_measured(found, run_at) -> None:
    all_of = found(run_at("19:31:05"), run_at("19:40:00"))
    table = case_table(all_of)
    measured = [row[table.columns.index("measured, UTC")].shown for row in table.rows]
    assert measured == ["2026-11-27 19:31", "2026-11-27 19:40"]
    for text in (as_markdown(all_of, "t"), *model_cards(all_of).values()):
        assert "2026-11-27 19:31" in text
        assert "2026-11-27 19:40" in text


def test_what_keeps_runs_apart_is_one_note_a_device(found, run_at) -> None:
    same = [run_at(f"19:3{minute}:00", INT8, FLOAT) for minute in range(4)]
    assert found(*same).notes == ("runs on pi5 are separate: a file was measured again",)
    other = [run_at("19:40:00", version="9"), run_at("19:41:00", device="pi4")]
    (note,) = found(*same, *other).notes
    assert note == "runs on pi5 are separate: different litert version; a file was measured again"


def test_notes_of_runs_name_the_device_and_where_needed_the_time(found, run_at) -> None:
    all_of = found(
        run_at("19:31:05", notes=("the board was busy", "a slow governor")),
        run_at("19:40:00", notes=("a slow governor",)),
        run_at("19:40:00", device="pi4", notes=("the board was busy",)),
    )
    notes = [
        "pi5, 2026-11-27 19:31 UTC; pi4: the board was busy",
        "pi5: a slow governor",
    ]
    assert all_notes(all_of)[1:] == notes
    assert as_markdown(all_of, "t").endswith("".join(f"- {note}\n" for note in notes))


def test_the_page_calls_no_two_figures_the_same(found, make, run_at) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    from edgemobile.report.page import page

    runs = run_at("19:31:05"), run_at("19:40:00")
    text = page(found(*runs, make.make_scores(b_onnx=(INT8, 0.8))), "t")
    for time in ("19:31", "19:40"):
        assert text.count(f"<strong>pi5, 1 thread, 2026-11-27 {time} UTC</strong>") == 2  # a plot, and bars
        assert f"<h2>fastest, pi5, 1 thread, 2026\u201111\u201127 {time} UTC</h2>" in text
    unscored = page(found(*runs), "t")
    assert unscored.count("the accuracy of b.onnx is not known") == 1
