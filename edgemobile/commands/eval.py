"""`edgemobile eval`: the accuracy of model files, and whether they lost any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from edgemobile.commands.completion import complete_devices
from edgemobile.commands.options import CLASSIFIER
from edgemobile.errors import EdgemobileError
from edgemobile.printing.terminal import console, format_table, progress
from edgemobile.util.strict_json import to_json_text

if TYPE_CHECKING:
    from edgemobile.accuracy.evaluation import Evaluation, FileResult

__all__ = ["evaluate", "print_evaluation"]

_SHOWN_SKIPPED = 5


@click.command("eval")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR|ZIP",
    help="Images in a folder a class, as a directory or a zip.",
)
@click.option(
    "--split",
    help="Split of the data set. [default: the first of test, val, validation, valid, eval, train there is]",
)
@click.option("--limit", type=int, metavar="N", help="Only N images, drawn at random by --seed.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of --limit.")
@click.option("--baseline", metavar="FILE", help="Compare every file with this one, image by image.")
@click.option(
    "--max-drop", type=float, metavar="POINTS", help="Exit 1 when top-1 falls more than this far below the baseline."
)
@CLASSIFIER
@click.option(
    "--on",
    metavar="DEVICE",
    shell_complete=complete_devices,
    help="Run the files on a device (see `edgemobile devices list`).",
)
@click.option("--workers", type=int, help="Processes. [default: 1, and more for thousands of images]")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of one inference.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: all counts, per class, confusion, every image.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, only the result.")
def evaluate(
    files: tuple[str, ...],
    max_drop: float | None,
    arch: str | None,
    preprocess: str | None,
    labels: Path | None,
    res: int | None,
    threads: int,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Measure the accuracy of FILEs on the images of --data: top-1, top-5, the 95 % interval, against a baseline.

    FILE is any .onnx or .tflite image classifier, a checkpoint of a reference model, the name of one with bundled
    weights, package.module:factory, or a saved program (.pt2). Preprocessing, layout and classes are taken from the
    file where it says, and shown.

    \b
    Examples:
      edgemobile eval v3-large/*.tflite --data cifar10.zip
      edgemobile eval int8.tflite --baseline float32.onnx --max-drop 0.5 --data images/ --split val
      edgemobile eval int8.tflite --data images/ --on pi5
      edgemobile eval theirs.onnx --data images/ --preprocess imagenet --labels names.txt --limit 1000
    """
    if max_drop is not None and options["baseline"] is None:
        raise EdgemobileError("--max-drop says how far below a baseline top-1 may fall: give one with --baseline FILE")
    from edgemobile.accuracy.classifier import ClassifierOptions
    from edgemobile.accuracy.evaluate import evaluate as run_evaluation
    from edgemobile.accuracy.evaluation import EvalRequest
    from edgemobile.metrics.measures import checked_max_drop

    if max_drop is not None:
        checked_max_drop(max_drop)
    chosen = ClassifierOptions(arch=arch, preprocess=preprocess, labels=labels, threads=threads, res=res)
    with progress(quiet=quiet or as_json) as bars:
        result = run_evaluation(EvalRequest(files=files, options=chosen, **options), bars)
    missed = () if max_drop is None else result.exceeding(max_drop)
    if as_json:
        print(to_json_text({**result.to_json(), "max_drop": max_drop, "passed": not missed}), end="")
    else:
        print_evaluation(result, quiet=quiet)
        for file in missed:
            assert file.paired is not None
            console().print(
                f"[red]missed:[/red] {escape(file.classifier.file)} lost {file.paired.drop_points:.2f} points of top-1 "
                f"to the baseline; {max_drop:g} are allowed"
            )
    return 1 if missed else 0


def print_evaluation(result: Evaluation, *, quiet: bool) -> None:
    names = _short_names([file.classifier.file for file in result.files])
    columns = ["file", "images", "top-1", "95 % interval", "top-5"]
    columns += ["to baseline", "McNemar p"] if result.request.baseline else []
    table = format_table(_title(result), [*columns, "images/s", "skipped"])
    for name, file in zip(names, result.files, strict=True):
        table.add_row(escape(name), *_row(file, with_baseline=bool(result.request.baseline)), str(len(result.skipped)))
    screen = console()
    screen.print(table)
    for name, reason in result.skipped[:_SHOWN_SKIPPED]:
        screen.print(f"[yellow]skipped[/yellow] {escape(name)}: {escape(reason)}")
    if len(result.skipped) > _SHOWN_SKIPPED:
        screen.print(f"[yellow]skipped[/yellow] {len(result.skipped) - _SHOWN_SKIPPED} more; --json names them all")
    for note in dict.fromkeys(result.notes):
        screen.print(f"[dim]note:[/dim] {escape(note)}")
    if not quiet:
        _print_found(names, result.files)


def _title(result: Evaluation) -> str:
    request, dataset = result.request, result.dataset
    split = f" ({dataset.split})" if dataset.split else ""
    drawn = f", drawn from {len(dataset)} with seed {request.seed}" if request.limit else ""
    processes = f"{result.workers} process{'es' if result.workers > 1 else ''} of {request.options.threads} thread"
    many = "s" if request.options.threads > 1 else ""
    if request.on is not None:
        return (
            f"{len(result.images)} images of {request.data.name}{split}{drawn}; on {request.on}, {result.wall_s:.1f} s"
        )
    return f"{len(result.images)} images of {request.data.name}{split}{drawn}; {processes}{many}, {result.wall_s:.1f} s"


def _row(file: FileResult, *, with_baseline: bool) -> list[str]:
    low, high = file.interval
    paired = ["baseline", ""]
    if file.paired is not None:
        p = file.paired.p_mid
        paired = [f"{0 - file.paired.drop_points:+.2f} points", "< 0.001" if p < 0.001 else f"{p:.3f}"]
    return [
        str(file.count),
        f"{file.correct / file.count:.2%}",
        f"{100 * low:.2f} to {100 * high:.2f}",
        "-" if file.top5_correct is None else f"{file.top5_correct / file.count:.2%}",
        *(paired if with_baseline else []),
        f"{file.images_per_s:.0f}" if file.inference_s else "-",
    ]


def _print_found(names: Sequence[str], files: Sequence[FileResult]) -> None:
    """What was found of each file, and where: a wrong guess here is a wrong accuracy."""
    screen = console()
    for name, file in zip(names, files, strict=True):
        found = file.classifier.found
        screen.print(f"\n[bold]{escape(name)}[/bold]  {found['runtime']}")
        for what in ("input", "preprocess", "outputs"):
            screen.print(f"  [dim]{what:10}[/dim] {escape(found[what])}")
        screen.print(f"  [dim]{'classes':10}[/dim] {file.rule}; labels {escape(found['labels'])}")


def _short_names(files: Sequence[str]) -> list[str]:
    """File names without their folders, where that tells them apart."""
    names = [Path(file).name for file in files]
    return names if len(set(names)) == len(names) else list(files)
