"""edgemobile: MobileNets from PyTorch to ONNX and TFLite, small, fast, int8, and proven equal.

    result = edgemobile.export("v3-large", int8=True, out="v3-large")
    report = edgemobile.parity("v3-large", "v3-large/v3-large-int8.tflite", layers=True)

export, quantize, parity, bench and evaluate do what the commands do (docs/api.md). Importing edgemobile is light:
torch, onnx and the runtimes are loaded by what needs them.
"""

from __future__ import annotations

import logging
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgemobile.api import bench, evaluate, export, parity, quantize

__version__ = "0.1.0"
__all__ = ["__version__", "bench", "evaluate", "export", "parity", "quantize"]

# onnxruntime 1.29 and later send the name, hashes and timings of every model to its maker, from Linux too, and read
# this when they are first loaded. Nobody's model leaves their machine through us; and it was in our measurements.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Who uses edgemobile as a library decides what becomes of its log; commands print it.
logging.getLogger(__name__).addHandler(logging.NullHandler())

_FUNCTIONS = ("bench", "evaluate", "export", "parity", "quantize")


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(import_module("edgemobile.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
