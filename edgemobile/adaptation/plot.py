"""Draws an adaptation: accuracy over cost, of the steps and of the nets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemobile.adaptation.request import AdaptResult
from edgemobile.util.plot_file import new_axes, save_plot_file

__all__ = ["adaptation_figure", "save_plot"]


def adaptation_figure(result: AdaptResult) -> Any:
    """A matplotlib Figure. The cost is that of the device where the last step takes the
    largest share of the full net's."""
    figure, axes = new_axes()
    first, last = result.steps[0].costs, result.steps[-1].costs
    worst = max(range(len(first)), key=lambda device: last[device] / first[device])
    shares = [100 * step.costs[worst] / first[worst] for step in result.steps]
    axes.plot(shares, [100 * step.top1 for step in result.steps], ".-", label="steps, on the images to choose by")
    full = result.nets[0]
    for net, marker in zip(result.nets, ("s", "o", "^"), strict=False):
        share = 100 * net.costs[worst] / full.costs[worst]
        (dot,) = axes.plot([share], [100 * net.top1], marker, label=f"{net.name}, on images held out")
        if net.trained_top1 is not None:
            label = f"{net.name}, trained"
            axes.plot([share], [100 * net.trained_top1], marker, fillstyle="none", color=dot.get_color(), label=label)
    device = list(result.units)[worst]
    axes.set_xlabel(f"cost, % of the full net's {result.units[device]} on {device}", parse_math=False)
    axes.set_ylabel("top-1, %")
    axes.invert_xaxis()
    axes.legend(frameon=False)
    return figure


def save_plot(result: AdaptResult, path: Path) -> None:
    """Write the figure to `path`, in the format of its name."""
    save_plot_file(adaptation_figure(result), path)
