"""Opens files, warms them up, runs them in turns and records the conditions of the board. Runs on the board.

A case is a file with a number of threads. A round runs one block of inferences of every case, and every round starts
with the next case, so that a hot or busy phase of the board affects all cases equally. Before the first inference of a
block, the case before has replaced the contents of the caches: that inference is stored with the warm-up.

The rounds are divided among several processes, which run one after another. The memory addresses of a file are random
and fixed for the life of a process, and they change latency by 1 or 2 %: within one process, two identical files would
show a significant difference.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import os
import statistics
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgemobile.devices.board.parts import in_a_process
from edgemobile.devices.board.probe import conditions, facts, power_w
from edgemobile.devices.board.profiling import op_times
from edgemobile.devices.runtimes.job import BenchJob, EventName, JobFile, JobSettings
from edgemobile.devices.runtimes.latency import warm_up_ns
from edgemobile.devices.runtimes.limits import limit_memory, limit_time
from edgemobile.devices.runtimes.sessions import Port, Session, import_runtime, open_session
from edgemobile.devices.runtimes.table import default_runtime
from edgemobile.errors import EdgemobileError, MissingExtra, Unsupported
from edgemobile.model_file.file import file_format

__all__ = ["MARK", "Job", "bench", "bench_process", "peak_memory", "read_file"]

MARK = 0x7E57
# A mark that the counter ignores: warm-up inferences make the same system calls, so that this code warms up as well.
_NO_MARK = MARK + 1

_PROCESSES, _ROUNDS, _MIN_ROUNDS, _RUNS = 5, 10, 5, 100
_COUNTED_RUNS, _COUNTED_WARMUPS = 5, 10
_BLOCK_NS, _MIN_BLOCK, _MAX_BLOCK = 50_000_000, 3, 100
# The resolution of a file whose resolution is dynamic.
_DEFAULT_PX = 224
_SHOWN_INPUTS = 4
_REASON_CHARS = 1000
_SAMPLE_EVERY_S = 0.5
_MAX_COOLING_S = 1800
_IDLE_S, _POWER_S, _POWER_EVERY_S = 2.0, 3.0, 0.1
_MEMORY_INFERENCES = 3
# The time limit of one emulated inference, which may take a minute.
_COUNTED_S = 600.0
# One line of a data cache.
_LINE_BYTES = 64


class Job(Protocol):
    """The worker's side of a job: the job as the host wrote it, its folder, and its progress events."""

    spec: BenchJob
    folder: Path

    def emit(self, event: EventName, **facts: Any) -> None:
        """Append an event to the progress of the job."""
        ...

    def check(self) -> None:
        """Raises an exception if the host asked the worker to stop."""
        ...


@dataclass
class _Case:
    """An open file with a number of threads, and its times so far."""

    row: JobFile
    threads: int
    session: Session
    prepared: Sequence[np.ndarray]
    load_ns: int | None = None
    first_ns: int | None = None
    warmup_ns: list[int] = field(default_factory=list)
    rounds_ns: list[list[int]] = field(default_factory=list)
    rounds_wall_ns: list[int] = field(default_factory=list)
    rounds_cpu_ns: list[int] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def invoke(self) -> None:
        self.session.invoke_all(self.prepared)

    def timed(self) -> int:
        began = time.perf_counter_ns()
        self.session.invoke_all(self.prepared)
        return time.perf_counter_ns() - began

    def round(self, block: int) -> None:
        self.warmup_ns.append(self.timed())
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        self.rounds_ns.append([self.timed() for _ in range(block)])
        self.rounds_cpu_ns.append(time.process_time_ns() - cpu)
        self.rounds_wall_ns.append(time.perf_counter_ns() - wall)

    def to_json(self) -> dict[str, Any]:
        inputs, cut = self.session.inputs, self.session.delegation()
        return {
            **{name: value for name, value in self.row.items() if name != "path"},
            "input": _input_description(inputs),
            "batch": max(inputs[0].shape[:1], default=1) if inputs else 1,
            "runtime": self.session.runtime,
            "version": self.session.version,
            "threads": self.threads,
            "load_ns": self.load_ns,
            "first_ns": self.first_ns,
            "warmup_ns": self.warmup_ns,
            "rounds_ns": self.rounds_ns,
            "rounds_per_process": [len(self.rounds_ns)] if self.rounds_ns else [],
            "rounds_wall_ns": self.rounds_wall_ns,
            "rounds_cpu_ns": self.rounds_cpu_ns,
            "peak_mib": None,
            "runtime_mib": None,
            "partitions": None if cut is None else cut.partitions,
            "outside": None if cut is None else dict(cut.outside),
            "instructions": None,
            "profile": None,
            "energy_mj": None,
            "idle_w": None,
            "estimate": None,
            "prefixes": [],
            **self.extra,
        }


def _input_description(inputs: Sequence[Port]) -> str:
    """The input, such as "float32 NCHW[1, 3, 224, 224]"; if there are several, each with its name."""
    if len(inputs) == 1:
        return inputs[0].words
    shown = [f"{port.name} {port.words}" for port in inputs[:_SHOWN_INPUTS]]
    return ", ".join(shown + [f"{len(inputs) - _SHOWN_INPUTS} more"] * (len(inputs) > _SHOWN_INPUTS))


def bench(job: Job) -> dict[str, Any]:
    """Run the bench in `job.spec`: returns the facts, conditions and cases of a run, and the files that were refused.

    Raises EdgemobileError for settings that this board cannot satisfy.
    """
    settings, emulated = job.spec["settings"], job.spec["emulated"]
    _pin(settings["cores"])
    log = _ConditionsLog(time.monotonic())
    log.sample("before")
    with _no_collection():
        cases, refused = _counted_cases(job) if emulated else _timed_cases(job, log)
    log.sample("after")
    found = {"emulated": emulated, "facts": facts(), "conditions": log.samples}
    return {**found, "cases": cases, "refused": refused}


def read_file(job: Job, row: JobFile) -> bytes:
    """The bytes of a model file on the board.

    Raises EdgemobileError if their sha256 differs from the job's. The file is then removed, and the next job sends it
    again.
    """
    # The root contains both jobs/<id> and files/<sha256>.
    path = job.folder.parent.parent / row["path"]
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        path.unlink(missing_ok=True)
        raise EdgemobileError(f"the board's copy of {row['file']} was damaged and is removed; try again")
    return data


def peak_memory(job: Job, index: int, threads: int) -> dict[str, float]:
    """Peak memory of this process in MiB, with the file (`peak_mib`) and before opening it (`runtime_mib`).

    The process must do nothing else.
    """
    row = job.spec["files"][index]
    _pin(job.spec["settings"]["cores"])
    import_runtime(_runtime(job, row))
    before = _peak_mib()
    case = _opened(job, row, read_file(job, row), threads, timed=False)
    for _ in range(_MEMORY_INFERENCES):
        case.invoke()
    return {"peak_mib": _peak_mib(), "runtime_mib": before}


def bench_process(job: Job, number: int, since: float, left_out: Collection[int] = ()) -> dict[str, Any]:
    """Process `number`, from 0, of a timed bench: its cases, the conditions meanwhile, and the refused files by index.

    `since` is the start of the measurement on the board's monotonic clock. `left_out` are the indices of files that the
    first process refused. The last process also measures energy and profiles.
    """
    settings = job.spec["settings"]
    _pin(settings["cores"])
    log = _ConditionsLog(since)
    with _no_collection():
        # All cases open at once, since they take turns.
        cases: list[_Case] = []
        refused: dict[int, dict[str, str]] = {}
        for index, row in enumerate(job.spec["files"]):
            job.check()
            if number == 0:
                job.emit("opening", done=index, total=len(job.spec["files"]))
            if index in left_out:
                continue
            data = read_file(job, row)
            try:
                cases += [_opened(job, row, data, threads, timed=True) for threads in settings["threads"]]
            except EdgemobileError as error:
                if number or isinstance(error, MissingExtra):
                    raise
                refused[index] = _refusal(job, row, error)
        if cases:
            _time(job, cases, log, number)
        if number + 1 == _processes(settings):
            _measure_energy(job, cases)
            if settings["profile"]:
                _profile(job, cases)
    return {"samples": log.samples, "cases": [case.to_json() for case in cases], "refused": refused}


def _refusal(job: Job, row: JobFile, error: EdgemobileError) -> dict[str, str]:
    """The record of a file that its runtime does not open or run."""
    reason = "".join(char if char.isprintable() else "?" for char in str(error))[:_REASON_CHARS]
    return {"file": row["file"], "sha256": row["sha256"], "runtime": _runtime(job, row), "reason": reason}


# ---- opening --------------------------------------------------------------------------------------------------------


def _runtime(job: Job, row: JobFile) -> str:
    return job.spec["settings"]["runtime"] or default_runtime(row["format"])


def _opened(job: Job, row: JobFile, data: bytes, threads: int, *, timed: bool) -> _Case:
    runtime = _runtime(job, row)
    file_format(data, row["file"])
    import_runtime(runtime)
    limit_memory(len(data))
    began = time.perf_counter_ns()
    session = open_session(data, runtime=runtime, threads=threads, name=row["file"])
    load_ns = time.perf_counter_ns() - began
    _decide_sizes(job, row, session)
    case = _Case(row, threads, session, _example(session))
    if timed:
        with session.refusals():
            case.load_ns, case.first_ns = load_ns, case.timed()
    return case


def _decide_sizes(job: Job, row: JobFile, session: Session) -> None:
    """Set the dynamic sizes of the inputs: to --shape, else to one image of 224 px. No other size is guessed."""
    session.reshape(job.spec["settings"]["shapes"])
    session.settle(_DEFAULT_PX)
    undecided = [f"--shape {port.name}={port.takes}" for port in session.inputs if port.undecided]
    if undecided:
        raise Unsupported(
            f"{row['file']} has inputs with dynamic sizes. Replace each N by a number: {' '.join(undecided)}"
        )


def _example(session: Session) -> list[np.ndarray]:
    """Synthetic inputs, the same on every board, in the dtype and layout of the file."""
    rng = np.random.default_rng(0)
    return [port.example(rng) for port in session.inputs]


def _pin(cores: Sequence[int] | None) -> None:
    """Restrict this process, and all threads that it starts later, to `cores`."""
    if not cores:
        return
    try:
        os.sched_setaffinity(0, cores)
    except OSError:
        allowed = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        raise EdgemobileError(
            f"--cores {','.join(map(str, cores))}: the board does not have all of these cores. Allowed: {allowed}"
        ) from None


# ---- timing ---------------------------------------------------------------------------------------------------------


class _ConditionsLog:
    """Samples of the board's conditions, each with the seconds since the measurement began."""

    def __init__(self, since: float) -> None:
        self.samples: list[dict[str, Any]] = []
        self.since = since

    def sample(self, when: str) -> None:
        at_s = time.monotonic() - self.since
        last = self.samples[-1] if self.samples else None
        if when == "during" and last and last["when"] == "during" and at_s - last["at_s"] < _SAMPLE_EVERY_S:
            return
        self.samples.append({"when": when, "at_s": at_s, "conditions": conditions()})


@contextmanager
def _no_collection() -> Iterator[None]:
    """Turn Python's garbage collector off: it would sometimes run during an inference, and distort the 99th percentile
    and instruction counts."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _timed_cases(job: Job, log: _ConditionsLog) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """(the cases, the files that were refused)."""
    settings = job.spec["settings"]
    cases: list[dict[str, Any]] = []
    refused: dict[str, dict[str, str]] = {}
    for number in range(_processes(settings)):
        job.check()
        words = ["--process", str(job.folder), str(number), repr(log.since), ",".join(refused)]
        opened = [row for index, row in enumerate(job.spec["files"]) if str(index) not in refused]
        part = in_a_process(job, opened, *words)
        log.samples += part["samples"]
        refused = refused or part["refused"]
        cases = _joined(cases, part["cases"]) if cases else part["cases"]
        if not cases:
            break
    if settings["memory"]:
        measured = [row for index, row in enumerate(job.spec["files"]) if str(index) not in refused]
        asked = itertools.product(measured, settings["threads"])
        cases = [{**case, **_memory_of(job, row, threads)} for case, (row, threads) in zip(cases, asked)]  # noqa: B905
    return cases, list(refused.values())


def _joined(cases: list[dict[str, Any]], more: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`cases` with the rounds of another process appended, and the energy and profile that it measured."""
    added = ("warmup_ns", "rounds_ns", "rounds_per_process", "rounds_wall_ns", "rounds_cpu_ns")
    last = ("profile", "energy_mj", "idle_w")
    return [
        {**case, **{name: case[name] + other[name] for name in added}, **{name: other[name] for name in last}}
        for case, other in zip(cases, more)  # noqa: B905  # strict= came with Python 3.10
    ]


def _processes(settings: JobSettings) -> int:
    """The number of processes: at most the number of rounds; a sustained run, which is about heat, uses one."""
    if settings["sustained_s"]:
        return 1
    processes = settings["processes"] or _PROCESSES
    return processes if settings["seconds"] else min(processes, _rounds(settings)[1])


def _rounds(settings: JobSettings) -> tuple[int, int]:
    """(inferences per block, rounds in total) for a given number of inferences: about ten rounds."""
    runs = settings["runs"] or _RUNS
    block = -(-runs // _ROUNDS)
    return block, -(-runs // block)


def _time(job: Job, cases: list[_Case], log: _ConditionsLog, number: int) -> None:
    settings = job.spec["settings"]
    for case in cases:
        job.check()
        case.warmup_ns += warm_up_ns(case.invoke)
    blocks, rounds, seconds = _plan(settings, cases, number)
    started = time.monotonic()
    for index in itertools.count():
        elapsed = time.monotonic() - started
        if index >= rounds and elapsed >= seconds:
            break
        job.check()
        if settings["cooldown_c"] is not None:
            _cool(job, settings["cooldown_c"])
        first = (number + index) % len(cases)
        for case in cases[first:] + cases[:first]:
            case.round(blocks[id(case)])
        log.sample("during")
        done = elapsed / seconds if seconds else (index + 1) / rounds
        job.emit("round", done=round(100 * (number + min(done, 1)) / _processes(settings)), total=100)


def _plan(settings: JobSettings, cases: list[_Case], number: int) -> tuple[dict[int, int], int, float]:
    """(id of case -> inferences per block, minimum number of rounds, minimum seconds) of a process."""
    processes = _processes(settings)
    seconds = settings["sustained_s"] or (settings["seconds"] or 0) * len(cases) / processes
    block, rounds = _rounds(settings)
    share = rounds // processes + (number < rounds % processes)
    if settings["runs"]:
        return {id(case): block for case in cases}, share, 0.0
    # A block with few inferences of a fast file is too short to show disturbances, so blocks have a minimum duration.
    least = _MIN_BLOCK if seconds else block
    fits = {id(case): _BLOCK_NS / max(statistics.median(case.warmup_ns), 1) for case in cases}
    blocks = {key: max(least, min(_MAX_BLOCK, int(fit))) for key, fit in fits.items()}
    return blocks, -(-_MIN_ROUNDS // processes) if seconds else share, float(seconds)


def _cool(job: Job, limit_c: float) -> None:
    for waited_s in itertools.count():
        temp_c = conditions()["temp_c"]
        if temp_c is None:
            raise Unsupported("--cooldown needs a temperature, and this board does not report one. Omit --cooldown")
        if temp_c <= limit_c:
            return
        if waited_s > _MAX_COOLING_S:
            raise EdgemobileError(
                f"the board is at {temp_c:.0f} C and does not cool to {limit_c:g} C; raise --cooldown"
            )
        job.check()
        job.emit("cooling", temp_c=temp_c, limit_c=limit_c)
        time.sleep(1)


# ---- counting, under emulation --------------------------------------------------------------------------------------


def _counted_cases(job: Job) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """(the cases, the files that were refused). Only one file is open at a time, so none is affected by another."""
    found: list[dict[str, Any]] = []
    refused, runs = [], job.spec["settings"]["runs"] or _COUNTED_RUNS
    displaced_bytes = job.spec.get("displaced_bytes") or [0] * len(job.spec["files"])
    for number, row in enumerate(job.spec["files"]):
        job.emit("opening", done=number, total=len(job.spec["files"]))
        data = read_file(job, row)
        try:
            case = _opened(job, row, data, 1, timed=False)
            _count(job, case, len(found) * runs, runs, displaced_bytes[number])
            found.append(case.to_json())
        except MissingExtra:
            raise
        except EdgemobileError as error:
            refused.append(_refusal(job, row, error))
        job.emit("round", done=number + 1, total=len(job.spec["files"]))
    return found, refused


def _count(job: Job, case: _Case, first: int, runs: int, displaced_bytes: int = 0) -> None:
    """Run the case `runs` times between marks for the instruction counter: 2i before inference i of the job, and
    2i + 1 after it. `first` is the i of the first run.

    Before each inference, `displaced_bytes` of other memory are read, which replaces the contents of the caches.
    """
    displacing = _displacing(displaced_bytes)
    with case.session.refusals():
        for _ in range(_COUNTED_WARMUPS):
            displacing.sum()
            with limit_time(_COUNTED_S):
                _between_marks(case, 0, _NO_MARK)
    for index in range(first, first + runs):
        job.check()
        displacing.sum()
        with limit_time(_COUNTED_S):
            _between_marks(case, index, MARK)


def _displacing(count: int) -> np.ndarray:
    """i64[n]: one element in every cache line of `count` bytes."""
    return np.ones(count // 8, np.int64)[:: _LINE_BYTES // 8]


def _between_marks(case: _Case, index: int, which: int) -> None:
    _mark(which, 2 * index)
    case.invoke()
    _mark(which, 2 * index + 1)


def _mark(which: int, value: int) -> None:
    """A system call that the counter recognizes and the kernel rejects: getpriority of a kind that does not exist."""
    with suppress(OSError):
        os.getpriority(which, value)


# ---- memory, energy, profile ----------------------------------------------------------------------------------------


def _memory_of(job: Job, row: JobFile, threads: int) -> dict[str, Any]:
    """Peak memory, measured in a separate process: in this one, other files are open too."""
    job.emit("memory", file=row["file"])
    return in_a_process(job, [row], "--memory", str(job.folder), str(job.spec["files"].index(row)), str(threads))


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _measure_energy(job: Job, cases: list[_Case]) -> None:
    """The energy of the whole board per inference in mJ and its idle power in W, if it has a power sensor."""
    if power_w() is None:
        return
    job.emit("energy")
    idle_w = _mean_power_w(lambda: time.sleep(_POWER_EVERY_S), _IDLE_S)[0]
    for case in cases:
        job.check()
        watts, per_call_s = _mean_power_w(case.invoke, _POWER_S)
        if idle_w is not None and watts is not None:
            case.extra.update(energy_mj=watts * per_call_s * 1000, idle_w=idle_w)


def _mean_power_w(call: Any, seconds: float) -> tuple[float | None, float]:
    """(mean power in W while `call` is repeated for `seconds`, seconds per call). The power is None without a value."""
    values: list[float] = []
    finished = threading.Event()

    def sample() -> None:
        while not finished.wait(_POWER_EVERY_S):
            watts = power_w()
            if watts is not None:
                values.append(watts)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    started, calls = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        call()
        calls += 1
    per_call_s = (time.monotonic() - started) / calls
    finished.set()
    sampler.join()
    return (statistics.mean(values) if values else None), per_call_s


def _profile(job: Job, cases: list[_Case]) -> None:
    for case in cases:
        job.check()
        if case.session.runtime == "onnxruntime":
            job.emit("profile", file=case.row["file"])
            data = read_file(job, case.row)
            case.extra["profile"] = op_times(data, case.threads, case.prepared, job.folder)
