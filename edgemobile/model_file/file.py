"""A model file as bytes: read from disk, and its format told from what it begins with, never from its name.

Boards get it too, so Python 3.9 must read it.
"""

from __future__ import annotations

from pathlib import Path

from edgemobile.errors import EdgemobileError, Unsupported

__all__ = ["file_format", "layout_of", "output_layout", "read_model"]


def read_model(path: Path) -> bytes:
    """The bytes of a file. Raises EdgemobileError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise EdgemobileError(f"cannot read {path}: {error.strerror or error}. Name a .onnx or .tflite file") from error


def file_format(data: bytes, name: str) -> str:
    """ "tflite" or "onnx". Raises Unsupported for neither; `name` says in errors whose bytes they are."""
    if data[4:8] == b"TFL3":
        return "tflite"
    # An ONNX file is a protobuf whose first field is ir_version: a varint under tag 1.
    if data[:1] == b"\x08":
        return "onnx"
    raise Unsupported(
        f"{name} ({len(data)} bytes) is neither TFLite (no 'TFL3' at byte 4) nor ONNX: truncated, or no model. "
        "Name a .onnx or .tflite file"
    )


def layout_of(shape: tuple[int, ...], usual: str) -> str:
    """The layout of an image: the format's `usual` one, unless 1 or 3 channels stand plainly in the other place.

    "" for what is no image.
    """
    if len(shape) != 4:
        return ""
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    return usual if first == last else "NCHW" if first else "NHWC"


def output_layout(shape: tuple[int, ...]) -> str:
    """The layout of an output that is an image itself, as of a mask: 1 or 3 channels plainly in one place, no side 1.

    "" for the rest: boxes, anchors and feature maps have 4 dimensions too, and no layout that a shape could show.
    """
    if len(shape) != 4 or (shape[1] in (1, 3)) == (shape[3] in (1, 3)):
        return ""
    layout = "NCHW" if shape[1] in (1, 3) else "NHWC"
    sides = shape[2:] if layout == "NCHW" else shape[1:3]
    return "" if 1 in sides else layout
