"""Reads images with boxes from a COCO json, and computes the average precision of a detector with pycocotools."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgemobile.errors import EdgemobileError, first_few, require
from edgemobile.postprocess import Detections
from edgemobile.util.strict_json import parse

__all__ = ["Annotations", "Found", "Precision", "average_precision", "read_annotations"]

_MOST_BYTES = 2**30  # instances_train2017.json has 450 MB


@dataclass(frozen=True)
class Annotations:
    """The contents of a COCO json: `images` are (id, file name), `categories` id -> name, `boxes` its annotations."""

    path: Path
    images: tuple[tuple[int, str], ...]
    categories: Mapping[int, str]
    boxes: Sequence[Mapping[str, Any]]

    def classes(self, labels: Sequence[str] | None, count: int) -> dict[int, int]:
        """Output of a detector -> category id: by name where its labels are known, else output 1 is category 1.

        Raises EdgemobileError for a category that the detector does not have.
        """
        if labels is None:
            if missing := [str(number) for number in self.categories if not 0 < number < count]:
                raise EdgemobileError(
                    f"{self.path} has the categories {first_few(missing)}, and the detector's classes have no names "
                    f"and are numbered 1 to {count - 1}: give --labels, one name per line, background first"
                )
            return {number: number for number in self.categories}
        outputs = {name.casefold().strip(): output for output, name in enumerate(labels) if output}
        if missing := [name for name in self.categories.values() if name.casefold().strip() not in outputs]:
            raise EdgemobileError(
                f"{self.path} has categories that are not among the detector's labels: {first_few(missing)}. Its "
                f"labels are {first_few(labels[1:])}"
            )
        return {outputs[name.casefold().strip()]: number for number, name in self.categories.items()}


class Found(NamedTuple):
    """The detections in one image; `size` is its width and height in pixels."""

    image: int
    size: tuple[int, int]
    detections: Detections


@dataclass(frozen=True)
class Precision:
    """COCO's average precision: over overlaps of 0.5 to 0.95 and all categories, at 0.5, and of each category by name.

    nan for a category without annotations.
    """

    ap: float
    ap50: float
    of_categories: Mapping[str, float]


def read_annotations(path: Path) -> Annotations:
    """Read a COCO json. Raises EdgemobileError if the file cannot be read, or is not a COCO json of boxes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EdgemobileError(f"cannot read {path}: {error.strerror}") from error
    record = parse(data, str(path), _MOST_BYTES)
    try:
        images = tuple((int(one["id"]), str(one["file_name"])) for one in record["images"])
        categories = {int(one["id"]): str(one["name"]) for one in record["categories"]}
        boxes = [_checked(one) for one in record["annotations"]]
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise EdgemobileError(
            f"{path} is not a COCO json: {error!r}. It has images (id, file_name), categories (id, name) and "
            "annotations (image_id, category_id, bbox)"
        ) from error
    known = {number for number, _ in images}
    if len(known) < len(images) or not images or not categories:
        raise EdgemobileError(
            f"{path} has {len(images)} images with {len(known)} different ids, and {len(categories)} categories; "
            "every image needs its own id, and there must be at least one image and one category"
        )
    if lost := next(
        (one for one in boxes if one["image_id"] not in known or one["category_id"] not in categories), None
    ):
        raise EdgemobileError(
            f"{path}: an annotation of image {lost['image_id']}, category {lost['category_id']}, "
            "is of an image or category that the file does not list"
        )
    return Annotations(path, images, categories, boxes)


def _checked(record: Mapping[str, Any]) -> dict[str, Any]:
    left, top, width, height = (float(side) for side in record["bbox"])
    if not all(map(math.isfinite, (left, top, width, height))) or width < 0 or height < 0:
        raise ValueError(f"bbox {record['bbox']}")
    return {
        "image_id": int(record["image_id"]),
        "category_id": int(record["category_id"]),
        "bbox": [left, top, width, height],
        "area": float(record.get("area", width * height)),
        "iscrowd": int(record.get("iscrowd", 0)),
    }


def average_precision(annotations: Annotations, found: Sequence[Found], classes: Mapping[int, int]) -> Precision:
    """The average precision on the images in `found`.

    `classes` is the mapping from Annotations.classes; detections of other classes are ignored.
    """
    require("pycocotools", "coco")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    kept = [one.image for one in found]
    taken = set(kept)
    truth = COCO()
    truth.dataset = {
        "images": [{"id": number} for number in kept],
        "categories": [{"id": number, "name": name} for number, name in annotations.categories.items()],
        "annotations": [
            {"id": number, **one}
            for number, one in enumerate((one for one in annotations.boxes if one["image_id"] in taken), start=1)
        ],
    }
    results = [result for one in found for result in _results(one, classes)]
    # pycocotools prints its progress.
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        measured = COCOeval(truth, truth.loadRes(results) if results else _nothing(truth), "bbox")
        measured.evaluate()
        measured.accumulate()
    # [overlap thresholds, recalls, categories, areas, most detections]: all areas, up to 100 detections per image.
    precision = measured.eval["precision"][:, :, :, 0, -1]
    order = measured.params.catIds
    by_name = {annotations.categories[number]: _mean(precision[:, :, index]) for index, number in enumerate(order)}
    return Precision(_mean(precision), _mean(precision[0]), by_name)


def _nothing(truth: Any) -> Any:
    """The results of a detector that finds nothing: loadRes does not accept an empty list."""
    from pycocotools.coco import COCO

    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _results(found: Found, classes: Mapping[int, int]) -> list[dict[str, Any]]:
    boxes, scores, outputs = found.detections
    pixels = boxes * np.array(found.size * 2, np.float32)
    return [
        {
            "image_id": found.image,
            "category_id": classes[int(output)],
            "bbox": [float(left), float(top), float(right - left), float(bottom - top)],
            "score": float(score),
        }
        for (left, top, right, bottom), score, output in zip(pixels, scores, outputs, strict=True)
        if int(output) in classes
    ]


def _mean(precision: np.ndarray) -> float:
    """The mean without -1, which marks categories without annotations; nan if there is nothing else."""
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else math.nan
