"""The command line. It parses, calls, prints and decides the exit code; heavy imports happen inside the commands.

Exit codes: 0 done, 1 a file missed its tolerance, 2 bad input, 3 a dependency is missing, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgemobile import __version__
from edgemobile.arch import ARCHS, get_arch, scaled
from edgemobile.errors import EdgemobileError

if TYPE_CHECKING:
    from edgemobile.pipeline import ExportRequest

__all__ = ["cli", "main"]


def main() -> None:
    """Entry point: every error a user can mend is one line, never a traceback."""
    try:
        code = cli.main(prog_name="edgemobile", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except EdgemobileError as error:
        click.secho(f"error: {error}", fg="red", err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; nothing was written", err=True)
        code = 130
    except BrokenPipeError:
        # The reader of our output went away (`| head`); let the interpreter close what is left without a word.
        sys.stderr.close()
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


class _List(click.ParamType):
    """A comma-separated list."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(item.strip() for item in value.split(",") if item.strip())


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="edgemobile")
def cli() -> None:
    """MobileNets from PyTorch to ONNX and TFLite: small, fast, int8, and proven equal."""


@cli.command()
@click.argument("name", required=False)
@click.option("--width", type=float, help="Width multiplier; channels are rounded to 8 and never below 90 %.")
@click.option("--res", type=int, help="Input resolution in pixels.")
@click.option("--classes", type=int, help="Number of classes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(name: str | None, width: float | None, res: int | None, classes: int | None, as_json: bool) -> None:
    """List the reference models, or describe NAME layer by layer: shapes, parameters, MACs, activation bytes."""
    from edgemobile import tables

    if name is None:
        archs = [scaled(arch, width=width, input_px=res, classes=classes) for arch in ARCHS.values()]
        tables.print_models(archs, as_json=as_json)
    else:
        tables.print_layers(scaled(get_arch(name), width=width, input_px=res, classes=classes), as_json=as_json)


@cli.command()
@click.argument("model")
@click.option("--int8", is_flag=True, help="Also write int8 files: integer arithmetic throughout.")
@click.option("--fp16", is_flag=True, help="Also write files with float16 weights.")
@click.option("--dynamic", is_flag=True, help="Also write files with int8 weights and float arithmetic.")
@click.option(
    "--to", "formats", type=_List(), default="onnx,tflite", show_default=True, help="Formats, comma-separated."
)
@click.option(
    "--weights",
    metavar="bundled|random|FILE",
    help="The checkpoint in the package, explicit random weights, or a .pt, .pth or .safetensors file. "
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
    help="ImageFolder to calibrate int8 and to check the files on. [default: images synthesised from the model]",
)
@click.option("--calib-images", type=int, default=128, show_default=True, help="Images to calibrate on.")
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
    formats: tuple[str, ...],
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
    from edgemobile import tables
    from edgemobile.pipeline import ExportRequest
    from edgemobile.pipeline import export as run_export
    from edgemobile.quant.recipe import Recipe

    chosen = {"float32": True, "float16": fp16, "dynamic": dynamic, "int8": int8}
    request: ExportRequest = ExportRequest(
        model=model,
        out=out or Path(Path(model.replace(":", ".")).stem if model.endswith(".pt2") else model.replace(":", ".")),
        formats=formats,
        precisions=tuple(name for name, wanted in chosen.items() if wanted),
        recipe=Recipe(hswish=hswish),
        command=tuple(sys.argv[1:]),
        **options,
    )
    with tables.progress(quiet=quiet or as_json) as progress:
        result = run_export(request, progress)
    tables.print_export(result, as_json=as_json, verbose=verbose)
    return 0 if result.passed else 1
