"""Opens model files of every format as a ModelFile or a Graph."""

from __future__ import annotations

from pathlib import Path

from edgemobile.exporters import FORMATS
from edgemobile.graph import Graph
from edgemobile.model_file.file import file_format, read_model
from edgemobile.model_file.model_file import ModelFile

__all__ = ["model_file", "read_known", "read_model_file"]


def read_model_file(path: Path) -> ModelFile:
    """The file at `path`; the bytes decide the format, not the suffix.

    Raises EdgemobileError if it cannot be read, Unsupported if it is not a model.
    """
    return model_file(path, read_model(path))


def model_file(path: Path, data: bytes) -> ModelFile:
    """A file with these bytes at `path`. Raises Unsupported if they are not a model."""
    return ModelFile(path, data, FORMATS[file_format(data, str(path))])


def read_known(format_name: str, data: bytes) -> tuple[Graph, dict[str, str]]:
    """(the Graph of the supported ops of a file, output of each unsupported op -> the reason).

    The outputs of unsupported ops are inputs of the Graph. Raises Unsupported for a damaged file.
    """
    # The readers load their format's package.
    if format_name == "onnx":
        from edgemobile.exporters import onnx_graph

        return onnx_graph.read_known(data)
    from edgemobile.exporters import tflite_graph

    return tflite_graph.read_known(data)
