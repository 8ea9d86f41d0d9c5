"""The table of a parity report, and for each file the missed bounds, their cause and the layers around it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from edgemobile.printing.terminal import console, format_table, output_cells

if TYPE_CHECKING:
    from edgemobile.comparison.report import FileParity, ParityReport

__all__ = ["print_parity"]

_COLOURS = {"pass": "green", "not compared": "yellow", "FAIL": "red", "refused": "red"}
_SHOWN_GAPS = 5


def print_parity(report: ParityReport) -> None:
    from edgemobile.comparison.output import shown
    from edgemobile.metrics.measures import METRICS

    # Describe each device, and whether its integers equal those of this machine.
    remote = ["machine", "steps"] if any(file.machine for file in report.files) else []
    columns = ["", "file", "on", *METRICS, "layers", *remote]
    table = format_table(escape(f"parity with {report.reference}, on {report.images}"), columns, left=3)
    for file in report.files:
        colour = _COLOURS[file.verdict]
        mark = f"[{colour}]{file.verdict}[/{colour}]"
        metrics = ["-" if file.lacks(name) else shown(name, file.metrics[name]) for name in METRICS]
        cells = [*metrics, _layers(file)]
        cells += [escape(file.machine), "-" if file.lsb is None else str(file.lsb)] if remote else []
        table.add_row(mark, escape(Path(file.file).name), escape(file.place), *cells)
    screen = console()
    screen.print(table)
    _print_outputs(report)
    for file in report.files:
        _print_file(file)
    for note in report.notes:
        screen.print(f"[dim]note:[/dim] {escape(note)}")


def _print_outputs(report: ParityReport) -> None:
    """A row for each output of each file, if the reference is not a classifier."""
    if not any(file.outputs for file in report.files):
        return
    table = format_table("each output", ["file", "on", "output", "SQNR", "max abs", "agree"], left=3)
    for file in report.files:
        for name, metrics in file.outputs.items():
            table.add_row(escape(Path(file.file).name), escape(file.place), escape(name), *output_cells(metrics))
    console().print(table)


def _layers(file: FileParity) -> str:
    """How many layers were compared, and how many of them are within their bounds."""
    return f"{file.agreeing} of {len(file.layers)}" if file.layers else "-"


def _print_file(file: FileParity) -> None:
    screen, name = console(), escape(f"{Path(file.file).name}{f' on {file.place}' if file.place else ''}")
    if file.refused:
        screen.print(f"[red]refused:[/red] {name}: {escape(file.refused)}")
    for missed in file.missed:
        screen.print(f"[red]missed:[/red] {name}: {escape(missed)}")
    # Causes found from the stored numbers are among the missed bounds already.
    if file.cause is not None and file.cause.explained_db is not None and file.first_diverging is None:
        screen.print(f"[red]likely cause:[/red] {name}: {file.cause.kind} ({escape(file.cause.words)})")
    if file.cause is not None and file.cause.explained_db is not None:
        near, right = file.cause.explained_db, file.cause.right_db
        screen.print(f"[dim]measured:[/dim] {name}: with this cause {near:.1f} dB, without it {right:.1f} dB")
    if file.first_diverging is not None:
        _print_layers(file)
    for words in file.gaps[:_SHOWN_GAPS]:
        screen.print(f"[yellow]not compared:[/yellow] {name}: {escape(words)}")
    if len(file.gaps) > _SHOWN_GAPS:
        screen.print(f"[yellow]not compared:[/yellow] {name}: {len(file.gaps) - _SHOWN_GAPS} more; --json lists all")
    for note in file.notes:
        screen.print(f"[dim]note:[/dim] {name}: {escape(note)}")


def _print_layers(file: FileParity) -> None:
    from edgemobile.comparison.output import worst_layers

    columns = ["layer", "op", "drift dB", "own dB", "ref. weights dB", "steps"]
    title = f"around the first layer that diverges, {Path(file.file).name} on {file.place}"
    table = format_table(escape(title), columns, left=2)
    for layer in worst_layers(file):
        numbers = (layer.sqnr_db, layer.arithmetic_sqnr_db, layer.weights_sqnr_db)
        cells = ["-" if number is None else f"{number:.1f}" for number in numbers]
        name = f"[red]{escape(layer.name)}[/red]" if layer.diverges_in else escape(layer.name)
        table.add_row(name, layer.op, *cells, "-" if layer.lsb is None else str(layer.lsb))
    console().print(table)
