"""Which faults `edgemobile parity` detects in an int8 file, and which it identifies: each is injected into a correct
file.

    python benchmarks/parity_faults.py [--model v2 v3-small] [--fault NAME ...] [--skip-tensorflow]

Four settings: an int8 TFLite file against edgemobile's int8 ONNX of the same graph, the same with the fault in the
ONNX file, the TFLite file against PyTorch, and TFLiteConverter's int8 file, which has no checksums, against PyTorch.
The first row is the correct file.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgemobile.comparison.report import FileParity
from edgemobile.comparison.run import ParityRequest, parity
from edgemobile.exporters import onnx as onnx_exporter
from edgemobile.exporters import tflite as tflite_exporter
from edgemobile.exporters.onnx_contents import load, onnx
from edgemobile.exporters.onnx_graph import tensor_name
from edgemobile.exporters.tflite_file import octets, op_name, pack, text, unpack
from edgemobile.graph.origin import Origin
from edgemobile.graph.origins_entry import read_origins
from edgemobile.model_file.metadata import CHECKSUMS

__all__ = ["FAULTS", "OnnxFile", "TFLiteFile", "planted"]


@dataclass(frozen=True)
class Layer:
    """The tensors of a convolution or linear layer, by the file's own names; `bias` is "" if there is none."""

    x: str
    weight: str
    bias: str
    y: str
    shape: tuple[int, ...]  # of y


class ModelFile(Protocol):
    """An int8 file whose numbers can be overwritten. Weights are [out, ...] whatever the format stores."""

    layers: list[Layer]
    output: str

    def factor(self, name: str) -> float: ...
    def data(self, name: str) -> np.ndarray: ...
    def set_data(self, name: str, values: np.ndarray) -> None: ...
    def scale(self, name: str) -> np.ndarray: ...
    def set_scale(self, name: str, values: np.ndarray) -> None: ...
    def move_zero_point(self, name: str, steps: int) -> None: ...
    def rewire(self) -> None: ...
    def to_bytes(self) -> bytes: ...


class TFLiteFile:
    """A ModelFile of a .tflite file."""

    def __init__(self, data: bytes) -> None:
        self._bytes, self._model = data, unpack(data)
        self._origins = read_origins(tflite_exporter.read_metadata(data), "the healthy file")
        self._graph = self._model.subgraphs[0]
        self._tensors = {text(tensor.name): tensor for tensor in self._graph.tensors}
        self._last = set()
        self.layers = []
        for operator in self._graph.operators:
            kind = self._kind(operator)
            if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
                x, weight, bias, y = map(self._name, (*operator.inputs[:3], operator.outputs[0]))
                self.layers.append(Layer(x, weight, bias, y, tuple(self._tensors[y].shape)))
                self._last |= {weight} if kind == "DEPTHWISE_CONV_2D" else set()
        self.output = self._name(self._graph.outputs[0])

    def _alike(self, name: str) -> set[str]:
        """The tensors that must have the scale of this one: after a PAD, or before it."""
        pads = [operator for operator in self._graph.operators if self._kind(operator) in ("PAD", "PADV2")]
        pairs = [{self._name(pad.inputs[0]), self._name(pad.outputs[0])} for pad in pads]
        return {name}.union(*(pair for pair in pairs if name in pair))

    def _kind(self, operator: Any) -> str:
        return op_name(self._model.operatorCodes[operator.opcodeIndex])

    def _name(self, index: int) -> str:
        return text(self._graph.tensors[index].name) if index >= 0 else ""

    def factor(self, name: str) -> float:
        return self._origins.get(name, Origin(name)).factor

    def data(self, name: str) -> np.ndarray:
        raw = self._tensors[name]
        dtype = {9: np.int8, 2: np.int32}[raw.type]
        values = np.frombuffer(octets(self._bytes, self._model.buffers[raw.buffer]), dtype).reshape(raw.shape)
        return (np.moveaxis(values, -1, 0) if name in self._last else values).copy()

    def set_data(self, name: str, values: np.ndarray) -> None:
        ordered = np.moveaxis(values, 0, -1) if name in self._last else values
        buffer = self._model.buffers[self._tensors[name].buffer]
        buffer.data = np.frombuffer(np.ascontiguousarray(ordered).tobytes(), np.uint8)

    def scale(self, name: str) -> np.ndarray:
        return np.array(self._tensors[name].quantization.scale, np.float32)

    def set_scale(self, name: str, values: np.ndarray) -> None:
        for each in self._alike(name):
            self._tensors[each].quantization.scale = np.asarray(values, np.float32)

    def move_zero_point(self, name: str, steps: int) -> None:
        for each in self._alike(name):
            quantization = self._tensors[each].quantization
            quantization.zeroPoint = np.asarray(quantization.zeroPoint) + steps

    def rewire(self) -> None:
        adds = [operator for operator in self._graph.operators if self._kind(operator) == "ADD"]
        first, second = _two_alike(
            adds, lambda add: [tuple(self._graph.tensors[i].shape) for i in add.inputs], self._is_residual
        )
        second.inputs = np.array([first.inputs[1], *second.inputs[1:]], np.int32)

    def _is_residual(self, add: Any) -> bool:
        return all(self._model.buffers[self._graph.tensors[index].buffer].data is None for index in add.inputs)

    def to_bytes(self) -> bytes:
        return pack(self._model)


class OnnxFile:
    """A ModelFile of an .onnx file in QDQ form."""

    def __init__(self, data: bytes) -> None:
        self._model = load(data)
        self._origins = read_origins(onnx_exporter.read_metadata(data), "the healthy file")
        self._stored = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._behind = {node.output[0]: node for node in self._model.graph.node}
        self._shapes = {
            value.name: tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
            for value in self._model.graph.value_info
        }
        self._readers = {node.input[0]: node for node in self._model.graph.node if node.op_type == "DequantizeLinear"}
        self.layers = []
        for node in self._model.graph.node:
            if node.op_type in ("Conv", "Gemm"):
                x, weight, bias = (self._behind[name].input[0] for name in node.input)
                self.layers.append(Layer(x, weight, bias, node.output[0], self._shapes.get(node.output[0], ())))
        self.output = self._behind[self._model.graph.output[0].name].input[0]

    def _parameter(self, name: str, position: int) -> str:
        return self._readers[name].input[position]

    def factor(self, name: str) -> float:
        return self._origins.get(tensor_name(name), Origin(name)).factor

    def data(self, name: str) -> np.ndarray:
        values = onnx.numpy_helper.to_array(self._stored[name])
        return (values ^ 128).view(np.int8) if values.dtype == np.uint8 else values.copy()

    def set_data(self, name: str, values: np.ndarray) -> None:
        unsigned = self._stored[name].data_type == onnx.TensorProto.UINT8
        self._set(name, values.view(np.uint8) ^ 128 if unsigned else values)

    def _set(self, name: str, values: np.ndarray) -> None:
        self._stored[name].CopyFrom(onnx.numpy_helper.from_array(np.array(values, order="C"), name))

    def scale(self, name: str) -> np.ndarray:
        return onnx.numpy_helper.to_array(self._stored[self._parameter(name, 1)]).copy()

    def set_scale(self, name: str, values: np.ndarray) -> None:
        parameter = self._parameter(name, 1)
        self._set(parameter, np.asarray(values, np.float32).reshape(self.scale(name).shape))

    def move_zero_point(self, name: str, steps: int) -> None:
        parameter = self._parameter(name, 2)
        values = onnx.numpy_helper.to_array(self._stored[parameter])
        self._set(parameter, (values.astype(np.int16) + steps).astype(values.dtype))

    def rewire(self) -> None:
        adds = [node for node in self._model.graph.node if node.op_type == "Add"]
        first, second = _two_alike(
            adds,
            lambda add: [self._shapes.get(name, ()) for name in add.input],
            lambda add: not set(add.input) & {*self._stored},
        )
        second.input[0] = first.input[1]

    def to_bytes(self) -> bytes:
        return self._model.SerializeToString()


def _two_alike(adds: list[Any], shapes: Callable[[Any], list[Any]], fits: Callable[[Any], bool]) -> tuple[Any, Any]:
    """Two residual additions, one after the other, of tensors of one shape."""
    adds = [add for add in adds if fits(add) and len(set(shapes(add))) == 1 and shapes(add)[0]]
    return next((a, b) for a, b in pairwise(adds) if shapes(a) == shapes(b))


_IMAGES = 8  # noise at the end is not what is measured


# ---- the faults -----------------------------------------------------------------------------------------------------


def _middle(file: ModelFile) -> Layer:
    """A convolution with many products per sum, in the middle of the net; not in a squeeze-and-excite."""
    images = [
        layer
        for layer in file.layers
        if file.data(layer.weight)[0].size >= 16 and min(sorted(layer.shape)[1:], default=1) > 1
    ]
    return images[len(images) // 2]


def _flip(file: ModelFile, name: str, count: int, seed: int = 0) -> None:
    """One random bit of each of `count` numbers; a single one is bit 6 of a number that is not 0."""
    values = file.data(name)
    flat = values.reshape(-1).view(np.uint8)
    if count == 1:
        places = np.flatnonzero(flat)
        flat[places[len(places) // 3]] ^= 64
    else:
        rng = np.random.default_rng(seed)
        places = rng.choice(flat.size, count, replace=False)
        flat[places] ^= (1 << rng.integers(0, 8, count)).astype(np.uint8)
    file.set_data(name, values)


def _scaled(file: ModelFile, name: str, ratio: float, channel: int | None = None) -> None:
    scale = file.scale(name)
    scale[... if channel is None else channel] *= np.float32(ratio)
    file.set_scale(name, scale)


def _exchange(file: ModelFile, layer: Layer, a: int, b: int) -> None:
    for name in filter(None, (layer.weight, layer.bias)):
        for get, put in ((file.data, file.set_data), (file.scale, file.set_scale)):
            values = get(name)
            values[[a, b]] = values[[b, a]]
            put(name, values)


def _erase(file: ModelFile, name: str, rows: slice) -> None:
    values = file.data(name)
    values[rows] = 0
    file.set_data(name, values)


def _weights_anew(file: ModelFile, change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> None:
    """Every weight of PyTorch, changed, and rounded to int8 again with the maximum of each channel at 127."""
    rng = np.random.default_rng(0)
    for layer in file.layers:
        factor = file.factor(layer.weight)
        scale, integers = file.scale(layer.weight).astype(np.float64), file.data(layer.weight)
        along = scale.reshape(-1, *[1] * (integers.ndim - 1))
        real = change(integers * along / factor, rng).astype(np.float64) * factor
        peaks = np.abs(real).reshape(len(real), -1).max(axis=1)
        anew = np.where(peaks > 0, peaks / 127, scale)
        file.set_scale(layer.weight, anew)
        file.set_data(layer.weight, np.rint(real / anew.reshape(along.shape)).clip(-127, 127).astype(np.int8))
        ratio = anew / scale
        if not layer.bias:
            continue
        file.set_scale(layer.bias, file.scale(layer.bias) * ratio)
        steps = np.rint(file.data(layer.bias) / ratio).clip(-(2**31), 2**31 - 1)
        file.set_data(layer.bias, steps.astype(np.int32))


def _noisy(real: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return real + rng.normal(0, 0.02 * real.std(), real.shape)


def _eps(real: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Variances from 1e-3 to 1, folded with an eps of 1e-3 instead of 1e-5."""
    variance = 10.0 ** rng.uniform(-3, 0, len(real))
    gain = np.sqrt((variance + 1e-5) / (variance + 1e-3))
    return real * gain.reshape(-1, *[1] * (real.ndim - 1))


@dataclass(frozen=True)
class Fault:
    """`plant` changes a file in place; `kinds` are the causes that identify it correctly."""

    plant: Callable[[ModelFile], None]
    kinds: tuple[str, ...]


FAULTS: Mapping[str, Fault] = {
    "1 flipped weight bit": Fault(lambda f: _flip(f, _middle(f).weight, 1), ("flipped bit",)),
    "one channel's scale x 1.5": Fault(lambda f: _scaled(f, _middle(f).weight, 1.5, 5), ("channel scale",)),
    "a layer's scale x 1.03": Fault(lambda f: _scaled(f, _middle(f).weight, 1.03), ("layer scale",)),
    "an activation's scale x 1.05": Fault(lambda f: _scaled(f, _middle(f).x, 1.05), ("activation scale",)),
    "a zero point + 2": Fault(lambda f: f.move_zero_point(_middle(f).x, 2), ("activation zero point",)),
    "the output's scale x 1.05": Fault(lambda f: _scaled(f, f.output, 1.05), ("output scale",)),
    "the classifier's bias zeroed": Fault(lambda f: _erase(f, f.layers[-1].bias, slice(None)), ("bias",)),
    "the input's scale x 1.08": Fault(lambda f: _scaled(f, f.layers[0].x, 1.08), ("input scale",)),
    "2,000 flipped bits in one weight": Fault(lambda f: _flip(f, _largest(f), 2000), ("flipped bits",)),
    "two classes swapped": Fault(lambda f: _exchange(f, f.layers[-1], 2, 7), ("swapped channels",)),
    "classes erased": Fault(lambda f: _erase(f, f.layers[-1].weight, slice(2, 5)), ("erased channels",)),
    "two channels swapped": Fault(lambda f: _exchange(f, _middle(f), 3, 11), ("swapped channels",)),
    "a residual rewired": Fault(lambda f: f.rewire(), ("wiring",)),
    "another eps of batch norm": Fault(lambda f: _weights_anew(f, _eps), ("batch norm eps",)),
    "weights rounded to float16": Fault(
        lambda f: _weights_anew(f, lambda real, rng: real.astype(np.float16)), ("float16 weights",)
    ),
    "noise on the weights": Fault(lambda f: _weights_anew(f, _noisy), ("noise",)),
}


def _largest(file: ModelFile) -> str:
    return max((layer.weight for layer in file.layers), key=lambda name: file.data(name).size)


def planted(path: Path, fault: Fault, made: Path) -> Path:
    """Writes the file at `path` with a fault to `made`."""
    file: ModelFile = (OnnxFile if path.suffix == ".onnx" else TFLiteFile)(path.read_bytes())
    fault.plant(file)
    made.write_bytes(file.to_bytes())
    return made


# ---- the table ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    name: str
    reference: str
    file: Path


def _settings(model: str, folder: Path, *, tensorflow: bool) -> Iterator[Setting]:
    from edgemobile.pipeline.export import ExportRequest, export

    ours, theirs = folder / model, folder / f"{model}-tensorflow"
    export(ExportRequest(model=model, out=ours, precisions=("int8",)))
    tflite, onnx_file = ours / f"{model}-int8.tflite", ours / f"{model}-int8.onnx"
    yield Setting("TFLite against its ONNX", str(onnx_file), tflite)
    yield Setting("ONNX against its TFLite", str(tflite), onnx_file)
    yield Setting("TFLite against PyTorch", model, tflite)
    if tensorflow:
        export(ExportRequest(model=model, out=theirs, formats=("tflite",), precisions=("int8",), via="tensorflow"))
        plain = _without_checksums(theirs / f"{model}-int8.tflite", theirs / f"{model}-plain.tflite")
        yield Setting("TFLiteConverter's against PyTorch", model, plain)


def _without_checksums(path: Path, made: Path) -> Path:
    """Writes the file as the library alone would: without the checksums that edgemobile records."""
    model = unpack(path.read_bytes())
    model.metadata = [entry for entry in model.metadata if text(entry.name) != CHECKSUMS]
    made.write_bytes(pack(model))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["v2", "v3-small"])
    parser.add_argument("--fault", nargs="+", choices=[*FAULTS], default=[*FAULTS], metavar="NAME")
    parser.add_argument("--skip-tensorflow", action="store_true", help="omit TFLiteConverter's files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for model in options.model:
            for setting in _settings(model, Path(name), tensorflow=not options.skip_tensorflow):
                print(
                    f"\n{model}: {setting.name}\n\n| fault | by default | with `--layers` | named |\n|---|---|---|---|"
                )
                for row in _rows(setting, options.fault, Path(name) / "damaged"):
                    print(row, flush=True)


def _rows(setting: Setting, faults: list[str], folder: Path) -> Iterator[str]:
    folder.mkdir(exist_ok=True)
    files = [setting.file]
    files += [planted(setting.file, FAULTS[name], folder / f"{name}{setting.file.suffix}") for name in faults]
    requests = (
        ParityRequest(setting.reference, tuple(map(str, files)), images=_IMAGES, layers=layers)
        for layers in (False, True)
    )
    reports = [parity(request).files for request in requests]
    for name, default, layered in zip(("none", *faults), *reports, strict=True):
        yield f"| {name} | {_noticed(default)} | {_noticed(layered)} | {_named(name, default, layered)} |"


def _noticed(file: FileParity) -> str:
    return "passes" if file.passed else "noticed"


def _named(fault: str, default: FileParity, layered: FileParity) -> str:
    """Whether a cause is correct, and which was reported, by default first."""
    told = [file.cause.kind for file in (default, layered) if file.cause is not None and not file.passed]
    if not told:
        return ""
    right = [kind for kind in told if fault in FAULTS and kind in FAULTS[fault].kinds]
    return f"yes: {right[0]}" if right else f"no: {told[0]}"


if __name__ == "__main__":
    main()
