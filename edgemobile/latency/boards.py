"""Benchmarks on several devices: boards at the same time, this machine after them.

A benchmark belongs to its board, so there is nothing to schedule: a thread drives each board, and a lock there keeps
two benchmarks apart that reach one board by two names.
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
# For a thread to tell its board to stop, after an interruption.
_STOP_S = 10.0


def bench_all(
    requests: Sequence[BenchRequest], progress: Progress | None = None
) -> Generator[tuple[int, Run | EdgemobileError]]:
    """(index of the request, its run or why there is none) as each is done. Each device may be named once.

    Boards are measured at the same time. `local` and emulated cores are measured one after another, once the boards are
    done: driving boards takes time of this machine. An interruption stops the measurements on all boards.
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
    """The command was interrupted: raised in the threads of the boards."""


@dataclass
class _Board:
    """The thread of a board. `done` takes what it ended with."""

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
    # Daemons: one that waits for a board that hangs must not keep this process.
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
    """What comes next. Waits in steps: an interruption that another thread receives does not end a wait."""
    while True:
        with suppress(queue.Empty):
            return done.get(timeout=_LOOK_S)
