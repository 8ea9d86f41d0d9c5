"""The table of an evaluation, and what was detected about each file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from edgemobile.printing.file_names import shown_names
from edgemobile.printing.terminal import console, format_table

if TYPE_CHECKING:
    from edgemobile.accuracy.detection import DetectionEvaluation
    from edgemobile.accuracy.evaluation import Evaluation, FileResult
    from edgemobile.accuracy.segmentation import SegmentationEvaluation

__all__ = ["print_detection", "print_evaluation", "print_segmentation"]

_SHOWN_SKIPPED = 5


def print_evaluation(result: Evaluation, *, quiet: bool) -> None:
    shown = shown_names(file.classifier.file for file in result.files)
    names = [shown[file.classifier.file] for file in result.files]
    columns = ["file", "images", "top-1", "95 % interval", "top-5"]
    columns += ["to baseline", "McNemar p"] if result.request.baseline else []
    guessed = any(file.classifier.is_assumed for file in result.files)
    columns += ["images/s", "skipped", *(["preprocess"] if guessed else [])]
    table = format_table(_title(result), columns)
    for name, file in zip(names, result.files, strict=True):
        cells = [*_row(file, with_baseline=bool(result.request.baseline)), str(len(result.skipped))]
        table.add_row(escape(name), *cells, *([_preprocess_cell(file)] if guessed else []))
    screen = console()
    screen.print(table)
    _print_skipped(result.skipped)
    for file_name, reason in result.refused:
        screen.print(f"[red]refused:[/red] {escape(file_name)}: {escape(reason)}")
    for name, file in zip(names, result.files, strict=True):
        if file.boards:
            _print_boards(name, file)
    for note in dict.fromkeys(result.notes):
        screen.print(f"[dim]note:[/dim] {escape(note)}")
    if not quiet:
        _print_found(names, result.files)


def _print_boards(name: str, file: FileResult) -> None:
    """The images that each board measured, and why some boards were set aside."""
    table = format_table(f"{escape(name)} on {len(file.boards)} boards", ["board", "images", "images/s"])
    for share in file.boards:
        per_s = f"{share.images / share.inference_s:.0f}" if share.inference_s else "-"
        table.add_row(escape(share.board), str(share.images), per_s)
    screen = console()
    screen.print(table)
    for share in file.boards:
        if share.set_aside is not None:
            screen.print(f"[yellow]set aside:[/yellow] {escape(share.board)}: {escape(share.set_aside)}")


def print_detection(result: DetectionEvaluation, *, quiet: bool) -> None:
    """The table of detectors."""
    request, screen = result.request, console()
    shown = shown_names(file.detector.file for file in result.files)
    drawn = f", drawn with seed {request.seed}" if request.limit else ""
    images = f"{len(result.images)} images of {request.truth.name}{drawn}"
    columns = ["file", "AP 0.5:0.95", "AP 0.5", "boxes found", "images/s", "skipped"]
    table = format_table(f"{images}, {result.annotated} boxes; {result.wall_s:.1f} s", columns)
    for file in result.files:
        table.add_row(
            escape(shown[file.detector.file]),
            f"{file.precision.ap:.2%}",
            f"{file.precision.ap50:.2%}",
            str(file.boxes),
            f"{len(result.images) / file.inference_s:.0f}",
            str(len(result.skipped)),
        )
    screen.print(table)
    _print_skipped(result.skipped)
    for file in result.files:
        for note in file.detector.notes:
            screen.print(f"[dim]note:[/dim] {escape(note)}")
    if not quiet:
        for file in result.files:
            _print_facts(shown[file.detector.file], file.detector.found)


def print_segmentation(result: SegmentationEvaluation, *, quiet: bool) -> None:
    """The table of nets that classify pixels."""
    request, screen = result.request, console()
    shown = shown_names(file.segmenter.file for file in result.files)
    drawn = f", drawn with seed {request.seed}" if request.limit else ""
    title = f"{len(result.images)} images of {request.data.name} with masks{drawn}; {result.wall_s:.1f} s"
    table = format_table(title, ["file", "mean IoU", "pixel accuracy", "images/s", "skipped"])
    for file in result.files:
        table.add_row(
            escape(shown[file.segmenter.file]),
            f"{file.mean_iou:.2%}",
            f"{file.pixel_accuracy:.2%}",
            f"{len(result.images) / file.inference_s:.0f}",
            str(len(result.skipped)),
        )
    screen.print(table)
    _print_skipped(result.skipped)
    if result.unmasked:
        screen.print(f"[dim]note:[/dim] {result.unmasked} images of {escape(str(request.data))} have no mask")
    if not quiet:
        for file in result.files:
            _print_facts(shown[file.segmenter.file], file.segmenter.found)


def _print_facts(name: str, found: Mapping[str, str]) -> None:
    screen = console()
    screen.print(f"\n[bold]{escape(name)}[/bold]  {found['runtime']}")
    for what, words in found.items():
        if what != "runtime":
            screen.print(f"  [dim]{what:10}[/dim] {escape(words)}")


def _print_skipped(skipped: Sequence[tuple[str, str]]) -> None:
    screen = console()
    for name, reason in skipped[:_SHOWN_SKIPPED]:
        screen.print(f"[yellow]skipped[/yellow] {escape(name)}: {escape(reason)}")
    if len(skipped) > _SHOWN_SKIPPED:
        screen.print(f"[yellow]skipped[/yellow] {len(skipped) - _SHOWN_SKIPPED} more; --json lists all")


def _title(result: Evaluation) -> str:
    request, dataset = result.request, result.dataset
    split = f" ({dataset.split})" if dataset.split else ""
    drawn = f", drawn from {len(dataset)} with seed {request.seed}" if request.limit else ""
    processes = f"{result.workers} process{'es' if result.workers > 1 else ''} with {request.options.threads} thread"
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


def _preprocess_cell(file: FileResult) -> str:
    """The source of the preprocessing, in a few words."""
    words = escape(file.classifier.preprocess_from.partition(":")[0])
    return f"[yellow]{words}[/yellow]" if file.classifier.is_assumed else words


def _print_found(names: Sequence[str], files: Sequence[FileResult]) -> None:
    """What was detected about each file, and from what: a wrong guess here gives a wrong accuracy."""
    screen = console()
    for name, file in zip(names, files, strict=True):
        found = file.classifier.found
        screen.print(f"\n[bold]{escape(name)}[/bold]  {found['runtime']}")
        for what in ("input", "preprocess", "outputs"):
            screen.print(f"  [dim]{what:10}[/dim] {escape(found[what])}")
        screen.print(f"  [dim]{'classes':10}[/dim] {file.rule}; labels {escape(found['labels'])}")
