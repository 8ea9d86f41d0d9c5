"""`edgemobile parity`: whether files still say what their reference says, from which layer on not, and why."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from edgemobile.commands.completion import complete_devices, complete_models, complete_refs
from edgemobile.commands.for_ci import tell_ci, telling_errors
from edgemobile.commands.options import FOR_CI
from edgemobile.commands.writable import check_writable
from edgemobile.errors import EdgemobileError
from edgemobile.printing.terminal import console, format_table, progress
from edgemobile.util.strict_json import to_json_text

if TYPE_CHECKING:
    from edgemobile.comparison.report import FileParity, ParityReport

__all__ = ["parity", "print_parity"]

_SHOWN_UNMATCHED = 5


@click.command("parity")
@click.argument("ref", metavar="REF", shell_complete=complete_refs)
@click.argument("others", nargs=-1, required=True, metavar="OTHER...")
@click.option("--weights", metavar="FILE|bundled|imagenet|random", help="Weights of the reference model REF names.")
@click.option(
    "--arch",
    metavar="NAME",
    shell_complete=complete_models,
    help="The reference model of the checkpoint REF (see `edgemobile models`). [default: what its shapes say]",
)
@click.option("--layers", is_flag=True, help="Compare layer by layer, and name the first that diverges and why.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR|ZIP",
    help="Images to run on, in a folder or a zip. [default: made ones, synthesised where there is int8]",
)
@click.option("--images", type=int, default=32, show_default=True, help="How many.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which.")
@click.option(
    "--runtime",
    metavar="NAME,...",
    help="Run every file on each of these that reads it: onnxruntime, litert, tflite_runtime, tensorflow (tf.lite).",
)
@click.option(
    "--on",
    metavar="DEVICE,...",
    shell_complete=complete_devices,
    help="Run the files on devices (see `edgemobile devices list`).",
)
@click.option("--min", "minimums", metavar="METRIC=BOUND,...", help="Bounds in place of the table's: sqnr_db=40,...")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of one inference.")
@FOR_CI
@click.option("--json", "as_json", is_flag=True, help="Print JSON: every metric, bound and layer.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, only the result.")
def parity(
    ref: str,
    others: tuple[str, ...],
    weights: str | None,
    arch: str | None,
    layers: bool,
    data: Path | None,
    images: int,
    seed: int,
    runtime: str | None,
    on: str | None,
    minimums: str | None,
    threads: int,
    junit: Path | None,
    github_summary: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Compare OTHER files with REF on the same images; exit 1 where one falls short.

    REF is a reference model's name, a checkpoint, a .pt2, package.module:factory, or any .onnx or .tflite
    file; OTHERs are such files, float or int8. Bounds come from one table by format, precision and ISA.

    \b
    Examples:
      edgemobile parity v3-large v3-large/*.tflite v3-large/*.onnx --layers
      edgemobile parity v3-large int8.tflite --min sqnr_db=20,top1_agree=0.95 --data photos.zip
      edgemobile parity int8.tflite int8.tflite int8.onnx --layers --runtime litert,tensorflow,onnxruntime
      edgemobile parity v3-large int8.tflite --on pi4,emulated:cortex-a76 --layers
      edgemobile parity model.pt2 theirs.onnx --junit parity.xml --github-summary
    """
    from edgemobile.comparison.output import junit_xml, markdown
    from edgemobile.comparison.run import ParityRequest
    from edgemobile.comparison.run import parity as compare
    from edgemobile.devices.runtimes.table import runtime_called
    from edgemobile.metrics.tolerances import parse_bounds

    with telling_errors("edgemobile parity", junit, as_json=as_json):
        check_writable("--junit", junit)
        if on is not None and not _names(on):
            raise EdgemobileError("--on names no device. To see them: edgemobile devices list")
        request = ParityRequest(
            ref,
            others,
            weights=weights,
            arch=arch,
            data=data,
            images=images,
            seed=seed,
            layers=layers,
            minimums=parse_bounds(minimums or ""),
            on=_names(on),
            runtimes=tuple(map(runtime_called, _names(runtime))),
            threads=threads,
        )
        with progress(quiet=quiet or as_json) as bars:
            report = compare(request, bars)
    tell_ci(junit, partial(junit_xml, report), github_summary, partial(markdown, report), on_screen=not as_json)
    if as_json:
        print(to_json_text(report.to_json()), end="")
    else:
        print_parity(report)
    return 0 if report.passed else 1


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, (name.strip() for name in (text or "").split(",")))))


def print_parity(report: ParityReport) -> None:
    from edgemobile.comparison.output import shown
    from edgemobile.metrics.measures import METRICS

    # What a device is, and whether its integers are those of this machine.
    remote = ["machine", "steps"] if any(file.machine for file in report.files) else []
    columns = ["", "file", "on", *METRICS, "layers", *remote]
    table = format_table(escape(f"parity with {report.reference}, on {report.images}"), columns, left=3)
    for file in report.files:
        mark = "[green]pass[/green]" if file.passed else "[red]FAIL[/red]"
        metrics = [shown(name, file.metrics[name]) for name in METRICS]
        cells = [*metrics, _layers(file)]
        cells += [escape(file.machine), "-" if file.lsb is None else str(file.lsb)] if remote else []
        table.add_row(mark, escape(Path(file.file).name), escape(file.place), *cells)
    screen = console()
    screen.print(table)
    for file in report.files:
        _print_file(file)
    for note in report.notes:
        screen.print(f"[dim]note:[/dim] {escape(note)}")


def _layers(file: FileParity) -> str:
    """How many layers were compared and hold."""
    return f"{file.agreeing} of {len(file.layers)}" if file.layers else "-"


def _print_file(file: FileParity) -> None:
    screen, name = console(), f"{escape(Path(file.file).name)} on {escape(file.place)}"
    for missed in file.missed:
        screen.print(f"[red]missed:[/red] {name}: {escape(missed)}")
    # What the numbers tell stands among the missed already.
    if file.cause is not None and file.cause.explained_db is not None and file.first_diverging is None:
        screen.print(f"[red]likely cause:[/red] {name}: {file.cause.kind} ({escape(file.cause.words)})")
    if file.cause is not None and file.cause.explained_db is not None:
        near, right = file.cause.explained_db, file.cause.right_db
        screen.print(f"[dim]measured:[/dim] {name}: with that {near:.1f} dB, without {right:.1f} dB")
    if file.first_diverging is not None:
        _print_layers(file)
    for tensor, reason in file.unmatched[:_SHOWN_UNMATCHED]:
        screen.print(f"[yellow]not compared:[/yellow] {name}: {escape(tensor)}: {escape(reason)}")
    if len(file.unmatched) > _SHOWN_UNMATCHED:
        more = len(file.unmatched) - _SHOWN_UNMATCHED
        screen.print(f"[yellow]not compared:[/yellow] {name}: {more} more; --json names them all")
    for note in file.notes:
        screen.print(f"[dim]note:[/dim] {name}: {escape(note)}")


def _print_layers(file: FileParity) -> None:
    from edgemobile.comparison.output import worst_layers

    columns = ["layer", "op", "drift dB", "own dB", "ref. weights dB", "steps"]
    title = f"around the first layer that diverges, {Path(file.file).name} on {file.place}"
    table = format_table(escape(title), columns, left=2)
    for layer in worst_layers(file):
        numbers = (layer.sqnr_db, layer.own_db, layer.constants_db)
        cells = ["-" if number is None else f"{number:.1f}" for number in numbers]
        name = f"[red]{escape(layer.name)}[/red]" if layer.diverges_in else escape(layer.name)
        table.add_row(name, layer.op, *cells, "-" if layer.lsb is None else str(layer.lsb))
    console().print(table)
