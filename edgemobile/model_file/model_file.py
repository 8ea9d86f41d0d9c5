"""A model file, read from disk once: everything is read from the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edgemobile.errors import EdgemobileError, MissingExtra
from edgemobile.model_file.contents import Contents
from edgemobile.model_file.file import layout_of
from edgemobile.model_file.metadata import PRECISION, labels_in, postprocess_in, preprocess_in, whole
from edgemobile.model_file.precision import file_precision
from edgemobile.postprocess import Postprocess
from edgemobile.preprocess import Preprocess
from edgemobile.util.hashing import sha256_hex

__all__ = ["ModelFile", "Reader"]

_T = TypeVar("_T")
# Inside the class, `bytes` is an integer field.
_Read = Callable[[bytes], _T]


class Reader(Protocol):
    """The functions that read files of one format: a row of exporters.FORMATS."""

    @property
    def name(self) -> str: ...

    def read_contents(self, data: bytes) -> Contents: ...

    def read_metadata(self, data: bytes) -> dict[str, str]: ...


@dataclass(frozen=True)
class ModelFile:
    """The bytes of a .onnx or .tflite file, and their contents. Made by exporters.model_files, which has the formats.

    The file is read once: if it is replaced later, results do not change. Properties that take time to read are read
    on first access, and raise EdgemobileError for a damaged file, MissingExtra if the format's package is not
    installed.
    """

    path: Path
    data: bytes = field(repr=False)
    reader: Reader = field(repr=False, compare=False)
    _kept: dict[Callable[[ModelFile], Any], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process reads the contents again from the same bytes.
        return ModelFile, (self.path, self.data, self.reader)

    @property
    def name(self) -> str:
        """Its name without folders."""
        return self.path.name

    @property
    def format(self) -> str:
        """ "onnx" or "tflite", from its first bytes."""
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
        """Its metadata by key: faster than `contents`."""
        return self._read(self.reader.read_metadata)

    @cached_property
    def precision(self) -> str:
        """ "float32", "float16", "weight-only" or "int8", from what is stored (model_file.precision)."""
        return file_precision(self.contents)

    @property
    def stated_precision(self) -> str | None:
        """From its metadata; None if not stated, as for the following properties."""
        return self.metadata.get(PRECISION)

    @property
    def labels(self) -> tuple[str, ...] | None:
        return labels_in(self.metadata)

    @property
    def preprocess(self) -> Preprocess | None:
        """Preprocessing that its user must do. Raises EdgemobileError for a damaged entry."""
        return preprocess_in(self.metadata)

    @property
    def postprocess(self) -> Postprocess | None:
        """How its outputs become boxes, of a detector. Raises EdgemobileError for a damaged entry."""
        return postprocess_in(self.metadata)

    @property
    def whole_preprocess(self) -> Preprocess | None:
        """`preprocess` plus the part that the file does itself."""
        left = self.preprocess
        return None if left is None else whole(left, self.metadata)

    @property
    def sides_px(self) -> tuple[int, int] | None:
        """(height, width) of its input image, -1 if dynamic; None if its input is not an image."""
        shape = self.contents.values[self.contents.inputs[0]].shape
        layout = layout_of(shape, "NCHW" if self.format == "onnx" else "NHWC")
        if not layout:
            return None
        height, width = shape[2:] if layout == "NCHW" else shape[1:3]
        return (height if height > 1 else -1, width if width > 1 else -1)

    def once(self, read: Callable[[ModelFile], _T]) -> _T:
        """The result of `read` for this file, read once and cached: for example its graph, which is a class of higher
        layers.
        """
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
