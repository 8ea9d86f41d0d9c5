"""Prints the cost of every layer of a file, and of every kind of op, on an emulated core."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from edgemobile.printing.terminal import console, format_table

if TYPE_CHECKING:
    from edgemobile.devices.host.records import Case
    from edgemobile.latency.layer_costs import LayerCost

__all__ = ["print_layer_costs"]

_NAME_CHARS = 60
_INSTRUCTIONS = ("M instr.",)
_ESTIMATED = ("est. M cycles", "compute", "memory")
_LAST = ("share", "M MACs", "x bound")


def print_layer_costs(case: Case, label: str, clock_mhz: float | None) -> None:
    """Print both tables of a case with prefixes; `label` names it. Without an estimate, only instructions."""
    from edgemobile.latency.layer_costs import by_op, layer_costs

    costs = layer_costs(case, clock_mhz)
    board = costs[0].estimated.board if costs[0].estimated else None
    what = f"estimated for a {board.words}" if board and board.name else f"estimated at {board.words}" if board else ""
    title = f"{label}: cost of each layer" + (f", {what}" if what else " in instructions")
    _print(title, ("layer", "op", "dtype"), [(_short(cost.name), cost.op, cost.dtype) for cost in costs], costs)
    sums = by_op(costs)
    names = [(cost.op, str(cost.layers), cost.dtype) for cost in sums]
    _print(f"{label}: cost by op" + (f", {what}" if what else ""), ("op", "layers", "dtype"), names, sums)
    for words in _explained(estimated=board is not None):
        console().print(f"[dim]{escape(words)}[/dim]")


def _print(title: str, first: Sequence[str], names: Sequence[Sequence[str]], costs: Sequence[LayerCost]) -> None:
    estimated = costs[0].estimated is not None
    columns = [*first, *_INSTRUCTIONS, *(_ESTIMATED if estimated else ()), *_LAST[: None if estimated else 2]]
    table = format_table(title, columns, left=len(first))
    for name, cost in zip(names, costs, strict=True):
        table.add_row(*map(escape, name), *_figures(cost))
    console().print()
    console().print(table)


def _figures(cost: LayerCost) -> list[str]:
    shown = [_millions(cost.instructions)]
    if cost.estimated is not None:
        parts = (cost.estimated.cycles, cost.estimated.compute_cycles, cost.estimated.memory_cycles)
        shown += map(_millions, parts)
    shown += [f"{cost.share:.1%}", "unknown" if cost.macs is None else _millions(cost.macs) if cost.macs else "-"]
    if cost.estimated is not None:
        shown.append("-" if cost.times_bound is None else f"{cost.times_bound:.1f}")
    return shown


def _short(name: str) -> str:
    """TensorFlow joins the names of all ops that it fuses; the first one is the name of the layer."""
    first = name.partition(";")[0]
    return first if len(first) <= _NAME_CHARS else f"{first[: _NAME_CHARS - 3]}..."


def _millions(count: float) -> str:
    return f"{count / 1e6:.3f}"


def _explained(*, estimated: bool) -> Iterator[str]:
    yield (
        "The cost of a layer is the count of the file cut after it, minus that of the file cut before it. The first "
        "row is an inference without any op; the rows add up to the whole file."
    )
    if estimated:
        yield (
            "x bound: compute, as a multiple of the fewest cycles in which the core can do the multiply-accumulates. "
            "The memory of a layer has an error of about 1 % of the whole file's, so it may be below zero."
        )
