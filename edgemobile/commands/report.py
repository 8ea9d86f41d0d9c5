"""`edgemobile report`: measurements as one page, tables and model cards."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape

from edgemobile.commands.writable import check_apart
from edgemobile.errors import EdgemobileError
from edgemobile.printing.terminal import console, format_bytes

__all__ = ["report"]

_PATH = click.Path(path_type=Path)


@click.command("report")
@click.argument("sources", nargs=-1, required=True, type=_PATH, metavar="RUN...")
@click.option("--html", type=_PATH, metavar="FILE", help="One self-contained page with plots, tables and conditions.")
@click.option("--md", type=_PATH, metavar="FILE", help="Markdown tables.")
@click.option("--csv", type=_PATH, metavar="FILE", help="One row per case: a file, a device, a number of threads.")
@click.option("--cards", type=_PATH, metavar="DIR", help="One model card per file.")
@click.option("--title", help="Heading of the page. [default: the models, their resolution and the date]")
def report(
    sources: tuple[Path, ...],
    html: Path | None,
    md: Path | None,
    csv: Path | None,
    cards: Path | None,
    title: str | None,
) -> int:
    """Combine RUNs: saved bench runs, `eval --json`, `parity --json`, export folders, in any mix.

    They are recognized by their content and joined by the sha256 of the model files in them. Figures measured under
    different conditions stay separate, and so do instructions and time.

    \b
    Examples:
      edgemobile report v3-large/ run.json eval.json parity.json --html report.html
      edgemobile report runs/*.json v3-large/ --md report.md --csv cases.csv --cards cards/
    """
    if not any((html, md, csv, cards)):
        raise EdgemobileError("nothing to write: add at least one of --html, --md, --csv and --cards")
    from edgemobile.report.cards import model_cards
    from edgemobile.report.findings import join
    from edgemobile.report.page import page
    from edgemobile.report.sources import read_sources
    from edgemobile.report.text import as_csv, as_markdown
    from edgemobile.util.writing import write_whole

    files = [path for path in (html, md, csv) if path is not None]
    check_apart(files, sources)
    found = join(read_sources(sources))
    written = {} if cards is None else {cards / name: text for name, text in model_cards(found).items()}
    check_apart([*files, *written], sources)
    makers = ((html, lambda: page(found, title)), (md, lambda: as_markdown(found, title)), (csv, lambda: as_csv(found)))
    texts = {path: make() for path, make in makers if path is not None} | written
    if cards is not None:
        _make_folder(cards)
    for path, text in texts.items():
        write_whole(path, text)
        console().print(f"wrote {escape(str(path))}  [dim]{format_bytes(len(text.encode()))}[/dim]")
    for note in found.notes:
        console().print(f"[dim]note:[/dim] {escape(note)}")
    return 0


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgemobileError(f"cannot create the folder {path}: {error.strerror or error}") from error
