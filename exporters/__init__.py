"""Graph -> file. One row per format; its module is loaded only when the format is used.

The module of a format has

    to_bytes(graph, *, metadata) -> bytes      the whole file
    op_counts(data) -> dict[str, int]          the ops in a file, by the format's own names
    read_metadata(data) -> dict[str, str]      its metadata, without that of the runtime
    read_contents(data) -> Contents            its ops and values, also of other tools' files
    read_tensors(data) -> dict[str, Tensor]    constants and quantized tensors in the Graph's layout

To add a format: a module with these five functions, and a row in FORMATS.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from edgemobile.errors import Unsupported
from edgemobile.graph import Graph, Tensor
from edgemobile.model_file.contents import Contents

__all__ = ["FILE_SUFFIXES", "FORMATS", "Format", "format_of"]


class _Module(Protocol):
    def to_bytes(self, graph: Graph, *, metadata: Mapping[str, str]) -> bytes: ...
    def op_counts(self, data: bytes) -> dict[str, int]: ...
    def read_metadata(self, data: bytes) -> dict[str, str]: ...
    def read_contents(self, data: bytes) -> Contents: ...
    def read_tensors(self, data: bytes) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Format:
    """One row: the format's name, its file suffix and the module that writes it."""

    name: str
    suffix: str
    module: str

    def load(self) -> _Module:
        return cast(_Module, importlib.import_module(self.module))

    def read_contents(self, data: bytes) -> Contents:
        """The ops and values of a file. Raises EdgemobileError if it is damaged."""
        return self.load().read_contents(data)

    def read_metadata(self, data: bytes) -> dict[str, str]:
        """The metadata of a file. Raises EdgemobileError if it is damaged."""
        return self.load().read_metadata(data)


FORMATS = {
    row.name: row
    for row in (
        Format("onnx", ".onnx", "edgemobile.exporters.onnx"),
        Format("tflite", ".tflite", "edgemobile.exporters.tflite"),
    )
}
FILE_SUFFIXES = tuple(row.suffix for row in FORMATS.values())


def format_of(suffix: str) -> Format:
    """The format of files ending in `suffix`; raises Unsupported with the known ones."""
    for row in FORMATS.values():
        if row.suffix == suffix:
            return row
    known = ", ".join(f"{row.suffix} ({row.name})" for row in FORMATS.values())
    raise Unsupported(f"no format has the suffix {suffix!r}. Known: {known}")
