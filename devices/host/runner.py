"""Work on a board from this side: run a bench there and check what it says, or have it answer images."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from edgemobile.devices.host.chunks import infer
from edgemobile.devices.host.counting import BLOCKS_SUFFIX, parse_counts, parse_executions
from edgemobile.devices.host.emulated import EmulatedTransport
from edgemobile.devices.host.estimating import estimate_executions
from edgemobile.devices.host.job_client import (
    PATIENCE_S,
    JobClient,
    Named,
    OnProgress,
    Prepared,
    job_file,
)
from edgemobile.devices.host.llvm_mca import SCHEDULING_MODELS, find_llvm
from edgemobile.devices.host.processes import MissingTool
from edgemobile.devices.host.records import Case, Facts, Refusal, Sample, Settings, check_figures
from edgemobile.devices.host.transport import Transport
from edgemobile.devices.runtimes.job import INSTRUCTION_CLASSES, JOB_VERSION, MAX_COUNTS_BYTES, BenchJob, JobSettings
from edgemobile.devices.runtimes.table import readers
from edgemobile.errors import EdgemobileError
from edgemobile.model_file.model_file import ModelFile
from edgemobile.util.strict_json import decode, encode

__all__ = ["Measured", "Prepared", "bench_job", "infer", "run_job"]


@dataclass(frozen=True)
class Measured:
    """What a bench on a board gave, checked. `notes` are of this side: that the board restarted meanwhile."""

    emulated: bool
    facts: Facts
    conditions: tuple[Sample, ...]
    cases: tuple[Case, ...]
    refused: tuple[Refusal, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_figures(self.cases, emulated=self.emulated)


def bench_job(
    files: Sequence[ModelFile],
    settings: Settings,
    cores: Sequence[int],
    *,
    emulated: bool,
    displaced_bytes: Sequence[int] | None = None,
) -> BenchJob:
    """job.json of a bench, with an id of its own. `cores` are those of settings.cores, read."""
    # --clock is for the estimate, which is made here.
    given = {name: value for name, value in encode(settings).items() if name in JobSettings.__annotations__}
    asked = cast(JobSettings, {**given, "cores": list(cores) or None})
    job: BenchJob = {
        "version": JOB_VERSION,
        "id": uuid.uuid4().hex[:16],
        "kind": "bench",
        "emulated": emulated,
        "files": [job_file(file, _precision(file)) for file in files],
        "settings": asked,
    }
    return job if displaced_bytes is None else {**job, "displaced_bytes": list(displaced_bytes)}


def _precision(file: ModelFile) -> str:
    """ "unknown" where this machine cannot read the format, or the file is damaged: a runtime may take it still."""
    try:
        return file.precision
    except EdgemobileError:
        return "unknown"


def run_job(
    device: Named,
    transport: Transport,
    prepared: Prepared,
    job: BenchJob,
    files: Sequence[ModelFile],
    on_progress: OnProgress | None = None,
    *,
    patience_s: float = PATIENCE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> Measured:
    """Run a bench on a board to its end, through lost connections, and give what it measured.

    An interrupt stops the job on the board too. Raises DeviceUnreachable where the board stays away for `patience_s`,
    EdgemobileError for what the worker died of, or answered that cannot be.
    """
    client = JobClient(device.name, transport, prepared, f"jobs/{job['id']}", on_progress, patience_s, sleep)
    started = time.monotonic()
    try:
        client.begin(job, files)
        result = client.follow()
    except BaseException:
        client.stop()
        raise
    fields = {name: value for name, value in result.items() if name not in ("version", "token", "ended")}
    fields["notes"] = client.notes
    if job["emulated"]:
        cpu = transport.emulation.core.cpu if isinstance(transport, EmulatedTransport) else None
        fields["cases"] = _with_instructions(fields.get("cases"), client, cpu)
    measured = decode(Measured, fields, f"the run of {device.name}")
    _check(measured, job, time.monotonic() - started, device.name)
    return measured


def _with_instructions(cases: Any, client: JobClient, cpu: str | None) -> list[Any]:
    """The cases of a run.json with the counts between each two marks, and an estimate where `cpu` and LLVM are known.

    See _count of devices/board/measuring.py.
    """
    if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
        raise EdgemobileError(f"{client.named} answered no list of cases")
    if not cases:
        return cases
    data = client.read_whole(f"{client.folder}/counts", MAX_COUNTS_BYTES)
    marks = {mark.v: mark.counts for mark in parse_counts(data or b"")}
    runs = len(marks) // 2 // max(len(cases), 1)
    if not runs or sorted(marks) != list(range(2 * runs * len(cases))):
        raise EdgemobileError(f"{client.named} counted {len(marks)} marks for {len(cases)} cases; try again")
    counted = [
        {name: marks[2 * index + 1][name] - marks[2 * index][name] for name in INSTRUCTION_CLASSES}
        for index in range(runs * len(cases))
    ]
    every = [counted[n * runs : (n + 1) * runs] for n in range(len(cases))]
    found = [{**case, "instructions": counts} for case, counts in zip(cases, every, strict=True)]
    # The inference of a case with the median of instructions stands for it.
    middle = [2 * (n * runs + _middle([one["total"] for one in counts])) + 1 for n, counts in enumerate(every)]
    estimates = _estimates(client, middle, cpu)
    return [{**case, "estimate": estimate} for case, estimate in zip(found, estimates, strict=True)]


def _middle(totals: Sequence[int]) -> int:
    """The index of the median, of an even number the lower one."""
    return sorted(range(len(totals)), key=totals.__getitem__)[(len(totals) - 1) // 2]


def _estimates(client: JobClient, marks: Sequence[int], cpu: str | None) -> list[Any]:
    """The estimate of what ran until each of `marks`, as JSON; None for all where it cannot be made here."""
    try:
        llvm = find_llvm() if cpu in SCHEDULING_MODELS else None
    except MissingTool:
        llvm = None
    data = client.read_whole(f"{client.folder}/counts{BLOCKS_SUFFIX}", MAX_COUNTS_BYTES) if llvm else None
    if data is None or llvm is None or cpu is None:
        return [None] * len(marks)
    executions = parse_executions(data)
    if missing := [mark for mark in marks if mark not in executions]:
        raise EdgemobileError(f"{client.named} told no blocks that ran until mark {missing[0]}; try again")
    return [encode(one) for one in estimate_executions([executions[mark] for mark in marks], cpu, llvm)]


def _check(measured: Measured, job: BenchJob, elapsed_s: float, named: str) -> None:
    """What was measured against what was asked."""
    settings = job["settings"]
    refused = {(one.file, one.sha256) for one in measured.refused}
    if unasked := refused - {(row["file"], row["sha256"]) for row in job["files"]}:
        raise EdgemobileError(f"{named} refused {min(unasked)[0]}, which nobody asked for")
    taken = [row for row in job["files"] if (row["file"], row["sha256"]) not in refused]
    asked = [(row, threads) for row in taken for threads in settings["threads"]]
    if measured.emulated is not job["emulated"]:
        raise EdgemobileError(f"{named} says emulated={measured.emulated}, and it is the other way round")
    for case, (row, threads) in zip(measured.cases, asked, strict=False):
        told = {name: getattr(case, name) for name in ("file", "sha256", "bytes", "format", "precision")}
        runtime = settings["runtime"] or case.runtime
        if (
            told != {name: value for name, value in row.items() if name in told}
            or case.threads != threads
            or case.runtime != runtime
        ):
            raise EdgemobileError(f"{named} answered for {case.file} on {case.threads} threads, which nobody asked for")
        if case.runtime not in (allowed := readers(row["format"])):
            raise EdgemobileError(f"{named} says {case.runtime} ran {case.file}. Allowed: {', '.join(allowed)}")
    if len(measured.cases) != len(asked):
        raise EdgemobileError(f"{named} answered {len(measured.cases)} cases of {len(asked)}")
    claimed_s = sum(sum(case.values_ns) for case in measured.cases) / 1e9
    if claimed_s > 1.01 * elapsed_s:
        raise EdgemobileError(f"{named} claims {claimed_s:.1f} s of inferences within {elapsed_s:.1f} s")
