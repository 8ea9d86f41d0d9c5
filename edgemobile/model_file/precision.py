"""The precision of a file: one rule, from the stored data, not from the metadata."""

from __future__ import annotations

import numpy as np

from edgemobile.model_file.contents import Contents

__all__ = ["file_precision", "takes_pixels"]

_BYTES = ("int8", "uint8")


def file_precision(contents: Contents) -> str:
    """ "int8" if activations are quantized, else from the weights: "weight-only", "float16" or "float32"."""
    pixels = contents.inputs[0] if takes_pixels(contents) else ""
    values = [value for name, value in contents.values.items() if name != pixels]
    if any(value.scale is not None and value.dtype in _BYTES and not value.constant for value in values):
        return "int8"
    # Zero points of ONNX have fewer dimensions.
    if any(value.constant and value.dtype in _BYTES and len(value.shape) > 1 for value in values):
        return "weight-only"
    return "float16" if any(value.constant and value.dtype == "float16" for value in values) else "float32"


def takes_pixels(contents: Contents) -> bool:
    """Whether a file's first input is pixels from 0 to 255, not real numbers quantized to integers."""
    if not contents.inputs:
        return False
    source = contents.values[contents.inputs[0]]
    plain = source.scale is None or (np.all(source.scale == 1) and not np.any(source.zero_point))
    return source.dtype == "uint8" and bool(plain)
