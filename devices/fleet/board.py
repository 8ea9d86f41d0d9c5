"""What a Dask worker does for its board: opens a file there, has images answered, and closes it.

A worker has one thread and the name of its board. A connection cannot be sent to another process, so the worker opens
it, and keeps it between tasks.
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

# Other boards take over meanwhile, so a board that is away gets less time to come back than one alone.
_PATIENCE_S = 20.0
_NAP_S = 0.1
# A session that nobody closed, as its host died: the worker on the board left long before.
_UNUSED_S = 600.0


@dataclass(frozen=True)
class Work:
    """A file, which has so many `outputs`, and what runs it on the boards."""

    file: ModelFile
    outputs: int
    runtime: str
    threads: int


@dataclass(frozen=True)
class Opened:
    """A file that is open on a board. `kind` is what decides which kernels run there; `canary` are its outputs
    f32[n,outputs] for each part of the canary."""

    kind: str
    runtime: str
    canary: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Answered:
    """The outputs f32[n,outputs] of each part, and those of a part of the canary after them. `inference_s` is the time
    on the board for each part, 0 under emulation."""

    scores: tuple[np.ndarray, ...]
    canary: np.ndarray
    inference_s: tuple[float, ...]


class _Cancelled(Exception):
    """Nobody waits for this task any more."""


@dataclass
class _Open:
    transport: Transport
    session: RemoteSession
    told: InferenceStats
    outputs: int
    used: float = 0.0

    def rows(self, parts: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        self.used = time.monotonic()
        found = tuple(self.session.rows(parts))
        for scores in found:
            if scores.shape[1] != self.outputs:
                raise EdgemobileError(f"it returned {scores.shape[1]} outputs for a file that has {self.outputs}")
        return found

    def close(self) -> None:
        self.session.close()
        self.transport.close()


# (token of the call, board) -> what is open for it in this worker.
_open: dict[tuple[str, str], _Open] = {}


def installed_version() -> str:
    """The version of edgemobile where this runs."""
    return __version__


def open_board(token: str, board: str, work: Work, canary: tuple[np.ndarray, ...]) -> Opened:
    """Open the file of `work` on `board` for the call `token`, and answer the parts f32[n,px,px,3] of the canary.

    Raises EdgemobileError for a board that cannot be used.
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
    return Opened(_kind(facts, transport), opened.told.runtime, answers)


def answer(token: str, board: str, parts: tuple[np.ndarray, ...], canary: np.ndarray) -> Answered:
    """The answers to `parts` f32[n,px,px,3], and then to a part of the canary. Raises as open_board does."""
    opened = _open.get((token, board))
    if opened is None:
        raise EdgemobileError("its Dask worker was started again")
    before = set(opened.told.part_seconds)
    try:
        # In one go, so that the next part travels while the board computes.
        found = opened.rows((*parts, canary))
    except BaseException:
        del _open[token, board]
        opened.close()
        raise
    seconds = [value for name, value in opened.told.part_seconds.items() if name not in before]
    return Answered(found[:-1], found[-1], tuple((seconds + [0.0] * len(found))[: len(parts)]))


def close_board(token: str, board: str) -> None:
    """Close what is open for the call; its folder on the board goes."""
    opened = _open.pop((token, board), None)
    if opened is not None:
        opened.close()


def _opened(device: Device, transport: Transport, work: Work) -> _Open:
    told = InferenceStats(work.runtime)
    prepared = ready(device, transport, work.runtime)
    session = RemoteSession(
        device,
        transport,
        prepared,
        work.file,
        work.runtime,
        work.threads,
        told,
        patience_s=_PATIENCE_S,
        sleep=_sleep,
    )
    return _Open(transport, session, told, work.outputs)


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
    """Sleep in naps. Raises _Cancelled if the task that this thread runs was cancelled."""
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
