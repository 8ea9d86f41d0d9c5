"""Runs files for CPUs with exact sums of int8 products on a machine whose onnxruntime saturates them.

x86 without VNNI multiplies uint8 activations by int8 weights with vpmaddubsw, which adds products in pairs and
saturates each sum to int16. ONNX files for Arm and for x86 with VNNI have int8 weights, and state their target in their
metadata. Such a file is checked here as its target computes it: onnxruntime then uses its kernels for uint8 weights
(`exact` of runtimes.sessions), which give the same integers on every CPU, but slower.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from edgemobile.devices.runtimes.sessions import Session
from edgemobile.errors import require
from edgemobile.model_file.metadata import TARGET

__all__ = ["found_here", "note_on_target", "open_on_target", "saturates_here", "target_elsewhere"]

# An ONNX file of one MatMulInteger, x uint8[1,8] times a constant int8[8,1] of 127. As bytes, since the onnx package,
# which could create it, is not needed to run files.
_PROBE = base64.b64decode(
    "CAg6XAoYCgF4CgF3EgF5Ig1NYXRNdWxJbnRlZ2VyEgFwKhMICAgBEANCAXdKCH9/f39/f39/WhMKAXgSDgoMCAISCAoCCAEKAggIYhMKAXkSDgoM"
    "CAYSCAoCCAEKAggBQgQKABAN"
)


@cache
def saturates_here() -> bool:
    """Whether onnxruntime on this machine saturates sums of products of int8 weights: measured, not inferred from a
    name.
    """
    onnxruntime: Any = require("onnxruntime", "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(_PROBE, options, providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"x": np.full((1, 8), 255, np.uint8)})
    return int(sums.item()) != 8 * 255 * 127


def target_elsewhere(metadata: Mapping[str, str]) -> str | None:
    """The target of a file that this machine computes differently from its target; None for every other file."""
    target = metadata.get(TARGET)
    return target if target is not None and saturates_here() else None


def open_on_target(opener: Callable[..., Session]) -> Session:
    """The session from `opener`, open_session or open_layers with arguments, computing as the file's target does."""
    session = opener()
    return opener(exact=True) if target_elsewhere(session.metadata) else session


def found_here(metrics: Mapping[str, float], whose: str) -> str:
    """The result of a file with saturating sums, for note_on_target; `whose` are the answers it is compared with."""
    agree = metrics["top1_agree"]
    answers = "" if math.isnan(agree) else f" and {agree:.1%} of {whose} answers"
    return f"with saturating sums, it has {metrics['sqnr_db']:.1f} dB{answers}"


def note_on_target(file: str, target: str, here: str) -> str:
    """The note about a file checked this way. `here` is its result on this machine by default."""
    return (
        f"{file} is for {target}; onnxruntime on this CPU saturates sums of int8 products. It was run with exact sums "
        f"(session.x64quantprecision), as on {target}; {here}. For this CPU export with --target cpu"
    )
