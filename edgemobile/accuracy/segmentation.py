"""The mean intersection over union of nets that classify every pixel, on images with masks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgemobile.accuracy.classifier import ClassifierOptions, open_model_file
from edgemobile.accuracy.pictures import PicturesRequest
from edgemobile.devices.runtimes.sessions import Session
from edgemobile.errors import BrokenImage, EdgemobileError, Unsupported
from edgemobile.exporters.model_files import read_model_file
from edgemobile.images.dataset import is_image_name
from edgemobile.images.reading import read_image
from edgemobile.loading.presets import described
from edgemobile.metrics.outputs import Output, channels_last, split
from edgemobile.pixels import crop, resize
from edgemobile.preprocess import Preprocess
from edgemobile.util.progress import Progress, Silent

__all__ = [
    "SEGMENTATION_VERSION",
    "Segmentation",
    "SegmentationEvaluation",
    "Segmenter",
    "evaluate_segmentation",
    "open_segmenter",
]

SEGMENTATION_VERSION = 1
# Pixels that count for no class, as in Pascal VOC.
_VOID = 255
# Of several outputs, the one that torchvision's nets call so.
_OUT = "out"


@dataclass(frozen=True)
class Segmenter:
    """A file ready to classify pixels. `output` [H,W,classes] is the one that does, of all its `outputs`."""

    file: str
    session: Session
    preprocess: Preprocess
    outputs: tuple[Output, ...]
    output: Output
    found: Mapping[str, str]
    sha256: str

    @property
    def classes(self) -> int:
        return self.output.shape[-1]

    def classify(self, image: Image.Image) -> np.ndarray:
        """u8[px,px], the class of each pixel of the preprocessed image: logits are resized to it, bilinearly.

        Raises EdgemobileError for outputs that are not finite.
        """
        logits = split(self.session.rows(self.preprocess(image)[None]), self.outputs)[self.output.name][0]
        if not np.isfinite(logits).all():
            raise EdgemobileError("the model's outputs are not finite: there is no result")
        size = (self.preprocess.input_px,) * 2
        if logits.shape[:2] != size:
            planes = (
                Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR) for plane in np.moveaxis(logits, -1, 0)
            )
            logits = np.stack([np.asarray(plane) for plane in planes], axis=-1)
        return logits.argmax(axis=-1).astype(np.uint8)

    def mask(self, stored: np.ndarray) -> np.ndarray:
        """A mask u8[H,W] in the pixels of the preprocessed image: resized to the nearest pixel, and cropped alike."""
        how = self.preprocess
        resized = resize(
            np.repeat(stored[..., None], 3, axis=2), how.shorter_px or how.input_px, how.resize, "nearest", False
        )
        return np.rint(crop(resized, how.input_px)[..., 0] * 255).astype(np.uint8)


@dataclass(frozen=True)
class Segmentation:
    """One file. `confusion` i64[classes,classes] counts pixels by true and predicted class."""

    segmenter: Segmenter
    confusion: np.ndarray
    inference_s: float

    @property
    def iou(self) -> np.ndarray:
        """f64[classes], intersection over union of each class, in pixels; nan for a class that never occurs."""
        right = np.diag(self.confusion)
        union = self.confusion.sum(axis=0) + self.confusion.sum(axis=1) - right
        return np.where(union > 0, right / np.maximum(union, 1), np.nan)

    @property
    def mean_iou(self) -> float:
        """The mean IoU over the classes that occur in a mask or a prediction; nan without any pixel."""
        known = self.iou[~np.isnan(self.iou)]
        return float(known.mean()) if known.size else float("nan")

    @property
    def pixel_accuracy(self) -> float:
        return float(np.diag(self.confusion).sum() / max(1, self.confusion.sum()))


@dataclass(frozen=True)
class SegmentationEvaluation:
    """The result. `images` are the names of those that could be read; `skipped` is (name, reason); `unmasked` counts
    the images of the folder that have no mask."""

    request: PicturesRequest
    images: tuple[str, ...]
    unmasked: int
    skipped: tuple[tuple[str, str], ...]
    files: tuple[Segmentation, ...]
    wall_s: float

    def to_json(self) -> dict[str, Any]:
        """Everything, with the counts of pixels."""
        return {
            "version": SEGMENTATION_VERSION,
            **self.request.to_json(),
            "wall_s": self.wall_s,
            "unmasked": self.unmasked,
            "files": [_file_json(file) for file in self.files],
            "skipped": [{"name": name, "reason": reason} for name, reason in self.skipped],
            "images": list(self.images),
        }


def _file_json(file: Segmentation) -> dict[str, Any]:
    return {
        "file": file.segmenter.file,
        "sha256": file.segmenter.sha256,
        **file.segmenter.found,
        "preprocess_record": file.segmenter.preprocess.to_json(),
        "mean_iou": file.mean_iou,
        "pixel_accuracy": file.pixel_accuracy,
        "iou": file.iou.tolist(),
        "confusion": file.confusion.tolist(),
        "inference_s": file.inference_s,
    }


def open_segmenter(file: str, options: ClassifierOptions) -> Segmenter:
    """Open the file of a net that classifies pixels. Raises EdgemobileError with the reason."""
    model_file = read_model_file(Path(file))
    session = open_model_file(model_file, file, options)
    if model_file.preprocess is None:
        raise EdgemobileError(f"{file} does not state its preprocessing; use a file that `edgemobile export` wrote")
    preprocess = model_file.preprocess
    session.settle(preprocess.input_px)
    shapes = [channels_last(port.shape) if session.channels_first else port.shape for port in session.outputs]
    outputs = tuple(Output(port.name, tuple(shape[1:])) for port, shape in zip(session.outputs, shapes, strict=True))
    output = next((one for one in outputs if len(outputs) == 1 or one.name == _OUT), None)
    if output is None or len(output.shape) != 3 or not 2 <= output.shape[-1] <= _VOID:
        raise Unsupported(
            f"{file} has the outputs {', '.join(one.words for one in outputs)}. --masks is for nets that classify "
            f"pixels, with one output [N, H, W, classes], or one called {_OUT}"
        )
    found = {
        "runtime": f"{session.runtime} {session.version}",
        "input": session.input.words,
        "preprocess": f"{described(preprocess)}; in its metadata",
        "outputs": output.words,
    }
    return Segmenter(file, session, preprocess, outputs, output, found, model_file.sha256)


def evaluate_segmentation(request: PicturesRequest, progress: Progress | None = None) -> SegmentationEvaluation:
    """Run every file on the images that have a mask: an image of the same name with class numbers as pixels.

    Broken images and masks are skipped and listed. Raises EdgemobileError for a file that does not
    classify pixels, a mask with a class that it does not have, and where no image can be read.
    """
    progress, started = progress or Silent(), time.perf_counter()
    with progress.step("open the files"):
        segmenters = [open_segmenter(file, request.options) for file in dict.fromkeys(request.files)]
    masks = _masks(request.truth)
    found = sorted(path for path in request.data.iterdir() if is_image_name(path.name))
    masked = [path for path in found if path.stem in masks]
    if not masked:
        raise EdgemobileError(
            f"none of {len(found)} images of {request.data} has a mask of its name in {request.truth}"
        )
    images = request.drawn(masked)
    confusions = [np.zeros((one.classes, one.classes), np.int64) for one in segmenters]
    seconds, kept, skipped = [0.0] * len(segmenters), [], []
    with progress.step(f"evaluate {len(images)} images", len(images)) as report:
        for done, path in enumerate(images, start=1):
            try:
                counted = _counted(segmenters, path, masks)
            except BrokenImage as error:
                skipped.append((path.name, str(error)))
            else:
                kept.append(path.name)
                for place, (confusion, inference_s) in enumerate(counted):
                    confusions[place] += confusion
                    seconds[place] += inference_s
            report(done)
    if not kept:
        name, reason = skipped[0]
        raise EdgemobileError(f"no image of {request.data} with a mask can be read; the first, {name}: {reason}")
    files = (Segmentation(*one) for one in zip(segmenters, confusions, seconds, strict=True))
    wall_s = time.perf_counter() - started
    unmasked = len(found) - len(masked)
    return SegmentationEvaluation(request, tuple(kept), unmasked, tuple(skipped), tuple(files), wall_s)


def _counted(segmenters: Sequence[Segmenter], path: Path, masks: Mapping[str, Path]) -> list[tuple[np.ndarray, float]]:
    """(the pixels of an image by true and predicted class, seconds of inference) of each file. Raises BrokenImage."""
    image, mask = read_image(path), _mask(masks, path)
    counted = []
    for segmenter in segmenters:
        true = _checked(segmenter, path.name, mask)
        started = time.perf_counter()
        try:
            predicted = segmenter.classify(image)
        except BrokenImage:
            raise
        except EdgemobileError as error:
            raise EdgemobileError(f"{segmenter.file}, image {path.name}: {error}") from error
        counted.append((_confusion(true, predicted, segmenter.classes), time.perf_counter() - started))
    return counted


def _masks(folder: Path) -> dict[str, Path]:
    """Mask files by their name without the suffix."""
    if not folder.is_dir():
        raise EdgemobileError(
            f"{folder} is not a folder: --masks is a folder of .png files with the names of the images"
        )
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".png"}


def _mask(masks: Mapping[str, Path], image: Path) -> np.ndarray:
    """u8[H,W] for an image. Raises BrokenImage."""
    mask = read_image(masks[image.stem], as_stored=True)
    if mask.mode not in ("L", "P"):
        raise BrokenImage(f"its mask has pixels of mode {mask.mode}; they must be numbers of classes, mode L or P")
    return np.asarray(mask)


def _checked(segmenter: Segmenter, name: str, mask: np.ndarray) -> np.ndarray:
    """The mask as the net sees the image. Raises EdgemobileError for a class that the net does not have."""
    highest = int(mask[mask != _VOID].max(initial=0))
    if highest >= segmenter.classes:
        raise EdgemobileError(
            f"the mask of {name} has class {highest}, and {segmenter.file} has {segmenter.classes} classes, 0 to "
            f"{segmenter.classes - 1}, and {_VOID} for no class"
        )
    return segmenter.mask(mask)


def _confusion(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    counted = true != _VOID
    pairs = true[counted].astype(np.int64) * classes + predicted[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
