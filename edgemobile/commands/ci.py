"""`edgemobile ci`: the gate that edgemobile.toml describes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from edgemobile.commands.completion import complete_devices, complete_gate_models, complete_refs, complete_weights
from edgemobile.commands.defaults import refuse_bad_config
from edgemobile.commands.for_ci import tell_ci, telling_errors
from edgemobile.commands.options import FOR_CI
from edgemobile.commands.writable import check_writable
from edgemobile.errors import EdgemobileError
from edgemobile.printing.terminal import console, format_table, progress
from edgemobile.util.config_file import CONFIG_NAME, read_config
from edgemobile.util.strict_json import to_json_text
from edgemobile.util.writing import write_whole

if TYPE_CHECKING:
    from edgemobile.gate.checks import Check, GateReport

__all__ = ["ci"]

_COLOURS = {"pass": "green", "would run": "cyan", "skipped": "yellow", "unstable": "yellow"}


@click.group(invoke_without_command=True)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"The configuration to check. [default: {CONFIG_NAME}, or the file given before `ci`]",
)
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_gate_models,
    help="Check only this model. Repeat it for others.",
)
@click.option("--force", is_flag=True, help="Run everything, including what has not changed.")
@click.option("--dry-run", is_flag=True, help="Run and write nothing: list what has changed, and check the rest.")
@FOR_CI
@click.option("--json", "as_json", is_flag=True, help="Print JSON: every check.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the result, no progress.")
@click.pass_context
def ci(
    context: click.Context,
    config: Path | None,
    only: tuple[str, ...],
    force: bool,
    dry_run: bool,
    junit: Path | None,
    github_summary: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Check every model of edgemobile.toml: export, parity, sizes, accuracy, devices; run only what has changed.

    Exit codes: 0 pass, 1 a check failed, 2 wrong usage or configuration, 3 a dependency is missing, 4 a device does not
    answer, 5 a measurement is unstable. All problems are reported; the code is the first of 2, 1, 3, 4, 5.

    \b
    Examples:
      edgemobile ci init v3-large
      edgemobile ci
      edgemobile ci --only v3-large --force
      edgemobile ci --junit gate.xml --github-summary
    """
    if context.invoked_subcommand is not None:
        return 0
    from edgemobile.gate.load import load_gate
    from edgemobile.gate.output import gate_junit, gate_markdown
    from edgemobile.gate.run import run_gate

    chosen = _chosen_config(context)
    with telling_errors("edgemobile ci", junit, as_json=as_json, inputs=(chosen,)):
        refuse_bad_config(context)
        if not chosen.is_file():
            raise EdgemobileError(
                f"{chosen} does not exist. Create it with `edgemobile ci init MODEL`, or pass another file "
                "with --config"
            )
        with progress(quiet=quiet or as_json) as bars:
            report = run_gate(load_gate(read_config(chosen)), only=only, force=force, dry_run=dry_run, progress=bars)
    tell_ci(junit, partial(gate_junit, report), github_summary, partial(gate_markdown, report), on_screen=not as_json)
    if as_json:
        print(to_json_text(report.to_json()), end="")
    else:
        print_gate(report)
    return report.exit_code


def _chosen_config(context: click.Context) -> Path:
    """The --config of `ci`, else that of `edgemobile`."""
    given = (one.params.get("config") for one in (context, context.parent, context.find_root()) if one is not None)
    return next(filter(None, given), Path(CONFIG_NAME))


@ci.command("init")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", shell_complete=complete_refs)
@click.option(
    "--weights",
    metavar="bundled|imagenet|random|FILE",
    shell_complete=complete_weights,
    help="Weights, with a single MODEL. [default: bundled, or those your own model comes with]",
)
@click.option(
    "--calib",
    type=click.Path(path_type=Path),
    metavar="DIR|ZIP",
    help="ImageFolder to calibrate and compare the models on. [default: images synthesized from the model]",
)
@click.option(
    "--on",
    "devices",
    multiple=True,
    metavar="DEVICE",
    shell_complete=complete_devices,
    help="Also measure int8 TFLite files on this device, such as emulated:cortex-a72, or these: 'pi-*', tag:TAG. "
    "Repeat it for others.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print only the result, no progress.")
@click.pass_context
def init(
    context: click.Context,
    models: tuple[str, ...],
    weights: str | None,
    calib: Path | None,
    devices: tuple[str, ...],
    quiet: bool,
) -> int:
    """Write edgemobile.toml for MODELs: run the gate once and use the measured values, with a margin, as bounds.

    MODEL is what `edgemobile export` takes. An existing edgemobile.toml is not changed.

    \b
    Examples:
      edgemobile ci init v3-large --on emulated:cortex-a72
      edgemobile ci init my.pth --calib photos.zip
    """
    from edgemobile.devices.host.selection import select_devices
    from edgemobile.gate.draft import draft, draft_model

    path = _chosen_config(context)
    if path.exists():
        raise EdgemobileError(f"{path} exists already. Choose another file with `edgemobile ci --config FILE init ...`")
    if weights is not None and len(models) > 1:
        raise EdgemobileError(
            "--weights applies to one model: create the others without it, or write their entries by hand"
        )
    check_writable("--config", path)
    selected = tuple(dict.fromkeys(name for text in devices for name in select_devices(text)))
    drafted = [draft_model(model, weights=weights, calib=calib) for model in models]
    with progress(quiet=quiet) as bars:
        text, report = draft(path, drafted, selected, bars)
    write_whole(path, text)
    print_gate(report)
    console().print(f"wrote {escape(str(path))}. Now `edgemobile ci` runs what changes")
    return 0


def print_gate(report: GateReport) -> None:
    """One row per file, one column per kind of check; below it, what did not pass."""
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
