"""`edgemobile results`: measurements that last, and when a figure changed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgemobile.commands.options import option_group
from edgemobile.errors import EdgemobileError
from edgemobile.printing.terminal import console
from edgemobile.util.strict_json import encode, parse, to_json_text

if TYPE_CHECKING:
    from edgemobile.results.record import Result

__all__ = ["RESULT_FILTERS", "STORE_OPTION", "chosen_results", "results"]

_DEFAULT = "results.jsonl"
STORE_OPTION = click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=_DEFAULT,
    show_default=True,
    metavar="FILE",
    help="The results store, as `bench` and `eval` write it with --results.",
)


RESULT_FILTERS = option_group(
    click.option("--on", metavar="PATTERN", help="Only results of these devices, such as 'pi-*'."),
    click.option("--metric", metavar="NAME", help="latency_ms, instructions_m, estimated_ms, top1 or top5."),
)


@click.group()
def results() -> None:
    """Results of `bench` and `eval` over time: a file with one JSON object per line, which is only appended to.

    pandas, polars and DuckDB read the file as it is.
    """


@results.command("list")
@click.argument("pattern", default="*", metavar="[PATTERN]")
@RESULT_FILTERS
@click.option("--limit", type=click.IntRange(1), default=30, show_default=True, help="Show only the last N.")
@STORE_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_results(pattern: str, on: str | None, metric: str | None, limit: int, store: Path, as_json: bool) -> None:
    """List the results of files whose name matches PATTERN, such as 'v3-*'.

    \b
    Examples:
      edgemobile results list
      edgemobile results list '*int8*' --on 'pi*' --metric latency_ms
    """
    from edgemobile.printing.results import print_results

    chosen = chosen_results(store, pattern, on, metric)
    shown = chosen[-limit:]
    if as_json:
        print(to_json_text([encode(result) for result in shown]), end="")
    else:
        print_results(shown, len(chosen), str(store))


@results.command()
@click.argument("file", metavar="FILE")
@RESULT_FILTERS
@STORE_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def trend(file: str, on: str | None, metric: str | None, store: Path, as_json: bool) -> None:
    """Show every figure of FILE over time, and mark where it changed.

    Instructions and accuracy repeat, so any difference is a change. A latency differs from run to run: there a change
    is marked only if it would be rare by chance, which takes 5 stable runs before it and 5 behind it.

    \b
    Examples:
      edgemobile results trend v3-large-int8.tflite
      edgemobile results trend v3-large-int8.tflite --on pi5 --metric latency_ms
    """
    from edgemobile.printing.results import print_trend
    from edgemobile.results.trend import trends

    found = trends(chosen_results(store, file, on, metric))
    if as_json:
        listed = [
            {
                "results": [encode(result) for result in one.results],
                "changes": [{"at": change.at, "ratio": change.ratio} for change in one.changes],
            }
            for one in found
        ]
        print(to_json_text(listed), end="")
        return
    for one in found:
        print_trend(one)


@results.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN.json...")
@STORE_OPTION
def add(files: tuple[Path, ...], store: Path) -> None:
    """Add saved runs: from `bench --out` or `eval --json`, which is dated by its file. Those there already are not
    added again.

    \b
    Example:
      edgemobile results add run.json eval.json
    """
    from edgemobile.results.store import merge

    found = [result for path in files for result in _saved(path)]
    _tell(merge(store, found), len(found), store)


@results.command("import")
@click.argument("other", type=click.Path(path_type=Path), metavar="OTHER.jsonl")
@STORE_OPTION
def import_results(other: Path, store: Path) -> None:
    """Add the results of another store, without those that are there already.

    \b
    Example:
      edgemobile results import theirs.jsonl
    """
    from edgemobile.printing.results import print_damaged
    from edgemobile.results.store import merge, read

    found = read(other)
    print_damaged(found, str(other))
    _tell(merge(store, found.results), len(found.results), store)


def _tell(added: int, given: int, store: Path) -> None:
    there = f"; {given - added} were there already" if added < given else ""
    console().print(f"added {added} results to {store}{there}")


def chosen_results(store: Path, pattern: str, on: str | None, metric: str | None) -> Sequence[Result]:
    """Raises EdgemobileError if nothing matches, with what there is."""
    from edgemobile.printing.results import print_damaged
    from edgemobile.results.record import METRICS
    from edgemobile.results.store import read

    if metric is not None and metric not in METRICS:
        raise EdgemobileError(f"--metric {metric!r} is not known. Allowed: {', '.join(METRICS)}")
    found = read(store)
    print_damaged(found, str(store))
    chosen = [
        result
        for result in found.results
        if fnmatchcase(result.file, pattern)
        and (on is None or fnmatchcase(result.device, on))
        and metric in (None, result.metric)
    ]
    if found.results and not chosen:
        there = sorted({f"{result.file} on {result.device}" for result in found.results})
        shown = ", ".join(there[:5]) + (f", and {len(there) - 5} more" if len(there) > 5 else "")
        raise EdgemobileError(f"no result in {store} matches. It has: {shown}")
    return chosen


def _saved(path: Path) -> list[Result]:
    from edgemobile.devices.host.records import MAX_RUN_BYTES, load_run
    from edgemobile.results.sources import of_evaluation, of_run

    try:
        with path.open("rb") as file:
            data = file.read(MAX_RUN_BYTES + 1)
        written = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    except OSError as error:
        raise EdgemobileError(f"cannot read {path}: {error.strerror or error}") from error
    value = parse(data, str(path), MAX_RUN_BYTES)
    if isinstance(value, dict) and "images" in value and "files" in value:
        if "truth" in value:
            raise EdgemobileError(
                f"{path} is an evaluation of boxes or masks. Allowed: runs of `bench`, and `eval --json` of classifiers"
            )
        try:
            return of_evaluation(value, written)
        except (KeyError, TypeError, ValueError) as error:
            raise EdgemobileError(f"{path} is not what `edgemobile eval --json` prints: {error!r}") from error
    return of_run(load_run(path))
