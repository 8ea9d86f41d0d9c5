"""Does a file still say what the model says? Metrics against the reference, held to one table of tolerances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from edgemobile.metrics import METRICS, measure

__all__ = ["TOLERANCES", "Verdict", "judge"]

# What a healthy file keeps, by precision of its arithmetic and weights. Float files differ from PyTorch only in the
# order of additions. The int8 bound is for any model; the reference models keep far more (docs/quantization.md).
TOLERANCES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "float32": {"sqnr_db": 90.0, "top1_agree": 0.99},
        "float16": {"sqnr_db": 45.0, "top1_agree": 0.98},
        "dynamic": {"sqnr_db": 20.0, "top1_agree": 0.90},
        "int8": {"sqnr_db": 12.0, "top1_agree": 0.85},
    }
)


@dataclass(frozen=True)
class Verdict:
    """The metrics of one file against the reference, and which bounds it missed, in words."""

    metrics: Mapping[str, float]
    missed: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        return not self.missed


def judge(reference: np.ndarray, other: np.ndarray, tolerances: Mapping[str, float]) -> Verdict:
    """Measure logits f32[N,classes] against the reference and hold them to `tolerances` (metric name -> bound)."""
    metrics = measure(reference, other)
    missed = [
        f"{name} {metrics[name]:.4g} {METRICS[name].unit}".rstrip() + f" misses the tolerance of {bound:g}"
        for name, bound in tolerances.items()
        if not METRICS[name].passes(metrics[name], bound)
    ]
    return Verdict(metrics, tuple(missed))
