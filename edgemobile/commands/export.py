"""`edgemobile export`: the main job, and the table of what came out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgemobile.arch import ARCHS, get_arch
from edgemobile.terminal import console, format_bytes, format_table, progress

if TYPE_CHECKING:
    from edgemobile.pipeline import Checked, ExportResult

__all__ = ["export"]


class _List(click.ParamType):
    """A comma-separated list."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(item.strip() for item in value.split(",") if item.strip())


@click.command()
@click.argument("model")
@click.option("--int8", is_flag=True, help="Also write int8 files: integer arithmetic throughout.")
@click.option("--fp16", is_flag=True, help="Also write files with float16 weights.")
@click.option("--dynamic", is_flag=True, help="Also write files with int8 weights and float arithmetic.")
@click.option("--to", "formats", type=_List(), metavar="onnx,tflite", help="Formats. [default: all the route makes]")
@click.option(
    "--via",
    type=click.Choice(["native", "torch", "tensorflow"]),
    default="native",
    show_default=True,
    help="Our own emitters, or a library's exporter and quantizer: torch makes ONNX, tensorflow TFLite.",
)
@click.option(
    "--weights",
    metavar="bundled|imagenet|random|FILE",
    help="The checkpoint in the package, torchvision's public one, explicit random weights, or a .pt, .pth or "
    ".safetensors file under torchvision's or timm's keys. "
    "[default: bundled, or what your own model brings along]",
)
@click.option("--width", type=float, help="Width multiplier. [default: the checkpoint's]")
@click.option("--res", type=int, help="Input resolution in pixels. [default: the checkpoint's]")
@click.option("--classes", type=int, help="Number of classes. [default: the checkpoint's]")
@click.option("--batch", type=int, default=1, show_default=True, help="Batch size of the files.")
@click.option(
    "--calib",
    type=click.Path(path_type=Path),
    metavar="DIR|ZIP",
    help="ImageFolder to calibrate int8 and to check the files on. [default: images synthesised from the model for "
    "int8, random blots of colour for float]",
)
@click.option("--calib-images", type=int, default=128, show_default=True, help="Images to calibrate on.")
@click.option(
    "--unchecked-calib", is_flag=True, help="Calibrate even on images that look wrong: noise, not normalised."
)
@click.option("--check-images", type=int, default=200, show_default=True, help="Images to check the files on.")
@click.option(
    "--hswish",
    type=click.Choice(["delegated", "fused"]),
    default="delegated",
    show_default=True,
    help="int8 hard-swish: in ops every runtime takes whole, or one HARD_SWISH op.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write. [default: ./MODEL]")
@click.option("--overwrite", is_flag=True, help="Replace the folder of an earlier export.")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads for the latency column.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of random weights, samples and synthesis.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, only the result.")
@click.option("-v", "--verbose", is_flag=True, help="Say more: notes of every step, op counts of every file.")
def export(
    model: str,
    int8: bool,
    fp16: bool,
    dynamic: bool,
    formats: tuple[str, ...] | None,
    out: Path | None,
    hswish: Any,
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
    if model in ARCHS or not (":" in model or model.endswith(".pt2")):
        get_arch(model)
    from edgemobile.pipeline import ExportRequest
    from edgemobile.pipeline import export as run_export
    from edgemobile.quant.recipe import Recipe

    chosen = {"float32": True, "float16": fp16, "dynamic": dynamic, "int8": int8}
    request = ExportRequest(
        model=model,
        out=out or Path(Path(model.replace(":", ".")).stem if model.endswith(".pt2") else model.replace(":", ".")),
        formats=formats,
        precisions=tuple(name for name, wanted in chosen.items() if wanted),
        recipe=Recipe(hswish=hswish),
        command=tuple(sys.argv[1:]),
        **options,
    )
    with progress(quiet=quiet or as_json) as bars:
        result = run_export(request, bars)
    _print_export(result, as_json=as_json, verbose=verbose)
    return 0 if result.passed else 1


def _print_export(result: ExportResult, *, as_json: bool = False, verbose: bool = False) -> None:
    if as_json:
        print((result.out / "manifest.json").read_text(), end="")
        return
    screen = console()
    accuracy = f", PyTorch top-1 {result.float_accuracy:.1%}" if result.float_accuracy is not None else ""
    title = f"{result.model} at {result.input_px} px, {result.source}\nchecked on {result.images}{accuracy}"
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
        screen.print(f"[dim]note:[/dim] {note}")
    for file in result.files:
        for missed in file.verdict.missed:
            screen.print(f"[red]missed:[/red] {file.artifact.file}: {missed}")
        if verbose:
            ops = ", ".join(f"{op} {count}" for op, count in sorted(file.artifact.ops.items()))
            screen.print(f"[dim]{file.artifact.file}:[/dim] {ops}")
    screen.print(f"wrote [bold]{result.out}{'/' if not str(result.out).endswith('/') else ''}[/bold]")


def _file_row(file: Checked) -> list[str]:
    artifact, metrics = file.artifact, file.verdict.metrics
    return [
        artifact.file,
        artifact.precision,
        format_bytes(artifact.bytes),
        str(artifact.op_count),
        artifact.hswish or "-",
        f"{metrics['sqnr_db']:.1f} dB",
        f"{metrics['max_abs']:.2g}",
        f"{metrics['top1_agree']:.1%}",
        "-" if file.accuracy is None else f"{file.accuracy:.2%}",
        f"{file.latency.median_ns / 1e6:.2f} ms",
        file.runtime,
        "ok" if file.verdict.passed else "[red]MISSED[/red]",
    ]
