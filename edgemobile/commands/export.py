"""`edgemobile export`: the main command, and its table of results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgemobile.commands.completion import complete_refs
from edgemobile.commands.options import IMAGES, INT8, MODEL, OUTPUT, formats_option, given_options
from edgemobile.commands.sections import SectionedCommand
from edgemobile.loading.model_spec import check_readable, is_checkpoint, is_model_file, is_own
from edgemobile.models.arch import get_arch
from edgemobile.printing.export import print_export
from edgemobile.printing.terminal import progress

if TYPE_CHECKING:
    from edgemobile.pipeline.request import ExportResult

__all__ = ["check_model", "export", "show_export"]


@click.command(
    cls=SectionedCommand,
    sections={
        "Files to write": "--int8",
        "Model": "--weights",
        "Images": "--calib",
        "int8": "--recipe",
        "Output": "--out",
    },
)
@click.argument("model", shell_complete=complete_refs)
@click.option("--int8", is_flag=True, help="Also write int8 files, with integer arithmetic throughout.")
@click.option("--fp16", is_flag=True, help="Also write files with float16 weights.")
@click.option("--weight-only", is_flag=True, help="Also write files with int8 weights and float arithmetic.")
@formats_option("all that the backend writes")
@click.option(
    "--backend",
    type=click.Choice(["native", "torch", "tensorflow"]),
    default="native",
    show_default=True,
    help="edgemobile's own exporter, or that of a library: torch writes ONNX, tensorflow TFLite.",
)
@click.option(
    "--embed-preprocess",
    is_flag=True,
    help="Input of the files: raw uint8 NHWC pixels. Only resize and crop remain outside the model.",
)
@MODEL
@IMAGES
@INT8
@OUTPUT
def export(
    model: str,
    int8: bool,
    fp16: bool,
    weight_only: bool,
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
    """Export MODEL to a folder, run every file it wrote and compare it with MODEL.

    MODEL is a reference model (see `edgemobile models`), a checkpoint of one, `package.module:factory`, a saved
    torch.export program, FILE.pt2, or a model file of any exporter, FILE.onnx or FILE.tflite.

    \b
    Examples:
      edgemobile export v3-large --int8
      edgemobile export my.pth --res 96
      edgemobile export v2 --weights my.pth --int8 --calib images.zip
      edgemobile export mypkg.models:make_net --weights my.pth --res 96
      edgemobile export theirs.tflite --preprocess inception --int8 --calib images/
    """
    check_model(model)
    from edgemobile.pipeline.export import export as run_export
    from edgemobile.pipeline.request import ExportRequest, default_out, recipe_of, refuse_unused

    given = given_options()
    refuse_unused(given, int8=int8, backend=options["backend"])

    quantization = recipe_of(recipe, hswish, target, keep_float, options)
    chosen = {"float32": True, "float16": fp16, "weight-only": weight_only, "int8": int8}
    request = ExportRequest(
        model=model,
        out=out or default_out(model),
        formats=formats,
        precisions=tuple(name for name, wanted in chosen.items() if wanted),
        recipe=quantization,
        target=target,
        use_trained=not {"recipe", "hswish", "keep_float", "search"}.intersection(given),
        command=tuple(sys.argv[1:]),
        **options,
    )
    with progress(quiet=quiet or as_json) as bars:
        result = run_export(request, bars)
    show_export(result, as_json=as_json, verbose=verbose)
    return 0 if result.passed else 1


def check_model(model: str) -> None:
    """Refuse an unknown model name before anything heavy is imported."""
    check_readable(model)
    if not is_own(model) and not is_checkpoint(model) and not is_model_file(model):
        get_arch(model)


def show_export(result: ExportResult, *, as_json: bool, verbose: bool) -> None:
    """The table, or the manifest."""
    if as_json:
        print((result.out / "manifest.json").read_text(encoding="utf-8"), end="")
    else:
        print_export(result, verbose=verbose)
