"""What a healthy file keeps of its reference, in one table, and the judgement by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from edgemobile.errors import EdgemobileError
from edgemobile.metrics.measures import METRICS, measure

__all__ = [
    "QUANTIZED",
    "TABLE",
    "TOLERANCES",
    "LayerTolerance",
    "Tolerance",
    "Verdict",
    "bounded",
    "judge",
    "most_steps",
    "parse_bounds",
    "tolerance",
    "untrained",
]


# Precisions whose weights are integers: rounding makes noise that float files have none of.
QUANTIZED = ("int8", "weight-only")


@dataclass(frozen=True)
class LayerTolerance:
    """What one layer may add by itself, run on the file's own inputs. A layer beyond any of these diverges.

    `arithmetic_sqnr_db` is the least SQNR of the worst channel with the file's own constants, `weights_sqnr_db` with
    the reference's: the first says how exact the arithmetic is, the second how near the weights are. `excess` is how
    often the noise of the output's integers may exceed that of rounding; None where there are none.
    """

    arithmetic_sqnr_db: float
    weights_sqnr_db: float
    excess: float | None = None


@dataclass(frozen=True)
class Tolerance:
    """One row. "*" stands for all. `bounds` is metric -> bound at the output; `lsb` the steps by which an op may
    differ from another's on the same integers."""

    format: str
    precision: str
    isa: str
    bounds: Mapping[str, float]
    layer: LayerTolerance
    lsb: int = 1


# Float files differ from PyTorch only in the order of additions. The int8 bounds are for any model; the reference
# models keep far more (docs/quantization.md). An integer op has one right answer but for ties, on every ISA. The most
# particular row wins, and a later one of those alike.
TABLE: tuple[Tolerance, ...] = (
    Tolerance("*", "float32", "*", {"sqnr_db": 90.0, "top1_agree": 0.99}, LayerTolerance(80.0, 80.0)),
    Tolerance("*", "float16", "*", {"sqnr_db": 45.0, "top1_agree": 0.98}, LayerTolerance(80.0, 40.0)),
    Tolerance("*", "weight-only", "*", {"sqnr_db": 20.0, "top1_agree": 0.90}, LayerTolerance(20.0, 10.0)),
    Tolerance("*", "int8", "*", {"sqnr_db": 12.0, "top1_agree": 0.85}, LayerTolerance(15.0, 8.0, 4.0)),
)

# Precision -> its bounds at the output, on any format and ISA.
TOLERANCES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {row.precision: row.bounds for row in TABLE if (row.format, row.isa) == ("*", "*")}
)


def untrained(table: Sequence[Tolerance]) -> tuple[Tolerance, ...]:
    """`table` for random weights: TABLE's own bounds hold nothing of int8, another's bounds stay.

    Untrained layers amplify whatever noise goes in, and some give next to nothing: int8 of them says little. What is
    still told is a layer that is missing, and a weight that is damaged.
    """
    anything = LayerTolerance(-math.inf, -math.inf, math.inf)
    waived = [row for row in TABLE if row.precision in QUANTIZED]
    return tuple(replace(row, bounds={}, layer=anything) if row in waived else row for row in table)


def bounded(table: Sequence[Tolerance], own: Mapping[str, Mapping[str, float]]) -> tuple[Tolerance, ...]:
    """`table` with bounds of one's own, precision -> metric -> bound, in place of its last row's of that precision."""
    rows = list(table)
    for precision, bounds in own.items():
        row = next(row for row in reversed(rows) if row.precision == precision)
        rows.append(replace(row, bounds={**row.bounds, **bounds}))
    return tuple(rows)


# How many steps of the output's scale two runtimes are apart at most on the same integers. Those of TFLite give the
# same outputs throughout. onnxruntime rounds some sums of two scales the other way, ties that later layers carry on:
# on 64 images of the models' statistics and 64 random ones 0 (v1), 2 (v2), 1 (v3-small) and 5 steps (v3-large).
_TFLITE_RUNTIMES = ("litert", "tensorflow", "tflite_runtime")
_SAME_RUNTIME, _TO_ONNXRUNTIME = 1, 5


def most_steps(runtime: str, other: str) -> int:
    """By how many steps of the output two runtimes may differ before their ops have to be compared one by one."""
    if runtime == other or {runtime, other} <= set(_TFLITE_RUNTIMES):
        return _SAME_RUNTIME
    return _TO_ONNXRUNTIME if "onnxruntime" in (runtime, other) else _SAME_RUNTIME


def tolerance(format: str, precision: str, isa: str, table: Sequence[Tolerance] = TABLE) -> Tolerance:
    """The row of a file: its format, the precision of its arithmetic and weights, the machine's ISA ("x86_64", ...).

    Raises EdgemobileError where the table has none for it.
    """
    asked = (format, precision, isa)
    fits = [
        row
        for row in table
        if all(
            value in ("*", wanted) for value, wanted in zip((row.format, row.precision, row.isa), asked, strict=True)
        )
    ]
    if not fits:
        known = ", ".join(dict.fromkeys(row.precision for row in table))
        raise EdgemobileError(f"no tolerance for {precision} {format} on {isa}. Precisions known: {known}")
    return max(enumerate(fits), key=lambda item: (_particular(item[1]), item[0]))[1]


def _particular(row: Tolerance) -> int:
    return sum(value != "*" for value in (row.format, row.precision, row.isa))


def parse_bounds(text: str) -> dict[str, float]:
    """Metric -> bound, of "sqnr_db=40,top1_agree=0.99"; a metric's name may leave out its unit ("sqnr").

    Raises EdgemobileError for an unknown metric, one named twice, or a value that is no number.
    """
    bounds = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        metric = next((row for row in METRICS if name.strip() in (row, row.rpartition("_")[0])), None)
        if metric is None:
            raise EdgemobileError(f"there is no metric {name!r} in {text!r}. Known: {', '.join(METRICS)}")
        if metric in bounds:
            raise EdgemobileError(f"{text!r} has two bounds for {metric}; give one")
        try:
            bounds[metric] = float(value)
        except ValueError as error:
            raise EdgemobileError(f"{part!r} is not metric=number, like sqnr_db=40") from error
        if np.isnan(bounds[metric]):
            raise EdgemobileError(f"{part!r}: nothing is as good as nan; give a number")
    return bounds


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
