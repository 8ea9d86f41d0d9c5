"""Model files of every format here, opened: the one place where a path becomes a ModelFile, and its bytes a Graph."""

from __future__ import annotations

from pathlib import Path

from edgemobile.exporters import FORMATS
from edgemobile.graph import Graph
from edgemobile.model_file.file import file_format, read_model
from edgemobile.model_file.model_file import ModelFile

__all__ = ["model_file", "read_known", "read_model_file"]


def read_model_file(path: Path) -> ModelFile:
    """The file at `path`; the bytes decide the format, not the suffix.

    Raises EdgemobileError where it cannot be read, Unsupported where it is no model.
    """
    return model_file(path, read_model(path))


def model_file(path: Path, data: bytes) -> ModelFile:
    """A file of these bytes, which `path` names. Raises Unsupported where they are no model."""
    return ModelFile(path, data, FORMATS[file_format(data, str(path))])


def read_known(format_name: str, data: bytes) -> tuple[Graph, dict[str, str]]:
    """(the Graph of a file as far as there is one, the outputs of all other ops with the reason).

    What such an op makes is an input of the Graph. Raises Unsupported for a damaged file.
    """
    # The readers load their format's package.
    if format_name == "onnx":
        from edgemobile.exporters import onnx_graph

        return onnx_graph.read_known(data)
    from edgemobile.exporters import tflite_graph

    return tflite_graph.read_known(data)
