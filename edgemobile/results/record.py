"""One measurement: a figure of one file on one device, as one line of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

from edgemobile.errors import EdgemobileError

__all__ = ["METRICS", "RESULT_VERSION", "Metric", "Result"]

RESULT_VERSION = 1


@dataclass(frozen=True)
class Metric:
    """A figure that a result may have.

    If it is measured again, it differs by at most `repeats_within`, relative; None for a time, which differs from run
    to run.
    """

    name: str
    unit: str
    better: Literal["lower", "higher"]
    repeats_within: float | None = None

    def words(self, value: float) -> str:
        """4.25 ms, or 93.10%."""
        return f"{value:.4g} {self.unit}" if self.unit else f"{value:.2%}"

    def change_words(self, ratio: float) -> str:
        """+7.4% worse."""
        return f"{ratio - 1:+.1%} {'worse' if (ratio > 1) == (self.better == 'lower') else 'better'}"


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("latency_ms", "ms", "lower"),
        Metric("instructions_m", "M", "lower", 1e-3),
        # By the models of docs/estimates.md, at the clock of `board`.
        Metric("estimated_ms", "ms", "lower", 5e-3),
        Metric("top1", "", "higher", 1e-9),
        Metric("top5", "", "higher", 1e-9),
    )
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """A figure and how it was obtained. `created` is ISO 8601 with a zone.

    `device` is the user's name for the board, `board` what it is. `low` to `high` is the 95 % interval of `value`.
    `count` is the number of its inferences or images. `trusted` is False for an unstable measurement. `data` is
    the image set of an accuracy. `commit` is the git commit of the folder it was measured in; `source` tells where a
    figure that was not measured here comes from. None means not known or not applicable.

    Raises ValueError for impossible values.
    """

    version: int = RESULT_VERSION
    created: str
    file: str
    sha256: str | None
    precision: str | None
    device: str
    board: str | None
    runtime: str | None
    threads: int | None
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    count: int | None = None
    trusted: bool = True
    data: str | None = None
    commit: str | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            value = getattr(self, name)
            if type(value) not in kinds:
                raise ValueError(f"{name} is {value!r}, which is not {_words(kinds)}")
        if self.version != RESULT_VERSION:
            raise ValueError(f"a result of version {self.version}; this edgemobile reads version {RESULT_VERSION}")
        if self.metric not in METRICS:
            raise ValueError(f"metric {self.metric!r} is not known. Allowed: {', '.join(METRICS)}")
        if not all(0 <= each < math.inf for each in (self.low or 0, self.value, self.high or 0)):
            raise ValueError(f"{self.metric} must not be negative and finite, found {self.value}")
        if not self.file or not self.device:
            raise ValueError("file and device must not be empty")
        try:
            zoned = datetime.fromisoformat(self.created).tzinfo is not None
        except ValueError:
            zoned = False
        if not zoned:
            raise ValueError(f"created is {self.created!r}, which is not a time such as 2026-01-31T12:00:00+00:00")

    @property
    def series(self) -> tuple[object, ...]:
        """The key that comparable results share. The runtime's version may change over time."""
        runtime = self.runtime.partition(" ")[0] if self.runtime else None
        return self.metric, self.file, self.device, self.board, runtime, self.threads, self.data

    def to_line(self) -> str:
        """One line of JSON, with the line end."""
        return json.dumps({name: getattr(self, name) for name in _KINDS}, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, row: Any) -> Result:
        """Raises EdgemobileError for anything that `to_line` does not write."""
        if not isinstance(row, dict) or row.keys() != _KINDS.keys():
            given = sorted(set(row) ^ set(_KINDS)) if isinstance(row, dict) else [type(row).__name__]
            raise EdgemobileError(f"not a result: its fields differ in {', '.join(map(str, given[:5]))}")
        try:
            return cls(**row)
        except ValueError as error:
            raise EdgemobileError(f"not a result: {error}") from error


_TYPES: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    # A whole number is written without a point.
    "float": (float, int),
    "str | None": (str, type(None)),
    "int | None": (int, type(None)),
    "float | None": (float, int, type(None)),
}
_KINDS = {field.name: _TYPES[str(field.type)] for field in fields(Result)}


def _words(kinds: tuple[type, ...]) -> str:
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    return " or ".join(dict.fromkeys(names[kind] for kind in kinds))
