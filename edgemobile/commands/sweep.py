"""`edgemobile sweep`: the grid that edgemobile.toml describes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from edgemobile.commands.defaults import refuse_bad_config
from edgemobile.commands.writable import check_apart, check_writable
from edgemobile.errors import EdgemobileError
from edgemobile.printing.sweep import print_sweep
from edgemobile.printing.terminal import console, format_bytes, progress
from edgemobile.util.config_file import CONFIG_NAME, read_config
from edgemobile.util.strict_json import to_json_text
from edgemobile.util.writing import write_whole

if TYPE_CHECKING:
    from edgemobile.sweep.config import SweepConfig
    from edgemobile.sweep.table import Sweep

__all__ = ["sweep"]

_PATH = click.Path(path_type=Path)


@click.command("sweep")
@click.option(
    "--config", type=_PATH, metavar="FILE", help=f"The file with [sweep]. [default: {CONFIG_NAME}, or --config before]"
)
@click.option("--dry-run", is_flag=True, help="Run and write nothing: show what is cached and what would run.")
@click.option("--html", type=_PATH, metavar="FILE", help="One page with a plot of each device and its Pareto front.")
@click.option("--md", type=_PATH, metavar="FILE", help="Markdown tables.")
@click.option("--csv", type=_PATH, metavar="FILE", help="One row per file and device.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: every row and the Pareto fronts.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the result, no progress.")
@click.pass_context
def sweep(
    context: click.Context,
    config: Path | None,
    dry_run: bool,
    html: Path | None,
    md: Path | None,
    csv: Path | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Export and measure every combination of models, widths, resolutions, recipes and devices in [sweep] of
    edgemobile.toml, and show which files are on the Pareto front of accuracy against size and each device's cost.

    Results are cached one by one: after Ctrl-C or a power cut the same command continues. A point that fails is a row
    with the reason. Exit codes: 0 complete, 1 a point failed, 2 wrong usage or configuration or a point that cannot be
    exported, 3 a dependency is missing, 4 a device does not answer, 5 a measurement is unstable.

    \b
    Examples:
      edgemobile sweep --dry-run
      edgemobile sweep
      edgemobile sweep --html sweep.html --csv sweep.csv
    """
    from edgemobile.sweep.config import load_sweep
    from edgemobile.sweep.run import run_sweep

    refuse_bad_config(context)
    chosen = config or context.find_root().params.get("config") or Path(CONFIG_NAME)
    if not chosen.is_file():
        raise EdgemobileError(f"{chosen} does not exist. Write one with a table [sweep]: docs/sweep.md")
    loaded = load_sweep(read_config(chosen))
    _check_outputs({"--html": html, "--md": md, "--csv": csv}, loaded, dry_run=dry_run)
    with progress(quiet=quiet or as_json) as bars:
        try:
            found = run_sweep(loaded, dry_run=dry_run, progress=bars)
        except KeyboardInterrupt:
            kept = loaded.gate.settings.cache
            click.echo(f"What was measured is kept in {kept}; the same command continues.", err=True)
            raise
    if as_json:
        print(to_json_text(found.to_json()), end="")
    else:
        print_sweep(found)
    for path, text in _texts(found, html, md, csv).items():
        write_whole(path, text)
        # Standard output has the JSON.
        console(stderr=as_json).print(f"wrote {escape(str(path))}  [dim]{format_bytes(len(text.encode()))}[/dim]")
    return found.exit_code


def _check_outputs(outputs: dict[str, Path | None], loaded: SweepConfig, *, dry_run: bool) -> None:
    """Before hours of work: whether the outputs can be written, and what they need."""
    given = {option: path for option, path in outputs.items() if path is not None}
    if given and dry_run:
        raise EdgemobileError(f"{', '.join(given)}: a dry run writes nothing; omit it, or --dry-run")
    inputs = [loaded.path, *(() if loaded.data is None else (loaded.data.data,)), loaded.gate.settings.cache]
    check_apart(list(given.values()), inputs)
    for option, path in given.items():
        check_writable(option, path, inputs)
    if outputs["--html"] is not None:
        from edgemobile.errors import require

        for package in ("jinja2", "matplotlib"):
            require(package, "report")


def _texts(found: Sweep, html: Path | None, md: Path | None, csv: Path | None) -> dict[Path, str]:
    if not any((html, md, csv)):
        return {}
    from edgemobile.report.page import page
    from edgemobile.report.text import as_csv, as_markdown
    from edgemobile.sweep.findings import sweep_findings

    joined = sweep_findings(found)
    makers: tuple[tuple[Path | None, Callable[[], str]], ...] = (
        (html, lambda: page(joined, f"Sweep of {found.config}")),
        (md, lambda: as_markdown(joined, f"Sweep of {found.config}")),
        (csv, lambda: as_csv(joined)),
    )
    return {path: make() for path, make in makers if path is not None}
