"""`edgemobile predict`: the classes a model finds in an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from edgemobile.commands.completion import complete_files
from edgemobile.commands.options import CLASSIFIER
from edgemobile.errors import BrokenImage, EdgemobileError
from edgemobile.printing.terminal import console
from edgemobile.util.strict_json import to_json_text

if TYPE_CHECKING:
    from PIL import Image

    from edgemobile.accuracy.classifier import Classifier, Prediction

__all__ = ["predict"]

_BAR = 24


@click.command()
@click.argument("file", shell_complete=complete_files)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes to show.")
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
    one with bundled weights, package.module:factory, or a saved program (.pt2).

    Photos are first rotated upright by their EXIF orientation. The exit code is 2 when an image cannot be read, or the
    model's outputs for it are not finite.

    \b
    Examples:
      edgemobile predict v3-large frog.jpg
      edgemobile predict mobilenet_v2.tflite *.jpg --labels imagenet_labels.txt --top 3
    """
    from edgemobile.accuracy.classifier import ClassifierOptions, classify, open_classifier
    from edgemobile.pipeline.folder import single

    classifier = open_classifier(single(file), ClassifierOptions(arch, preprocess, labels, threads, res))
    results: list[tuple[Path, list[Prediction] | EdgemobileError]] = []
    if not as_json:
        _print_classifier(classifier)
    for path in images:
        try:
            found: list[Prediction] | EdgemobileError = classify(classifier, _upright(path), top)
        except EdgemobileError as error:
            found = error
        results.append((path, found))
        if not as_json:
            _print_image(path, found)
    if as_json:
        print(to_json_text(_json(classifier, results)), end="")
    return EdgemobileError.exit_code if any(isinstance(found, EdgemobileError) for _, found in results) else 0


def _upright(path: Path) -> Image.Image:
    from PIL import Image

    from edgemobile.pixels import upright_rgb

    try:
        with Image.open(path) as image:
            return upright_rgb(image)
    except BrokenImage:
        raise
    # Decoders raise many kinds of exceptions on broken bytes.
    except Exception as error:
        reason = getattr(error, "strerror", None) or "it is not an image, or is damaged"
        raise BrokenImage(reason) from error


def _print_classifier(classifier: Classifier) -> None:
    screen = console()
    found = classifier.found
    screen.print(f"[bold]{escape(Path(classifier.file).name)}[/bold]  {found['runtime']}, {found['outputs']}")
    screen.print(f"[dim]{found['preprocess']}; labels {escape(found['labels'])}[/dim]")
    for note in classifier.notes:
        screen.print(f"[dim]note:[/dim] {escape(note)}")


def _print_image(path: Path, found: list[Prediction] | EdgemobileError) -> None:
    if isinstance(found, EdgemobileError):
        failed = "cannot read " if isinstance(found, BrokenImage) else ""
        console(stderr=True).print(f"\n[red]error:[/red] {failed}{escape(f'{path}: {found}')}")
        return
    screen = console()
    screen.print(f"\n[bold]{escape(str(path))}[/bold]")
    width = max(len(one.label) for one in found)
    for place, one in enumerate(found):
        bar = "█" * round(one.probability * _BAR)
        style = "green" if place == 0 else "dim"
        screen.print(f"  {one.probability:6.1%}  {escape(one.label.ljust(width))}  [{style}]{bar}[/{style}]")


def _json(classifier: Classifier, results: list[tuple[Path, list[Prediction] | EdgemobileError]]) -> dict[str, object]:
    return {
        "file": classifier.file,
        **classifier.found,
        "images": [
            {"image": str(path), "error": str(found)}
            if isinstance(found, EdgemobileError)
            else {"image": str(path), "top": [one._asdict() for one in found]}
            for path, found in results
        ],
    }
