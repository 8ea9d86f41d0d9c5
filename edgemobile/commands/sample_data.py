"""`edgemobile sample-data`: labelled images to try the other commands on."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape

from edgemobile.printing.terminal import console

__all__ = ["sample_data"]


@click.command("sample-data")
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("samples"))
def sample_data(folder: Path) -> int:
    """Write the labelled images in the package to DIR, a new folder (samples): CIFAR-10's classes, with splits.

    They take the place of a data set in `eval`, `predict` and `export --calib` until you have one. They are synthetic,
    and chosen so that every net of the package knows them: an accuracy on them says nothing of a net.

    \b
    Examples:
      edgemobile sample-data
      edgemobile eval v3-large/ --data samples
      edgemobile export v3-large --int8 --calib samples --overwrite
    """
    from edgemobile.loading.sample_data import write_sample_data

    counts = write_sample_data(folder)
    words = ", ".join(f"{count} images in {split}/" for split, count in counts.items())
    console().print(f"wrote [bold]{escape(str(folder))}[/bold]: {words}")
    console().print("[dim]note:[/dim] synthetic images that every net of the package knows: no measure of accuracy")
    return 0
