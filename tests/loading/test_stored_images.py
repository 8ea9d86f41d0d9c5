"""The images in the package serve the weights they were made from, at their resolution, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copy

import pytest

from edgemobile.errors import EdgemobileError
from edgemobile.images.dataset import open_dataset
from edgemobile.loading.checkpoint import CHECK_IMAGES, bundled
from edgemobile.loading.stored_images import CALIBRATION_IMAGES, ImageRecord, stored_images
from edgemobile.preprocess import CIFAR10, Preprocess, at_resolution
from edgemobile.quant.synthesize import enough_images
from edgemobile.util.hashing import sha256_hex

_ZIPS = pytest.mark.parametrize("images", [CALIBRATION_IMAGES, CHECK_IMAGES], ids=lambda path: path.stem)


@dataclass(frozen=True)
class _Model:
    """What decides of a model."""

    sha256: str
    preprocess: Preprocess = CIFAR10


def _weights(name: str) -> str:
    return sha256_hex(CHECK_IMAGES.with_name(f"{name}.safetensors").read_bytes())


@_ZIPS
@pytest.mark.parametrize("name", bundled())
def test_they_were_made_from_the_weights_that_are_in_the_package(images: Path, name: str) -> None:
    """New weights need new images: python examples/bundled_images.py."""
    assert stored_images(images, _Model(_weights(name))) == images  # type: ignore[arg-type]


@_ZIPS
def test_they_serve_no_other_weights_resolution_or_normalisation(images: Path) -> None:
    right = _weights("v3-large")
    others = (
        _Model(right[::-1]),
        _Model(right, at_resolution(CIFAR10, 128)),
        _Model(right, replace(CIFAR10, mean=(0.5, 0.5, 0.5))),
    )
    assert [stored_images(images, other) for other in others] == [None] * 3  # type: ignore[arg-type]


def test_other_images_under_their_name_are_refused(tmp_path: Path) -> None:
    for path in (CALIBRATION_IMAGES, CALIBRATION_IMAGES.with_suffix(".json")):
        copy(path, tmp_path)
    mine = tmp_path / CALIBRATION_IMAGES.name
    mine.write_bytes(CHECK_IMAGES.read_bytes())
    with pytest.raises(EdgemobileError, match=r"calibration_images.zip differs from the one in the package"):
        stored_images(mine, _Model(_weights("v2")))  # type: ignore[arg-type]


def test_a_record_of_another_version_is_refused() -> None:
    with pytest.raises(EdgemobileError, match="record of images version 2 is not known"):
        ImageRecord.from_json('{"version": 2}')


def test_as_many_as_calibration_wants_and_none_that_files_are_checked_on() -> None:
    calibration, check = open_dataset(CALIBRATION_IMAGES), open_dataset(CHECK_IMAGES)
    assert len(calibration) >= enough_images(CIFAR10.input_px)
    assert not {calibration.read(name) for name in calibration.names} & {check.read(name) for name in check.names}
