"""Prints what the ideas of the papers save or cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from edgemobile.models.ideas import Idea
from edgemobile.printing.adaptation import cost_words
from edgemobile.printing.terminal import console, format_table
from edgemobile.util.plot_file import new_axes

if TYPE_CHECKING:
    from edgemobile.adaptation.idea_costs import IdeaCost

__all__ = ["ideas_figure", "ideas_json", "print_ideas"]


def print_ideas(title: str, ideas: Sequence[Idea], costs: Sequence[IdeaCost], device: str, unit: str) -> None:
    """A table with a row for each of the `ideas`, and beside it what it was measured to cost. `costs` is empty without
    a device."""
    measured = [f"{unit} without", "with", "share"] if costs else []
    table = format_table(title, ["idea", "MACs without", "with", "share", "formula", *measured])
    for number, idea in enumerate(ideas):
        before, after = (f"{variant.cost.macs / 1e6:.1f} M" for variant in (idea.before, idea.after))
        expected = "" if idea.expected is None else f"{idea.expected:.3f}"
        cells = [before, after, f"{idea.share:.3f}", expected]
        if costs:
            cost = costs[number]
            cells += [cost_words(cost.before, unit), cost_words(cost.after, unit), f"{cost.share:.3f}"]
        table.add_row(idea.name, *cells)
    screen = console()
    screen.print(table)
    for idea in ideas:
        hardswish = f" ({idea.extra_hardswish:+,} values of hard-swish)" if "hard-swish" in idea.name else ""
        screen.print(f"[dim]{escape(idea.name)}: {escape(idea.rule)}{hardswish} ({escape(idea.source)})[/dim]")
    if costs:
        screen.print(f"[dim]{unit}: of int8 .tflite files with random weights, measured on {escape(device)}[/dim]")


def ideas_json(
    ideas: Sequence[Idea], costs: Sequence[IdeaCost], device: str | None, unit: str | None
) -> dict[str, Any]:
    """The same, unrounded."""
    rows = []
    for number, idea in enumerate(ideas):
        macs = {"before": idea.before.cost.macs, "after": idea.after.cost.macs, "share": idea.share}
        cost = costs[number] if costs else None
        rows.append(
            {
                "name": idea.name,
                "rule": idea.rule,
                "source": idea.source,
                "expected_share": idea.expected,
                "macs": macs,
                "params": {"before": idea.before.cost.params, "after": idea.after.cost.params},
                "hardswish_values": {"before": idea.before.hardswish_values, "after": idea.after.hardswish_values},
                "measured": cost and {"before": cost.before, "after": cost.after, "share": cost.share},
            }
        )
    return {"device": device, "unit": unit, "ideas": rows}


def ideas_figure(title: str, ideas: Sequence[Idea], costs: Sequence[IdeaCost], device: str, unit: str) -> Any:
    """A matplotlib Figure: for every idea, MACs and the measured cost with it, as a share of those without it."""
    figure, axes = new_axes(9, 1.5 + 0.5 * len(ideas))
    rows = range(len(ideas))
    height = 0.4 if costs else 0.7
    axes.barh([row - height / 2 * bool(costs) for row in rows], [100 * i.share for i in ideas], height, label="MACs")
    if costs:
        label = f"{unit} on {device}, measured"
        axes.barh([row + height / 2 for row in rows], [100 * cost.share for cost in costs], height, label=label)
    axes.axvline(100, color="0.6", linewidth=1)
    axes.set_yticks(rows, [idea.name for idea in ideas])
    axes.invert_yaxis()
    axes.set_xlabel("with the idea, % of the net without it")
    axes.set_title(title, parse_math=False)
    axes.legend(frameon=False)
    return figure
