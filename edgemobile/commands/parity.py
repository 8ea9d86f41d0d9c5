"""`edgemobile parity`: whether files still match their reference, the first layer that diverges, and why."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from edgemobile.commands.completion import (
    complete_bounds,
    complete_devices,
    complete_files,
    complete_models,
    complete_refs,
    complete_runtimes,
    complete_weights,
)
from edgemobile.commands.for_ci import tell_ci, telling_errors
from edgemobile.commands.options import FOR_CI
from edgemobile.commands.sections import SectionedCommand
from edgemobile.printing.parity import print_parity
from edgemobile.printing.terminal import progress
from edgemobile.util.strict_json import to_json_text

__all__ = ["parity"]

# The exit code of --strict. Not 1: no file missed a bound. Not 3, 4 or 5: a retry changes nothing.
_NOT_COMPARED = 6


@click.command(
    "parity",
    cls=SectionedCommand,
    sections={
        "Model": "--weights",
        "Images": "--data",
        "Device": "--runtime",
        "Checks": "--layers",
        "Output": "--junit",
    },
)
@click.argument("ref", metavar="REF", shell_complete=complete_refs)
@click.argument("others", nargs=-1, required=True, metavar="OTHER...", shell_complete=complete_files)
@click.option(
    "--weights",
    metavar="FILE|bundled|imagenet|random",
    shell_complete=complete_weights,
    help="Weights of the reference model REF.",
)
@click.option(
    "--arch",
    metavar="NAME",
    shell_complete=complete_models,
    help="The reference model of the checkpoint REF (see `edgemobile models`). [default: found from its shapes]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR|ZIP",
    help="Images to run on, in a folder or a zip. [default: synthetic images; images synthesized from the "
    "model if there is an int8 file]",
)
@click.option("--images", type=int, default=32, show_default=True, help="Number of images.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random choice of images.")
@click.option(
    "--runtime",
    metavar="NAME,...",
    shell_complete=complete_runtimes,
    help="Run every file on each of these runtimes that reads its format: onnxruntime, litert, "
    "tflite_runtime, tensorflow (tf.lite).",
)
@click.option(
    "--on",
    metavar="DEVICE,...",
    shell_complete=complete_devices,
    help="Run the files on devices: names, patterns such as 'pi-*', tag:TAG (see `edgemobile devices list`).",
)
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of one inference.")
@click.option("--layers", is_flag=True, help="Compare layer by layer, and report the first that diverges and why.")
@click.option(
    "--min",
    "minimums",
    metavar="METRIC=BOUND,...",
    shell_complete=complete_bounds,
    help="Bounds that replace those of the table: sqnr_db=40,...",
)
@click.option("--strict", is_flag=True, help="Exit 6 if no file misses a bound but a layer could not be compared.")
@FOR_CI
@click.option("--json", "as_json", is_flag=True, help="Print JSON: every metric, bound and layer.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the result, no progress.")
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
    strict: bool,
    threads: int,
    junit: Path | None,
    github_summary: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Compare OTHER files with REF on the same images. Exit 1 if one misses a bound, 2 if one cannot be run.

    REF is a reference model's name, a checkpoint, a .pt2, package.module:factory, or any .onnx or .tflite
    file; OTHERs are such files, float or int8, or folders of an export, which stand for all files in them.
    Bounds come from one table by format, precision and ISA. A layer that cannot be compared is reported with the
    reason and does not fail the command; with --strict the exit code is then 6.

    \b
    Examples:
      edgemobile parity v3-large v3-large/ --layers
      edgemobile parity v3-large int8.tflite --min sqnr_db=20,top1_agree=0.95 --data photos.zip
      edgemobile parity int8.tflite int8.tflite int8.onnx --layers --runtime litert,tensorflow,onnxruntime
      edgemobile parity v3-large int8.tflite --on pi4,emulated:cortex-a76 --layers
      edgemobile parity model.pt2 theirs.onnx --junit parity.xml --github-summary
    """
    from edgemobile.comparison.output import junit_xml, markdown
    from edgemobile.comparison.run import ParityRequest
    from edgemobile.comparison.run import parity as compare
    from edgemobile.devices.host.selection import select_devices
    from edgemobile.devices.runtimes.table import runtime_called
    from edgemobile.metrics.tolerances import parse_bounds
    from edgemobile.pipeline.folder import expanded

    inputs = (ref, *others, weights, data)
    with (
        telling_errors("edgemobile parity", junit, as_json=as_json, inputs=inputs),
        progress(quiet=quiet or as_json) as bars,
    ):
        request = ParityRequest(
            ref,
            expanded(others),
            weights=weights,
            arch=arch,
            data=data,
            images=images,
            seed=seed,
            layers=layers,
            minimums=parse_bounds(minimums or ""),
            on=() if on is None else select_devices(on),
            runtimes=tuple(map(runtime_called, _names(runtime))),
            threads=threads,
        )
        report = compare(request, bars)
    tell_ci(junit, partial(junit_xml, report), github_summary, partial(markdown, report), on_screen=not as_json)
    if as_json:
        print(to_json_text(report.to_json()), end="")
    else:
        print_parity(report)
    code = report.exit_code
    return _NOT_COMPARED if code == 0 and strict and not report.complete else code


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, (name.strip() for name in (text or "").split(",")))))
