"""Terminal output shared by all commands: tables, sizes, progress bars. Numbers are rounded here and nowhere else."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

import rich.progress
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from edgemobile.util.progress import Progress, Report, Silent

__all__ = [
    "console",
    "format_bytes",
    "format_table",
    "of_device",
    "output_cells",
    "print_error",
    "progress",
    "recorded",
]

# Widths in characters: the gap between two columns, and the minimum that a wrapped text keeps of its longest word.
_GAP = 2
_LEAST_TEXT = 24
# Without a terminal: a shorter step prints no line, and a longer one prints its progress at this interval.
_LONG_STEP_S, _REPORT_INTERVAL_S = 10.0, 60.0
_recorder: ContextVar[Console | None] = ContextVar("recorder", default=None)


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal; its width is unlimited if the output is piped."""
    recorder = _recorder.get()
    if recorder is not None and not stderr:
        return recorder
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, emoji=False, soft_wrap=not stream.isatty())


def print_error(words: str) -> None:
    """Print an error on standard error, as one line."""
    console(stderr=True).print(Text(f"error: {words}", style="red"), soft_wrap=True)


def of_device(error: Exception, device: str) -> str:
    """The message of an error about a device, with its name unless it begins with that."""
    named = str(error).startswith((f"{device}: ", f"{device} "))
    return str(error) if named else f"{device}: {error}"


@contextmanager
def recorded() -> Iterator[Console]:
    """Record what is printed meanwhile instead of showing it: the console can export it as text or HTML."""
    # In a notebook, rich would otherwise display the output a second time, besides the record itself.
    recorder = Console(
        record=True, file=io.StringIO(), highlight=False, emoji=False, soft_wrap=True, force_jupyter=False
    )
    token = _recorder.set(recorder)
    try:
        yield recorder
    finally:
        _recorder.reset(token)


class _Table(Table):
    """A table that never truncates a figure. Columns on the left are text, those on the right are figures.

    If the terminal is too narrow, texts wrap over several lines. If that is not enough, the columns are split into
    bands below each other, and each band repeats the first column.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield console.render_str(str(self.title), style=self.title_style or "")
        for number, widths in enumerate(self._bands(console, options)):
            if number:
                yield Segment.line()
            width = _total(widths) if console.soft_wrap else min(_total(widths), options.max_width)
            for line in console.render_lines(self._band(widths), options.update(width=width), pad=False):
                yield from _trimmed(line)
                yield Segment.line()

    def _bands(self, console: Console, options: ConsoleOptions) -> list[dict[int, int]]:
        """Column -> width, of every band."""
        unbound = options.update(width=sys.maxsize)
        found = {
            column: console.measure(self._band({column: None}), options=unbound) for column in range(len(self.columns))
        }
        whole = {column: one.maximum for column, one in found.items()}
        if console.soft_wrap or _total(whole) <= options.max_width:
            return [whole]
        texts = [column for column, one in enumerate(self.columns) if one.justify == "left"]
        least = {**whole, **{column: min(found[column].minimum, _LEAST_TEXT) for column in texts}}
        if _total(least) <= options.max_width:
            return [_narrowed(whole, least, options.max_width)]
        first = next((column for column in texts if self.columns[column].header), 0)
        whole[first] = least[first] = min(whole[first], max(_LEAST_TEXT, options.max_width // 2))
        key = list(range(first + 1))
        bands = [key]
        for column in range(first + 1, len(self.columns)):
            if bands[-1] is not key and _total({one: whole[one] for one in (*bands[-1], column)}) > options.max_width:
                bands.append(key)
            bands[-1] = [*bands[-1], column]
        return [_narrowed({column: whole[column] for column in band}, least, options.max_width) for band in bands]

    def _band(self, widths: Mapping[int, int | None]) -> Table:
        """Some of the columns; a width of None is the natural width."""
        band = Table(box=None, padding=(0, _GAP // 2), pad_edge=False)
        band.rows = self.rows
        band.columns = [
            replace(self.columns[column], width=width, _index=index)
            for index, (column, width) in enumerate(widths.items())
        ]
        return band


def _total(widths: Mapping[int, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)


def _narrowed(whole: Mapping[int, int], least: Mapping[int, int], width: int) -> dict[int, int]:
    """`whole`, with the widest columns reduced to one width so that all fit `width`; none goes below its `least`."""
    for most in range(max(whole.values()), 0, -1):
        widths = {column: max(least[column], min(own, most)) for column, own in whole.items()}
        if _total(widths) <= width:
            break
    return widths


def _trimmed(line: list[Segment]) -> list[Segment]:
    """A line without trailing blanks of its last column."""
    kept = list(line)
    while kept and not kept[-1].text.strip():
        kept.pop()
    return [*kept[:-1], Segment(kept[-1].text.rstrip(), kept[-1].style)] if kept else []


def format_table(title: str, columns: Sequence[str], *, left: int = 1) -> Table:
    """An empty table; the first `left` columns are text, the others numbers."""
    table = _Table(title=title, title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", header_style="dim", overflow="fold")
    return table


def format_bytes(count: int) -> str:
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def output_cells(metrics: Mapping[str, float]) -> tuple[str, str, str]:
    """SQNR, the largest difference, and the share of pixels or images with the same largest value, of one output."""
    agree = metrics.get("top1_agree")
    return f"{metrics['sqnr_db']:.1f} dB", f"{metrics['max_abs']:.2g}", "-" if agree is None else f"{agree:.1%}"


class _Bars:
    """Draws one bar per step on standard error; a step that ends within a second leaves no line."""

    def __init__(self, bars: rich.progress.Progress) -> None:
        self.bars = bars

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Report]:
        started = time.monotonic()
        task = self.bars.add_task(title, total=total)
        yield lambda done, total=total: self.bars.update(task, completed=done, total=total)
        self.bars.update(task, total=total or 1, completed=total or 1)
        if time.monotonic() - started < 1:
            self.bars.remove_task(task)


class _Lines:
    """Prints a line on standard error when a long step ends, and its progress at intervals: for logs and pipes."""

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Report]:
        started = reported = time.monotonic()

        def report(done: int, total: int | None = total) -> None:
            nonlocal reported
            now = time.monotonic()
            if total and now - reported >= _REPORT_INTERVAL_S:
                reported = now
                print(f"{title}: {done} of {total}", file=sys.stderr, flush=True)

        yield report
        if (took := time.monotonic() - started) >= _LONG_STEP_S:
            print(f"{title}: {took:.0f} s", file=sys.stderr, flush=True)


class _LogPrinter(logging.Handler):
    """Prints log lines above the bars."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(record.getMessage(), markup=False)


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Progress]:
    """Shows the progress of a command and the log messages during it.

    Bars on a terminal, lines for long steps elsewhere, nothing if `quiet`.
    """
    if quiet:
        yield Silent()
        return
    errors = console(stderr=True)
    printer, log = _LogPrinter(errors), logging.getLogger("edgemobile")
    log.addHandler(printer)
    try:
        if not sys.stderr.isatty():
            yield _Lines()
            return
        columns = (
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(24),
            TimeElapsedColumn(),
        )
        with rich.progress.Progress(*columns, console=errors) as bars:
            yield _Bars(bars)
    finally:
        log.removeHandler(printer)
