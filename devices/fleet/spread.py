"""Distributes images over several boards; every image gets one answer, from a board with verified outputs.

All boards first run the same images, the canary. Boards whose outputs differ from those of most boards are set aside
(no longer used). So is a board that fails, does not answer, or later gives other outputs for a part of the canary; its
images are sent to another board. If a board gives other outputs for the canary, its earlier answers are discarded too.
"""

from __future__ import annotations

import logging
import statistics
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemobile.devices.fleet.agreement import Agreement, agree, difference
from edgemobile.devices.fleet.board import Answered, Opened, Work, answer, close_board, open_board
from edgemobile.devices.fleet.cluster import worker_names
from edgemobile.devices.fleet.journal import Journal, Kept
from edgemobile.devices.fleet.parts import Parts, Task
from edgemobile.devices.host.transport import DeviceUnreachable
from edgemobile.errors import EdgemobileError
from edgemobile.util.progress import Report

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["CANARY_IMAGES", "BoardShare", "Spread", "spread"]

_LOG = logging.getLogger(__name__)

# Every task ends with one part of the canary, which adds 2 % to its images, and 6 % to those of a short task.
CANARY_IMAGES, _CANARY_PARTS = 16, 8
# Boards that have not opened the file this long after the first board are set aside.
_OPEN_S = 60.0
# If a board takes this many times the usual time, its task is also sent to an idle board; the first answer counts.
_SLOW, _LEAST_SLOW_S = 3.0, 5.0
_LOOK_S, _NAP_S, _LOOK_AT_WORKERS_S, _CLOSE_S = 0.5, 0.01, 2.0, 5.0
# The time limit for fetching the outputs of a task from its worker.
_RESULT_S = 60.0


@dataclass(frozen=True)
class BoardShare:
    """The contribution of a board: its images that count, and their time in s. `set_aside` is the reason, if it was."""

    board: str
    images: int
    inference_s: float
    set_aside: str | None = None


@dataclass(frozen=True)
class Spread:
    """`scores` f32[n,outputs] of each part. An earlier, interrupted call answered `resumed` of the images."""

    scores: list[np.ndarray]
    boards: tuple[BoardShare, ...]
    kind: str
    runtime: str
    resumed: int


@dataclass(frozen=True)
class _Sent:
    task: Task
    board: str
    canary: int
    at: float
    # Whether the task was sent to an idle board because another board is slow with it.
    is_copy: bool = False


def spread(
    client: Client,
    boards: Sequence[str],
    work: Work,
    parts: int,
    read: Callable[[int], np.ndarray],
    report: Report,
) -> Spread:
    """Run the images of all parts on the workers `boards`. `read` returns those of a part, f32[n,px,px,3] with n >= 0.

    Answers are stored on disk until the call succeeds: repeating an interrupted call resumes it. Raises EdgemobileError
    as `agree` does, DeviceUnreachable when no board is left.
    """
    run = _Run(client, boards, work, _canary(parts, read))
    try:
        run.open(parts, read)
        run.answer(report)
    finally:
        run.close()
    return run.result()


class _Run:
    # Set by `open`.
    _agreed: Agreement
    _journal: Journal
    _parts: Parts

    def __init__(self, client: Client, boards: Sequence[str], work: Work, canary: Sequence[np.ndarray]) -> None:
        self._client, self._names, self._work = client, tuple(boards), work
        self._canary = tuple(canary)
        self._token = uuid.uuid4().hex[:12]
        self._live = list(boards)
        self._reasons: dict[str, str] = {}
        self._sent: dict[Future, _Sent] = {}
        # Seconds per image of finished tasks.
        self._image_s: list[float] = []
        self._tasks = 0
        self._looked = time.monotonic()
        # Boards that may hang in a task. Such a task closes its session when it notices that it was cancelled.
        self._hanging: set[str] = set()

    # -- the canary

    def open(self, count: int, read: Callable[[int], np.ndarray]) -> None:
        """Open the file on all boards, and find those that agree."""
        asked = {self._submit("open", open_board, board, self._work, self._canary): board for board in self._live}
        opened: dict[str, Opened] = {}
        until = float("inf")
        while any(board in self._live for board in asked.values()) and time.monotonic() < until:
            for future in self._finished(asked, _LOOK_S):
                board = asked.pop(future)
                if (found := self._outcome(future, board)) is not None:
                    opened[board] = found
                    until = min(until, time.monotonic() + _OPEN_S)
        for future, board in asked.items():
            self._give_up(future, board)
            self._set_aside(board, f"it did not answer the first images within {_OPEN_S:.0f} s of the first board")
        if not self._live:
            raise self._no_board_left(0)
        self._agreed = agree({board: opened[board] for board in self._live})
        for board, how in self._agreed.others.items():
            self._set_aside(board, how)
        work, agreed = self._work, self._agreed
        self._journal = Journal([work.file.sha256, agreed.runtime, work.threads, agreed.kind], agreed.canary)
        self._parts = Parts(count, read, work.outputs, self._journal)

    # -- the images

    def answer(self, report: Report) -> None:
        """Run all parts."""
        while not self._parts.all_answered:
            if not self._live:
                raise self._no_board_left(self._parts.images)
            is_reading = self._send()
            for future in self._finished(self._sent, 0.0 if is_reading else _LOOK_S):
                # An answer to a copy of the same task may have removed it.
                if future in self._sent:
                    self._take(future)
            self._copy_late_tasks()
            report(self._parts.images)

    def _send(self) -> bool:
        """Send a task to every idle board, then read the images of the next task; returns whether there was one."""
        for board in self._idle():
            task = self._parts.next(len(self._live))
            if task is None:
                return False
            self._start(task, board)
        return not any(future.done() for future in self._sent) and self._parts.read_ahead(len(self._live))

    def _idle(self) -> list[str]:
        busy = {sent.board for sent in self._sent.values()}
        return [board for board in self._live if board not in busy]

    def _start(self, task: Task, board: str, *, is_copy: bool = False) -> None:
        self._tasks += 1
        canary = self._tasks % len(self._canary)
        future = self._submit("answer", answer, board, task.images, self._canary[canary])
        self._sent[future] = _Sent(task, board, canary, time.monotonic(), is_copy)

    def _take(self, future: Future) -> None:
        """Store the answer of a board, or set the board aside."""
        sent = self._sent.pop(future)
        found: Answered | None = self._outcome(future, sent.board)
        if found is None:
            self._retry(sent.task)
        elif found.canary.tobytes() != self._agreed.canary[sent.canary].tobytes():
            words = difference([found.canary], [self._agreed.canary[sent.canary]], "its earlier outputs")
            self._set_aside(sent.board, f"{words}; all its answers are discarded")
            self._parts.distrust(sent.board)
            self._retry(sent.task)
        else:
            self._count(sent, found)

    def _count(self, sent: _Sent, found: Answered) -> None:
        took = time.monotonic() - sent.at
        self._image_s.append(took / sent.task.count)
        self._parts.count(sent.task, sent.board, found)
        # If the original task finishes first, its copy may continue: nothing is wrong with the board of the copy.
        slower = [future for future, one in self._sent.items() if sent.is_copy and one.task is sent.task]
        for future in slower:
            late = self._sent.pop(future)
            self._give_up(future, late.board)
            waited = time.monotonic() - late.at
            words = f"it had not answered {late.task.count} images after {waited:.0f} s"
            self._set_aside(late.board, f"{words}; {sent.board} answered them in {took:.1f} s")

    def _retry(self, task: Task) -> None:
        """Queue a task again, unless a copy of it is running."""
        if not any(sent.task is task for sent in self._sent.values()):
            self._parts.retry(task)

    def _copy_late_tasks(self) -> None:
        """Once all tasks are sent, send those of slow boards to idle boards as well."""
        if not self._parts.all_sent or not self._image_s:
            return
        usual, now = statistics.median(self._image_s), time.monotonic()
        copied = [id(sent.task) for sent in self._sent.values() if sent.is_copy]
        late = [
            sent
            for sent in sorted(self._sent.values(), key=lambda one: one.at)
            if id(sent.task) not in copied and now - sent.at > max(_LEAST_SLOW_S, _SLOW * usual * sent.task.count)
        ]
        for sent, board in zip(late, self._idle(), strict=False):
            self._start(sent.task, board, is_copy=True)

    # -- boards

    def _submit(self, what: str, function: Callable[..., Any], board: str, *words: Any) -> Future:
        """Submit `function` to the worker of `board` only: Dask cannot know which boards hang or give wrong outputs."""
        key = f"{what}-{uuid.uuid4().hex}"
        return self._client.submit(
            function, self._token, board, *words, key=key, workers=[board], allow_other_workers=False, pure=False
        )

    def _finished(self, futures: Mapping[Future, Any], wait_s: float) -> list[Future]:
        """The finished futures, after waiting up to `wait_s` for one. Raises DeviceUnreachable without a scheduler."""
        # distributed.wait could wait forever if the scheduler is lost meanwhile.
        until = time.monotonic() + wait_s
        while not any(future.done() for future in futures) and time.monotonic() < until:
            time.sleep(_NAP_S)
        self._check_scheduler()
        if time.monotonic() - self._looked > _LOOK_AT_WORKERS_S:
            self._look_after_workers()
            self._looked = time.monotonic()
        return [future for future in futures if future.done()]

    def _look_after_workers(self) -> None:
        there = worker_names(self._client)
        for board in [board for board in self._live if board not in there]:
            self._set_aside(board, "its Dask worker is gone")
            for future in [future for future, sent in self._sent.items() if sent.board == board]:
                self._retry(self._sent.pop(future).task)
                self._give_up(future, board)

    def _outcome(self, future: Future, board: str) -> Any | None:
        """The result of a task; None if it failed, which sets its board aside. Raises unexpected errors (bugs)."""
        reason = "its Dask worker is gone"
        until = time.monotonic() + _RESULT_S
        while time.monotonic() < until:
            try:
                return future.result(timeout=_LOOK_AT_WORKERS_S)
            except EdgemobileError as error:
                reason = str(error)
            except TimeoutError:
                # The result comes through the scheduler.
                self._check_scheduler()
                continue
            except Exception as error:
                if future.status == "error" and not _is_of_dask(error):
                    raise
            break
        self._set_aside(board, reason)
        return None

    def _check_scheduler(self) -> None:
        if self._client.status != "running":
            raise DeviceUnreachable("the Dask scheduler does not answer any more")

    def _set_aside(self, board: str, reason: str) -> None:
        if board in self._live:
            self._live.remove(board)
            words = reason.removeprefix(f"{board}: ").removeprefix(f"{board} ")
            self._reasons[board] = words
            _LOG.warning("%s is set aside: %s", board, words)

    def _no_board_left(self, images: int) -> EdgemobileError:
        reasons = "; ".join(f"{board}: {reason}" for board, reason in self._reasons.items())
        kept = f". The answers to {images} images are stored: repeat the command to resume" if images else ""
        return DeviceUnreachable(f"no board is left: {reasons}{kept}")

    # -- the end

    def close(self) -> None:
        """Cancel the remaining tasks, and close the sessions on the boards, waiting for at most _CLOSE_S."""
        for future in self._sent:
            future.release()
        # A worker closes its session after its current task, which ends when cancelled, unless the board hangs.
        boards = [board for board in self._names if board not in self._hanging]
        closing = [self._submit("close", close_board, board) for board in boards]
        until = time.monotonic() + _CLOSE_S
        while not all(future.done() for future in closing) and time.monotonic() < until:
            time.sleep(_NAP_S)

    def _give_up(self, future: Future, board: str) -> None:
        """Cancel a task whose board may hang."""
        future.release()
        self._hanging.add(board)

    def result(self) -> Spread:
        self._journal.remove()
        kept = [kept for _, kept in sorted(self._parts.answers.items())]
        # An earlier call may have used other boards.
        boards = dict.fromkeys([*self._names, *(one.board for one in kept if one.board)])
        shares = tuple(self._share(board, kept) for board in boards)
        return Spread(
            [one.scores for one in kept], shares, self._agreed.kind, self._agreed.runtime, self._parts.resumed
        )

    def _share(self, board: str, kept: Sequence[Kept]) -> BoardShare:
        own = [one for one in kept if one.board == board]
        seconds = sum(one.inference_s for one in own)
        return BoardShare(board, sum(len(one.scores) for one in own), seconds, self._reasons.get(board))


def _canary(parts: int, read: Callable[[int], np.ndarray]) -> tuple[np.ndarray, ...]:
    """The first CANARY_IMAGES images, in up to _CANARY_PARTS parts. Raises EdgemobileError if there are none."""
    found: list[np.ndarray] = []
    for number in range(parts):
        found += list(read(number))
        if len(found) >= CANARY_IMAGES:
            break
    if not found:
        raise EdgemobileError("no image can be read")
    images = np.stack(found[:CANARY_IMAGES])
    return tuple(np.array_split(images, min(_CANARY_PARTS, len(images))))


def _is_of_dask(error: BaseException) -> bool:
    """Whether an error of Dask itself: it lost the worker or the task."""
    return type(error).__module__.startswith(("distributed", "dask", "asyncio", "concurrent"))
