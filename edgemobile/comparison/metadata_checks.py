"""What a file says of itself, held to the file and to its reference: no output shows a label in another's place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgemobile.model_file.model_file import ModelFile
from edgemobile.preprocess import Preprocess

__all__ = ["StatedMetadata", "check_metadata", "in_px"]

# How the images get to their pixels. What normalises the pixels, and their number, show in the outputs.
_COMPARED = ("resize", "shorter_px", "interpolation", "antialias")


@dataclass(frozen=True)
class StatedMetadata:
    """What a reference says of itself; None where it says nothing. `own_px` is what its weights were trained at."""

    preprocess: Preprocess | None = None
    labels: tuple[str, ...] | None = None
    own_px: int | None = None


def check_metadata(
    file: ModelFile, reference: StatedMetadata, outputs: int, input_px: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(what in the file's metadata is wrong, notes), in words, for a file of `outputs` classes on `input_px` pixels.

    What one of the two does not say is not compared.
    """
    missed = (*_labels(file, reference, outputs), *_preprocess(file, reference, input_px))
    return missed, tuple(_notes(file, reference, input_px))


def _labels(file: ModelFile, reference: StatedMetadata, outputs: int) -> Iterator[str]:
    found, wanted = file.labels, reference.labels
    if found is None:
        return
    if len(found) != outputs:
        yield f"labels: its metadata names {len(found)} classes, and it has {outputs} outputs; export it again"
    elif wanted is not None and len(wanted) == outputs and found != wanted:
        index = next(index for index, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1])
        how = "the same names in another order" if sorted(found) == sorted(wanted) else "other names"
        yield f"labels: {how}; output {index} is {found[index]!r}, the reference's {wanted[index]!r}"


def _preprocess(file: ModelFile, reference: StatedMetadata, input_px: int) -> Iterator[str]:
    found, wanted = file.preprocess, reference.preprocess
    if found is None:
        return
    sides = file.sides_px
    if sides is not None and any(side not in (-1, found.input_px) for side in sides):
        yield f"preprocess: its metadata says input_px {found.input_px}, and it takes {in_px(sides)}; export it again"
    elif wanted is not None and found.input_px == wanted.input_px == input_px:
        differing = [name for name in _COMPARED if getattr(found, name) != getattr(wanted, name)]
        if differing:
            said, right = (
                ", ".join(f"{name} {getattr(record, name)}" for name in differing) for record in (found, wanted)
            )
            yield f"preprocess: its metadata says {said}, the reference {right}"


def _notes(file: ModelFile, reference: StatedMetadata, input_px: int) -> Iterator[str]:
    pairs = {"labels": (file.labels, reference.labels), "preprocessing": (file.preprocess, reference.preprocess)}
    silent = [name for name, (found, wanted) in pairs.items() if found is None and wanted is not None]
    if silent:
        yield f"its metadata has no {' and no '.join(silent)} to compare"
    if reference.own_px not in (None, input_px):
        yield f"it takes {input_px} x {input_px} px, and the model is of {reference.own_px} x {reference.own_px}"
    if file.stated_precision not in (None, file.precision):
        yield f"its metadata says {file.stated_precision}, and what it stores is {file.precision}: held to the latter"


def in_px(sides: tuple[int, int]) -> str:
    """(height, width), -1 for a free side, in words."""
    return " x ".join("any" if side < 0 else str(side) for side in sides) + " px"
