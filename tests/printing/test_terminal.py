"""What every command shows while it works."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from edgemobile.printing.terminal import console, format_table, progress

_FIGURES = ["5.48 M", "2.88 ms", "2.871 to 2.904 ms", "3.012 ms", "3.145 ms", "345.1", "12.31 ms", "4.127 ms", "stable"]
_LONG = "photos-of-the-garden-" * 4 + "v3.tflite"


def _shown(width: int, *names: str) -> list[str]:
    """The lines of a table of `names`, each with the same figures, on a terminal of `width` columns."""
    table = format_table("of this machine", ["file", "runtime", *"abcdefghi"], left=2)
    for name in names:
        table.add_row(name, "onnxruntime 1.32.0", *_FIGURES)
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("name", ["v3.tflite", _LONG])
@pytest.mark.parametrize("width", [60, 80, 100, 120, 300])
def test_a_terminal_shows_every_figure_whole(width: int, name: str) -> None:
    lines = _shown(width, name, "other.onnx")
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    for figure in _FIGURES:
        assert sum(line.count(figure) for line in lines) == 2


def test_a_narrow_terminal_folds_texts_and_then_shows_bands() -> None:
    assert len(_shown(120, "v3.tflite")) == 3
    assert len(_shown(119, "v3.tflite")) == 4
    lines = _shown(80, "v3.tflite")
    assert [line.split()[0] for line in lines if line] == ["of", "file", "v3.tflite", "file", "v3.tflite"]


def test_a_terminal_too_narrow_for_a_figure_still_shows_all_of_it() -> None:
    shown = "".join(_shown(20, "v3.tflite"))
    assert "…" not in shown
    assert all(word in shown for figure in _FIGURES for word in figure.split())


def test_a_pipe_gets_lines_as_long_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = format_table("title " * 40, ["file", *map(str, range(30)), "verdict"])
    table.add_row(_LONG, *["2.871 to 2.904 ms"] * 30, "ok")
    table.add_row("a:b:.onnx", *["-"] * 31)
    console().print(table)
    title, _header, first, second = capsys.readouterr().out.splitlines()
    assert title == "title " * 40
    assert first.split() == [_LONG, *["2.871", "to", "2.904", "ms"] * 30, "ok"]
    assert second.split() == ["a:b:.onnx", *["-"] * 31]
    assert first == first.rstrip()


def test_the_log_is_printed_while_a_command_works(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("edgemobile.devices.host.job_client")
    with progress():
        log.warning("pi5: the connection is lost [at %d%%]", 40)
        log.info("a detail")
    log.warning("nobody listens")
    with progress(quiet=True):
        log.warning("not wanted")
    assert capsys.readouterr().err == "pi5: the connection is lost [at 40%]\n"


def test_without_a_terminal_long_steps_leave_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((0.0, 1.0, 2.0, 63.0, 64.0))
    monkeypatch.setattr("edgemobile.printing.terminal.time.monotonic", lambda: next(clock))
    with progress() as lines:
        with lines.step("short", 3):
            pass
        with lines.step("long", 8) as report:
            report(7)
    assert capsys.readouterr().err == "long: 7 of 8\nlong: 62 s\n"
