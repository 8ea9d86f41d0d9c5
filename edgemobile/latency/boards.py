"""Benchmarks on several devices: boards at the same time, this machine after them.

Each benchmark is for one board, so no scheduling is needed: one thread per board runs its benchmark. A lock on the
board prevents two benchmarks at the same time if the board is known by two names.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from edgemobile.devices.host.profiles import find_device
from edgemobile.devices.host.records import Run
from edgemobile.errors import EdgemobileError
from edgemobile.latency.run import BenchRequest, bench
from edgemobile.util.progress import Progress, Silent

__all__ = ["bench_all"]

_T = TypeVar("_T")
_LOOK_S = 0.2
# The time for a thread to stop the measurement on its board after an interruption.
_STOP_S = 10.0


def bench_all(
    requests: Sequence[BenchRequest], progress: Progress | None = None
) -> Generator[tuple[int, Run | EdgemobileError]]:
    """(index of the request, its run or the error) as each is done. Each device may be named once.

    Boards are measured at the same time. `local` and emulated cores are measured one after another, once the boards are
    done, because the threads of the boards use CPU time of this machine. An interruption stops the measurements on all
    boards.
    """
    shown = progress or Silent()
    on_boards = [index for index, request in enumerate(requests) if not _is_here(request.device)]
    here = [index for index, request in enumerate(requests) if index not in on_boards]
    if len(on_boards) > 1:
        yield from _at_once(on_boards, requests, shown)
    else:
        here = sorted([*on_boards, *here])
    for index in here:
        try:
            outcome: Run | EdgemobileError = bench(requests[index], shown)
        except EdgemobileError as error:
            outcome = error
        yield index, outcome


def _is_here(name: str) -> bool:
    return find_device(name).scheme in ("local", "emulated")


class _Interrupted(Exception):
    """The command was interrupted; raised in the threads of the boards."""


@dataclass
class _Board:
    """The thread of a board. It puts its result or error into `done`."""

    index: int
    request: BenchRequest
    shown: Progress
    interrupted: threading.Event
    done: queue.SimpleQueue[tuple[int, Run | BaseException]]

    def run(self) -> None:
        try:
            self.done.put((self.index, bench(self.request, self.shown, sleep=self._sleep)))
        except BaseException as error:
            self.done.put((self.index, error))

    def _sleep(self, seconds: float) -> None:
        if self.interrupted.wait(seconds):
            raise _Interrupted


def _at_once(
    indices: Sequence[int], requests: Sequence[BenchRequest], shown: Progress
) -> Generator[tuple[int, Run | EdgemobileError]]:
    interrupted, done = threading.Event(), queue.SimpleQueue[tuple[int, Run | BaseException]]()
    boards = [_Board(index, requests[index], shown, interrupted, done) for index in indices]
    # Daemon threads, because a board that hangs must not keep this process alive.
    threads = [threading.Thread(target=board.run, daemon=True) for board in boards]
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            index, outcome = _next(done)
            if isinstance(outcome, BaseException) and not isinstance(outcome, EdgemobileError):
                raise outcome
            yield index, outcome
    finally:
        interrupted.set()
        until = time.monotonic() + _STOP_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))


def _next(done: queue.SimpleQueue[_T]) -> _T:
    """The next result. Waits in steps, because a signal received by another thread does not interrupt a wait."""
    while True:
        with suppress(queue.Empty):
            return done.get(timeout=_LOOK_S)
