"""`edgemobile predict`: the classes or the boxes that a model finds in an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from edgemobile.commands.completion import complete_files
from edgemobile.commands.options import CLASSIFIER
from edgemobile.errors import BrokenImage, EdgemobileError
from edgemobile.printing.terminal import console
from edgemobile.util.strict_json import to_json_text

if TYPE_CHECKING:
    from PIL import Image

    from edgemobile.accuracy.classifier import Classifier
    from edgemobile.accuracy.detector import Detector

__all__ = ["predict"]

_BAR = 24


@click.command()
@click.argument("file", shell_complete=complete_files)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes, or boxes, to show.")
@CLASSIFIER
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of an inference.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def predict(
    file: str,
    images: tuple[Path, ...],
    top: int,
    labels: Path | None,
    preprocess: str | None,
    arch: str | None,
    res: int | None,
    threads: int,
    as_json: bool,
) -> int:
    """Classify IMAGEs with FILE: any .onnx or .tflite image classifier, a checkpoint of a reference model, the name of
    one with bundled weights, package.module:factory, or a saved program (.pt2). Of a detector that edgemobile exported,
    print the boxes with the highest scores, in pixels.

    Photos are first rotated upright by their EXIF orientation. The exit code is 2 when an image cannot be read, or the
    model's outputs for it are not finite.

    \b
    Examples:
      edgemobile predict v3-large frog.jpg
      edgemobile predict mobilenet_v2.tflite *.jpg --labels imagenet_labels.txt --top 3
    """
    from edgemobile.accuracy.classifier import ClassifierOptions, open_classifier
    from edgemobile.accuracy.detector import detects, open_detector, read_files
    from edgemobile.pipeline.folder import single

    chosen, options = single(file), ClassifierOptions(arch, preprocess, labels, threads, res)
    opened = read_files([chosen]).get(chosen)
    if opened is not None and detects(opened):
        detector = open_detector(chosen, options, opened)
        return _run(detector, images, "boxes", partial(_boxes, detector, top=top), _print_boxes, as_json=as_json)
    classifier = open_classifier(chosen, options, opened)
    return _run(classifier, images, "top", partial(_classes, classifier, top=top), _print_classes, as_json=as_json)


_Found = list[dict[str, Any]]


def _run(
    model: Classifier | Detector,
    images: Sequence[Path],
    key: str,
    find: Callable[[Image.Image], _Found],
    show: Callable[[_Found], None],
    *,
    as_json: bool,
) -> int:
    """What `find` finds in each image, printed by `show`, or as JSON under `key`; returns the exit code."""
    from edgemobile.images.reading import read_image

    results: list[dict[str, Any]] = []
    if not as_json:
        _print_model(model)
    for path in images:
        try:
            found = find(read_image(path))
        except EdgemobileError as error:
            results.append({"image": str(path), "error": str(error)})
            if not as_json:
                _print_error(path, error)
            continue
        results.append({"image": str(path), key: found})
        if not as_json:
            console().print(f"\n[bold]{escape(str(path))}[/bold]")
            show(found)
    if as_json:
        print(to_json_text({"file": model.file, **model.found, "images": results}), end="")
    return EdgemobileError.exit_code if any("error" in result for result in results) else 0


def _classes(classifier: Classifier, image: Image.Image, top: int) -> _Found:
    from edgemobile.accuracy.classifier import classify

    return [one._asdict() for one in classify(classifier, image, top)]


def _boxes(detector: Detector, image: Image.Image, top: int) -> _Found:
    """The best boxes, in pixels of the image."""
    (found,) = detector.detect(detector.preprocess(image)[None])
    width, height = image.size
    return [
        {
            "output": int(number),
            "label": detector.label(int(number)),
            "score": float(score),
            "left": float(box[0] * width),
            "top": float(box[1] * height),
            "right": float(box[2] * width),
            "bottom": float(box[3] * height),
        }
        for box, score, number in list(zip(*found, strict=True))[:top]
    ]


def _print_model(model: Classifier | Detector) -> None:
    screen = console()
    found = model.found
    screen.print(f"[bold]{escape(Path(model.file).name)}[/bold]  {found['runtime']}, {found['outputs']}")
    screen.print(f"[dim]{found['preprocess']}; labels {escape(found['labels'])}[/dim]")
    for note in model.notes:
        screen.print(f"[dim]note:[/dim] {escape(note)}")


def _print_error(path: Path, error: EdgemobileError) -> None:
    failed = "cannot read " if isinstance(error, BrokenImage) else ""
    console(stderr=True).print(f"\n[red]error:[/red] {failed}{escape(f'{path}: {error}')}")


def _print_classes(found: _Found) -> None:
    screen = console()
    width = max(len(one["label"]) for one in found)
    for place, one in enumerate(found):
        bar = "█" * round(one["probability"] * _BAR)
        style = "green" if place == 0 else "dim"
        screen.print(f"  {one['probability']:6.1%}  {escape(one['label'].ljust(width))}  [{style}]{bar}[/{style}]")


def _print_boxes(found: _Found) -> None:
    screen = console()
    if not found:
        screen.print("  no boxes")
        return
    width = max(len(one["label"]) for one in found)
    for one in found:
        place = "  ".join(f"{side} {one[side]:.0f}" for side in ("left", "top", "right", "bottom"))
        screen.print(f"  {one['score']:6.1%}  {escape(one['label'].ljust(width))}  {place}")
