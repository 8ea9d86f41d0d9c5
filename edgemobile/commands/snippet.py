"""`edgemobile snippet`: code that runs one model file, with its numbers filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from edgemobile.commands.options import CLASSIFIER
from edgemobile.commands.writable import check_writable
from edgemobile.printing.terminal import console

__all__ = ["snippet"]

_LANGUAGES = ("python", "cpp", "kotlin", "c-array")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--lang", "language", type=click.Choice(_LANGUAGES), required=True, help="Language of the code.")
@CLASSIFIER
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="File for the code. [default: print it]")
def snippet(file: Path, language: str, out: Path | None, **options: Any) -> int:
    """Write code that classifies images with FILE, an .onnx or .tflite image classifier.

    Shapes, dtypes, scales, zero points, normalisation and labels are those of the file. cpp uses the C API of
    LiteRT or onnxruntime; kotlin is for Android; c-array is the file for TensorFlow Lite for Microcontrollers, with
    the memory it needs. kotlin and c-array are for .tflite files.

    \b
    Examples:
      edgemobile snippet v3-large/v3-large-int8.tflite --lang python
      edgemobile snippet v3-large/v3-large-int8.onnx --lang cpp --out classify.cpp
      edgemobile snippet v3-small/v3-small-int8.tflite --lang c-array --out model.c
    """
    from edgemobile.accuracy.classifier import ClassifierOptions
    from edgemobile.pipeline.folder import single
    from edgemobile.snippets.model import snippet_model
    from edgemobile.snippets.source import snippet as code_for
    from edgemobile.util.writing import write_whole

    check_writable("--out", out, [file])
    model = snippet_model(Path(single(file)), ClassifierOptions(**options))
    code = code_for(model, language)
    for note in model.notes:
        console(stderr=True).print(f"[dim]note:[/dim] {escape(note)}")
    if out is None:
        print(code, end="")
    else:
        write_whole(out, code)
        console().print(f"wrote {escape(str(out))}")
    return 0
