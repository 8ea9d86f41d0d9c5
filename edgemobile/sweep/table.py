"""The result of a sweep: one row per file of each point, with its costs, and which rows are on a Pareto front."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from edgemobile.accuracy.statistics import wilson
from edgemobile.gate.checks import Check, Outcome, worst
from edgemobile.gate.config import LabelledImages, ModelEntry
from edgemobile.gate.measured import Scored
from edgemobile.report.findings import Timing
from edgemobile.report.plots import front

__all__ = ["SIZE", "SWEEP_VERSION", "Row", "Sweep"]

SWEEP_VERSION = 1
SIZE = "size"


@dataclass(frozen=True)
class Row:
    """A file of a point. `path` is None if there is none, because the export failed or would run.

    `timings` are by device. `problems` are the cells without a result; the others of the row have one.
    """

    point: ModelEntry
    format: str
    precision: str
    path: Path | None = None
    sha256: str | None = None
    bytes: int | None = None
    scored: Scored | None = None
    timings: Mapping[str, Timing] = field(default_factory=dict)
    problems: tuple[Check, ...] = ()

    @property
    def name(self) -> str:
        """Unique in the sweep: "v3-small-w0.5-96px-int8.tflite"; the point's name if there is no file."""
        return "-".join(filter(None, (self.point.name, self.precision))) + (f".{self.format}" if self.format else "")

    @property
    def top1(self) -> float | None:
        """From 0 to 1."""
        return None if self.scored is None else self.scored.correct / self.scored.count

    def cost(self, axis: str) -> float | None:
        """Bytes for SIZE; of a device, the median in ms or in millions of instructions."""
        if axis == SIZE:
            return self.bytes
        timing = self.timings.get(axis)
        return None if timing is None else timing.value


@dataclass(frozen=True)
class Sweep:
    """All rows, in the order of the grid. `data` None: accuracy was not asked for, and there is no front."""

    config: str
    rows: tuple[Row, ...]
    devices: tuple[str, ...]
    data: LabelledImages | None
    seed: int = 0
    dry_run: bool = False

    @property
    def problems(self) -> tuple[Check, ...]:
        return tuple(check for row in self.rows for check in row.problems)

    @property
    def exit_code(self) -> int:
        """Of the most serious problem, in the gate's order: 2, else 1, else 3, else 4, else 5, else 0."""
        unstable = any(timing.reasons for row in self.rows for timing in row.timings.values())
        code = worst(self.problems).exit_code
        return code or (Outcome.UNSTABLE.exit_code if unstable else 0)

    @cached_property
    def fronts(self) -> dict[str, tuple[Row, ...]]:
        """Axis of cost (SIZE or a device) -> the rows that no other beats in both top-1 and cost, by increasing cost.

        Of rows with equal values, all are on the front. Intervals are not considered.
        """
        found = {}
        for axis in (SIZE, *self.devices):
            spots = [
                (row, (cost, top1))
                for row in self.rows
                if (cost := row.cost(axis)) is not None and (top1 := row.top1) is not None
            ]
            best = front(spot for _, spot in spots)
            kept = [(row, spot) for row, spot in spots if spot in best]
            found[axis] = tuple(row for row, _ in sorted(kept, key=lambda item: item[1]))
        return found

    def on_fronts(self, row: Row) -> tuple[str, ...]:
        """The axes of cost on whose front the row is."""
        return tuple(axis for axis, rows in self.fronts.items() if any(one is row for one in rows))

    def to_json(self) -> dict[str, Any]:
        """JSON's own types. It depends on the results only, not on how often the sweep was stopped."""
        return {
            "version": SWEEP_VERSION,
            "config": self.config,
            "dry_run": self.dry_run,
            "exit_code": self.exit_code,
            "rows": [self._row_json(row) for row in self.rows],
            "fronts": {axis: [row.name for row in rows] for axis, rows in self.fronts.items()},
        }

    def _row_json(self, row: Row) -> dict[str, Any]:
        point, scored = row.point, row.scored
        accuracy = scored and {
            "top1": row.top1,
            "top1_interval95": list(wilson(scored.correct, scored.count)),
            "correct": scored.correct,
            "count": scored.count,
            "not_finite": scored.not_finite,
        }
        return {
            "name": row.name,
            "model": point.model,
            "width": point.width or 1.0,
            "res": point.res,
            "weights": point.weights,
            "recipe": point.recipe,
            "format": row.format,
            "precision": row.precision,
            "file": None if row.path is None else str(row.path),
            "sha256": row.sha256,
            "bytes": row.bytes,
            "accuracy": accuracy,
            "devices": {name: _timing_json(timing) for name, timing in row.timings.items()},
            "fronts": list(self.on_fronts(row)),
            "problems": [{**asdict(check), "outcome": check.outcome.name.lower()} for check in row.problems],
        }


def _timing_json(timing: Timing) -> dict[str, Any]:
    """ms with the 95 % interval, or millions of instructions with the minimum and maximum."""
    low, high = timing.interval
    return {
        "unit": "ms" if timing.summary is not None else "M instructions",
        "value": timing.value,
        "low": low,
        "high": high,
        "reasons": list(timing.reasons),
    }
