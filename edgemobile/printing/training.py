"""Prints a training: the nets before and after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from edgemobile.printing.terminal import console, format_table

if TYPE_CHECKING:
    from edgemobile.training.request import FinetuneResult

__all__ = ["print_training"]


def print_training(result: FinetuneResult) -> None:
    screen = console()
    table = format_table(f"on {result.held_out}", ["net", "top-1", "same answer as float"])
    for row in result.rows:
        table.add_row(row.net, f"{row.top1:.2%}", "-" if row.agreement is None else f"{row.agreement:.2%}")
    screen.print(table)
    for note in result.notes:
        screen.print(f"[dim]note:[/dim] {escape(note)}")
    int8 = " --int8" if any(row.net.startswith("int8") for row in result.rows) else ""
    screen.print(f"wrote [bold]{escape(str(result.checkpoint))}[/bold]")
    screen.print(f"next: edgemobile export {escape(str(result.checkpoint))}{int8}")
