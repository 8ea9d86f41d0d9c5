"""One table of the bounds that a correct file meets against its reference, and the check against it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from edgemobile.errors import EdgemobileError
from edgemobile.metrics.measures import METRICS, measure, measure_any, worst
from edgemobile.metrics.outputs import Output, is_classifier, split

__all__ = [
    "QUANTIZED",
    "TABLE",
    "TOLERANCES",
    "LayerTolerance",
    "Tolerance",
    "Verdict",
    "bounded",
    "bounds_of",
    "judge",
    "judge_rows",
    "most_steps",
    "parse_bounds",
    "tolerance",
    "untrained",
]


# Precisions with integer weights: rounding adds noise that float files do not have.
QUANTIZED = ("int8", "weight-only")


@dataclass(frozen=True)
class LayerTolerance:
    """The error that one layer may add, when run on the file's own inputs. A layer beyond any of these diverges.

    `arithmetic_sqnr_db` is the minimum SQNR of the worst channel with the file's own constants, `weights_sqnr_db` with
    the reference's: the first measures the arithmetic, the second the weights. `excess` is how many times larger than
    rounding noise the noise of the output's integers may be; None without integers.
    """

    arithmetic_sqnr_db: float
    weights_sqnr_db: float
    excess: float | None = None


@dataclass(frozen=True)
class Tolerance:
    """One row. "*" means all. `bounds` is metric -> bound at the output; `lsb` is the number of steps by which an op
    may differ from another's on the same integers."""

    format: str
    precision: str
    isa: str
    bounds: Mapping[str, float]
    layer: LayerTolerance
    lsb: int = 1


# Float files differ from PyTorch only in the order of additions. The int8 bounds are for any model; the reference
# models are far better (docs/quantization.md). An integer op has one correct result except for ties, on every ISA. The
# most specific row is used; of equally specific rows, the last.
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
_UNTRAINED_DB = 70.0


def untrained(table: Sequence[Tolerance]) -> tuple[Tolerance, ...]:
    """`table` for random weights: without TABLE's own bounds for int8, and with a lower one for float32 at the output.
    Bounds from other sources are kept.

    Untrained layers amplify any noise, and some outputs are nearly zero, so int8 results mean little, and even the last
    bit of a float grows: Lite R-ASPP on v3-small had 82 dB at 320 px, with no layer below 110 dB by itself. A missing
    layer or a damaged weight is still reported.
    """
    return tuple(_untrained(row) if row in TABLE else row for row in table)


def _untrained(row: Tolerance) -> Tolerance:
    if row.precision in QUANTIZED:
        return replace(row, bounds={}, layer=LayerTolerance(-math.inf, -math.inf, math.inf))
    return replace(row, bounds={**row.bounds, "sqnr_db": min(row.bounds["sqnr_db"], _UNTRAINED_DB)})


def bounded(table: Sequence[Tolerance], own: Mapping[str, Mapping[str, float]]) -> tuple[Tolerance, ...]:
    """`table` with custom bounds, precision -> metric -> bound, in place of those of its last row of the precision."""
    rows = list(table)
    for precision, bounds in own.items():
        row = next(row for row in reversed(rows) if row.precision == precision)
        rows.append(replace(row, bounds={**row.bounds, **bounds}))
    return tuple(rows)


# The maximum difference of two runtimes on the same integers, in steps of the output's scale. Runtimes for TFLite give
# identical outputs. onnxruntime rounds some sums of two scales the other way, and later layers amplify these ties:
# on 64 images of the models' statistics and 64 random ones 0 (v1), 2 (v2), 1 (v3-small) and 5 steps (v3-large).
_TFLITE_RUNTIMES = ("litert", "tensorflow", "tflite_runtime")
_SAME_RUNTIME, _TO_ONNXRUNTIME = 1, 5


def most_steps(runtime: str, other: str) -> int:
    """By how many steps of the output two runtimes may differ before their ops must be compared one by one."""
    if runtime == other or {runtime, other} <= set(_TFLITE_RUNTIMES):
        return _SAME_RUNTIME
    return _TO_ONNXRUNTIME if "onnxruntime" in (runtime, other) else _SAME_RUNTIME


def tolerance(format: str, precision: str, isa: str, table: Sequence[Tolerance] = TABLE) -> Tolerance:
    """The row of a file: its format, the precision of its arithmetic and weights, the machine's ISA ("x86_64", ...).

    Raises EdgemobileError if the table has no row for it.
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
    """Metric -> bound, from "sqnr_db=40,top1_agree=0.99"; a metric's name may omit its unit ("sqnr").

    Raises EdgemobileError for an unknown metric, a repeated one, or a value that is not a number.
    """
    bounds = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        metric = next((row for row in METRICS if name.strip() in (row, row.rpartition("_")[0])), None)
        if metric is None:
            raise EdgemobileError(f"unknown metric {name!r} in {text!r}. Known: {', '.join(METRICS)}")
        if metric in bounds:
            raise EdgemobileError(f"{text!r} has two bounds for {metric}; give one")
        try:
            bounds[metric] = float(value)
        except ValueError as error:
            raise EdgemobileError(f"{part!r} is not metric=number, such as sqnr_db=40") from error
        if np.isnan(bounds[metric]):
            raise EdgemobileError(f"{part!r}: a bound must not be nan; give a number")
    return bounds


@dataclass(frozen=True)
class Verdict:
    """The metrics of one file against the reference, and the bounds that it missed, in words.

    `outputs` are the metrics of each output by name, empty for a classifier; `metrics` then are the worst of them.
    """

    metrics: Mapping[str, float]
    missed: tuple[str, ...] = field(default=())
    outputs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.missed


def judge(reference: np.ndarray, other: np.ndarray, tolerances: Mapping[str, float]) -> Verdict:
    """Compare logits f32[N,classes] with the reference and check them against `tolerances` (metric name -> bound)."""
    metrics = measure(reference, other)
    return Verdict(metrics, tuple(_missed(metrics, tolerances)))


def judge_rows(
    reference: np.ndarray, other: np.ndarray, outputs: Sequence[Output], tolerances: Mapping[str, float]
) -> Verdict:
    """As `judge`, of the rows f32[N,values] of `outputs`: each output is checked by itself."""
    if is_classifier(outputs):
        return judge(reference, other, tolerances)
    expected, found = split(reference, outputs), split(other, outputs)
    metrics = {output.name: measure_any(expected[output.name], found[output.name]) for output in outputs}
    missed = [f"{name}: {words}" for name, own in metrics.items() for words in _missed(own, tolerances)]
    return Verdict(worst(metrics.values()), tuple(missed), metrics)


def bounds_of(outputs: Sequence[Output], bounds: Mapping[str, float]) -> dict[str, float]:
    """The table's `bounds` without that of top1_agree, which is for classifiers: the largest value of a map of
    features, or of a box, says little."""
    return {name: bound for name, bound in bounds.items() if name != "top1_agree" or is_classifier(outputs)}


def _missed(metrics: Mapping[str, float], bounds: Mapping[str, float]) -> Iterator[str]:
    for name, bound in bounds.items():
        value = metrics.get(name, math.nan)
        if not METRICS[name].passes(value, bound):
            yield f"{name} {value:.4g} {METRICS[name].unit}".rstrip() + f" misses the tolerance of {bound:g}"
