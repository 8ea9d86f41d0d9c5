"""`edgemobile ci`: the gate that edgemobile.toml describes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from edgemobile.commands.completion import complete_gate_models
from edgemobile.commands.defaults import refuse_bad_config
from edgemobile.commands.for_ci import tell_ci, telling_errors
from edgemobile.commands.options import FOR_CI
from edgemobile.commands.writable import check_writable
from edgemobile.errors import EdgemobileError
from edgemobile.printing.terminal import console, format_table, progress
from edgemobile.util.config_file import CONFIG_NAME, read_config
from edgemobile.util.strict_json import to_json_text

if TYPE_CHECKING:
    from edgemobile.gate.checks import Check, GateReport

__all__ = ["ci"]

_COLOURS = {"pass": "green", "skipped": "yellow", "unstable": "yellow"}


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"What to check. [default: {CONFIG_NAME}, or the one named before `ci`]",
)
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_gate_models,
    help="Only this model; again for more.",
)
@click.option("--force", is_flag=True, help="Run everything, also what has not changed.")
@FOR_CI
@click.option("--json", "as_json", is_flag=True, help="Print JSON: every check.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, only the result.")
@click.pass_context
def ci(
    context: click.Context,
    config: Path | None,
    only: tuple[str, ...],
    force: bool,
    junit: Path | None,
    github_summary: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Check every model of edgemobile.toml: export, parity, sizes, accuracy, devices; run only what has changed.

    Exit codes: 0 pass, 1 a check failed, 2 wrong usage or configuration, 3 a dependency is missing, 4 a device does not
    answer, 5 a measurement is unstable. Of several problems all are told, and the code is the first of 2, 1, 3, 4, 5.

    \b
    Examples:
      edgemobile ci
      edgemobile ci --only v3-large --force
      edgemobile ci --junit gate.xml --github-summary
    """
    from edgemobile.gate.config import load_gate
    from edgemobile.gate.output import gate_junit, gate_markdown
    from edgemobile.gate.run import run_gate

    chosen = config or context.find_root().params.get("config") or Path(CONFIG_NAME)
    with telling_errors("edgemobile ci", junit, as_json=as_json):
        refuse_bad_config(context)
        check_writable("--junit", junit)
        if not chosen.is_file():
            raise EdgemobileError(f"there is no {chosen}. Write one (docs/ci.md), or name it with --config")
        with progress(quiet=quiet or as_json) as bars:
            report = run_gate(load_gate(read_config(chosen)), only=only, force=force, progress=bars)
    tell_ci(junit, partial(gate_junit, report), github_summary, partial(gate_markdown, report), on_screen=not as_json)
    if as_json:
        print(to_json_text(report.to_json()), end="")
    else:
        print_gate(report)
    return report.exit_code


def print_gate(report: GateReport) -> None:
    """A row a file, a column a kind of check; below it in words what did not pass."""
    from edgemobile.gate.checks import worst
    from edgemobile.gate.output import totals

    kinds = list(dict.fromkeys(_kind(check) for check in report.checks if check.file))
    table = format_table(escape(report.config), ["", "model", "file", *kinds, ""], left=3)
    for (model, file), checks in _by_file(report).items():
        cells = {_kind(check): _cell(check) for check in checks}
        kept = "[dim]not changed[/dim]" if all(check.kept for check in checks) else ""
        row = (_coloured(worst(checks).value), escape(model), escape(file))
        table.add_row(*row, *(cells.get(kind, "-") for kind in kinds), kept)
    screen = console()
    if table.row_count:
        screen.print(table)
    for check in report.checks:
        passed = check.outcome.value == "pass"
        mark = "[dim]note:[/dim]" if passed else _coloured(check.outcome.value)
        where = " ".join(filter(None, (check.model, check.file, check.what, f"on {check.place}")))
        for words in check.words:
            screen.print(f"{mark} {escape(where)}: {escape(words)}")
    screen.print(f"{totals(report)}; {report.wall_s:.1f} s, {report.cpu_s:.1f} s of CPU")


def _by_file(report: GateReport) -> dict[tuple[str, str], list[Check]]:
    rows: dict[tuple[str, str], list[Check]] = {}
    for check in report.checks:
        if check.file:
            rows.setdefault((check.model, check.file), []).append(check)
    return rows


def _kind(check: Check) -> str:
    here = check.what in ("size", "outputs", "layers", "top-1")
    return check.what if here else f"{check.what}, {check.place}"


def _cell(check: Check) -> str:
    budget = check.allowed if check.what in ("size", "instructions") else ""
    text = escape(f"{check.found} of {budget}" if budget else check.found)
    return text if check.outcome.value == "pass" else f"[{_COLOURS.get(check.outcome.value, 'red')}]{text}[/]"


def _coloured(outcome: str) -> str:
    return f"[{_COLOURS.get(outcome, 'red')}]{outcome}[/]"
