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
    """Write the bundled labelled images to DIR, a new folder (samples): CIFAR-10's classes, with splits.

    Use them with `eval`, `predict` and `export --calib` until you have a data set. They are synthetic, and chosen so
    that every bundled model classifies them correctly: an accuracy on them does not measure a model.

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
    console().print(
        "[dim]note:[/dim] synthetic images that every bundled model classifies correctly: they do not measure accuracy"
    )
    return 0
