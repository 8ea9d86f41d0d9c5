"""Runs a bench on a board and checks its result; also exports `infer`, which runs images through a model there."""

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
    """The checked result of a bench on a board. `notes` are from the host, such as a restart of the board."""

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
    """job.json of a bench, with a new id. `cores` are the numbers in settings.cores; () for all cores."""
    # Leaves out clock_mhz: the host needs it for the estimate, the board does not.
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
    """The file's precision; "unknown" if it cannot be read here. The runtime on the board may still open the file."""
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
    """Run a bench on a board to its end, reconnecting if the connection is lost, and return its result.

    Ctrl-C also stops the job on the board. Raises DeviceUnreachable if the board cannot be reached for `patience_s`,
    EdgemobileError if the job fails, or its result is invalid or not what the job asked for.
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
    """The cases of a run.json with instruction counts, and with an estimate if `cpu` has a model and LLVM is installed.

    The counts are the differences of two marks: see _count in devices/board/measuring.py.
    """
    if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
        raise EdgemobileError(f"{client.named} returned a result without a list of cases")
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
    # The estimate is of the inference with the median number of instructions.
    middle = [2 * (n * runs + _middle([one["total"] for one in counts])) + 1 for n, counts in enumerate(every)]
    estimates = _estimates(client, middle, cpu)
    return [{**case, "estimate": estimate} for case, estimate in zip(found, estimates, strict=True)]


def _middle(totals: Sequence[int]) -> int:
    """The index of the median; the lower median of an even number of values."""
    return sorted(range(len(totals)), key=totals.__getitem__)[(len(totals) - 1) // 2]


def _estimates(client: JobClient, marks: Sequence[int], cpu: str | None) -> list[Any]:
    """The estimate, as JSON, of the execution that ends at each of `marks`; None without a model or LLVM."""
    try:
        llvm = find_llvm() if cpu in SCHEDULING_MODELS else None
    except MissingTool:
        llvm = None
    data = client.read_whole(f"{client.folder}/counts{BLOCKS_SUFFIX}", MAX_COUNTS_BYTES) if llvm else None
    if data is None or llvm is None or cpu is None:
        return [None] * len(marks)
    executions = parse_executions(data)
    if missing := [mark for mark in marks if mark not in executions]:
        raise EdgemobileError(f"{client.named} reported no executed blocks for mark {missing[0]}; try again")
    return [encode(one) for one in estimate_executions([executions[mark] for mark in marks], cpu, llvm)]


def _check(measured: Measured, job: BenchJob, elapsed_s: float, named: str) -> None:
    """Raises EdgemobileError unless the result has exactly the cases that the job asked for, with possible times."""
    settings = job["settings"]
    refused = {(one.file, one.sha256) for one in measured.refused}
    if unasked := refused - {(row["file"], row["sha256"]) for row in job["files"]}:
        raise EdgemobileError(f"{named} refused {min(unasked)[0]}, which is not in the job")
    taken = [row for row in job["files"] if (row["file"], row["sha256"]) not in refused]
    asked = [(row, threads) for row in taken for threads in settings["threads"]]
    if measured.emulated is not job["emulated"]:
        raise EdgemobileError(f"{named} reports emulated={measured.emulated}; expected {job['emulated']}")
    for case, (row, threads) in zip(measured.cases, asked, strict=False):
        reported = {name: getattr(case, name) for name in ("file", "sha256", "bytes", "format", "precision")}
        runtime = settings["runtime"] or case.runtime
        if (
            reported != {name: value for name, value in row.items() if name in reported}
            or case.threads != threads
            or case.runtime != runtime
        ):
            raise EdgemobileError(
                f"{named} returned a case of {case.file} with {case.threads} threads, which is not in the job"
            )
        if case.runtime not in (allowed := readers(row["format"])):
            raise EdgemobileError(f"{named} reports that {case.runtime} ran {case.file}. Allowed: {', '.join(allowed)}")
    if len(measured.cases) != len(asked):
        raise EdgemobileError(f"{named} returned {len(measured.cases)} cases; expected {len(asked)}")
    reported_s = sum(sum(case.values_ns) for case in measured.cases) / 1e9
    if reported_s > 1.01 * elapsed_s:
        raise EdgemobileError(f"{named} reports {reported_s:.1f} s of inferences, but the job took {elapsed_s:.1f} s")
