"""The time of an inference by op, if the runtime reports it. Runs on the board.

onnxruntime has a profiler. LiteRT's is not available from Python: for a TFLite file only the partitions of the delegate
are known (Session.delegation), not the time of each.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemobile.devices.runtimes.sessions import open_profiled

__all__ = ["op_times"]

_WARMUP, _RUNS = 3, 20


def op_times(data: bytes, threads: int, prepared: Sequence[np.ndarray], folder: Path) -> list[dict[str, Any]]:
    """Median time in ns of every op of an ONNX file, in the order run: {"name", "op", "ns"}.

    The median is of 20 inferences after 3 for warm-up. The profiler has a resolution of 1 us and some overhead: compare
    ops with each other, not their sum with the latency. `folder` is for its temporary file.
    """
    session = open_profiled(data, threads, str(folder / "profile"))
    for _ in range(_WARMUP + _RUNS):
        session.invoke_all(prepared)
    path = Path(session.end_profiling())
    events = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    taken: dict[tuple[str, str], list[int]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = event["name"][: -len("_kernel_time")], event["args"]["op_name"]
            taken.setdefault(key, []).append(event["dur"])
    return [
        {"name": name, "op": op, "ns": 1000 * statistics.median(us[_WARMUP:] or [0])}
        for (name, op), us in taken.items()
    ]
