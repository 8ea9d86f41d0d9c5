"""`edgemobile export`: the main job, and the table of what came out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from edgemobile.commands.completion import complete_refs
from edgemobile.commands.options import IMAGES, INT8, MODEL, OUTPUT, List, default_out, recipe_of
from edgemobile.loading.model_spec import is_own
from edgemobile.models.arch import get_arch
from edgemobile.printing.terminal import console, format_bytes, format_table, progress

if TYPE_CHECKING:
    from edgemobile.pipeline.export import Checked, ExportResult

__all__ = ["check_model", "export", "print_export"]


@click.command()
@click.argument("model", shell_complete=complete_refs)
@click.option("--int8", is_flag=True, help="Also write int8 files: integer arithmetic throughout.")
@click.option("--fp16", is_flag=True, help="Also write files with float16 weights.")
@click.option("--dynamic", is_flag=True, help="Also write files with int8 weights and float arithmetic.")
@click.option("--to", "formats", type=List(), metavar="onnx,tflite", help="Formats. [default: all the route makes]")
@click.option(
    "--via",
    type=click.Choice(["native", "torch", "tensorflow"]),
    default="native",
    show_default=True,
    help="Our own emitters, or a library's exporter and quantizer: torch makes ONNX, tensorflow TFLite.",
)
@click.option(
    "--embed-preprocess", is_flag=True, help="The files take raw uint8 pixels NHWC; only resize and crop stay outside."
)
@MODEL
@IMAGES
@INT8
@OUTPUT
def export(
    model: str,
    int8: bool,
    fp16: bool,
    dynamic: bool,
    formats: tuple[str, ...] | None,
    out: Path | None,
    recipe: str | None,
    hswish: str,
    target: str,
    keep_float: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> int:
    """Export MODEL to a folder, run every file it wrote and compare it with PyTorch.

    MODEL is a reference model (see `edgemobile models`), `package.module:factory`, or a saved torch.export program,
    FILE.pt2.

    \b
    Examples:
      edgemobile export v3-large --int8
      edgemobile export v2 --weights my.pth --int8 --calib images.zip
      edgemobile export mypkg.models:make_net --weights my.pth --res 96
    """
    check_model(model)
    from edgemobile.pipeline.export import ExportRequest
    from edgemobile.pipeline.export import export as run_export

    quantization = recipe_of(recipe, hswish, target, keep_float, options)
    chosen = {"float32": True, "float16": fp16, "dynamic": dynamic, "int8": int8}
    request = ExportRequest(
        model=model,
        out=out or default_out(model),
        formats=formats,
        precisions=tuple(name for name, wanted in chosen.items() if wanted),
        recipe=quantization,
        target=target,
        command=tuple(sys.argv[1:]),
        **options,
    )
    with progress(quiet=quiet or as_json) as bars:
        result = run_export(request, bars)
    print_export(result, as_json=as_json, verbose=verbose)
    return 0 if result.passed else 1


def check_model(model: str) -> None:
    """Refuse a name that is no model, before anything heavy is imported."""
    if not is_own(model):
        get_arch(model)


def print_export(result: ExportResult, *, as_json: bool = False, verbose: bool = False) -> None:
    if as_json:
        print((result.out / "manifest.json").read_text(encoding="utf-8"), end="")
        return
    screen = console()
    accuracy = f", PyTorch top-1 {result.float_accuracy:.1%}" if result.float_accuracy is not None else ""
    title = escape(f"{result.model} at {result.input_px} px, {result.source}\nchecked on {result.images}{accuracy}")
    columns = [
        "file",
        "precision",
        "size",
        "ops",
        "hard-swish",
        "SQNR",
        "max abs",
        "agree",
        "top-1",
        "latency",
        "runtime",
        "",
    ]
    table = format_table(title, columns, left=2)
    for file in result.files:
        table.add_row(*_file_row(file))
    screen.print(table)
    for note in result.notes:
        screen.print(f"[dim]note:[/dim] {escape(note)}")
    for file in result.files:
        for missed in file.verdict.missed:
            screen.print(f"[red]missed:[/red] {escape(f'{file.artifact.file}: {missed}')}")
        if verbose:
            ops = ", ".join(f"{op} {count}" for op, count in sorted(file.artifact.ops.items()))
            screen.print(f"[dim]{escape(file.artifact.file)}:[/dim] {escape(ops)}")
    screen.print(f"wrote [bold]{escape(f'{result.out}/')}[/bold]")


def _file_row(file: Checked) -> list[str]:
    artifact, metrics = file.artifact, file.verdict.metrics
    return [
        escape(artifact.file),
        artifact.precision,
        format_bytes(artifact.bytes),
        str(artifact.op_count),
        artifact.hswish or "-",
        f"{metrics['sqnr_db']:.1f} dB",
        f"{metrics['max_abs']:.2g}",
        f"{metrics['top1_agree']:.1%}",
        "-" if file.accuracy is None else f"{file.accuracy:.2%}",
        f"{file.latency.median_ns / 1e6:.2f} ms",
        escape(file.runtime),
        "ok" if file.verdict.passed else "[red]MISSED[/red]",
    ]
