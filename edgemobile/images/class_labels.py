"""Finds the names of a model's classes, and the output that each folder of a data set belongs to.

The first source with names is used: the given file, the model's own metadata, a list packed into a TFLite file,
labels.txt (or the only *labels*.txt) next to the model. TensorFlow's ImageNet models have 1001 outputs: the first is
"background", and class 0 is output 1. With any other number of outputs, there is a background only if the list
contains it: a list that is one too short has more likely lost a line.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from edgemobile.errors import EdgemobileError, first_few
from edgemobile.images.dataset import SPLITS, ClassMatch, match_classes, unmatched, why_unmatched
from edgemobile.model_file.metadata import labels_in

__all__ = [
    "Labels",
    "find_labels",
    "folder_names",
    "has_background",
    "match_folders",
    "places_beside",
    "printable",
]

_BACKGROUND = ("background", "dummy", "???")
_IMAGENET_OUTPUTS = 1001
_MAX_BYTES = 16 * 2**20
_IN_ORDER = "labels unknown: the folders are assumed to be the classes in order"
# Maximum number of names in an error.
_SHOWN = 3


class Labels(NamedTuple):
    """A name for every output, or None; a description of their source; and notes for the user."""

    names: tuple[str, ...] | None
    source: str
    notes: tuple[str, ...] = ()


def find_labels(
    path: Path, outputs: int, metadata: Mapping[str, str], explicit: Path | None = None, data: bytes = b""
) -> Labels:
    """The names of the `outputs` classes of the model at `path`; `data` are its bytes if it is a TFLite file.

    A list of another length is ignored with a note; raises EdgemobileError if it was given by the user.
    """
    if explicit is not None:
        listed = _lines(_text(explicit))
        names = _fitted(listed, outputs)
        if names is None:
            background = f"; if output 0 is not a class, the first line must be {_BACKGROUND[0]}"
            raise EdgemobileError(
                f"{explicit} has {len(listed)} labels, and {path} has {outputs} outputs. Give a list of {outputs}, in "
                f"their order{background if len(listed) == outputs - 1 else ''}"
            )
        return Labels(names, str(explicit))
    notes: list[str] = []
    for found, source in _places(path, metadata, data):
        names = _fitted(found, outputs)
        if names is not None:
            return Labels(names, source, tuple(notes))
        notes.append(f"{path.name}: not used, {len(found)} labels {source}: the model has {outputs} outputs")
    return Labels(None, "none found", tuple(notes))


def places_beside(path: Path) -> tuple[Path, ...]:
    """Where `find_labels` looks next to the model at `path`: labels.txt, which may not exist, and every other
    *labels*.txt.
    """
    others = sorted(beside for beside in path.parent.glob("*labels*.txt") if beside.name != "labels.txt")
    return path.with_name("labels.txt"), *others


def has_background(names: Sequence[str] | None, outputs: int) -> bool:
    """Whether the first output is a background class. Without names, the number of outputs decides."""
    return outputs == _IMAGENET_OUTPUTS if names is None else names[0].casefold() in _BACKGROUND


def match_folders(folders: Sequence[str], names: Sequence[str] | None, outputs: int) -> ClassMatch:
    """The output of each folder of a data set, i64[folders], and the rule that found it.

    Raises EdgemobileError if no rule fits: a guess would look like a valid accuracy.
    """
    # A data set may have a folder of backgrounds; then it is a class like any other.
    known = {folder.casefold() for folder in folders}
    skip = 1 if has_background(names, outputs) and known.isdisjoint(_BACKGROUND) else 0
    labels = outputs - skip if names is None else list(names[skip:])
    match = match_classes(folders, labels)
    if match is None and names is None and len(folders) == outputs - skip:
        match = match_classes([str(index) for index in range(len(folders))], len(folders))
        assert match is not None
        match = match._replace(rule=_IN_ORDER)
    if match is None:
        raise EdgemobileError(_mismatch(folders, labels))
    rule = f"{match.rule}; output 0 is background" if skip else match.rule
    return ClassMatch(match.indices + skip, rule)


def folder_names(folders: Sequence[str], match: ClassMatch, outputs: int) -> Labels:
    """The folders' names as labels of a model without any, if there is one per output and they are not numbers.

    The source states how the folders were matched.
    """
    if sorted(match.indices.tolist()) != list(range(outputs)) or all(folder.isdecimal() for folder in folders):
        return Labels(None, "none found")
    names = {int(index): printable(folder) for index, folder in zip(match.indices, folders, strict=True)}
    how = "in order" if match.rule == _IN_ORDER else match.rule
    return Labels(tuple(names[output] for output in range(outputs)), f"the names of the {outputs} folders, {how}")


def _mismatch(folders: Sequence[str], labels: list[str] | int) -> str:
    """Which of the folders are not classes of the model, and what to do."""
    strays = unmatched(folders, labels)
    splits = [folder for folder in strays if folder.casefold() in SPLITS]
    others = [folder for folder in folders if folder not in splits]
    if splits and others:
        return (
            f"the data set has splits ({first_few(splits)}) beside other folders ({first_few(others)}). Give all top "
            f"folders names of splits ({', '.join(SPLITS)}) with one folder per class in each, or move the "
            "others elsewhere"
        )
    if len(strays) < len(folders):
        said = "; ".join(f"{folder!r} {why_unmatched(folder, labels)}" for folder in strays[:_SHOWN])
        more = f"; and {len(strays) - _SHOWN} more" if len(strays) > _SHOWN else ""
        return (
            f"{len(folders) - len(strays)} of the data set's {len(folders)} folders match the model's classes: "
            f"{said}{more}. Give all folders the names of classes, or the classes the folders' names with --labels"
        )
    # ImageNet's labels list synonyms; the first is enough here.
    first = [] if isinstance(labels, int) else [label.partition(",")[0] for label in labels[:_SHOWN]]
    known_as = f"names like {', '.join(first)}" if first else "no names"
    return (
        f"the data set's {len(folders)} folders ({first_few(folders)}) match none of the model's classes: its "
        f"{labels if isinstance(labels, int) else len(labels)} have {known_as}. Give the folders' names with --labels, "
        "or begin the folders with the class index (0007_cat)"
    )


def _places(path: Path, metadata: Mapping[str, str], data: bytes) -> Iterator[tuple[list[str], str]]:
    """(labels, source) of every source that has some, best first."""
    if names := labels_in(metadata):
        yield [printable(name) for name in names], "in its metadata"
    if packed := _packed(data):
        yield packed, "packed into the file"
    usual, *others = places_beside(path)
    for beside in (usual, *(others if len(others) == 1 else ())):
        if beside.is_file():
            yield _lines(_text(beside)), f"next to it in {beside.name}"


def _packed(data: bytes) -> list[str]:
    """The labels of a TFLite file that is also a zip, as the TFLite metadata specification appends them."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            texts = [item for item in archive.infolist() if "label" in item.filename and item.filename.endswith(".txt")]
            if len(texts) != 1 or texts[0].file_size > _MAX_BYTES:
                return []
            return _lines(archive.read(texts[0]).decode("utf-8-sig", errors="replace"))
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError):
        return []


def _text(path: Path) -> str:
    try:
        # With or without the byte order mark that some editors write.
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise EdgemobileError(f"cannot read the labels {path}: {reason}") from error


def _lines(text: str) -> list[str]:
    """One label per line; numbers before them that only count the lines ("7 cock", "7: cock") are removed."""
    lines = [printable(line.strip()) for line in text.rstrip().splitlines()]
    numbered = [re.fullmatch(r"(\d{1,9})[\s:,]\s*(\S.*)", line) for line in lines]
    if all(match and int(match[1]) == index for index, match in enumerate(numbered)):
        return [match[2] for match in numbered if match]
    return lines


def printable(name: str) -> str:
    """An untrusted label without control characters of a terminal."""
    return "".join(char if char.isprintable() else " " if char.isspace() else "?" for char in name)


def _fitted(names: list[str], outputs: int) -> tuple[str, ...] | None:
    """`names` for `outputs`: a background in the list is removed, ImageNet's is added before them."""
    if not names:
        return None
    first_is_background = names[0].casefold() in _BACKGROUND
    if len(names) == outputs - 1 == _IMAGENET_OUTPUTS - 1 and not first_is_background:
        return (_BACKGROUND[0], *names)
    if len(names) == outputs + 1 and first_is_background:
        return tuple(names[1:])
    return tuple(names) if len(names) == outputs else None
