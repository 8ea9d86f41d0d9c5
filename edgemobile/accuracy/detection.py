"""The average precision of detectors on images with boxes in COCO's json. All files get the same images."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgemobile.accuracy.classifier import ClassifierOptions
from edgemobile.accuracy.coco import Annotations, Found, Precision, average_precision, read_annotations
from edgemobile.accuracy.detector import Detector, open_detector
from edgemobile.errors import BrokenImage, EdgemobileError, require
from edgemobile.pixels import upright_rgb
from edgemobile.util.progress import Progress, Report, Silent

__all__ = ["DETECTION_VERSION", "DetectionEvaluation", "DetectionRequest", "DetectorResult", "evaluate_detection"]

DETECTION_VERSION = 1


@dataclass(frozen=True)
class DetectionRequest:
    """Which detectors to evaluate, on the images in the folder `data` that `annotations`, a COCO json, names.

    `limit` draws so many of them at random with `seed`; None takes all.
    """

    files: tuple[str, ...]
    data: Path
    annotations: Path
    limit: int | None = None
    seed: int = 0
    options: ClassifierOptions = field(default_factory=ClassifierOptions)

    def __post_init__(self) -> None:
        if not self.files:
            raise EdgemobileError("nothing to evaluate: give at least one file")
        if self.limit is not None and self.limit < 1:
            raise EdgemobileError(f"limit must be at least 1, found {self.limit}")
        if self.seed < 0:
            raise EdgemobileError(f"seed must be at least 0, found {self.seed}")
        if not self.data.is_dir():
            raise EdgemobileError(
                f"{self.data} is not a folder: with --annotations, --data is the folder of its images"
            )


@dataclass(frozen=True)
class DetectorResult:
    """One file. `inference_s` is the sum of all images, with what makes boxes of the outputs."""

    detector: Detector
    precision: Precision
    boxes: int
    inference_s: float


@dataclass(frozen=True)
class DetectionEvaluation:
    """The result. `images` are the names of those that could be read; `skipped` is (name, reason)."""

    request: DetectionRequest
    images: tuple[str, ...]
    annotated: int
    skipped: tuple[tuple[str, str], ...]
    files: tuple[DetectorResult, ...]
    wall_s: float

    def to_json(self) -> dict[str, Any]:
        """Everything, with the precision of each category."""
        request = self.request
        return {
            "version": DETECTION_VERSION,
            "data": str(request.data),
            "annotations": str(request.annotations),
            "limit": request.limit,
            "seed": request.seed,
            "threads": request.options.threads,
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


def evaluate_detection(request: DetectionRequest, progress: Progress | None = None) -> DetectionEvaluation:
    """Run every file on the images. Broken and missing images are skipped and listed.

    Raises EdgemobileError for a file that is not a detector, or lacks a class of the annotations; for a json that is
    not COCO's; and where no image can be read. MissingExtra without pycocotools.
    """
    require("pycocotools", "coco")
    progress, started = progress or Silent(), time.perf_counter()
    with progress.step("read the annotations"):
        annotations = read_annotations(request.annotations)
    with progress.step("open the files"):
        detectors = [open_detector(file, request.options) for file in dict.fromkeys(request.files)]
    classes = [annotations.classes(one.labels, one.classes) for one in detectors]
    images = _drawn(annotations, request)
    with progress.step(f"evaluate {len(images)} images", len(images)) as report:
        run = _Run(request.data, detectors)
        run.over(images, report)
    if not run.kept:
        name, reason = run.skipped[0]
        raise EdgemobileError(
            f"no image of {request.annotations} can be read in {request.data}; the first, {name}: {reason}"
        )
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


def _drawn(annotations: Annotations, request: DetectionRequest) -> list[tuple[int, str]]:
    images = list(annotations.images)
    if request.limit is None or request.limit >= len(images):
        return images
    places = np.random.default_rng(request.seed).choice(len(images), request.limit, replace=False)
    return [images[place] for place in np.sort(places)]


class _Run:
    """What each detector found in the images so far, and the images that could not be read."""

    def __init__(self, folder: Path, detectors: list[Detector]) -> None:
        self.folder, self.detectors = folder, detectors
        self.kept: list[tuple[int, str]] = []
        self.skipped: list[tuple[str, str]] = []
        self.found: list[list[Found]] = [[] for _ in detectors]
        self.inference_s = [0.0] * len(detectors)

    def over(self, images: list[tuple[int, str]], report: Report) -> None:
        for done, (number, name) in enumerate(images, start=1):
            try:
                image = _opened(self.folder, name)
            except BrokenImage as error:
                self.skipped.append((name, str(error)))
            else:
                self.kept.append((number, name))
                self._detect(number, image)
            report(done)

    def _detect(self, number: int, image: Image.Image) -> None:
        for place, detector in enumerate(self.detectors):
            prepared = detector.preprocess(image)[None]
            started = time.perf_counter()
            (detections,) = detector.detect(prepared)
            self.inference_s[place] += time.perf_counter() - started
            self.found[place].append(Found(number, image.size, detections))


def _opened(folder: Path, name: str) -> Image.Image:
    """An image of the folder, in RGB. Raises BrokenImage, also for a name that leads out of the folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BrokenImage("its name leads out of the folder")
    try:
        # Pillow warns about odd metadata on standard error, in the middle of a progress bar.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            return upright_rgb(image)
    except BrokenImage:
        raise
    # Decoders raise many kinds of exceptions on broken bytes.
    except Exception as error:
        raise BrokenImage(getattr(error, "strerror", None) or "it is not an image, or is damaged") from error
