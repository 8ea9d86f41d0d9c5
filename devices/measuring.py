"""The measurement itself: files opened, warmed up and run in turns, with the conditions around it. Runs on the board.

A round runs every case (a file with a number of threads) in a block of inferences, and every round begins with the next
case, so that a warm or busy moment of the board hits all alike. The first inference of a block finds its weights driven
out of the caches by the case before: it is kept apart, with the warm-up.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgemobile.devices.latency import warm_up_ns
from edgemobile.devices.probe import conditions, facts, power_w
from edgemobile.devices.profiling import op_times
from edgemobile.devices.runtime_table import default_runtime
from edgemobile.devices.runtimes import Session, import_runtime, open_session
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.model_file import file_format

__all__ = ["MARK", "Job", "bench", "memory", "read_file"]

MARK = 0x7E57

_ROUNDS, _RUNS, _COUNTED_RUNS, _COUNTED_WARMUPS = 10, 100, 5, 2
_FEWEST_ROUNDS = 5
_BLOCK_NS, _SMALLEST_BLOCK, _LARGEST_BLOCK = 100_000_000, 3, 50
_FREE_PX = 224
_LOOK_EVERY_S = 0.5
_LONGEST_COOLING_S = 1800
_IDLE_S, _POWER_S, _POWER_EVERY_S = 2.0, 3.0, 0.1
_MEMORY_INFERENCES = 3


class Job(Protocol):
    """What the worker gives: the job as the host wrote it, its folder, and a way to say how far it is."""

    spec: dict[str, Any]
    folder: Path

    def tell(self, event: str, **facts: Any) -> None: ...

    def check(self) -> None:
        """Raises where the host asked to stop."""
        ...


@dataclass
class _Case:
    """A file with a number of threads, open."""

    row: dict[str, Any]
    threads: int
    session: Session
    prepared: np.ndarray
    load_ns: int | None = None
    first_ns: int | None = None
    warmup_ns: list[int] = field(default_factory=list)
    rounds_ns: list[list[int]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def invoke(self) -> None:
        self.session.invoke(self.prepared)

    def timed(self) -> int:
        start = time.perf_counter_ns()
        self.session.invoke(self.prepared)
        return time.perf_counter_ns() - start

    def round(self, block: int) -> None:
        self.warmup_ns.append(self.timed())
        self.rounds_ns.append([self.timed() for _ in range(block)])

    def to_json(self) -> dict[str, Any]:
        port, cut = self.session.input, self.session.delegation()
        return {
            **{name: self.row[name] for name in ("file", "sha256", "bytes", "format", "precision")},
            "input": f"{port.dtype} {port.layout}{list(port.shape)}",
            "batch": port.shape[0],
            "runtime": self.session.runtime,
            "version": self.session.version,
            "threads": self.threads,
            "load_ns": self.load_ns,
            "first_ns": self.first_ns,
            "warmup_ns": self.warmup_ns,
            "rounds_ns": self.rounds_ns,
            "peak_mib": None,
            "runtime_mib": None,
            "pieces": None if cut is None else cut.pieces,
            "outside": None if cut is None else dict(cut.outside),
            "instructions": None,
            "profile": None,
            "energy_mj": None,
            "idle_w": None,
            **self.extra,
        }


def bench(job: Job) -> dict[str, Any]:
    """Measure what `job.spec` asks for: the facts, conditions and cases of a run.

    Raises EdgemobileError for what this board cannot do, or cannot open.
    """
    settings, emulated = job.spec["settings"], job.spec["emulated"]
    _pin(settings["cores"])
    watch = _Watch()
    watch.look("before")
    with _no_collection():
        cases = _counted_cases(job) if emulated else _timed_cases(job, watch)
    watch.look("after")
    return {"emulated": emulated, "facts": facts(), "conditions": watch.samples, "cases": cases}


def read_file(job: Job, row: dict[str, Any]) -> bytes:
    """The bytes of a model file on the board. Raises EdgemobileError where they are not those the host sent."""
    # jobs/<id> and files/<sha256> stand side by side under the root.
    data = (job.folder.parent.parent / row["path"]).read_bytes()
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise EdgemobileError(f"the board's copy of {row['file']} is damaged; delete {row['path']} there and try again")
    return data


def memory(job: Job, index: int, threads: int) -> dict[str, float]:
    """Of this process, which does nothing else: the most memory it took with the file, and before it was opened."""
    row = job.spec["files"][index]
    _pin(job.spec["settings"]["cores"])
    import_runtime(_runtime(job, row))
    before = _peak_mib()
    case = _opened(job, row, threads, timed=False)
    for _ in range(_MEMORY_INFERENCES):
        case.invoke()
    return {"peak_mib": _peak_mib(), "runtime_mib": before}


# ---- opening --------------------------------------------------------------------------------------------------------


def _runtime(job: Job, row: dict[str, Any]) -> str:
    return job.spec["settings"]["runtime"] or default_runtime(row["format"])


def _opened(job: Job, row: dict[str, Any], threads: int, *, timed: bool) -> _Case:
    data, runtime = read_file(job, row), _runtime(job, row)
    file_format(data, row["file"])
    import_runtime(runtime)
    start = time.perf_counter_ns()
    session = open_session(data, runtime=runtime, threads=threads, name=row["file"])
    load_ns = time.perf_counter_ns() - start
    session.settle(_FREE_PX)
    case = _Case(row, threads, session, _example(session))
    if timed:
        case.load_ns, case.first_ns = load_ns, case.timed()
    return case


def _example(session: Session) -> np.ndarray:
    """Made images, the same on every board, in what the file takes: noise as of preprocessed photos."""
    shape, rng = session.input.shape, np.random.default_rng(0)
    if session.input.layout == "NCHW":
        shape = (shape[0], *shape[2:], shape[1])
    return session.prepare(rng.standard_normal(shape, np.float32))


def _pin(cores: list[int] | None) -> None:
    """Keep this process, and every thread of the runtime after it, on some cores."""
    if not cores:
        return
    try:
        os.sched_setaffinity(0, cores)
    except OSError:
        allowed = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        raise EdgemobileError(
            f"--cores {','.join(map(str, cores))}: the board does not have them all. Allowed: {allowed}"
        ) from None


# ---- timing ---------------------------------------------------------------------------------------------------------


class _Watch:
    """Looks at the board's conditions, with the time since the measurement began."""

    def __init__(self) -> None:
        self.samples: list[dict[str, Any]] = []
        self._started = time.monotonic()

    def look(self, when: str) -> None:
        at_s = time.monotonic() - self._started
        last = self.samples[-1] if self.samples else None
        if when == "during" and last and last["when"] == "during" and at_s - last["at_s"] < _LOOK_EVERY_S:
            return
        self.samples.append({"when": when, "at_s": at_s, "conditions": conditions()})


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's collector would run inside of an inference now and then: in the 99th percentile, and in a count."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _timed_cases(job: Job, watch: _Watch) -> list[dict[str, Any]]:
    """All cases open at once, since they take turns."""
    settings = job.spec["settings"]
    cases: list[_Case] = []
    asked = list(itertools.product(job.spec["files"], settings["threads"]))
    for row, threads in asked:
        job.check()
        job.tell("opening", done=len(cases), total=len(asked))
        extra = _memory_of(job, row, threads) if settings["memory"] else {}
        cases.append(_opened(job, row, threads, timed=True))
        cases[-1].extra.update(extra)
    _time(job, cases, watch)
    _measure_energy(job, cases)
    if settings["profile"]:
        _profile(job, cases)
    return [case.to_json() for case in cases]


def _time(job: Job, cases: list[_Case], watch: _Watch) -> None:
    settings = job.spec["settings"]
    for case in cases:
        job.check()
        case.warmup_ns += warm_up_ns(case.invoke)
    blocks, rounds, seconds = _plan(settings, cases)
    started = time.monotonic()
    for index in itertools.count():
        elapsed = time.monotonic() - started
        if index >= rounds and elapsed >= seconds:
            break
        job.check()
        if settings["cooldown_c"] is not None:
            _cool(job, settings["cooldown_c"])
        first = index % len(cases)
        for case in cases[first:] + cases[:first]:
            case.round(blocks[id(case)])
        watch.look("during")
        done = elapsed / seconds if seconds else (index + 1) / rounds
        job.tell("round", done=min(round(100 * done), 100), total=100)


def _plan(settings: dict[str, Any], cases: list[_Case]) -> tuple[dict[int, int], int, float]:
    """(case -> inferences in a block, at least so many rounds, at least so many seconds)."""
    seconds = settings["sustained_s"] or (settings["seconds"] or 0) * len(cases)
    if not seconds:
        runs = settings["runs"] or _RUNS
        block = -(-runs // _ROUNDS)
        return {id(case): block for case in cases}, -(-runs // block), 0.0
    fits = {id(case): _BLOCK_NS / max(statistics.median(case.warmup_ns), 1) for case in cases}
    blocks = {key: max(_SMALLEST_BLOCK, min(_LARGEST_BLOCK, int(fit))) for key, fit in fits.items()}
    return blocks, _FEWEST_ROUNDS, float(seconds)


def _cool(job: Job, limit_c: float) -> None:
    for waited_s in itertools.count():
        temp_c = conditions()["temp_c"]
        if temp_c is None:
            raise Unsupported("--cooldown needs a temperature, and this board tells none. Leave it out")
        if temp_c <= limit_c:
            return
        if waited_s > _LONGEST_COOLING_S:
            raise EdgemobileError(
                f"the board is at {temp_c:.0f} C and does not cool to {limit_c:g} C; raise --cooldown"
            )
        job.check()
        job.tell("cooling", temp_c=temp_c, limit_c=limit_c)
        time.sleep(1)


# ---- counting, under emulation --------------------------------------------------------------------------------------


def _counted_cases(job: Job) -> list[dict[str, Any]]:
    """One file after the other, so that none sees what another left in memory."""
    found, runs = [], job.spec["settings"]["runs"] or _COUNTED_RUNS
    for number, row in enumerate(job.spec["files"]):
        job.tell("opening", done=number, total=len(job.spec["files"]))
        case = _opened(job, row, 1, timed=False)
        _count(job, case, number * runs, runs)
        found.append(case.to_json())
        job.tell("round", done=number + 1, total=len(job.spec["files"]))
    return found


def _count(job: Job, case: _Case, first: int, runs: int) -> None:
    """Run between marks that whoever counts instructions sees: 2i before inference i of the job, 2i + 1 after it."""
    for _ in range(1 + _COUNTED_WARMUPS):
        case.invoke()
    for index in range(first, first + runs):
        job.check()
        _mark(2 * index)
        case.invoke()
        _mark(2 * index + 1)


def _mark(value: int) -> None:
    """A system call that does nothing anywhere else: it asks for the priority of what does not exist."""
    with suppress(OSError):
        os.getpriority(MARK, value)


# ---- memory, energy, profile ----------------------------------------------------------------------------------------


def _memory_of(job: Job, row: dict[str, Any], threads: int) -> dict[str, Any]:
    """Peak memory, taken in a process of its own: in this one, other files are open."""
    job.tell("memory", file=row["file"])
    index = job.spec["files"].index(row)
    argv = [sys.executable, "-m", "edgemobile.devices.worker", "--memory", str(job.folder), str(index), str(threads)]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        raise EdgemobileError(f"cannot measure the memory of {row['file']}: {last[:300]}")
    return json.loads(done.stdout.splitlines()[-1])


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _measure_energy(job: Job, cases: list[_Case]) -> None:
    """mJ of the whole board for one inference, where it has a sensor; what it draws doing nothing stands beside it."""
    if power_w() is None:
        return
    job.tell("energy")
    idle_w = _mean_power_w(lambda: time.sleep(_POWER_EVERY_S), _IDLE_S)[0]
    for case in cases:
        job.check()
        watts, per_call_s = _mean_power_w(case.invoke, _POWER_S)
        if idle_w is not None and watts is not None:
            case.extra.update(energy_mj=watts * per_call_s * 1000, idle_w=idle_w)


def _mean_power_w(call: Any, seconds: float) -> tuple[float | None, float]:
    """(mean power while `call` is repeated, seconds a call)."""
    values: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(_POWER_EVERY_S):
            watts = power_w()
            if watts is not None:
                values.append(watts)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    started, calls = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        call()
        calls += 1
    per_call_s = (time.monotonic() - started) / calls
    over.set()
    looking.join()
    return (statistics.mean(values) if values else None), per_call_s


def _profile(job: Job, cases: list[_Case]) -> None:
    for case in cases:
        job.check()
        if case.session.runtime == "onnxruntime":
            job.tell("profile", file=case.row["file"])
            data = read_file(job, case.row)
            case.extra["profile"] = op_times(data, case.threads, case.prepared, job.folder)
