"""A directory or zip with one folder of images per class, read lazily: for calibration and for accuracy.

    photos/cat/1.jpg           classes are folders
    photos/train/cat/1.jpg     splits are the folders above them (train, val, test, ...: SPLITS)
    photos/1.jpg               no classes: enough for calibration, but the accuracy is not known

Most sets are stored class by class, so 'the first n images' are one class: use `Dataset.sample`. A zip is read in place
and never extracted, so no name in it can reach outside.
"""

from __future__ import annotations

import difflib
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from edgemobile.errors import BrokenImage, EdgemobileError, first_line
from edgemobile.pixels import upright_rgb
from edgemobile.preprocess import Preprocess

__all__ = [
    "CHECK_SPLITS",
    "SPLITS",
    "BrokenImage",
    "ClassMatch",
    "Dataset",
    "is_image_name",
    "match_classes",
    "open_dataset",
    "unmatched",
    "why_unmatched",
]

# The first existing one is used to measure accuracy.
CHECK_SPLITS = ("test", "val", "validation", "valid", "eval")
SPLITS = ("train", "val", "validation", "valid", "eval", "test")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
# A photo has a few MiB; a larger size declared in a zip is an error or a zip bomb.
_MAX_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Dataset:
    """Images by index, sorted by name, so that an index and a seed mean the same image everywhere.

    `names` are paths inside the set, `split_of` the split of each. `classes` are the sorted folder names of all splits,
    and `labels` i64[len] index into them; () and None where the images are not in class folders. `skipped` is
    (name, reason) of images left out.
    """

    path: Path
    names: tuple[str, ...]
    classes: tuple[str, ...]
    labels: np.ndarray | None
    splits: tuple[str, ...]
    split: str | None
    skipped: tuple[tuple[str, str], ...]
    split_of: tuple[str | None, ...] = field(repr=False)
    read: Callable[[str], bytes] = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The path of an image inside the set."""
        return self.names[index]

    def inner_folders(self) -> tuple[str, ...]:
        """The folders inside the class folders, sorted; () if an image is directly in a class folder."""
        found = set()
        for name, label in zip(self.names, () if self.labels is None else self.labels, strict=False):
            *above, _ = PurePosixPath(name.replace("\\", "/")).parts
            inside = above[above.index(self.classes[label]) + 1 :]
            if not inside:
                return ()
            found.add(inside[0])
        return tuple(sorted(found))

    def in_split(self, split: str) -> Dataset:
        """The images of one split, with the classes of all. Raises EdgemobileError if there is no such split."""
        if split not in self.splits:
            raise EdgemobileError(
                f"{self.path} has no split {split!r}. It has: {', '.join(self.splits) or 'none'}. "
                f"Splits are folders at its top, named {', '.join(SPLITS)}"
            )
        kept = [index for index, one in enumerate(self.split_of) if one == split]
        if not kept:
            raise EdgemobileError(_no_images(self.path))
        return replace(
            self,
            names=tuple(self.names[index] for index in kept),
            labels=None if self.labels is None else self.labels[kept],
            split=split,
            split_of=(split,) * len(kept),
        )

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """`n` different indices i64 drawn at random with `seed`; all of them, shuffled, if the set is not larger."""
        if n < 1:
            raise EdgemobileError(f"a sample of {self.path} must have at least 1 image, found {n}")
        return np.random.default_rng(seed).permutation(len(self))[:n]

    def load(self, index: int) -> Image.Image:
        """The image, `upright_rgb`. Raises BrokenImage with the reason if it cannot be decoded or shown."""
        name = self.names[index]
        try:
            return upright_rgb(Image.open(BytesIO(self.read(name))))
        # Decoders raise many kinds of exceptions on broken bytes: OSError, SyntaxError, struct.error, zlib.error, ...
        except Exception as error:
            raise BrokenImage(f"cannot read {name} of {self.path}: {_reason(error)}") from error

    def load_batch(
        self, indices: Sequence[int] | np.ndarray, preprocess: Preprocess
    ) -> tuple[np.ndarray, list[tuple[str, str]]]:
        """(f32[N,px,px,3] of the images that can be read, in order; (name, reason) of those that cannot)."""
        arrays, skipped = [], []
        for index in indices:
            try:
                arrays.append(preprocess(self.load(int(index))))
            except BrokenImage as error:
                skipped.append((self.names[index], _reason(error.__cause__ or error)))
        px = preprocess.input_px
        return np.stack(arrays) if arrays else np.zeros((0, px, px, 3), np.float32), skipped


def open_dataset(path: str | Path, split: str | None = None) -> Dataset:
    """The images below `path`, an ImageFolder as a directory or a zip; those of one split, or of all of them.

    Raises EdgemobileError if the path does not exist, has no images, or has no such split.
    """
    path = Path(path)
    found, read = _list(path)
    entries, skipped = _entries(found)
    entries, splits = _split_apart(_without_wrapper(entries), skipped)
    # Classes are those of all splits, so that an index means the same class in every split.
    classes = sorted({entry.parts[0] for entry in entries if len(entry.parts) > 1})
    if classes:
        skipped += [(entry.name, "it is not in a class folder") for entry in entries if len(entry.parts) == 1]
        entries = [entry for entry in entries if len(entry.parts) > 1]
    if not entries:
        raise EdgemobileError(_no_images(path))
    index = {name: i for i, name in enumerate(classes)}
    labels = np.array([index[entry.parts[0]] for entry in entries], np.int64) if classes else None
    names, split_of = tuple(entry.name for entry in entries), tuple(entry.split for entry in entries)
    whole = Dataset(path, names, tuple(classes), labels, splits, None, tuple(skipped), split_of, read)
    return whole if split is None else whole.in_split(split)


def is_image_name(name: str) -> bool:
    """Whether a file is taken for an image, by its suffix."""
    return name.lower().endswith(_SUFFIXES)


def _no_images(path: Path) -> str:
    return f"no images in {path}; an image is a file ending in {', '.join(_SUFFIXES)}"


class _Entry(NamedTuple):
    """An image: its name as stored, its folders and file name, and its split."""

    name: str
    parts: tuple[str, ...]
    split: str | None = None


def _list(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    """(names of all files below `path`, a function that reads one)."""
    try:
        if path.is_dir():
            return list(_walk(path)), lambda name: (path / name).read_bytes()
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise EdgemobileError(
            f"no data set at {path}: it does not exist. Give a folder of images or a zip of one"
        ) from error
    except zipfile.BadZipFile as error:
        raise EdgemobileError(f"{path} is neither a folder nor a readable zip: {error}") from error
    except OSError as error:
        raise EdgemobileError(f"cannot read the data set {path}: {error.strerror or error}") from error
    return archive.namelist(), _zip_reader(archive)


def _walk(folder: Path) -> Iterator[str]:
    """Files below `folder`, relative to it. Linked folders are included, each once: links may form a loop."""

    def refuse(error: OSError) -> None:
        raise error

    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in files:
            yield os.path.relpath(os.path.join(here, name), folder)


def _zip_reader(archive: zipfile.ZipFile) -> Callable[[str], bytes]:
    """Reads from one open zip. zipfile locks it, so threads may share it."""

    def read(name: str) -> bytes:
        size = archive.getinfo(name).file_size
        if size > _MAX_BYTES:
            raise OSError(f"it unpacks to {size / 2**20:.0f} MiB, and at most {_MAX_BYTES / 2**20:.0f} MiB are read")
        return archive.read(name)

    return read


def _entries(names: Iterable[str]) -> tuple[list[_Entry], list[tuple[str, str]]]:
    """(images sorted by name, (name, reason) of those whose name points outside). Hidden files are ignored."""
    entries, refused = [], []
    for name in sorted(set(names)):
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not is_image_name(name):
            continue
        if ".." in parts or parts[0].startswith("/") or ":" in parts[0]:
            refused.append((name, "its name points outside the data set"))
        elif not any(part.startswith((".", "__MACOSX")) for part in parts):
            entries.append(_Entry(name, parts))
    return entries, refused


def _without_wrapper(entries: list[_Entry]) -> list[_Entry]:
    """Remove a top folder that contains everything, as in most zips: photos/cat/1.jpg is cat/1.jpg."""
    while len(tops := {entry.parts[0] for entry in entries}) == 1 and any(len(entry.parts) > 2 for entry in entries):
        if tops.pop().lower() in SPLITS:
            break
        entries = [entry._replace(parts=entry.parts[1:]) for entry in entries if len(entry.parts) > 1]
    return entries


def _split_apart(entries: list[_Entry], skipped: list[tuple[str, str]]) -> tuple[list[_Entry], tuple[str, ...]]:
    """(entries with their split, the splits) if every top folder is a split; files next to them are `skipped`."""
    tops = {entry.parts[0].lower() for entry in entries if len(entry.parts) > 1}
    if not tops or not tops <= set(SPLITS):
        return entries, ()
    skipped += [(entry.name, "it is not in a split") for entry in entries if len(entry.parts) == 1]
    inside = [entry for entry in entries if len(entry.parts) > 1]
    apart = [entry._replace(parts=entry.parts[1:], split=entry.parts[0].lower()) for entry in inside]
    return apart, tuple(split for split in SPLITS if split in tops)


def _reason(error: BaseException) -> str:
    # Pillow's message contains the buffer object, which does not help a user.
    return re.sub(r" ?<_io.BytesIO object at \w+>", "", first_line(error))


# ---- its classes and the model's ------------------------------------------------------------------------------------


class ClassMatch(NamedTuple):
    """`indices` i64[folders]: the model's class of each folder of a data set; `rule` states how they were found."""

    indices: np.ndarray
    rule: str


def match_classes(dataset_classes: Sequence[str], model_labels: Sequence[str] | int) -> ClassMatch | None:
    """Find the model's class of each folder by the first rule that fits all folders; None if none does.

    `model_labels` are names in the order of the model's outputs, or their number where the names are not known. No
    folder is omitted: an accuracy over half of the classes would look like a valid accuracy.
    """
    for rule, indices in _by_rule(dataset_classes, model_labels):
        if indices and None not in indices:
            return ClassMatch(np.array(indices, np.int64), rule)
    return None


def unmatched(dataset_classes: Sequence[str], model_labels: Sequence[str] | int) -> list[str]:
    """The folders that do not match a class by the rule that fits most folders."""
    found = [indices for _, indices in _by_rule(dataset_classes, model_labels)]
    best = min(found, key=lambda indices: indices.count(None))
    return [folder for folder, index in zip(dataset_classes, best, strict=True) if index is None]


def why_unmatched(folder: str, model_labels: Sequence[str] | int) -> str:
    """Why a folder is `unmatched`, in words, with the nearest label."""
    labels = () if isinstance(model_labels, int) else model_labels
    sharing = sum(_plain(folder) in _names(label) for label in labels)
    if sharing > 1:
        return f"matches {sharing} classes of the model"
    written = {_plain(name): name.strip() for label in labels for name in label.split(",")}
    near = difflib.get_close_matches(_plain(folder), written, n=1)
    return "is not a class of the model" + (f", nearest: {written[near[0]]}" if near else "")


def _by_rule(folders: Sequence[str], model_labels: Sequence[str] | int) -> Iterator[tuple[str, list[int | None]]]:
    """(rule, the class it finds for each folder, or None)."""
    labels = [str(i) for i in range(model_labels)] if isinstance(model_labels, int) else list(model_labels)
    for rule, find in _RULES.items():
        yield rule, [index if index in range(len(labels)) else None for index in find(list(folders), labels)]


def _by_name(folders: list[str], labels: list[str]) -> list[int | None]:
    """Labels may list synonyms ("tench, Tinca tinca"). A folder is the class whose whole label it is, else whose first
    name, else any: "missile" is not "projectile, missile". A name that two classes share matches neither."""
    tiers = [_unshared(_names(label)[part] for label in labels) for part in (slice(1), slice(1, 2), slice(1, None))]
    return [next((tier[name] for tier in tiers if name in tier), None) for name in map(_plain, folders)]


def _unshared(names: Iterable[Sequence[str]]) -> dict[str, int | None]:
    """name -> the only class with it, or None; `names` are those of each class in order."""
    classes: dict[str, int | None] = {}
    for index, own in enumerate(names):
        for name in set(own):
            classes[name] = None if name in classes else index
    return classes


def _by_leading_integer(folders: list[str], labels: list[str]) -> list[int | None]:
    return [int(match[1]) if (match := re.match(r"(\d+)[_\-. ]", folder)) else None for folder in folders]


def _by_integer(folders: list[str], labels: list[str]) -> list[int | None]:
    return [int(folder) if re.fullmatch(r"\d+", folder) else None for folder in folders]


def _by_wnid(folders: list[str], labels: list[str]) -> list[int | None]:
    """ImageNet's classes are its WordNet ids in order, so the complete set needs no table."""
    if len(folders) != len(labels) or not all(re.fullmatch(r"n\d{8}", folder) for folder in folders):
        return [None] * len(folders)
    order = sorted(folders)
    return [order.index(folder) for folder in folders]


_RULES: Mapping[str, Callable[[list[str], list[str]], list[int | None]]] = {
    "folders are named like the model's labels": _by_name,
    "folders begin with the class index": _by_leading_integer,
    "folders are class indices": _by_integer,
    "folders are all WordNet ids, in order": _by_wnid,
}


def _names(label: str) -> list[str]:
    """The complete label, then its synonyms, without case and punctuation."""
    return [_plain(name) for name in (label, *label.split(","))]


def _plain(name: str) -> str:
    """A name without case, spaces, underscores and hyphens."""
    return re.sub(r"[\s_\-]+", "", name).casefold()
