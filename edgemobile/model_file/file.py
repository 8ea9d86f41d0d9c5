"""A model file as bytes: read from disk, with its format found from its first bytes, never from its name.

It also runs on boards, so it must be valid in Python 3.9.
"""

from __future__ import annotations

from pathlib import Path

from edgemobile.errors import EdgemobileError, Unsupported

__all__ = ["file_format", "layout_of", "output_layout", "read_model"]


def read_model(path: Path) -> bytes:
    """The bytes of a file. Raises EdgemobileError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise EdgemobileError(f"cannot read {path}: {error.strerror or error}. Name a .onnx or .tflite file") from error


def file_format(data: bytes, name: str) -> str:
    """ "tflite" or "onnx". Raises Unsupported for neither; `name` is the file's name in errors."""
    if data[4:8] == b"TFL3":
        return "tflite"
    # An ONNX file is a protobuf whose first field is ir_version: a varint under tag 1.
    if data[:1] == b"\x08":
        return "onnx"
    raise Unsupported(
        f"{name} ({len(data)} bytes) is neither TFLite (no 'TFL3' at byte 4) nor ONNX: truncated, or not a model. "
        "Name a .onnx or .tflite file; `edgemobile export` makes them from models of PyTorch and Keras"
    )


def layout_of(shape: tuple[int, ...], usual: str) -> str:
    """The layout of an image: the format's `usual` one, unless 1 or 3 channels are clearly at the other position.

    "" if it is not an image.
    """
    if len(shape) != 4:
        return ""
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    return usual if first == last else "NCHW" if first else "NHWC"


def output_layout(shape: tuple[int, ...]) -> str:
    """The layout of an output that is itself an image, such as a mask: 1 or 3 channels clearly at one position, no side
    of 1.

    "" for others: boxes, anchors and feature maps also have 4 dimensions, without a layout that the shape shows.
    """
    if len(shape) != 4 or (shape[1] in (1, 3)) == (shape[3] in (1, 3)):
        return ""
    layout = "NCHW" if shape[1] in (1, 3) else "NHWC"
    sides = shape[2:] if layout == "NCHW" else shape[1:3]
    return "" if 1 in sides else layout
