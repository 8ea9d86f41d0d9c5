"""`edgemobile eval`: the accuracy of model files, and whether they lost any."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from edgemobile.commands.completion import complete_devices, complete_files
from edgemobile.commands.options import CLASSIFIER, RESULTS, given_options
from edgemobile.commands.sections import SectionedCommand
from edgemobile.commands.writable import check_writable
from edgemobile.errors import EdgemobileError
from edgemobile.printing.evaluation import print_detection, print_evaluation, print_segmentation
from edgemobile.printing.terminal import console, progress
from edgemobile.util.strict_json import to_json_text

if TYPE_CHECKING:
    from edgemobile.accuracy.classifier import ClassifierOptions
    from edgemobile.accuracy.evaluation import FileResult

__all__ = ["evaluate"]


@click.command(
    "eval",
    cls=SectionedCommand,
    sections={"Images": "--data", "Checks": "--baseline", "Model": "--arch", "Device": "--on", "Output": "--json"},
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...", shell_complete=complete_files)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR|ZIP",
    help="Images in one folder per class, as a directory or a zip.",
)
@click.option(
    "--annotations",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Boxes of the images in the folder --data, a COCO json: the average precision of detectors.",
)
@click.option(
    "--masks",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Masks of the images in the folder --data, .png of class numbers: the mean IoU of nets that classify pixels.",
)
@click.option(
    "--split",
    help="Split of the data set. [default: the first that exists of test, val, validation, valid, eval, train]",
)
@click.option("--limit", type=int, metavar="N", help="Use only N images, drawn at random with --seed.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of --limit.")
@click.option(
    "--baseline",
    metavar="FILE",
    shell_complete=complete_files,
    help="Compare every file with this file, image by image.",
)
@click.option(
    "--max-drop",
    type=float,
    metavar="POINTS",
    help="Exit 1 when top-1 is more than this many points below the baseline.",
)
@CLASSIFIER
@click.option(
    "--on",
    metavar="DEVICE,...",
    shell_complete=complete_devices,
    help="Run the files on a device, or spread the images over several of one kind: names, patterns such as 'pi-*', "
    "tag:TAG (see `edgemobile devices list`).",
)
@click.option(
    "--scheduler",
    metavar="tcp://HOST:PORT",
    help="A Dask scheduler whose workers drive the devices. [default: workers in this process]",
)
@click.option("--workers", type=int, help="Processes. [default: 1, and more for thousands of images]")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of one inference.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: all counts, results per class, confusion matrix, every image."
)
@RESULTS
@click.option("-q", "--quiet", is_flag=True, help="Print only the result, no progress.")
def evaluate(
    files: tuple[str, ...],
    max_drop: float | None,
    arch: str | None,
    preprocess: str | None,
    labels: Path | None,
    res: int | None,
    threads: int,
    results_store: Path | None,
    as_json: bool,
    quiet: bool,
    annotations: Path | None,
    masks: Path | None,
    **options: Any,
) -> int:
    """Measure the accuracy of FILEs on the images of --data: top-1, top-5, the 95 % interval, loss to a baseline; with
    --annotations, the average precision of the boxes of exported detectors; with --masks, the mean intersection over
    union of exported nets that classify pixels.

    FILE is any .onnx or .tflite image classifier, a checkpoint of a reference model, the name of one with bundled
    weights, package.module:factory, a saved program (.pt2), or the folder of an export, which stands for all files in
    it (write v3-large/ if a model has the folder's name). Preprocessing, layout and classes are read from the
    file where it contains them, and shown. If a file cannot be run, it is reported, the others are evaluated, and the
    exit code is 2.

    \b
    Examples:
      edgemobile eval v3-large/ --data cifar10.zip
      edgemobile eval int8.tflite --baseline float32.onnx --max-drop 0.5 --data images/ --split val
      edgemobile eval int8.tflite --data images/ --on pi5
      edgemobile eval int8.tflite --data images/ --on 'pi-*'
      edgemobile eval theirs.onnx --data images/ --preprocess imagenet --labels names.txt --limit 1000
      edgemobile eval v3-large-ssdlite/ --data val2017/ --annotations instances_val2017.json
    """
    if max_drop is not None and options["baseline"] is None:
        raise EdgemobileError("--max-drop needs a baseline to compare with: add --baseline FILE")
    from edgemobile.accuracy.classifier import ClassifierOptions
    from edgemobile.accuracy.detector import detects, read_files
    from edgemobile.accuracy.evaluate import evaluate as run_evaluation
    from edgemobile.accuracy.evaluation import EvalRequest
    from edgemobile.metrics.measures import checked_max_drop
    from edgemobile.pipeline.folder import expanded
    from edgemobile.results.sources import current_commit, of_evaluation
    from edgemobile.results.store import append

    if max_drop is not None:
        checked_max_drop(max_drop)
    check_writable("--results", results_store, files)
    chosen = ClassifierOptions(arch=arch, preprocess=preprocess, labels=labels, threads=threads, res=res)
    if annotations is not None or masks is not None:
        return _of_pictures(expanded(files), annotations, masks, options, chosen, as_json=as_json, quiet=quiet)
    opened = read_files(dict.fromkeys((*expanded(files), *filter(None, [options["baseline"]]))))
    if detector := next((name for name, file in opened.items() if detects(file)), None):
        raise EdgemobileError(f"{detector} is a detector: add --annotations FILE, a COCO json with boxes of the images")
    with progress(quiet=quiet or as_json) as bars:
        request = EvalRequest(files=expanded(files), options=chosen, opened=opened, **options)
        result = run_evaluation(request, bars)
    record = result.to_json() if as_json or results_store is not None else {}
    if results_store is not None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        append(results_store, of_evaluation(record, now, current_commit()))
    missed = () if max_drop is None else result.exceeding(max_drop)
    if as_json:
        print(to_json_text({**record, "max_drop": max_drop, "passed": not (missed or result.refused)}), end="")
    else:
        print_evaluation(result, quiet=quiet)
        for file in missed:
            console().print(f"[red]missed:[/red] {escape(file.classifier.file)} {_missed(file, max_drop)}")
    return EdgemobileError.exit_code if result.refused else 1 if missed else 0


# What --annotations and --masks do not go with: they count classes, or run files elsewhere.
_OF_CLASSIFIERS = ("split", "baseline", "max_drop", "arch", "res", "on", "scheduler", "workers", "results_store")
_NOT_OF_SEGMENTERS = ("labels", "preprocess")


def _of_pictures(
    files: tuple[str, ...],
    annotations: Path | None,
    masks: Path | None,
    options: dict[str, Any],
    chosen: ClassifierOptions,
    *,
    as_json: bool,
    quiet: bool,
) -> int:
    """Evaluate on boxes or on masks; returns the exit code."""
    from edgemobile.accuracy.detection import evaluate_detection
    from edgemobile.accuracy.pictures import PicturesRequest
    from edgemobile.accuracy.segmentation import SegmentationEvaluation, evaluate_segmentation

    if annotations is not None and masks is not None:
        raise EdgemobileError("--annotations is for detectors, --masks for nets that classify pixels: give one of them")
    option, others = (
        ("--annotations", _OF_CLASSIFIERS) if masks is None else ("--masks", (*_OF_CLASSIFIERS, *_NOT_OF_SEGMENTERS))
    )
    if refused := [name for name in given_options() if name in others]:
        names = ", ".join("--results" if name == "results_store" else f"--{name.replace('_', '-')}" for name in refused)
        raise EdgemobileError(f"{names} cannot be used with {option}: omit one of them")
    truth = masks or annotations
    assert truth is not None
    with progress(quiet=quiet or as_json) as bars:
        request = PicturesRequest(files, options["data"], truth, options["limit"], options["seed"], chosen)
        result = evaluate_segmentation(request, bars) if masks is not None else evaluate_detection(request, bars)
    if as_json:
        print(to_json_text(result.to_json()), end="")
    elif isinstance(result, SegmentationEvaluation):
        print_segmentation(result, quiet=quiet)
    else:
        print_detection(result, quiet=quiet)
    return 0


def _missed(file: FileResult, max_drop: float | None) -> str:
    assert file.paired is not None
    if file.not_finite:
        return f"has outputs that are not finite for {file.not_finite} of {file.count} images"
    return f"lost {file.paired.drop_points:.2f} points of top-1 to the baseline; {max_drop:g} are allowed"
