"""Other people's quantizers, which the benchmarks compare with."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np

from edgemobile.exporters import tflite
from edgemobile.graph import Graph

__all__ = ["ai_edge_quantizer"]

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

    `python` is a Python that has it: it pins another LiteRT than ours. `algorithm` is one of its AlgorithmName; "MSE"
    leaves half of the ops in float.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, images, target = (Path(folder) / name for name in ("float.tflite", "images.npy", "int8.tflite"))
        source.write_bytes(tflite.to_bytes(graph, metadata={}))
        np.save(images, calibration)
        subprocess.run([python, "-c", _SCRIPT, source, images, target, algorithm], check=True, capture_output=True)
        return target.read_bytes()
