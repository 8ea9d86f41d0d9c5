"""Runs made by hand: a test says of them what matters to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgemobile.devices.host.records import (
    RUN_VERSION,
    Case,
    Conditions,
    Core,
    Facts,
    Run,
    Sample,
    Settings,
)
from edgemobile.devices.runtimes.job import INSTRUCTION_CLASSES

FACTS = Facts("Pi 5", None, "aarch64", (Core(0, "Cortex-A76", None),), ("dotprod",), 1.0, "D", "6", "3.11", 64, {})
CALM = Conditions("performance", None, None, None, None, None)


def make_case(file: str = "a.tflite", ms: float = 1.0, spread: float = 0.01, **changes: Any) -> Case:
    """A timed case: 10 rounds of 10 values, the same ones each time, with `ms` their median."""
    values = np.random.default_rng(0).normal(1, spread, (10, 10))
    values = (values * (ms * 1e6 / np.median(values))).astype(int).tolist()
    rounds = tuple(map(tuple, changes.pop("rounds_ns", values)))
    unknown = ("peak_mib", "runtime_mib", "partitions", "outside", "instructions", "estimate", "profile")
    unknown += ("energy_mj", "idle_w")
    known: dict[str, Any] = {
        "file": file,
        "sha256": "0" * 64,
        "bytes": 1,
        "format": file.rpartition(".")[2],
        "precision": "int8",
        "input": "int8 NHWC[1, 2, 2, 3]",
        "batch": 1,
        "runtime": "litert",
        "version": "2.3.0",
        "threads": 1,
        "load_ns": 1,
        "first_ns": 1,
        "warmup_ns": (1,),
        "rounds_ns": rounds,
        "rounds_per_process": (1,) * len(rounds),
        **dict.fromkeys(unknown),
    }
    return Case(**{**known, **changes})


def make_counted(file: str = "a.tflite", totals: Sequence[int] = (10**6,), **changes: Any) -> Case:
    """An emulated case: `totals` instructions, one an inference, in the classes of `counts` and none in the others."""
    counts = dict.fromkeys(INSTRUCTION_CLASSES, 0) | changes.pop("counts", {})
    untimed = {"load_ns": None, "first_ns": None, "warmup_ns": (), "rounds_ns": ()}
    return make_case(file, **untimed, instructions=tuple({**counts, "total": total} for total in totals), **changes)


def make_run(*cases: Case, **changes: Any) -> Run:
    known: dict[str, Any] = {
        "version": RUN_VERSION,
        "edgemobile": "0.1.0",
        "created": "2026-01-02T03:04:05+00:00",
        "device": "pi5",
        "emulated": all(case.instructions is not None for case in cases),
        "facts": FACTS,
        "settings": Settings(),
        "conditions": (Sample("before", 0.0, CALM),),
        "cases": cases,
    }
    return Run(**{**known, **changes})
