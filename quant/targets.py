"""Where int8 will run decides how hard-swish is written: what `--hswish auto` picks, and why.

Measured on v3-large, int8, 224 px, one thread; run it again with

    python benchmarks/int8_latency.py --hswish               milliseconds on this machine
    edgemobile bench delegated.tflite fused.tflite --on emulated:cortex-a76      instructions an inference

Add a target here: a row in TARGETS.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgemobile.errors import Unsupported
from edgemobile.quant.recipe import Hswish

__all__ = ["TARGETS", "Target", "target_for"]


@dataclass(frozen=True)
class Target:
    """Hardware, the form of hard-swish that suits it, and the figures or the reason behind it."""

    name: str
    hswish: Hswish
    why: str


TARGETS = {
    row.name: row
    for row in (
        Target(
            "cpu",
            "delegated",
            "XNNPACK and onnxruntime take it whole: one piece where HARD_SWISH cuts the file into 22, and less work on "
            "x86, Cortex-A72 and Cortex-A76 alike",
        ),
        Target(
            "microcontroller",
            "fused",
            "TFLite Micro and CMSIS-NN have an int8 HARD_SWISH kernel: one op and one tensor in RAM instead of two",
        ),
        Target("edgetpu", "fused", "the Edge TPU compiler maps HARD_SWISH, and an addition of constants less well"),
        Target("no-hswish", "relu", "hardware without hard-swish; the function is another one: fine-tune with ReLU"),
    )
}


def target_for(name: str) -> Target:
    """The row called `name`; raises Unsupported, with the names there are."""
    if name not in TARGETS:
        raise Unsupported(f"target {name!r} is not known. Allowed: {', '.join(TARGETS)}")
    return TARGETS[name]
