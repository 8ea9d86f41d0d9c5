"""`edgemobile report`: measurements as one page, tables and model cards."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from rich.markup import escape

from edgemobile.commands.results import RESULT_FILTERS, STORE_OPTION, chosen_results
from edgemobile.commands.writable import check_apart
from edgemobile.errors import EdgemobileError
from edgemobile.printing.terminal import console, format_bytes

if TYPE_CHECKING:
    from edgemobile.report.tables import Table
    from edgemobile.results.record import Result

__all__ = ["report"]

_PATH = click.Path(path_type=Path)


@click.command("report")
@click.argument("sources", nargs=-1, type=_PATH, metavar="[RUN]...")
@click.option("--html", type=_PATH, metavar="FILE", help="One self-contained page with plots, tables and conditions.")
@click.option("--md", type=_PATH, metavar="FILE", help="Markdown tables.")
@click.option("--csv", type=_PATH, metavar="FILE", help="One row per case: a file, a device, a number of threads.")
@click.option("--cards", type=_PATH, metavar="DIR", help="One model card per file.")
@click.option("--since", metavar="WHEN", help="Add a table of the results store: 2026-11-01, 24h, 7d, 2w or a commit.")
@click.option("--file", "pattern", metavar="PATTERN", help="With --since: only files of this name, such as 'v3-*'.")
@RESULT_FILTERS
@STORE_OPTION
@click.option("--title", help="Heading of the page. [default: the models, their resolution and the date]")
def report(
    sources: tuple[Path, ...],
    html: Path | None,
    md: Path | None,
    csv: Path | None,
    cards: Path | None,
    since: str | None,
    pattern: str | None,
    on: str | None,
    metric: str | None,
    store: Path,
    title: str | None,
) -> int:
    """Combine RUNs: saved bench runs, `eval --json`, `parity --json`, export folders, in any mix.

    They are recognized by their content and joined by the sha256 of the model files in them. Figures measured under
    different conditions stay separate, and so do instructions and time.

    \b
    Examples:
      edgemobile report v3-large/ run.json eval.json parity.json --html report.html
      edgemobile report runs/*.json v3-large/ --md report.md --csv cases.csv --cards cards/
      edgemobile report --since 7d --on 'pi*' --html week.html
    """
    if since is None:
        _check_files_only(sources)
    elif not sources and (csv or cards):
        raise EdgemobileError("--csv and --cards need a RUN: results of a store are only in --html and --md")
    elif not (html or md):
        raise EdgemobileError("--since needs --html or --md")
    if not any((html, md, csv, cards)):
        raise EdgemobileError("nothing to write: add at least one of --html, --md, --csv and --cards")
    from edgemobile.report.cards import model_cards
    from edgemobile.report.findings import join
    from edgemobile.report.page import page
    from edgemobile.report.sources import read_sources
    from edgemobile.report.text import as_csv, as_markdown
    from edgemobile.util.writing import write_whole

    files = [path for path in (html, md, csv) if path is not None]
    inputs = sources if since is None else [*sources, store]
    check_apart(files, inputs)
    found = join(read_sources(sources))
    history = None if since is None else _over_time(since, chosen_results(store, pattern or "*", on, metric))
    written = {} if cards is None else {cards / name: text for name, text in model_cards(found).items()}
    check_apart([*files, *written], inputs)
    makers = (
        (html, lambda: page(found, title, history)),
        (md, lambda: as_markdown(found, title, history)),
        (csv, lambda: as_csv(found)),
    )
    texts = {path: make() for path, make in makers if path is not None} | written
    if cards is not None:
        _make_folder(cards)
    for path, text in texts.items():
        write_whole(path, text)
        console().print(f"wrote {escape(str(path))}  [dim]{format_bytes(len(text.encode()))}[/dim]")
    for note in found.notes:
        console().print(f"[dim]note:[/dim] {escape(note)}")
    return 0


def _check_files_only(sources: tuple[Path, ...]) -> None:
    if not sources:
        raise EdgemobileError("nothing to report: give at least one RUN, or --since for results of a store")
    for name, option in (("pattern", "--file"), ("on", "--on"), ("metric", "--metric"), ("store", "--store")):
        if click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise EdgemobileError(f"{option} selects results of a store: add --since, or omit it")


def _over_time(since: str, results: Sequence[Result]) -> Table:
    from edgemobile.report.over_time import over_time_table
    from edgemobile.results.since import start_of

    return over_time_table(results, start_of(since, results, datetime.now(UTC)))


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgemobileError(f"cannot create the folder {path}: {error.strerror or error}") from error
