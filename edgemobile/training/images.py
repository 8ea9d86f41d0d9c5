"""The images of a training run: their classes, those held out, and augmented batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from edgemobile.errors import BrokenImage, EdgemobileError
from edgemobile.images.class_labels import match_folders
from edgemobile.images.dataset import CHECK_SPLITS, Dataset
from edgemobile.preprocess import Preprocess

__all__ = ["Classes", "TrainingImages", "classes_of", "split_apart", "subset"]

# The share of the images that is held out, if the set has no splits.
_HELD_OUT = 0.1
# Random resized crops: the range of their share of the image's area, and of their ratio of width to height.
_AREA = (0.5, 1.0)
_RATIO = (3 / 4, 4 / 3)
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class Classes:
    """`labels`: a name for each class. `indices` i64[folders]: the class of each folder. `new_head`: the model has
    other classes, and `note` says why; the note is None if there is nothing to say."""

    labels: tuple[str, ...]
    indices: np.ndarray
    new_head: bool
    note: str | None


def classes_of(dataset: Dataset, labels: Sequence[str] | None, outputs: int) -> Classes:
    """The classes to train: the model's own if there is a folder for each; otherwise the folders, with a new head.

    Raises EdgemobileError for a set without at least two class folders.
    """
    folders = dataset.classes
    if dataset.labels is None or len(folders) < 2:
        found = f"one class folder ({folders[0]})" if folders else "no class folders"
        raise EdgemobileError(f"{dataset.path} has {found}. Training needs one folder of images per class, at least 2")
    if len(folders) == outputs:
        try:
            match = match_folders(folders, labels, outputs)
        except EdgemobileError:
            return _new_head(folders, "the folders are not the model's classes")
        named = {int(index): folder for index, folder in zip(match.indices, folders, strict=True)}
        note = None if labels is not None else f"the model has no labels: {match.rule}"
        return Classes(tuple(labels or (named[index] for index in range(outputs))), match.indices, False, note)
    return _new_head(folders, f"the model has {outputs} classes, and the images have {len(folders)}")


def _new_head(folders: Sequence[str], because: str) -> Classes:
    note = f"the last layer is new and starts untrained: {because}"
    return Classes(tuple(folders), np.arange(len(folders)), True, note)


@dataclass(frozen=True)
class TrainingImages:
    """Images of `classes` to train on and images held out, preprocessed with `preprocess`.

    `skipped` grows with those that cannot be read: name -> the reason.
    """

    train: Dataset
    held_out: Dataset
    classes: Classes
    preprocess: Preprocess
    skipped: dict[str, str] = field(default_factory=dict)

    def steps(self, batch: int) -> int:
        """The number of full batches in an epoch. Raises EdgemobileError if there are none."""
        if len(self.train) < batch:
            raise EdgemobileError(
                f"{self.train.path} has {len(self.train)} training images, fewer than a --batch of {batch}. "
                "Use a smaller --batch"
            )
        return len(self.train) // batch

    def epoch(self, number: int, batch: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(f32[N,H,W,3], classes i64[N]) of each full batch of epoch `number`, augmented; images that cannot be read
        are left out. The same `number` and `seed` give the same batches."""
        order = np.random.default_rng((seed, number)).permutation(len(self.train))
        for indices in order[: self.steps(batch) * batch].reshape(-1, batch):
            images, kept = [], []
            for index in indices:
                try:
                    image = self.train.load(int(index))
                except BrokenImage as error:
                    self.skipped[self.train.name(int(index))] = str(error)
                    continue
                images.append(_augmented(image, self.preprocess, np.random.default_rng((seed, number, int(index)))))
                kept.append(index)
            if kept:
                yield np.stack(images), self._classes(self.train, np.array(kept))

    def sample(self, images: int, seed: int) -> np.ndarray:
        """f32[N,H,W,3] of at most `images` training images, not augmented."""
        return self.train.load_batch(self.train.sample(images, seed), self.preprocess)[0]

    def check(self, images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(f32[N,H,W,3], classes i64[N]) of at most `images` that are held out. Raises EdgemobileError if none can be
        read."""
        indices = self.held_out.sample(images, seed)
        arrays, skipped = self.held_out.load_batch(indices, self.preprocess)
        self.skipped.update(skipped)
        broken = {name for name, _ in skipped}
        kept = np.array([index for index in indices if self.held_out.name(int(index)) not in broken], int)
        if not len(arrays):
            raise EdgemobileError(f"no image held out of {self.held_out.path} can be read: {skipped[0][1]}")
        return arrays, self._classes(self.held_out, kept)

    def _classes(self, dataset: Dataset, indices: np.ndarray) -> np.ndarray:
        assert dataset.labels is not None
        return self.classes.indices[dataset.labels[indices]]


def split_apart(dataset: Dataset, seed: int) -> tuple[Dataset, Dataset, str]:
    """(images to train on, images held out, a description of those held out). A set with splits has both; of a set
    without splits, a tenth drawn with `seed` is held out."""
    held = next((split for split in CHECK_SPLITS if split in dataset.splits), None)
    if held and "train" in dataset.splits:
        return dataset.in_split("train"), dataset.in_split(held), f"{held}/ of {dataset.path.name}"
    order = np.random.default_rng(seed).permutation(len(dataset))
    count = max(1, round(_HELD_OUT * len(dataset)))
    described = f"a random {_HELD_OUT:.0%} of {dataset.path.name}, not trained on"
    return subset(dataset, np.sort(order[count:])), subset(dataset, np.sort(order[:count])), described


def subset(dataset: Dataset, indices: np.ndarray) -> Dataset:
    """The images of `dataset` at `indices` i64[N], with its classes."""
    assert dataset.labels is not None
    return replace(
        dataset,
        names=tuple(dataset.names[index] for index in indices),
        labels=dataset.labels[indices],
        split_of=tuple(dataset.split_of[index] for index in indices),
    )


def _augmented(image: Image.Image, preprocess: Preprocess, rng: np.random.Generator) -> np.ndarray:
    """f32[px,px,3]: a random crop, resized, and a flip half of the time, normalized."""
    px = preprocess.input_px
    crop = image.resize((px, px), _RESAMPLING[preprocess.interpolation], _box(image.size, rng))
    pixels = np.asarray(crop, np.float32) / 255
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    mean, std = (np.array(values, np.float32) for values in (preprocess.mean, preprocess.std))
    return (pixels - mean) / std


def _box(size: tuple[int, int], rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A random part of an image: (left, top, right, bottom)."""
    width, height = size
    area = rng.uniform(*_AREA) * width * height
    ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
    w, h = min(width, math.sqrt(area * ratio)), min(height, math.sqrt(area / ratio))
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return left, top, left + w, top + h
