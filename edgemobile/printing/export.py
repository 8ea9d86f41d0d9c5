"""The table of an export, and its notes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from edgemobile.printing.terminal import console, format_bytes, format_table, output_cells

if TYPE_CHECKING:
    from edgemobile.pipeline.request import Checked, ExportResult

__all__ = ["print_export"]


def print_export(result: ExportResult, *, verbose: bool = False) -> None:
    """The main columns, or with `verbose` every column and the ops of each file."""
    screen = console()
    accuracy = f", {result.reference} top-1 {result.float_accuracy:.1%}" if result.float_accuracy is not None else ""
    title = escape(f"{result.model} at {result.input_px} px, {result.source}\nchecked on {result.images}{accuracy}")
    rows = [_cells(file) for file in result.files]
    shown = [name for name in _COLUMNS if verbose or (name in _USUAL and any(row[name] != "-" for row in rows))]
    table = format_table(title, ["", *shown], left=2)
    for file, row in zip(result.files, rows, strict=True):
        mark = "[green]ok[/green]" if file.verdict.passed else "[red]MISSED[/red]"
        table.add_row(mark, *(row[name] for name in shown))
    screen.print(table)
    _print_outputs(result)
    for note in result.notes:
        screen.print(f"[dim]note:[/dim] {escape(note)}")
    for file in result.files:
        for missed in file.verdict.missed:
            screen.print(f"[red]missed:[/red] {escape(f'{file.entry.file}: {missed}')}")
        if verbose:
            ops = ", ".join(f"{op} {count}" for op, count in sorted(file.entry.ops.items()))
            screen.print(f"[dim]{escape(file.entry.file)}:[/dim] {escape(ops)}")
    screen.print(f"wrote [bold]{escape(f'{result.out}/')}[/bold]")
    screen.print(f"how to run the files on a board: {escape(f'{result.out}/README.md')}")


def _print_outputs(result: ExportResult) -> None:
    """A row for each output of each file, if the model is not a classifier."""
    if not any(file.verdict.outputs for file in result.files):
        return
    table = format_table("each output", ["file", "output", "SQNR", "max abs", "agree"], left=2)
    for file in result.files:
        for name, metrics in file.verdict.outputs.items():
            table.add_row(escape(file.entry.file), escape(name), *output_cells(metrics))
    console().print(table)


_COLUMNS = (
    "file",
    "precision",
    "size",
    "ops",
    "hard-swish",
    "SQNR",
    "max abs",
    "same answer",
    "top-1",
    "latency",
    "runtime",
)
_USUAL = ("file", "size", "SQNR", "same answer", "top-1", "latency")


def _cells(file: Checked) -> dict[str, str]:
    entry, metrics = file.entry, file.verdict.metrics
    cells = (
        escape(entry.file),
        entry.precision,
        format_bytes(entry.bytes),
        str(entry.op_count),
        entry.hswish or "-",
        f"{metrics['sqnr_db']:.1f} dB",
        f"{metrics['max_abs']:.2g}",
        "-" if file.verdict.outputs else f"{metrics['top1_agree']:.1%}",
        "-" if file.accuracy is None else f"{file.accuracy:.2%}",
        f"{file.latency.median_ns / 1e6:.2f} ms",
        escape(file.runtime),
    )
    return dict(zip(_COLUMNS, cells, strict=True))
