"""Prints a sweep: a row per file, the Pareto front of each cost, and what has no result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.markup import escape

from edgemobile.printing.terminal import console, format_bytes, format_table

if TYPE_CHECKING:
    from edgemobile.sweep.table import Row, Sweep

__all__ = ["print_sweep"]


def print_sweep(sweep: Sweep) -> None:
    """Columns that are the same in every row are left out."""
    columns = [(title, cell) for title, cell in _columns(sweep) if _shown(title, cell, sweep)]
    left = sum(title in _TEXT for title, _ in columns)
    screen, table = console(), format_table(escape(sweep.config), [title for title, _ in columns], left=left)
    for row in sweep.rows:
        table.add_row(*(cell(row) for _, cell in columns))
    screen.print(table)
    for axis, rows in sweep.fronts.items():
        if rows:
            names = ", ".join(f"{row.name} ({_top1(row)}, {_cost(row, axis)})" for row in rows)
            screen.print(f"Pareto front, top-1 against {escape(axis)}: {escape(names)}", highlight=False)
    _print_problems(sweep)


_TEXT = ("model", "width", "px", "weights", "recipe", "precision", "format")


def _columns(sweep: Sweep) -> list[tuple[str, Callable[[Row], str]]]:
    return [
        ("model", lambda row: escape(row.point.model)),
        ("width", lambda row: f"{row.point.width or 1:g}"),
        ("px", lambda row: str(row.point.res or "-")),
        ("weights", lambda row: escape(row.point.weights or "-")),
        ("recipe", lambda row: escape(row.point.recipe or "-")),
        ("precision", lambda row: row.precision or "-"),
        ("format", lambda row: row.format or "-"),
        ("size", lambda row: _cost(row, "size")),
        *([] if sweep.data is None else [("top-1", _top1)]),
        *((device, lambda row, device=device: _cost(row, device)) for device in sweep.devices),
        ("Pareto front", lambda row: escape(", ".join(sweep.on_fronts(row)))),
    ]


def _shown(title: str, cell: Callable[[Row], str], sweep: Sweep) -> bool:
    if title == "Pareto front":
        return any(sweep.fronts.values())
    return title not in _TEXT[1:] or len({cell(row) for row in sweep.rows}) > 1


def _top1(row: Row) -> str:
    return "-" if row.top1 is None else f"{row.top1:.2%}"


def _cost(row: Row, axis: str) -> str:
    if row.bytes is not None and axis == "size":
        return format_bytes(row.bytes)
    timing = row.timings.get(axis)
    if timing is None:
        return "-"
    text = f"{timing.value:.3f} M" if timing.summary is None else f"{timing.value:.2f} ms"
    return f"{text} unstable" if timing.reasons else text


def _print_problems(sweep: Sweep) -> None:
    """Rows with the same problem share a line."""
    screen = console()
    alike: dict[tuple[str, str, str], list[str]] = {}
    for check in sweep.problems:
        if check.outcome.value != "would run":
            what = f"{check.what}, {check.place}"
            alike.setdefault((check.outcome.value, what, "; ".join(check.words)), []).append(check.file)
    for (outcome, what, words), names in alike.items():
        others = f" and {len(names) - 1} others" if len(names) > 1 else ""
        screen.print(f"[red]{outcome}[/] {escape(f'{names[0]}{others}: {what}: {words}')}")
    for row in sweep.rows:
        for device, timing in row.timings.items():
            if timing.reasons:
                why = f"{row.name}, {device}: {'; '.join(timing.reasons)}"
                screen.print(f"[yellow]unstable[/] {escape(why)}; the next sweep measures it again")
    points, whole = len({row.point.name for row in sweep.rows}), sum(not row.problems for row in sweep.rows)
    screen.print(f"{points} points, {len(sweep.rows)} files, {whole} of them complete")
    for words in _would_run(sweep):
        screen.print(f"would run: {escape(words)}")


def _would_run(sweep: Sweep) -> Iterator[str]:
    """One export writes all files of a point; the other stages are counted by file."""
    waiting = [(row, check) for row in sweep.rows for check in row.problems if check.outcome.value == "would run"]
    if exports := len({row.point.name for row, check in waiting if check.what == "export"}):
        yield f"{exports} exports"
    counted = Counter((check.what, check.place) for _, check in waiting if check.what != "export")
    for (what, place), count in counted.items():
        yield f"accuracy of {count} files" if what == "accuracy" else f"{count} files on {place}"
