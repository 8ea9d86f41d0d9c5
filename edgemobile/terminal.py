"""What every command shows on a terminal: tables, sizes, progress bars. Numbers are rounded here and nowhere else."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from edgemobile.progress import Report, Silent

__all__ = ["console", "format_bytes", "format_table", "progress", "recorded"]

_RECORDED_WIDTH = 200
_recorder: ContextVar[Console | None] = ContextVar("recorder", default=None)


def console(*, stderr: bool = False) -> Console:
    """A terminal's own width; piped output is not wrapped at 80 columns."""
    recorder = _recorder.get()
    if recorder is not None and not stderr:
        return recorder
    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr, width=None if stream.isatty() else 200, highlight=False, soft_wrap=not stream.isatty()
    )


@contextmanager
def recorded() -> Iterator[Console]:
    """What is printed meanwhile is not shown: the console keeps it, to export as text or HTML."""
    recorder = Console(record=True, file=io.StringIO(), width=_RECORDED_WIDTH, highlight=False)
    token = _recorder.set(recorder)
    try:
        yield recorder
    finally:
        _recorder.reset(token)


def format_table(title: str, columns: Sequence[str], *, left: int = 1) -> Table:
    """An empty table; the first `left` columns are text, the others numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1), pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", header_style="dim", no_wrap=True)
    return table


def format_bytes(count: int) -> str:
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


class _Bars:
    """Draws a bar a step on standard error; a step that ends within a second leaves no line."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Report]:
        started = time.monotonic()
        task = self.bars.add_task(title, total=total)
        yield lambda done, total=total: self.bars.update(task, completed=done, total=total)
        self.bars.update(task, total=total or 1, completed=total or 1)
        if time.monotonic() - started < 1:
            self.bars.remove_task(task)


class _Said(logging.Handler):
    """Lines of the log above the bars."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(record.getMessage(), markup=False)


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[_Bars | Silent]:
    """Progress for a command, and what the log has to say meanwhile: bars on a terminal; nothing when quiet."""
    if quiet:
        yield Silent()
        return
    errors = console(stderr=True)
    said, log = _Said(errors), logging.getLogger("edgemobile")
    log.addHandler(said)
    try:
        if not sys.stderr.isatty():
            yield Silent()
            return
        columns = (
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(24),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=errors) as bars:
            yield _Bars(bars)
    finally:
        log.removeHandler(said)
