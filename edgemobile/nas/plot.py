"""Draws a search: top-1 over cost of all nets, the front and the width multipliers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemobile.nas.request import SearchResult
from edgemobile.util.plot_file import new_axes, save_plot_file

__all__ = ["save_plot", "search_figure"]


def search_figure(result: SearchResult) -> Any:
    """A matplotlib Figure. All nets are judged by the images to choose by; circles
    are the front on the images held out."""
    figure, axes = new_axes()
    scale, words = (1e6, "million instructions") if result.unit == "instructions" else (1.0, result.unit)
    axes.plot(
        [net.cost / scale for net in result.nets],
        [100 * net.top1 for net in result.nets],
        ".",
        color="0.7",
        label="tried",
    )
    for nets, marker, label in ((result.front, "o-", "front"), (result.multipliers, "s--", "width multipliers")):
        ordered = sorted(nets, key=lambda net: net.cost)
        shares = [100 * (net.held_out_top1 or 0.0) for net in ordered]
        axes.plot([net.cost / scale for net in ordered], shares, marker, label=f"{label}, on images held out")
    axes.set_xlabel(f"{words} on {result.device}", parse_math=False)
    axes.set_ylabel("top-1, %")
    axes.legend(frameon=False)
    return figure


def save_plot(result: SearchResult, path: Path) -> None:
    """Write the figure to `path`, in the format of its name."""
    save_plot_file(search_figure(result), path)
