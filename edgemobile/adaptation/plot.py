"""Draws an adaptation: accuracy over cost, of the steps and of the nets."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from edgemobile.adaptation.request import AdaptResult
from edgemobile.errors import EdgemobileError, require
from edgemobile.training.folder import write_bytes

__all__ = ["FORMATS", "check_plot", "save_plot"]

FORMATS = (".svg", ".png", ".pdf")


def check_plot(path: Path) -> None:
    """Raises EdgemobileError for a format that is not known, MissingExtra without matplotlib."""
    if path.suffix.lower() not in FORMATS:
        raise EdgemobileError(f"--plot {path}: unknown format. Allowed: a file ending in {', '.join(FORMATS)}")
    require("matplotlib.figure", "report")


def save_plot(result: AdaptResult, path: Path) -> None:
    """Write the plot to `path`, in the format of its name. The cost is that of the device where the last step takes the
    largest share of the full net's."""
    check_plot(path)
    module = require("matplotlib.figure", "report")
    figure: Any = module.Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
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
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format=path.suffix.lower()[1:])
    try:
        write_bytes(path, image.getvalue())
    except OSError as error:
        raise EdgemobileError(f"cannot write {path}: {error.strerror or error}") from error
