"""Runs of `edgemobile bench` and evaluations of `edgemobile eval` as results."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgemobile.devices.host.records import Case, Run
from edgemobile.latency.estimates import on_boards
from edgemobile.latency.statistics import summarize, verdict
from edgemobile.results.record import Result

__all__ = ["current_commit", "of_evaluation", "of_run"]


def of_run(run: Run, commit: str | None = None) -> list[Result]:
    """The latency of every case; on an emulated core its instructions, and its estimated time on every board."""
    return [result for case in run.cases for result in _of_case(case, run, commit)]


def _of_case(case: Case, run: Run, commit: str | None) -> Iterator[Result]:
    common: dict[str, Any] = {
        "created": run.created,
        "file": Path(case.file).name,
        "sha256": case.sha256,
        "precision": case.precision,
        "device": run.device,
        "board": run.facts.model,
        "runtime": f"{case.runtime} {case.version}",
        "threads": case.threads,
        "commit": commit,
    }
    if case.rounds_ns:
        summary = summarize(case.rounds_ns, case.rounds_per_process)
        yield Result(
            **common,
            metric="latency_ms",
            value=summary.median_ns / 1e6,
            low=summary.low_ns / 1e6,
            high=summary.high_ns / 1e6,
            count=summary.count,
            trusted=verdict(case, run).stable,
        )
    if case.instructions:
        counts = [one["total"] / 1e6 for one in case.instructions]
        median = case.instructions_median["total"] / 1e6
        counted = Result(
            **common, metric="instructions_m", value=median, low=min(counts), high=max(counts), count=len(counts)
        )
        yield counted
        if case.estimate is not None:
            estimated = replace(counted, metric="estimated_ms", low=None, high=None, source=case.estimate.llvm)
            for one in on_boards(case.estimate, run.settings.clock_mhz):
                yield replace(estimated, board=one.board.words, value=one.ms)


def of_evaluation(record: dict[str, Any], created: str, commit: str | None = None) -> list[Result]:
    """The accuracy of every file in what Evaluation.to_json gives, or `eval --json` printed at the time `created`.

    Raises KeyError or TypeError for another record.
    """
    found = []
    for file in record["files"]:
        low, high = file["top1_interval95"]
        top1 = Result(
            created=created,
            file=Path(file["file"]).name,
            sha256=file["sha256"],
            precision=file.get("precision"),
            device=record["on"] or "local",
            board=None,
            runtime=file.get("runtime"),
            threads=record["threads"],
            metric="top1",
            value=file["top1"],
            low=low,
            high=high,
            count=file["count"],
            trusted=not file["not_finite"],
            data=_data(record),
            commit=commit,
        )
        found.append(top1)
        if file["top5"] is not None:
            found.append(replace(top1, metric="top5", value=file["top5"], low=None, high=None))
    return found


def _data(record: dict[str, Any]) -> str:
    limit = "" if record["limit"] is None else f", {record['limit']} images of seed {record['seed']}"
    return f"{Path(record['data']).name}, {record['split']}{limit}"


def current_commit() -> str | None:
    """The commit of the current folder's repository, with "-dirty" if files differ; None outside one."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
