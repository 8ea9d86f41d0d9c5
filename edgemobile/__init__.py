"""edgemobile: exports MobileNets from PyTorch to small, fast ONNX and TFLite files, float and int8, and verifies them.

    result = edgemobile.export("v3-large", int8=True, out="v3-large")
    report = edgemobile.parity("v3-large", "v3-large/v3-large-int8.tflite", layers=True)

export, quantize, finetune, adapt, search, parity, bench and evaluate work like the commands; cost_table is a part of
bench, evaluate_detection and evaluate_segmentation of eval, and explain of quantize (docs/api.md).
Importing edgemobile is fast: torch, onnx and the runtimes are imported only when needed.
"""

from __future__ import annotations

import logging
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgemobile.api import (
        adapt,
        bench,
        cost_table,
        evaluate,
        evaluate_detection,
        evaluate_segmentation,
        explain,
        export,
        finetune,
        parity,
        quantize,
        search,
    )

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "adapt",
    "bench",
    "cost_table",
    "evaluate",
    "evaluate_detection",
    "evaluate_segmentation",
    "explain",
    "export",
    "finetune",
    "parity",
    "quantize",
    "search",
]

# onnxruntime 1.29 and later send the name, hashes and timings of every model to its vendor, also on Linux. They read
# this variable when first loaded. It keeps users' models private and the upload out of the measurements.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A program that uses edgemobile as a library decides how to show its log; the commands print it.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("edgemobile.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
