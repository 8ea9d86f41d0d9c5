"""Checks a file's metadata against the file and its reference. The outputs alone do not show, say, wrong labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from edgemobile.model_file.model_file import ModelFile
from edgemobile.postprocess import Postprocess
from edgemobile.preprocess import Preprocess

__all__ = ["StatedMetadata", "check_metadata", "in_px"]

# The fields about resizing. The normalisation and the resolution affect the outputs, so they are compared there.
_COMPARED = ("resize", "shorter_px", "interpolation", "antialias")


@dataclass(frozen=True)
class StatedMetadata:
    """What a reference states about itself; None if it states nothing. `own_px` is the resolution that its weights were
    trained at."""

    preprocess: Preprocess | None = None
    labels: tuple[str, ...] | None = None
    own_px: int | None = None
    postprocess: Postprocess | None = None


def check_metadata(
    file: ModelFile, reference: StatedMetadata, outputs: int, input_px: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(errors in the file's metadata, notes), in words, for a file with `outputs` classes and `input_px` pixels.

    Fields that only one of the two states are not compared.
    """
    classes = _classes(file, outputs)
    missed = (
        *_labels(file, reference, classes),
        *_preprocess(file, reference, input_px),
        *_postprocess(file.postprocess, reference.postprocess),
    )
    return missed, tuple(_notes(file, reference, input_px))


def _classes(file: ModelFile, outputs: int) -> int:
    """How many classes a file has: a detector, those of its logits."""
    logits = file.contents.values.get(file.postprocess.logits) if file.postprocess is not None else None
    return outputs if logits is None else logits.shape[-1]


def _postprocess(found: Postprocess | None, wanted: Postprocess | None) -> Iterator[str]:
    if found is not None and wanted is not None and found != wanted:
        differing = [one.name for one in fields(found) if getattr(found, one.name) != getattr(wanted, one.name)]
        yield f"postprocess: its metadata has other {', '.join(differing)} than the reference"


def _labels(file: ModelFile, reference: StatedMetadata, outputs: int) -> Iterator[str]:
    found, wanted = file.labels, reference.labels
    if found is None:
        return
    if len(found) != outputs:
        yield f"labels: its metadata names {len(found)} classes, but it has {outputs} outputs; export it again"
    elif wanted is not None and len(wanted) == outputs and found != wanted:
        index = next(index for index, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1])
        how = "the same names in another order" if sorted(found) == sorted(wanted) else "other names"
        yield f"labels: {how}; output {index} is {found[index]!r}, in the reference it is {wanted[index]!r}"


def _preprocess(file: ModelFile, reference: StatedMetadata, input_px: int) -> Iterator[str]:
    found, wanted = file.preprocess, reference.preprocess
    if found is None:
        return
    sides = file.sides_px
    if sides is not None and any(side not in (-1, found.input_px) for side in sides):
        stated = f"its metadata says input_px {found.input_px}"
        yield f"preprocess: {stated}, but its input is {in_px(sides)}; export it again"
    elif wanted is not None and found.input_px == wanted.input_px == input_px:
        differing = [name for name in _COMPARED if getattr(found, name) != getattr(wanted, name)]
        if differing:
            stated, right = (
                ", ".join(f"{name} {getattr(record, name)}" for name in differing) for record in (found, wanted)
            )
            yield f"preprocess: its metadata says {stated}, but the reference has {right}"


def _notes(file: ModelFile, reference: StatedMetadata, input_px: int) -> Iterator[str]:
    pairs = {"labels": (file.labels, reference.labels), "preprocessing": (file.preprocess, reference.preprocess)}
    missing = [name for name, (found, wanted) in pairs.items() if found is None and wanted is not None]
    if missing:
        yield f"its metadata has no {' and no '.join(missing)} to compare"
    if reference.own_px not in (None, input_px):
        own = f"{reference.own_px} x {reference.own_px} px"
        yield f"its input is {input_px} x {input_px} px, but the model was trained at {own}"
    if file.stated_precision not in (None, file.precision):
        yield (
            f"its metadata says {file.stated_precision}, but it stores {file.precision}: "
            f"checked against the bounds for {file.precision}"
        )


def in_px(sides: tuple[int, int]) -> str:
    """(height, width) in words; -1 is a side of any size."""
    return " x ".join("any" if side < 0 else str(side) for side in sides) + " px"
