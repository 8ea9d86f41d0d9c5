"""Prints a search: its front and the width multipliers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from edgemobile.printing.adaptation import cost_words
from edgemobile.printing.terminal import console, format_table

if TYPE_CHECKING:
    from edgemobile.nas.request import Found, SearchResult

__all__ = ["print_search"]


def print_search(result: SearchResult) -> None:
    screen = console()
    columns = ["net", "px", f"{result.device} {result.unit}", "MACs", "parameters", "top-1 chosen by", "held out"]
    title = f"front of {len(result.nets)} nets; held out: {result.held_out}"
    table = format_table(title, columns)
    for net in result.front:
        table.add_row(net.file + _multiplier(net), *_cells(result, net))
    table.add_section()
    for net in sorted(result.multipliers, key=lambda one: one.cost):
        table.add_row(f"width {net.multiplier:g}", *_cells(result, net))
    screen.print(table)
    beaten = ", ".join(f"{net.multiplier:g}" for net in result.beaten) or "none"
    screen.print(
        "width multipliers that a net of the front equals or beats both in cost and on the images held out: "
        f"[bold]{beaten}[/bold] of {len(result.multipliers)}"
    )
    if result.unused:
        screen.print(f"[dim]{result.unused} choices were no net: two widths became equal[/dim]")
    for note in result.notes:
        screen.print(f"[dim]note:[/dim] {escape(note)}")
    if result.front:
        best = escape(str(result.out / result.front[-1].file))
        screen.print(f"next: edgemobile finetune {best} --data ..., or edgemobile export {best} --int8")


def _multiplier(net: Found) -> str:
    return "" if net.multiplier is None else f" (width {net.multiplier:g})"


def _cells(result: SearchResult, net: Found) -> list[str]:
    held_out = "-" if net.held_out_top1 is None else f"{net.held_out_top1:.2%}"
    return [
        str(net.choice["px"]),
        cost_words(net.cost, result.unit),
        f"{net.macs / 1e6:.1f} M",
        f"{net.parameters / 1e6:.2f} M",
        f"{net.top1:.2%}",
        held_out,
    ]
