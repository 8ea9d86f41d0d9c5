"""Opens a file as a detector, with its preprocessing, anchors and class names, and finds boxes in images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgemobile.accuracy.classifier import ClassifierOptions, open_model_file
from edgemobile.devices.runtimes.sessions import Session
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.exporters import FILE_SUFFIXES
from edgemobile.exporters.model_files import read_model_file
from edgemobile.images.class_labels import find_labels
from edgemobile.loading.presets import chosen_preprocess, described
from edgemobile.metrics.outputs import Output, split
from edgemobile.model_file.metadata import POSTPROCESS
from edgemobile.model_file.model_file import ModelFile
from edgemobile.postprocess import Detections, Postprocess
from edgemobile.preprocess import Preprocess

__all__ = ["Detector", "detects", "open_detector", "read_files"]


@dataclass(frozen=True)
class Detector:
    """A file ready to detect. `labels` name all its classes, the background first; None if no source names them.

    `found` describes what was detected about the file, and its sources.
    """

    file: str
    session: Session
    preprocess: Preprocess
    postprocess: Postprocess
    outputs: tuple[Output, ...]
    labels: tuple[str, ...] | None
    found: Mapping[str, str]
    notes: tuple[str, ...]
    sha256: str

    @property
    def classes(self) -> int:
        """The number of classes, including the background."""
        return next(output.shape[-1] for output in self.outputs if output.name == self.postprocess.logits)

    def label(self, number: int) -> str:
        return f"class {number}" if self.labels is None else self.labels[number]

    def detect(self, images: np.ndarray) -> list[Detections]:
        """The boxes in each of preprocessed images f32[N,px,px,3], any N.

        Raises EdgemobileError for outputs that are not finite.
        """
        made = split(self.session.rows(images), self.outputs)
        pairs = zip(made[self.postprocess.boxes], made[self.postprocess.logits], strict=True)
        return [self.postprocess(offsets, logits) for offsets, logits in pairs]


def read_files(files: Iterable[str]) -> dict[str, ModelFile]:
    """The .onnx and .tflite files among `files`, by name. Unreadable ones are omitted: opening raises the error."""
    found = {}
    for file in files:
        path = Path(file)
        if path.suffix.lower() in FILE_SUFFIXES and path.is_file():
            with suppress(EdgemobileError):
                found[file] = read_model_file(path)
    return found


def detects(file: ModelFile) -> bool:
    """Whether a file is a detector by its metadata; False if that is damaged or the format's package is missing."""
    try:
        return POSTPROCESS in file.metadata
    except EdgemobileError:
        return False


def open_detector(file: str, options: ClassifierOptions, opened: ModelFile | None = None) -> Detector:
    """Open the detector at `file`; `opened` is the file, if it was read already. Raises EdgemobileError with the
    reason."""
    model_file = opened or read_model_file(Path(file))
    postprocess = model_file.postprocess
    if postprocess is None:
        raise Unsupported(
            f"{file} is not a detector: its metadata has no {POSTPROCESS}, which has the anchors. Supported: files "
            "that `edgemobile export` writes of v2-ssdlite and v3-large-ssdlite"
        )
    session = open_model_file(model_file, file, options)
    preprocess, source = _preprocess(model_file, session, options)
    if preprocess.resize != "exact":
        raise Unsupported(
            f"{file}: boxes are shares of the image, and its preprocessing cuts the edges off "
            f'({described(preprocess)}). Supported: "resize": "exact"'
        )
    session.settle(preprocess.input_px)
    outputs = tuple(Output(port.name, tuple(port.shape[1:])) for port in session.outputs)
    classes = _checked_classes(file, postprocess, outputs)
    labels = find_labels(Path(file), classes, model_file.metadata, options.labels, model_file.data)
    found = {
        "runtime": f"{session.runtime} {session.version}",
        "input": session.input.words,
        "preprocess": f"{described(preprocess)}; {source}",
        "outputs": f"{postprocess.count} anchors, {classes} classes, the first is background",
        "labels": labels.source,
    }
    return Detector(
        file, session, preprocess, postprocess, outputs, labels.names, found, labels.notes, model_file.sha256
    )


def _preprocess(file: ModelFile, session: Session, options: ClassifierOptions) -> tuple[Preprocess, str]:
    stated = file.preprocess
    if options.preprocess is not None:
        shape = session.input.shape
        px = shape[2] if session.input.layout == "NCHW" else shape[1]
        return chosen_preprocess(options.preprocess, session.input, px, px)
    if stated is None:
        raise EdgemobileError(f"{file.path} does not state its preprocessing: give --preprocess")
    return stated, "in its metadata"


def _checked_classes(file: str, postprocess: Postprocess, outputs: tuple[Output, ...]) -> int:
    """The number of classes. Raises EdgemobileError where the metadata and the outputs do not fit each other."""
    shapes = {output.name: output.shape for output in outputs}
    boxes, logits = shapes.get(postprocess.boxes), shapes.get(postprocess.logits)
    if boxes != (postprocess.count, 4) or logits is None or len(logits) != 2 or logits[0] != postprocess.count:
        raise EdgemobileError(
            f"{file} has the outputs {', '.join(output.words for output in outputs)}; its {POSTPROCESS} is for "
            f"{postprocess.boxes} [N, {postprocess.count}, 4] and {postprocess.logits} "
            f"[N, {postprocess.count}, classes]"
        )
    return logits[1]
