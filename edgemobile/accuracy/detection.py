"""The average precision of detectors on images with boxes in COCO's json. All files get the same images."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from edgemobile.accuracy.coco import Found, Precision, average_precision, read_annotations
from edgemobile.accuracy.detector import Detector, open_detector
from edgemobile.accuracy.pictures import PicturesRequest
from edgemobile.errors import BrokenImage, EdgemobileError, require
from edgemobile.images.reading import read_image
from edgemobile.util.progress import Progress, Report, Silent

__all__ = ["DETECTION_VERSION", "DetectionEvaluation", "DetectorResult", "evaluate_detection"]

DETECTION_VERSION = 1


@dataclass(frozen=True)
class DetectorResult:
    """One file. `inference_s` is the sum over all images, with the decoding of the boxes."""

    detector: Detector
    precision: Precision
    boxes: int
    inference_s: float


@dataclass(frozen=True)
class DetectionEvaluation:
    """The result. `images` are the names of those that could be read; `skipped` is (name, reason)."""

    request: PicturesRequest
    images: tuple[str, ...]
    annotated: int
    skipped: tuple[tuple[str, str], ...]
    files: tuple[DetectorResult, ...]
    wall_s: float

    def to_json(self) -> dict[str, Any]:
        """Everything, with the precision of each category."""
        return {
            "version": DETECTION_VERSION,
            **self.request.to_json(),
            "wall_s": self.wall_s,
            "annotated_boxes": self.annotated,
            "files": [_file_json(file) for file in self.files],
            "skipped": [{"name": name, "reason": reason} for name, reason in self.skipped],
            "images": list(self.images),
        }


def _file_json(file: DetectorResult) -> dict[str, Any]:
    return {
        "file": file.detector.file,
        "sha256": file.detector.sha256,
        **file.detector.found,
        "preprocess_record": file.detector.preprocess.to_json(),
        "ap": file.precision.ap,
        "ap50": file.precision.ap50,
        "per_category": dict(file.precision.of_categories),
        "boxes": file.boxes,
        "inference_s": file.inference_s,
    }


def evaluate_detection(request: PicturesRequest, progress: Progress | None = None) -> DetectionEvaluation:
    """Run every file on the images. Broken and missing images are skipped and listed.

    Raises EdgemobileError for a file that is not a detector, or lacks a class of the annotations; for a json that is
    not COCO's; and where no image can be read. MissingExtra without pycocotools.
    """
    require("pycocotools", "coco")
    progress, started = progress or Silent(), time.perf_counter()
    with progress.step("read the annotations"):
        annotations = read_annotations(request.truth)
    with progress.step("open the files"):
        detectors = [open_detector(file, request.options) for file in dict.fromkeys(request.files)]
    classes = [annotations.classes(one.labels, one.classes) for one in detectors]
    images = request.drawn(annotations.images)
    with progress.step(f"evaluate {len(images)} images", len(images)) as report:
        run = _Run(request.data, detectors)
        run.detect_all(images, report)
    if not run.kept:
        name, reason = run.skipped[0]
        raise EdgemobileError(f"no image of {request.truth} can be read in {request.data}; the first, {name}: {reason}")
    with progress.step("measure the precision"):
        files = [
            DetectorResult(
                one,
                average_precision(annotations, found, outputs),
                sum(len(image.detections.boxes) for image in found),
                seconds,
            )
            for one, found, outputs, seconds in zip(detectors, run.found, classes, run.inference_s, strict=True)
        ]
    kept = {number for number, _ in run.kept}
    return DetectionEvaluation(
        request,
        tuple(name for _, name in run.kept),
        sum(box["image_id"] in kept for box in annotations.boxes),
        tuple(run.skipped),
        tuple(files),
        time.perf_counter() - started,
    )


class _Run:
    """The detections of each detector so far, and the images that could not be read."""

    def __init__(self, folder: Path, detectors: list[Detector]) -> None:
        self.folder, self.detectors = folder, detectors
        self.kept: list[tuple[int, str]] = []
        self.skipped: list[tuple[str, str]] = []
        self.found: list[list[Found]] = [[] for _ in detectors]
        self.inference_s = [0.0] * len(detectors)

    def detect_all(self, images: list[tuple[int, str]], report: Report) -> None:
        for done, (number, name) in enumerate(images, start=1):
            try:
                image = _opened(self.folder, name)
            except BrokenImage as error:
                self.skipped.append((name, str(error)))
            else:
                self.kept.append((number, name))
                self._detect(number, name, image)
            report(done)

    def _detect(self, number: int, name: str, image: Image.Image) -> None:
        for place, detector in enumerate(self.detectors):
            prepared = detector.preprocess(image)[None]
            started = time.perf_counter()
            try:
                (detections,) = detector.detect(prepared)
            except EdgemobileError as error:
                raise EdgemobileError(f"{detector.file}, image {name}: {error}") from error
            self.inference_s[place] += time.perf_counter() - started
            self.found[place].append(Found(number, image.size, detections))


def _opened(folder: Path, name: str) -> Image.Image:
    """An image of the folder, in RGB. Raises BrokenImage, also for a name with a path outside of it."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BrokenImage("its path is outside of the folder")
    return read_image(path)
