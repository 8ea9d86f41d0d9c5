"""Images for the bundled weights, created by examples/bundled_images.py, and the statistics of int8 calibration on
them, created by examples/bundled_statistics.py.

Synthesis takes seconds and gives different images on another machine. These images were synthesized once, from the
batch-norm statistics of all bundled models, and are only for those weights: a record next to a zip lists their sha256.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemobile.errors import EdgemobileError
from edgemobile.loading.checkpoint import CHECK_IMAGES
from edgemobile.loading.model import Model
from edgemobile.preprocess import Preprocess
from edgemobile.util.hashing import sha256_hex
from edgemobile.util.strict_json import versioned

__all__ = ["CALIBRATION_IMAGES", "ImageRecord", "statistics_of", "stored_images", "stored_statistics"]

_VERSION = 1
CALIBRATION_IMAGES = CHECK_IMAGES.with_name("calibration_images.zip")


@dataclass(frozen=True)
class ImageRecord:
    """The origin of a zip of images: `weights`, model name -> sha256 of its file, and their preprocessing.

    `sha256` is of the zip.
    """

    weights: Mapping[str, str]
    preprocess: Preprocess
    sha256: str

    def serves(self, weights: str, preprocess: Preprocess) -> bool:
        """Whether the images were made for a model with weights of this sha256 and this preprocessing."""
        return weights in self.weights.values() and preprocess == self.preprocess

    def to_json(self) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "weights": dict(self.weights),
            "preprocess": self.preprocess.to_json(),
            "sha256": self.sha256,
        }

    @classmethod
    def from_json(cls, text: str) -> ImageRecord:
        data = versioned(text, _VERSION, "record of images")
        return cls(data["weights"], Preprocess.from_json(data["preprocess"]), data["sha256"])


def stored_images(images: Path, model: Model) -> Path | None:
    """The zip `images` if it was made for exactly this model, else None.

    Other weights, another resolution or another normalization have different statistics. Raises EdgemobileError
    if the zip is not the one that its record describes.
    """
    record = ImageRecord.from_json(images.with_suffix(".json").read_text(encoding="utf-8"))
    if not record.serves(model.sha256, model.preprocess):
        return None
    if sha256_hex(images.read_bytes()) != record.sha256:
        raise EdgemobileError(
            f"{images} differs from the one in the package: install edgemobile again, or give --calib"
        )
    return images


def statistics_of(name: str) -> Path:
    """The path of the statistics of calibration for the bundled weights of the reference model `name`."""
    return CALIBRATION_IMAGES.with_name(f"{name}.statistics.npz")


def stored_statistics(model: Model) -> Path | None:
    """The statistics of calibration on the stored images for the weights of `model`, or None if they are not bundled.

    They are of one graph and of certain images: quant.calibration_file.with_statistics checks that.
    """
    record = ImageRecord.from_json(CALIBRATION_IMAGES.with_suffix(".json").read_text(encoding="utf-8"))
    paths = (statistics_of(name) for name, weights in record.weights.items() if weights == model.sha256)
    return next((path for path in paths if path.is_file()), None)
