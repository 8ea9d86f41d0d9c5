"""The official TFLite metadata of a classifier or a detector: what Task Library, MediaPipe and Android Studio read.

It is a separate flatbuffer ("M001") in the buffer TFLITE_METADATA. The labels are in a zip after the file, with offsets
of zip entries from the start of the file. Tables are written by field number from the tables below, after
metadata_schema.fbs; normalisation is in the units of the input: (px - mean) / std.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgemobile.errors import EdgemobileError, require
from edgemobile.model_file.metadata import MODEL, PRECISION, labels_in, postprocess_in, preprocess_in
from edgemobile.preprocess import Channels

__all__ = ["LABEL_FILE", "METADATA_NAME", "image_metadata", "in_words", "label_lines", "normalisation", "packed_labels"]

METADATA_NAME = "TFLITE_METADATA"
LABEL_FILE = "labels.txt"
_IDENTIFIER = b"M001"
_PARSER = "1.0.0"
# A fixed date, so that the bytes are reproducible: the earliest that zip allows.
_DATE = (1980, 1, 1, 0, 0, 0)

# table -> (number of fields, field -> its number). A union has two numbers: its type, then its value.
_TABLES: dict[str, tuple[int, dict[str, int]]] = {
    "ModelMetadata": (8, {"name": 0, "description": 1, "subgraph_metadata": 3, "min_parser_version": 7}),
    "SubGraphMetadata": (8, {"input_tensor_metadata": 2, "output_tensor_metadata": 3}),
    "TensorMetadata": (7, {"name": 0, "description": 1, "content": 3, "process_units": 4, "associated_files": 6}),
    "Content": (3, {"properties_type": 0, "properties": 1}),
    "ImageProperties": (2, {"color_space": 0}),
    "FeatureProperties": (0, {}),
    "ProcessUnit": (2, {"options_type": 0, "options": 1}),
    "NormalizationOptions": (2, {"mean": 0, "std": 1}),
    "AssociatedFile": (5, {"name": 0, "description": 1, "type": 2}),
}
# What reading a damaged flatbuffer may raise.
_DAMAGED = (struct.error, IndexError, ValueError, TypeError, OverflowError)
_FEATURES, _IMAGE, _RGB, _NORMALIZATION, _AXIS_LABELS = 1, 2, 1, 1, 2


def image_metadata(metadata: Mapping[str, str]) -> bytes | None:
    """The flatbuffer for a file whose `metadata` is edgemobile's own; None if that has no preprocessing."""
    try:
        preprocess, postprocess = preprocess_in(metadata), postprocess_in(metadata)
    except EdgemobileError:
        return None
    if preprocess is None:
        return None
    build = _Build()
    mean, std = ([255 * value for value in values] for values in (preprocess.mean, preprocess.std))
    name = metadata.get(MODEL, "classifier" if postprocess is None else "detector")
    what = "Image classifier" if postprocess is None else "Object detector with raw outputs"
    given, has_labels = _input(build, preprocess.input_px, mean, std), bool(label_lines(metadata))
    if postprocess is None:
        outputs = [_output(build, "logits", "One score per class; softmax converts them to probabilities", has_labels)]
    else:
        outputs = [
            _output(build, postprocess.boxes, "Offsets of x, y, width and height, for each anchor", False),
            _output(build, postprocess.logits, "One score per class, for each anchor", has_labels),
        ]
    subgraph = build.table(
        "SubGraphMetadata",
        input_tensor_metadata=[given],
        output_tensor_metadata=outputs,
    )
    root = build.table(
        "ModelMetadata",
        name=build.text(name),
        description=build.text(f"{what}, {metadata.get(PRECISION, '')}".rstrip(", ")),
        subgraph_metadata=[subgraph],
        min_parser_version=build.text(_PARSER),
    )
    return build.finish(root)


def label_lines(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The class names in edgemobile's own `metadata`; () if there are none, or if a file with one label per line cannot
    hold them.
    """
    labels = labels_in(metadata) or ()
    return labels if all(len(label.splitlines()) == 1 for label in labels) else ()


def in_words(official: bytes) -> str:
    """A line about the first input and the outputs, from the metadata of any tool's file."""
    try:
        root = _Read.root(official)
        said = [root.text("name") or "no name"]
        for name, values in zip(("mean", "std"), root.normalisation(), strict=False):
            said.append(f"{name} {', '.join(f'{value:.6g}' for value in values)}")
        for subgraph in root.tables("subgraph_metadata", "SubGraphMetadata")[:1]:
            for tensor in subgraph.tables("output_tensor_metadata", "TensorMetadata"):
                said += [f"labels {file.text('name')}" for file in tensor.tables("associated_files", "AssociatedFile")]
    except _DAMAGED:
        return f"{len(official)} bytes that cannot be read"
    return "; ".join(said)


def normalisation(official: bytes) -> tuple[Channels, Channels] | None:
    """(mean, std) of R, G, B of the first input for pixels from 0 to 255, from any tool's metadata; None if it has
    none.
    """
    try:
        mean, std = (values * 3 if len(values) == 1 else values for values in _Read.root(official).normalisation())
        (red, green, blue), (red_std, green_std, blue_std) = mean, std
    except _DAMAGED:
        return None
    usable = all(map(math.isfinite, (*mean, *std))) and min(std) > 0
    return ((red, green, blue), (red_std, green_std, blue_std)) if usable else None


def packed_labels(data: bytes, labels: Sequence[str]) -> bytes:
    """`data` with the zip of its label file appended, as by the official tools."""
    whole = io.BytesIO(data)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LABEL_FILE, _DATE), "".join(f"{label}\n" for label in labels))
    return whole.getvalue()


def _input(build: _Build, input_px: int, mean: Sequence[float], std: Sequence[float]) -> int:
    image = build.table("ImageProperties", color_space=("int8", _RGB))
    content = build.table("Content", properties_type=("uint8", _IMAGE), properties=image)
    options = build.table("NormalizationOptions", mean=build.floats(mean), std=build.floats(std))
    unit = build.table("ProcessUnit", options_type=("uint8", _NORMALIZATION), options=options)
    return build.table(
        "TensorMetadata",
        name=build.text("image"),
        description=build.text(f"RGB image of {input_px} x {input_px} px"),
        content=content,
        process_units=[unit],
    )


def _output(build: _Build, name: str, description: str, has_labels: bool) -> int:
    content = build.table("Content", properties_type=("uint8", _FEATURES), properties=build.table("FeatureProperties"))
    files = [
        build.table(
            "AssociatedFile",
            name=build.text(LABEL_FILE),
            description=build.text("The names of the classes, one per line"),
            type=("int8", _AXIS_LABELS),
        )
    ]
    return build.table(
        "TensorMetadata",
        name=build.text(name),
        description=build.text(description),
        content=content,
        associated_files=files if has_labels else None,
    )


class _Build:
    """A flatbuffers builder for _TABLES. Children are built before the table that contains them."""

    def __init__(self) -> None:
        flatbuffers: Any = require("flatbuffers", "litert")
        self.builder = flatbuffers.Builder(1024)

    def text(self, value: str) -> int:
        return self.builder.CreateString(value)

    def floats(self, values: Sequence[float]) -> int:
        return self._vector(values, self.builder.PrependFloat32)

    def table(self, kind: str, **fields: Any) -> int:
        """A table; a field is an offset, a list of offsets, (dtype, number), or None if omitted."""
        size, numbers = _TABLES[kind]
        given = {
            numbers[name]: self._vector(value, self.builder.PrependUOffsetTRelative)
            if isinstance(value, list)
            else value
            for name, value in fields.items()
            if value is not None
        }
        self.builder.StartObject(size)
        for number, value in given.items():
            if isinstance(value, tuple):
                dtype, scalar = value
                slot = self.builder.PrependInt8Slot if dtype == "int8" else self.builder.PrependUint8Slot
                slot(number, scalar, 0)
            else:
                self.builder.PrependUOffsetTRelativeSlot(number, value, 0)
        return self.builder.EndObject()

    def finish(self, root: int) -> bytes:
        self.builder.Finish(root, file_identifier=_IDENTIFIER)
        return bytes(self.builder.Output())

    def _vector(self, values: Sequence[Any], prepend: Callable[[Any], None]) -> int:
        self.builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            prepend(value)
        return self.builder.EndVector()


class _Read:
    """A table of _TABLES in a flatbuffer of any tool."""

    def __init__(self, kind: str, octets: bytes, position: int) -> None:
        self.kind, self.octets, self.position = kind, octets, position

    @classmethod
    def root(cls, octets: bytes) -> _Read:
        if octets[4:8] != _IDENTIFIER:
            raise ValueError(f"it begins with {octets[4:8]!r}")
        return cls("ModelMetadata", octets, cls._number("<I", octets, 0))

    @staticmethod
    def _number(form: str, octets: bytes, position: int) -> Any:
        return struct.unpack_from(form, octets, position)[0]

    def field(self, name: str) -> int | None:
        """The position of a field; None if it is omitted."""
        table = self.position - self._number("<i", self.octets, self.position)
        entry = 4 + 2 * _TABLES[self.kind][1][name]
        offset = self._number("<H", self.octets, table + entry) if entry < self._number("<H", self.octets, table) else 0
        return self.position + offset if offset else None

    def target(self, name: str) -> int | None:
        """The position of the table, string or vector of a field."""
        place = self.field(name)
        return None if place is None else place + self._number("<I", self.octets, place)

    def text(self, name: str) -> str:
        place = self.target(name)
        size = 0 if place is None else self._number("<I", self.octets, place)
        return "" if place is None else self.octets[place + 4 : place + 4 + size].decode(errors="replace")

    def tables(self, name: str, kind: str) -> list[_Read]:
        place = self.target(name)
        if place is None:
            return []
        starts = range(place + 4, place + 4 + 4 * self._number("<I", self.octets, place), 4)
        return [_Read(kind, self.octets, start + self._number("<I", self.octets, start)) for start in starts]

    def floats(self, name: str) -> list[float]:
        place = self.target(name)
        size = 0 if place is None else self._number("<I", self.octets, place)
        return [] if place is None else list(struct.unpack_from(f"<{size}f", self.octets, place + 4))

    def normalisation(self) -> list[list[float]]:
        """[mean, std] of the first input, in units of the pixels; [] if a ModelMetadata does not have it."""
        for subgraph in self.tables("subgraph_metadata", "SubGraphMetadata")[:1]:
            for tensor in subgraph.tables("input_tensor_metadata", "TensorMetadata")[:1]:
                for unit in tensor.tables("process_units", "ProcessUnit"):
                    kind, place = unit.field("options_type"), unit.target("options")
                    if kind is not None and place is not None and self.octets[kind] == _NORMALIZATION:
                        options = _Read("NormalizationOptions", self.octets, place)
                        return [options.floats("mean"), options.floats("std")]
        return []
