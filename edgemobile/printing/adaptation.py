"""Prints an adaptation: a table of its steps and a table of the nets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from edgemobile.printing.terminal import console, format_table

if TYPE_CHECKING:
    from edgemobile.adaptation.request import AdaptResult, Net

__all__ = ["cost_words", "print_adaptation"]


def print_adaptation(result: AdaptResult) -> None:
    screen = console()
    screen.print(_steps(result))
    screen.print(_nets(result))
    for device, error in result.errors.items():
        screen.print(
            f"[dim]{escape(device)}: the costs of steps are predicted, those of nets are measured; the largest error "
            f"of a prediction on {result.checked} other nets was {error:.2%}[/dim]",
        )
    for note in result.notes:
        screen.print(f"[dim]note:[/dim] {escape(note)}")
    screen.print(f"wrote [bold]{escape(str(result.checkpoint))}[/bold]")
    screen.print(f"next: edgemobile export {escape(str(result.checkpoint))} --int8")


def _steps(result: AdaptResult) -> object:
    first = result.steps[0]
    columns = ["step", "change", *(f"{device} {unit}" for device, unit in result.units.items()), "loss", "top-1"]
    table = format_table("steps, on the images to choose by", columns, left=2)
    for number, step in enumerate(result.steps):
        costs = (cost_words(cost, unit) for cost, unit in zip(step.costs, result.units.values(), strict=True))
        shares = (f"{cost / full:.3f}" for cost, full in zip(step.costs, first.costs, strict=True))
        cells = [f"{cost}  {share}" for cost, share in zip(costs, shares, strict=True)]
        table.add_row(str(number), escape(step.change), *cells, f"{step.loss:.4f}", f"{step.top1:.1%}")
    return table


def _nets(result: AdaptResult) -> object:
    trained = any(net.trained_top1 is not None for net in result.nets)
    devices = [f"{device} {unit}" for device, unit in result.units.items()]
    columns = ["net", *devices, "parameters", "top-1", *(["trained"] if trained else [])]
    table = format_table(f"on {result.held_out}", columns)
    full = result.nets[0]
    for net in result.nets:
        after = "-" if net.trained_top1 is None else f"{net.trained_top1:.2%}"
        cells = _costs(net, full, list(result.units.values()))
        table.add_row(
            net.name, *cells, f"{net.parameters / 1e6:.2f} M", f"{net.top1:.2%}", *([after] if trained else [])
        )
    return table


def _costs(net: Net, full: Net, units: list[str]) -> list[str]:
    pairs = zip(net.costs, full.costs, units, strict=True)
    return [f"{cost_words(cost, unit)}  {cost / whole:.3f}" for cost, whole, unit in pairs]


def cost_words(cost: float, unit: str) -> str:
    """A cost in "instructions" or "ms", rounded, such as 9.07 M or 4.31 ms."""
    return f"{cost / 1e6:.2f} M" if unit == "instructions" else f"{cost:.2f} ms"
