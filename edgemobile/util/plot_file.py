"""Plots as files, made with matplotlib without pyplot, so that no global state changes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from edgemobile.errors import EdgemobileError, require
from edgemobile.util.writing import partial_file, replace_synced

__all__ = ["FORMATS", "check_plot", "new_axes", "new_figure", "save_plot_file"]

FORMATS = (".svg", ".png", ".pdf")


def check_plot(path: Path) -> None:
    """Raises EdgemobileError for a format that is not known, MissingExtra without matplotlib."""
    if path.suffix.lower() not in FORMATS:
        raise EdgemobileError(f"--plot {path}: unknown format. Allowed: a file ending in {', '.join(FORMATS)}")
    require("matplotlib.figure", "report")


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Any, list[Any]]:
    """(a matplotlib Figure of that many inches that notebooks show, an Axes for each column)."""
    module = require("matplotlib.figure", "report")
    backend = require("matplotlib.backends.backend_svg", "report")
    figure: Any = module.Figure(figsize=(width, height), layout="constrained")
    backend.FigureCanvasSVG(figure)
    # Without pyplot, only this makes a notebook show the figure.
    figure._repr_svg_ = lambda: _svg(figure)
    made = [figure.add_subplot(1, columns, index + 1) for index in range(columns)]
    for axes in made:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, made


def new_axes(width: float = 8, height: float = 5) -> tuple[Any, Any]:
    """(a Figure of that many inches, its only Axes)."""
    figure, (axes,) = new_figure(width, height)
    return figure, axes


def _svg(figure: Any) -> str:
    page = io.StringIO()
    figure.savefig(page, format="svg")
    return page.getvalue()


def save_plot_file(figure: Any, path: Path) -> None:
    """Write `figure` to `path`, in the format of its name. Raises EdgemobileError if it cannot be written."""
    check_plot(path)
    image = io.BytesIO()
    figure.savefig(image, format=path.suffix.lower()[1:])
    try:
        with partial_file(path) as partial:
            partial.write_bytes(image.getvalue())
            replace_synced(partial, path)
    except OSError as error:
        raise EdgemobileError(f"cannot write {path}: {error.strerror or error}") from error
