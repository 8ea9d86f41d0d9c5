"""What a microcontroller needs for a TFLite file besides the array: memory for activations, and ops."""

from __future__ import annotations

import math

import numpy as np

from edgemobile.model_file.contents import Contents, Value

__all__ = ["activation_bytes", "resolver_calls"]


def activation_bytes(contents: Contents) -> int:
    """The maximum bytes of activations that are live at once, in the order of the ops: no arena can be smaller.

    A tensor is live from the op that produces it to the last that reads it; inputs and outputs of the graph are live
    from the beginning and to the end.
    """
    last = {name: index for index, op in enumerate(contents.ops) for name in op.inputs if name}
    last |= dict.fromkeys(contents.outputs, len(contents.ops))
    alive = {name: _bytes(contents.values[name]) for name in contents.inputs}
    most = sum(alive.values())
    for index, op in enumerate(contents.ops):
        alive |= {name: _bytes(contents.values[name]) for name in op.outputs if name}
        most = max(most, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last.get(name, -1) > index}
    return most


def _bytes(value: Value) -> int:
    return math.prod(map(abs, value.shape)) * np.dtype(value.dtype).itemsize


def resolver_calls(contents: Contents) -> list[str]:
    """The calls of MicroMutableOpResolver for the file's ops: DEPTHWISE_CONV_2D is AddDepthwiseConv2D."""
    return [f"Add{kind.title().replace('_', '')}" for kind in sorted(contents.op_counts())]
