"""The images of an export: some to calibrate int8 on, others to check the written files on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgemobile.errors import EdgemobileError, first_few
from edgemobile.images.class_labels import folder_names, match_folders
from edgemobile.images.dataset import CHECK_SPLITS, SPLITS, Dataset, open_dataset
from edgemobile.preprocess import Preprocess

__all__ = ["Samples", "from_dataset", "from_noise", "from_package", "from_synthesis"]

_NO_LABELS = "no --calib: accuracy is not known; give an ImageFolder to measure it"
# Cells of noise per side.
_NOISE_CELLS = 8


@dataclass(frozen=True)
class Samples:
    """Preprocessed images f32[N,H,W,3]. `labels` are class indices of the model for `check`, and `calibration_labels`
    for `calibration`; None where unknown.

    `class_names` are the folders' names for all classes of a model that has none itself; None otherwise.
    `described` describes `check` in words; `facts` describe `calibration` for the manifest.
    `real` images come from a data set and are checked to look like photos; synthetic ones are not.
    """

    calibration: np.ndarray
    check: np.ndarray
    labels: np.ndarray | None
    described: str
    facts: dict[str, Any]
    notes: tuple[str, ...] = field(default=())
    real: bool = False
    calibration_labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None

    def batches(self, size: int) -> list[np.ndarray]:
        """`calibration` in batches of at most `size` images."""
        return [self.calibration[start : start + size] for start in range(0, len(self.calibration), size)]


def from_dataset(
    source: Path | Dataset,
    preprocess: Preprocess,
    model_labels: Sequence[str] | None,
    *,
    calibration: int,
    check: int,
    seed: int,
    outputs: int | None = None,
) -> Samples:
    """Sample an ImageFolder (a directory or a zip, or one that is open) at random: `calibration` images from its train
    split and `check` from its test or validation split; without splits, both from one pool without overlap.

    The class of an image is found through the model's labels, or, with the number of its `outputs`, through folders
    that are numbered or as many as the classes. Raises EdgemobileError if there are no readable images. What was
    skipped is in `notes`.
    """
    whole = source if isinstance(source, Dataset) else open_dataset(source)
    path = whole.path
    _refuse_too_high(whole, model_labels, outputs)
    check_split = next((split for split in CHECK_SPLITS if split in whole.splits), None)
    if check_split and "train" in whole.splits:
        calibration_set, check_set = whole.in_split("train"), whole.in_split(check_split)
        calibration_indices = calibration_set.sample(calibration, seed)
        check_indices = check_set.sample(check, seed)
        described = f"{path.name} ({check_split})"
    else:
        calibration_set = check_set = whole.in_split(whole.splits[0]) if whole.splits else whole
        drawn = calibration_set.sample(calibration + check, seed)
        # A small set is used completely for calibration; then no unseen images are left.
        calibration_indices = drawn[:calibration]
        check_indices = drawn[calibration:] if len(drawn) > calibration else drawn
        described = path.name
    notes = []
    if check_set is calibration_set and np.intersect1d(calibration_indices, check_indices).size:
        notes.append(
            f"{path.name} has only {len(calibration_set)} images: the files are checked on the calibration images"
        )
    calibration_images, used, skipped = _load_labelled(calibration_set, calibration_indices, preprocess)
    check_images, kept, skipped_check = _load_labelled(check_set, check_indices, preprocess)
    notes += [f"skipped {name}: {reason}" for name, reason in (*skipped, *skipped_check)]
    if not len(calibration_images) or not len(check_images):
        raise EdgemobileError(
            f"no image of {path} can be read; the first problem: {notes[0] if notes else 'it is empty'}"
        )
    labels = _labels(check_set, kept, model_labels, outputs, notes)
    class_names = None if model_labels is not None else _class_names(whole, outputs, notes)
    return Samples(
        calibration_images,
        check_images,
        labels,
        f"{len(check_images)} images of {described}",
        {"source": str(path), "images": len(calibration_images), "sha256": _digest(calibration_images), "seed": seed},
        tuple(notes),
        real=True,
        calibration_labels=_labels(calibration_set, used, model_labels, outputs, []),
        class_names=class_names,
    )


def from_synthesis(images: np.ndarray, *, calibration: int, seed: int) -> Samples:
    """Synthesized images f32[N,H,W,3]: the first `calibration` to calibrate on, the others to check on."""
    described = f"{len(images) - calibration} images synthesized from the model's batch-norm statistics"
    return _made(images, calibration, "synthesized", described, seed)


def from_package(
    calibration: Path, check: Path, preprocess: Preprocess, *, calibrate_on: int, check_on: int, seed: int
) -> Samples:
    """Images stored in the package: the given numbers from the zips `calibration` and `check`, drawn at random."""
    calibration_images, check_images = (
        (dataset := open_dataset(path)).load_batch(dataset.sample(count, seed), preprocess)[0]
        for path, count in ((calibration, calibrate_on), (check, check_on))
    )
    described = f"{len(check_images)} of the package's synthetic images"
    images = np.concatenate([calibration_images, check_images])
    return _made(images, len(calibration_images), "the package's synthetic images", described, seed)


def from_noise(preprocess: Preprocess, *, calibration: int, check: int, seed: int) -> Samples:
    """Low-frequency noise: enough for float arithmetic, which does not depend on the images, and for random weights,
    which were trained on no images."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (calibration + check, _NOISE_CELLS, _NOISE_CELLS, 3), np.uint8)
    sized = replace(preprocess, resize="exact", shorter_px=None)
    images = np.stack([sized(cell) for cell in cells])
    return _made(images, calibration, "low-frequency noise", f"{check} images of low-frequency noise", seed)


def _made(images: np.ndarray, calibration: int, source: str, described: str, seed: int) -> Samples:
    """Synthetic images, without labels: the first `calibration` to calibrate on, the others to check on."""
    facts = {"source": source, "images": calibration, "sha256": _digest(images[:calibration]), "seed": seed}
    return Samples(images[:calibration], images[calibration:], None, described, facts, (_NO_LABELS,))


def _refuse_too_high(dataset: Dataset, model_labels: Sequence[str] | None, outputs: int | None) -> None:
    """Refuse a folder above the data set: calibration would use unrelated files, and there would be no accuracy."""
    outputs = outputs if model_labels is None else len(model_labels)
    inner = dataset.inner_folders()
    if not inner or outputs is None or _matches(dataset.classes, model_labels, outputs):
        return
    splits = {name.lower() for name in inner} <= set(SPLITS)
    if splits or _matches(inner, model_labels, outputs):
        held = "splits" if splits else "folders of the model's classes"
        first = dataset.classes[0]
        cure = (
            f"one of them: --calib {dataset.path / first}"
            if dataset.path.is_dir()
            else "a folder or zip of one of them"
        )
        raise EdgemobileError(
            f"{dataset.path} is a level above a data set: its folders ({first_few(dataset.classes)}) hold {held} "
            f"({first_few(inner)}), and no images. Give {cure}"
        )


def _matches(folders: Sequence[str], model_labels: Sequence[str] | None, outputs: int) -> bool:
    try:
        match_folders(folders, model_labels, outputs)
    except EdgemobileError:
        return False
    return True


def _load_labelled(
    dataset: Dataset, indices: np.ndarray, preprocess: Preprocess
) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str]]]:
    """(images, their indices, skipped images): images and labels stay aligned if one is broken."""
    images, skipped = dataset.load_batch(indices, preprocess)
    broken = {name for name, _ in skipped}
    kept = np.array([index for index in indices if dataset.name(index) not in broken], dtype=int)
    return images, kept, skipped


def _labels(
    dataset: Dataset, kept: np.ndarray, model_labels: Sequence[str] | None, outputs: int | None, notes: list[str]
) -> np.ndarray | None:
    outputs = outputs if model_labels is None else len(model_labels)
    if dataset.labels is None or outputs is None:
        return None
    try:
        match = match_folders(dataset.classes, model_labels, outputs)
    except EdgemobileError as error:
        notes.append(f"accuracy is not known: {str(error).partition('. Give')[0]}")
        return None
    return match.indices[dataset.labels[kept]]


def _class_names(dataset: Dataset, outputs: int | None, notes: list[str]) -> tuple[str, ...] | None:
    """The folders' names as labels of a model without any. Their source, or why there are none, is added to `notes`."""
    if dataset.labels is None or outputs is None:
        return None
    folders = dataset.classes
    if len(folders) != outputs:
        notes.append(
            f"labels are not known: {dataset.path.name} has {len(folders)} folders ({first_few(folders)}), and the "
            f"model {outputs} classes. Give them with --labels FILE, one name per line"
        )
    try:
        match = match_folders(folders, None, outputs)
    except EdgemobileError:
        return None
    found = folder_names(folders, match, outputs)
    if found.names is None:
        notes.append(match.rule)
        return None
    notes.append(f"labels are {found.source}, of {dataset.path.name}. To set others: --labels FILE, one name per line")
    return found.names


def _digest(images: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()
