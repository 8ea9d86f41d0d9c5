"""Reads the tensors of an ONNX file from exporters.onnx in the Graph's layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from edgemobile.exporters.onnx_contents import load, onnx
from edgemobile.exporters.onnx_layouts import channels_last, channels_last_narrowed, columns_last, nhwc
from edgemobile.graph import QParams, Tensor

__all__ = ["read_tensors"]

# Ops whose inputs after the first are parameters, not tensors of the Graph.
_PARAMETRIC = ("QuantizeLinear", "DequantizeLinear", "Clip", "Pad", "Reshape")


def read_tensors(data: bytes) -> dict[str, Tensor]:
    """The constants of a file, and its quantized activations without data, in the Graph's layout.

    Weights are OHWI, operands NHWC, integers and zero points int8 even if the file stores uint8, biases int32.
    """
    return _Reader(load(data)).tensors()


@dataclass
class _Reader:
    """A parsed file, indexed by tensor name."""

    model: Any

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.producers = {name: node for node in graph.node for name in node.output}
        self.shapes = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in (*graph.value_info, *graph.input, *graph.output)
        }
        self.layouts = dict(self._weight_layouts())

    def tensors(self) -> dict[str, Tensor]:
        parameters = {
            name for node in self.model.graph.node if node.op_type in _PARAMETRIC for name in node.input[1:] if name
        }
        found = {}
        for node in self.model.graph.node:
            if self._widened_by(node):
                continue
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                tensor = self._quantized(node)
                found[tensor.name] = tensor
                parameters.update(node.input[:1])
            elif node.op_type == "Mul" and node.input[0].endswith(":steps"):
                tensor = self._unpacked(node)
                found[tensor.name] = tensor
                parameters.update((f"{tensor.name}:q", node.input[1]))
        for name, array in self.arrays.items():
            if name not in parameters:
                found[name] = Tensor.constant(name, self._laid_out(name, array))
        return found

    def _quantized(self, node: Any) -> Tensor:
        """The output of a QuantizeLinear, or the input of a DequantizeLinear."""
        integers = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        name = integers.removesuffix(":q")
        scale = self.arrays[node.input[1]]
        zero_point = self.arrays[node.input[2]] if len(node.input) > 2 else np.zeros(scale.shape, np.int8)
        offset = 128 if zero_point.dtype == np.uint8 else 0
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1) if self._has_axis(integers, scale) else None
        qparams = QParams(scale, zero_point.astype(np.int32) - offset, axis)
        if integers not in self.arrays:
            return Tensor(name, nhwc(self.shapes[integers]), "int8", qparams=qparams)
        array = self._laid_out(integers, self.arrays[integers])
        if array.dtype != np.int32:
            array = (array.astype(np.int16) - offset).astype(np.int8)
        return Tensor.constant(name, array, qparams)

    def _has_axis(self, integers: str, scale: np.ndarray) -> bool:
        """Whether a scale has one value per channel; a single value may also be a list of one."""
        several = integers in self.arrays and max(self.arrays[integers].shape, default=1) > 1
        return scale.size > 1 or (scale.ndim == 1 and not several)

    def _unpacked(self, node: Any) -> Tensor:
        """The int8 constant that `unpack` wrote as Cast and Mul."""
        name = node.input[0].removesuffix(":steps")
        scale = self.arrays[node.input[1]]
        axis = int(np.argmax(scale.shape)) if scale.size > 1 else 0
        qparams = QParams(scale.ravel(), np.zeros(scale.size, np.int32), axis)
        return Tensor.constant(name, self._laid_out(f"{name}:q", self.arrays[f"{name}:q"]), qparams)

    def _laid_out(self, name: str, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(self.layouts.get(name, channels_last)(array))

    def _weight_layouts(self) -> list[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
        """The layouts of Gemm weights on a flattened image larger than 1x1, and of Conv weights with channels of
        zeros.
        """
        layouts: list[tuple[str, Callable[[np.ndarray], np.ndarray]]] = []
        for node in self.model.graph.node:
            made = self.producers.get(node.input[0]) if node.op_type == "Conv" else None
            if made is not None and (channels := self._widened_by(made)):
                weight = self._before(node.input[1], ("DequantizeLinear",))
                layouts.append((weight, partial(channels_last_narrowed, channels=channels)))
            image = self._flattened_image(node.input[0]) if node.op_type == "Gemm" else None
            if image is not None:
                weight = self._before(node.input[1], ("DequantizeLinear", "Cast", "Mul"))
                layouts.append((weight, partial(columns_last, image=image)))
        return layouts

    def _widened_by(self, node: Any) -> int:
        """How many channels of zeros were added to a tensor before a DequantizeLinear."""
        pad = self.producers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if pad is None or pad.op_type != "Pad":
            return 0
        return self.shapes[pad.output[0]][1] - self.shapes[pad.input[0]][1]

    def _before(self, name: str, ops: tuple[str, ...]) -> str:
        """The tensor before the chain of `ops` that produces `name`."""
        while name in self.producers and self.producers[name].op_type in ops:
            name = self.producers[name].input[0]
        return name

    def _flattened_image(self, name: str) -> tuple[int, ...] | None:
        flat = self._before(name, ("QuantizeLinear", "DequantizeLinear"))
        node = self.producers.get(flat)
        if node is None or node.op_type not in ("Flatten", "Reshape"):
            return None
        shape = self.shapes.get(node.input[0], ())
        return nhwc(shape) if len(shape) == 4 else None
