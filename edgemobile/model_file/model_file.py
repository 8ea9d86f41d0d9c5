"""A model file, read from disk once: whoever asks anything of it, asks the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edgemobile.errors import EdgemobileError, MissingExtra
from edgemobile.model_file.contents import Contents
from edgemobile.model_file.file import layout_of
from edgemobile.model_file.metadata import PRECISION, labels_in, preprocess_in, whole
from edgemobile.model_file.precision import file_precision
from edgemobile.preprocess import Preprocess
from edgemobile.util.hashing import sha256_hex

__all__ = ["ModelFile", "Reader"]

_T = TypeVar("_T")
# Inside the class, `bytes` is a number.
_Read = Callable[[bytes], _T]


class Reader(Protocol):
    """What reads files of one format: a row of exporters.FORMATS."""

    @property
    def name(self) -> str: ...

    def read_contents(self, data: bytes) -> Contents: ...

    def read_metadata(self, data: bytes) -> dict[str, str]: ...


@dataclass(frozen=True)
class ModelFile:
    """The bytes of a .onnx or .tflite file, and what they say. Made by exporters.model_files, which knows the formats.

    The bytes are those of the one time it was read: a file that is replaced later changes no result. What takes time to
    read is read when it is first asked for, and raises EdgemobileError for a damaged file, MissingExtra where the
    format's package is not installed.
    """

    path: Path
    data: bytes = field(repr=False)
    reader: Reader = field(repr=False, compare=False)
    _kept: dict[Callable[[ModelFile], Any], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process reads what it needs from the same bytes.
        return ModelFile, (self.path, self.data, self.reader)

    @property
    def name(self) -> str:
        """Its name without folders."""
        return self.path.name

    @property
    def format(self) -> str:
        """ "onnx" or "tflite", by what it begins with."""
        return self.reader.name

    @property
    def bytes(self) -> int:
        return len(self.data)

    @cached_property
    def sha256(self) -> str:
        return sha256_hex(self.data)

    @cached_property
    def contents(self) -> Contents:
        """Its ops and values."""
        return self._read(self.reader.read_contents)

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """What it says of itself, by key: less work than `contents`."""
        return self._read(self.reader.read_metadata)

    @cached_property
    def precision(self) -> str:
        """ "float32", "float16", "weight-only" or "int8", as it is stored (model_file.precision)."""
        return file_precision(self.contents)

    @property
    def stated_precision(self) -> str | None:
        """What its metadata says; None where it says nothing, as for the following."""
        return self.metadata.get(PRECISION)

    @property
    def labels(self) -> tuple[str, ...] | None:
        return labels_in(self.metadata)

    @property
    def preprocess(self) -> Preprocess | None:
        """What it leaves to its user. Raises EdgemobileError for a damaged entry."""
        return preprocess_in(self.metadata)

    @property
    def whole_preprocess(self) -> Preprocess | None:
        """`preprocess` with what of it the file does itself."""
        left = self.preprocess
        return None if left is None else whole(left, self.metadata)

    @property
    def sides_px(self) -> tuple[int, int] | None:
        """(height, width) of the image it takes, -1 for a free one; None where its input is no image."""
        shape = self.contents.values[self.contents.inputs[0]].shape
        layout = layout_of(shape, "NCHW" if self.format == "onnx" else "NHWC")
        if not layout:
            return None
        height, width = shape[2:] if layout == "NCHW" else shape[1:3]
        return (height if height > 1 else -1, width if width > 1 else -1)

    def once(self, read: Callable[[ModelFile], _T]) -> _T:
        """What `read` makes of this file, read once and kept with it: its graph, say, which layers above know."""
        if read not in self._kept:
            self._kept[read] = read(self)
        return self._kept[read]

    def _read(self, read: _Read[_T]) -> _T:
        try:
            return read(self.data)
        except MissingExtra:
            raise
        except EdgemobileError as error:
            raise type(error)(f"{self.path}: {error}") from error
