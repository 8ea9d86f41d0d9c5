"""Shapes that a TFLite file computes at run time, as constants.

Keras's models take batches of any size, so TFLite's converter writes ops that compute the new shape of a reshape:

    SHAPE(x) [N,1,1,C]  ->  STRIDED_SLICE [N]  ->  PACK [N,C]  ->  RESHAPE(x, [N,C])

A Graph is for one batch size, the one that the file's tensors state, so these ops have constant results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgemobile.exporters.tflite_file import op_name
from edgemobile.graph import Tensor

__all__ = ["computed_shapes"]


def computed_shapes(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name of each tensor that is computed from shapes and constants only -> its value, i32[n] or i32[].

    `model` is a ModelT, and `tensors` are its tensors in the file's order.
    """
    names = list(tensors)
    known = {name: tensor.data for name, tensor in tensors.items() if tensor.data is not None}
    computed = {}
    for operator in model.subgraphs[0].operators:
        kind = op_name(model.operatorCodes[operator.opcodeIndex])
        inputs = [names[index] for index in operator.inputs if index >= 0]
        if kind == "SHAPE":
            value = np.array(tensors[inputs[0]].shape, np.int32)
        elif kind in _OPS and all(name in known for name in inputs):
            value = _OPS[kind](operator.builtinOptions, *(known[name] for name in inputs))
        else:
            continue
        output = names[operator.outputs[0]]
        known[output] = value
        computed[output] = Tensor.constant(output, value)
    return computed


def _strided_slice(options: Any, x: np.ndarray, begin: np.ndarray, end: np.ndarray, stride: np.ndarray) -> np.ndarray:
    """Of a vector; bit 0 of a mask stands for its only axis."""
    first = None if options.beginMask & 1 else int(begin[0])
    if options.shrinkAxisMask & 1:
        return np.array(x[first or 0], x.dtype)
    return x[first : None if options.endMask & 1 else int(end[0]) : int(stride[0])]


def _pack(options: Any, *values: np.ndarray) -> np.ndarray:
    return np.stack(values, options.axis)


_OPS: dict[str, Callable[..., np.ndarray]] = {"STRIDED_SLICE": _strided_slice, "PACK": _pack}
