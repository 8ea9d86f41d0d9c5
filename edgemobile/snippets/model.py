"""What code that runs a model file needs to know about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgemobile.accuracy.classifier import ClassifierOptions, open_classifier
from edgemobile.devices.runtimes.sessions import Port
from edgemobile.errors import Unsupported
from edgemobile.model_file.model_file import ModelFile
from edgemobile.preprocess import Preprocess

__all__ = ["SnippetModel", "snippet_model"]

_DTYPES = ("float32", "int8", "uint8")


@dataclass(frozen=True)
class SnippetModel:
    """A classifier file. `preprocess_words` and `labels_words` are what was found and its source, `notes` are for the
    user.

    Integer ports have a scale and a zero point; raw pixels have 1 and 0.
    """

    file: ModelFile
    given: Port
    made: Port
    preprocess: Preprocess
    labels: tuple[str, ...]
    probabilities: bool
    preprocess_words: str
    labels_words: str
    notes: tuple[str, ...]


def snippet_model(path: Path, options: ClassifierOptions) -> SnippetModel:
    """Open the file and run it once. Raises EdgemobileError, and Unsupported for ports of other dtypes."""
    found = open_classifier(str(path), options)
    session = found.session
    if found.model_file is None:
        raise Unsupported(f"{path} is not a file that a runtime can run. Give a .onnx or .tflite file")
    for port in (session.input, session.output):
        if port.dtype not in _DTYPES or (port.dtype != "float32" and port.scale is None):
            raise Unsupported(
                f"{path}: {port.name} is {port.words}. Supported: {', '.join(_DTYPES)}, integers with a scale"
            )
    return SnippetModel(
        found.model_file,
        session.input,
        session.output,
        found.preprocess,
        tuple(map(found.label, range(found.outputs))),
        found.probabilities,
        found.found["preprocess"],
        found.found["labels"],
        found.notes,
    )
