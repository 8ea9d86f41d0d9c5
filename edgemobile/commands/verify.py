"""`edgemobile verify`: whether the files of an export are unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from edgemobile.printing.terminal import console
from edgemobile.util.strict_json import to_json_text

if TYPE_CHECKING:
    from edgemobile.pipeline.folder import Verification

__all__ = ["verify"]


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(folder: Path, as_json: bool) -> int:
    """Compare the files in DIR, the folder of an export, with the sizes and the sha256 in its manifest.json.

    The exit code is 1 when a file has changed or is missing. Files that are not in the manifest are listed and do not
    change the exit code.

    \b
    Examples:
      edgemobile verify v3-large
      edgemobile verify v3-large --json
    """
    from edgemobile.pipeline.folder import verify as compare

    found = compare(folder)
    if as_json:
        print(to_json_text(found.to_json()), end="")
    else:
        _print(found)
    return 0 if found.passed else 1


def _print(found: Verification) -> None:
    screen = console()
    for changed in found.changed:
        screen.print(f"[red]changed:[/red] {escape(changed.words)}")
    for missing in found.missing:
        screen.print(f"[red]missing:[/red] {escape(missing.file)}")
    for extra in found.extra:
        screen.print(f"[dim]extra:[/dim] {escape(extra)}")
    total = len(found.intact) + len(found.changed) + len(found.missing)
    screen.print(f"[bold]{escape(str(found.folder))}[/bold]: {len(found.intact)} of {total} files are unchanged")
