"""The tasks of a Dask worker: open a file on its board, run images through it, and close it.

A worker has one thread and the name of its board. A connection cannot be sent to another process, so the worker opens
it and keeps it open between tasks.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from edgemobile import __version__
from edgemobile.devices.host.chunks import RemoteSession
from edgemobile.devices.host.profiles import Device, open_device
from edgemobile.devices.host.records import Facts, probed
from edgemobile.devices.host.remote_inference import InferenceStats
from edgemobile.devices.host.setup import probe, ready
from edgemobile.devices.host.transport import Transport
from edgemobile.errors import EdgemobileError
from edgemobile.model_file.model_file import ModelFile

__all__ = ["Answered", "Opened", "Work", "answer", "close_board", "installed_version", "open_board"]

# Shorter than for a single board, since other boards take over the images of a board that cannot be reached.
_PATIENCE_S = 20.0
_NAP_S = 0.1
# Sessions unused for this long are closed: their host died, and the worker on the board ended long before.
_UNUSED_S = 600.0


@dataclass(frozen=True)
class Work:
    """A file with its number of `outputs` per image, and the runtime and threads to run it with."""

    file: ModelFile
    outputs: int
    runtime: str
    threads: int


@dataclass(frozen=True)
class Opened:
    """A file that is open on a board. `kind` determines which kernels run there; `canary` has its outputs
    f32[n,outputs] for each part of the canary."""

    kind: str
    runtime: str
    canary: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Answered:
    """`scores` are the outputs f32[n,outputs] of each part, `canary` those of one part of the canary, run after them.
    `inference_s` is the time on the board for each part, 0 under emulation."""

    scores: tuple[np.ndarray, ...]
    canary: np.ndarray
    inference_s: tuple[float, ...]


class _Cancelled(Exception):
    """The task was cancelled."""


@dataclass
class _Open:
    transport: Transport
    session: RemoteSession
    stats: InferenceStats
    outputs: int
    used: float = 0.0

    def rows(self, parts: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        self.used = time.monotonic()
        found = tuple(self.session.rows(parts))
        for scores in found:
            if scores.shape[1] != self.outputs:
                raise EdgemobileError(f"it returned {scores.shape[1]} outputs per image; the file has {self.outputs}")
        return found

    def close(self) -> None:
        self.session.close()
        self.transport.close()


# (token of the call, board) -> its open session in this worker.
_open: dict[tuple[str, str], _Open] = {}


def installed_version() -> str:
    """The version of edgemobile in the process that calls this."""
    return __version__


def open_board(token: str, board: str, work: Work, canary: tuple[np.ndarray, ...]) -> Opened:
    """Open the file of `work` on `board` for the call `token`, and run the parts f32[n,px,px,3] of the canary.

    Raises EdgemobileError if the board cannot be used.
    """
    _close_unused()
    device, transport = open_device(board)
    try:
        facts, _ = probed(probe(device, transport))
        opened = _opened(device, transport, work)
    except BaseException:
        transport.close()
        raise
    try:
        answers = opened.rows(canary)
    except BaseException:
        opened.close()
        raise
    _open[token, board] = opened
    return Opened(_kind(facts, transport), opened.stats.runtime, answers)


def answer(token: str, board: str, parts: tuple[np.ndarray, ...], canary: np.ndarray) -> Answered:
    """Run `parts` f32[n,px,px,3], and then one part of the canary. Raises as open_board does."""
    opened = _open.get((token, board))
    if opened is None:
        raise EdgemobileError("its Dask worker was restarted")
    before = set(opened.stats.part_seconds)
    try:
        # In one call, so that the next part is sent while the board computes.
        found = opened.rows((*parts, canary))
    except BaseException:
        del _open[token, board]
        opened.close()
        raise
    seconds = [value for name, value in opened.stats.part_seconds.items() if name not in before]
    return Answered(found[:-1], found[-1], tuple((seconds + [0.0] * len(found))[: len(parts)]))


def close_board(token: str, board: str) -> None:
    """Close the session of the call on `board` and remove its folder there. Does nothing if there is none."""
    opened = _open.pop((token, board), None)
    if opened is not None:
        opened.close()


def _opened(device: Device, transport: Transport, work: Work) -> _Open:
    stats = InferenceStats(work.runtime)
    prepared = ready(device, transport, work.runtime)
    session = RemoteSession(
        device,
        transport,
        prepared,
        work.file,
        work.runtime,
        work.threads,
        stats,
        patience_s=_PATIENCE_S,
        sleep=_sleep,
    )
    return _Open(transport, session, stats, work.outputs)


def _close_unused() -> None:
    for key, opened in list(_open.items()):
        if time.monotonic() - opened.used > _UNUSED_S:
            del _open[key]
            opened.close()


def _kind(facts: Facts, transport: Transport) -> str:
    """ "4x Cortex-A72, aarch64, neon, no dotprod": boards of one kind run the same kernels."""
    cores = Counter(core.kind or "unknown core" for core in facts.cores)
    words = [" + ".join(f"{count}x {name}" for name, count in cores.items()), facts.machine, facts.int8_isa]
    return ", ".join(filter(None, [*words, "emulated" if transport.emulated else ""]))


def _sleep(seconds: float) -> None:
    """Sleep in short intervals. Raises _Cancelled if the task of this thread was cancelled."""
    until = time.monotonic() + seconds
    while True:
        if _is_cancelled():
            raise _Cancelled
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, _NAP_S))


def _is_cancelled() -> bool:
    from distributed import get_worker

    worker = get_worker()
    # Dask does not interrupt a thread; it only marks the task.
    task = worker.state.tasks.get(worker.get_current_task())
    return task is None or task.state != "executing"
