"""The images of a job, and what is refused before a job is done on the wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgemobile.errors import EdgemobileError
from edgemobile.images.samples import from_dataset
from edgemobile.preprocess import Preprocess

PREPROCESS = Preprocess(input_px=8)
ASKED: dict[str, Any] = {"calibration": 2, "check": 2, "seed": 0}


def _images(folder: Path, *names: str) -> Path:
    for index, name in enumerate(names):
        path = folder / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return folder / "set"


@pytest.mark.parametrize(
    ("names", "labels", "outputs", "held"),
    [
        (
            ("pets/cat/1.png", "pets/dog/2.png", "rest/cat/3.png"),
            ["cat", "dog"],
            None,
            "the model's classes (cat, dog)",
        ),
        (("pets/cat/1.png", "pets/dog/2.png", "rest/owl/3.png"), None, 3, "the model's classes (cat, dog, owl)"),
        (("pets/train/cat/1.png", "pets/val/cat/2.png", "rest/val/a/3.png"), ["cat"], None, "splits (train, val)"),
        (("pets/train/cat/1.png", "pets/val/cat/2.png", "rest/val/a/3.png"), None, 5, "splits (train, val)"),
    ],
)
def test_a_folder_above_the_data_set_is_refused(
    tmp_path: Path, names: tuple[str, ...], labels: list[str] | None, outputs: int | None, held: str
) -> None:
    """It would calibrate on all that lies there, and not know the accuracy."""
    folder = _images(tmp_path, *names)
    with pytest.raises(EdgemobileError) as caught:
        from_dataset(folder, PREPROCESS, labels, outputs=outputs, **ASKED)
    said = str(caught.value)
    assert said.startswith(f"{folder} is a level above a data set: its folders (pets, rest) hold ")
    assert f"{held}, and no images. Give one of them: --calib {folder / 'pets'}" in said


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        # Classes may have folders, a folder around all is no level, and images of unknown classes calibrate.
        (("cat/a/1.png", "dog/b/2.png"), ["cat", "dog"]),
        (("all/cat/1.png", "all/dog/2.png"), ["cat", "dog"]),
        (("one/x/1.png", "two/y/2.png"), ["cat", "dog"]),
    ],
)
def test_folders_in_class_folders_are_no_level(tmp_path: Path, names: tuple[str, ...], labels: list[str]) -> None:
    assert len(from_dataset(_images(tmp_path, *names), PREPROCESS, labels, **ASKED).calibration) == 2


@pytest.mark.parametrize(
    ("names", "outputs", "found", "said"),
    [
        (("dog/1.png", "cat/2.png"), 2, ("cat", "dog"), "labels are the names of the 2 folders, in order, of set."),
        (
            ("1_cat/1.png", "0_dog/2.png"),
            2,
            ("0_dog", "1_cat"),
            "2 folders, folders begin with the class index, of set.",
        ),
        (("1 b/1.png", "0 a/2.png", "2 c/3.png"), 3, ("0 a", "1 b", "2 c"), "folders begin with the class index"),
        (
            ("cat/1.png", "dog/2.png"),
            3,
            None,
            "labels are not known: set has 2 folders (cat, dog), and the model 3 classes",
        ),
        (("00/1.png", "01/2.png"), 2, None, "folders are class indices"),
        # Two folders of one class leave the other without a name.
        (("1_cat/1.png", "1_dog/2.png"), 2, None, "folders begin with the class index"),
    ],
)
def test_folders_name_the_classes_of_a_model_without_labels(
    tmp_path: Path, names: tuple[str, ...], outputs: int, found: tuple[str, ...] | None, said: str
) -> None:
    samples = from_dataset(_images(tmp_path, *names), PREPROCESS, None, outputs=outputs, **ASKED)
    assert samples.class_names == found
    assert any(said in note for note in samples.notes), samples.notes
    assert any("--labels FILE" in note for note in samples.notes) == (found is not None or "not known" in said)


def test_a_models_own_labels_stay(tmp_path: Path) -> None:
    samples = from_dataset(_images(tmp_path, "cat/1.png", "dog/2.png"), PREPROCESS, ["tiger", "wolf"], **ASKED)
    assert samples.class_names is None
    assert not any("labels are" in note for note in samples.notes)
