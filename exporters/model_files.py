"""Model files of every format here, opened: the one place where a path becomes a ModelFile."""

from __future__ import annotations

from pathlib import Path

from edgemobile.exporters import FORMATS
from edgemobile.model_file.file import file_format, read_model
from edgemobile.model_file.model_file import ModelFile

__all__ = ["model_file", "read_model_file"]


def read_model_file(path: Path) -> ModelFile:
    """The file at `path`; the bytes decide the format, not the suffix.

    Raises EdgemobileError where it cannot be read, Unsupported where it is no model.
    """
    return model_file(path, read_model(path))


def model_file(path: Path, data: bytes) -> ModelFile:
    """A file of these bytes, which `path` names. Raises Unsupported where they are no model."""
    return ModelFile(path, data, FORMATS[file_format(data, str(path))])
