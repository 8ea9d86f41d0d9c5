"""Spreads the images of one file over boards: each is answered once, by a board that can be trusted.

All boards first answer the same images, the canary. Boards whose outputs differ from those of most others are set
aside, and so is every board that fails, does not answer, or later answers a part of the canary in another way; what it
had to do goes to another one. A board that once answered wrongly is not trusted with what it answered before, either.
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

# One of the parts is asked again with every task: 2 % of its images, 6 % of a short one's.
CANARY_IMAGES, _CANARY_PARTS = 16, 8
# Boards that have not opened the file so long after the first one did are set aside.
_OPEN_S = 60.0
# A board this many times slower than usual: its images also go to an idle one, and whoever is first has answered.
_SLOW, _LEAST_SLOW_S = 3.0, 5.0
_LOOK_S, _NAP_S, _LOOK_AT_WORKERS_S, _CLOSE_S = 0.5, 0.01, 2.0, 5.0
# For the outputs of a task to come from the worker.
_RESULT_S = 60.0


@dataclass(frozen=True)
class BoardShare:
    """What a board contributed: the images that count, and their time there. `set_aside` is the reason, if it was."""

    board: str
    images: int
    inference_s: float
    set_aside: str | None = None


@dataclass(frozen=True)
class Spread:
    """`scores` f32[n,outputs] of each part. `resumed` images were answered before an earlier call was interrupted."""

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
    # It was sent to an idle board because another one is slow with it.
    is_copy: bool = False


def spread(
    client: Client,
    boards: Sequence[str],
    work: Work,
    parts: int,
    read: Callable[[int], np.ndarray],
    report: Report,
) -> Spread:
    """Have the `parts` answered, each f32[n,px,px,3] with any n >= 0 as `read` gives it, by the workers `boards`.

    What is answered is kept on disk until all is: a call that is interrupted is resumed by the same call.
    Raises EdgemobileError as `agree` does, DeviceUnreachable when no board is left.
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
        self._aside: dict[str, str] = {}
        self._sent: dict[Future, _Sent] = {}
        # Of finished tasks, per image.
        self._image_s: list[float] = []
        self._tasks = 0
        self._looked = time.monotonic()
        # Boards that may hang in a task, which closes what is open there when it notices that nobody waits for it.
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
            raise self._nobody_left(0)
        self._agreed = agree({board: opened[board] for board in self._live})
        for board, how in self._agreed.others.items():
            self._set_aside(board, how)
        work, agreed = self._work, self._agreed
        self._journal = Journal([work.file.sha256, agreed.runtime, work.threads, agreed.kind], agreed.canary)
        self._parts = Parts(count, read, work.outputs, self._journal)

    # -- the images

    def answer(self, report: Report) -> None:
        """Have all parts answered."""
        while not self._parts.all_answered:
            if not self._live:
                raise self._nobody_left(self._parts.images)
            is_reading = self._send()
            for future in self._finished(self._sent, 0.0 if is_reading else _LOOK_S):
                # Another board may have been faster with the same task just now.
                if future in self._sent:
                    self._take(future)
            self._copy_what_is_late()
            report(self._parts.images)

    def _send(self) -> bool:
        """Give every idle board a task, and read the images of one more while all are at work, if there are some."""
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
        """Count what a board answered, or set it aside."""
        sent = self._sent.pop(future)
        found: Answered | None = self._outcome(future, sent.board)
        if found is None:
            self._again(sent.task)
        elif found.canary.tobytes() != self._agreed.canary[sent.canary].tobytes():
            words = difference([found.canary], [self._agreed.canary[sent.canary]], "what it gave before")
            self._set_aside(sent.board, f"{words}; nothing that it answered counts")
            self._parts.distrust(sent.board)
            self._again(sent.task)
        else:
            self._count(sent, found)

    def _count(self, sent: _Sent, found: Answered) -> None:
        took = time.monotonic() - sent.at
        self._image_s.append(took / sent.task.count)
        self._parts.count(sent.task, sent.board, found)
        # The other way round, a copy that is slower than the first is left to end: its board is as good as any.
        slower = [future for future, one in self._sent.items() if sent.is_copy and one.task is sent.task]
        for future in slower:
            late = self._sent.pop(future)
            self._give_up(future, late.board)
            waited = time.monotonic() - late.at
            words = f"it had not answered {late.task.count} images after {waited:.0f} s"
            self._set_aside(late.board, f"{words}, which {sent.board} did in {took:.1f} s")

    def _again(self, task: Task) -> None:
        """What another board has to do, unless one does already."""
        if not any(sent.task is task for sent in self._sent.values()):
            self._parts.again(task)

    def _copy_what_is_late(self) -> None:
        """Send what a slow board has to an idle one too, once there is nothing else to do."""
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
        """`function` as a task of the worker of `board`: Dask cannot know which of them hangs, or lies."""
        key = f"{what}-{uuid.uuid4().hex}"
        return self._client.submit(
            function, self._token, board, *words, key=key, workers=[board], allow_other_workers=False, pure=False
        )

    def _finished(self, futures: Mapping[Future, Any], wait_s: float) -> list[Future]:
        """Those that are done, after waiting a moment for one. Raises DeviceUnreachable if the scheduler is gone."""
        # Not distributed.wait, which waits for ever where the scheduler was lost at the wrong moment.
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
                self._again(self._sent.pop(future).task)
                self._give_up(future, board)

    def _outcome(self, future: Future, board: str) -> Any | None:
        """What a task returned; None if it failed, which sets its board aside. Raises what is a bug of ours."""
        reason = "its Dask worker is gone"
        until = time.monotonic() + _RESULT_S
        while time.monotonic() < until:
            try:
                return future.result(timeout=_LOOK_AT_WORKERS_S)
            except EdgemobileError as error:
                reason = str(error)
            except TimeoutError:
                # What it returned comes by way of the scheduler.
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
            self._aside[board] = words
            _LOG.warning("%s is set aside: %s", board, words)

    def _nobody_left(self, images: int) -> EdgemobileError:
        reasons = "; ".join(f"{board}: {reason}" for board, reason in self._aside.items())
        kept = f". {images} images are answered and kept: repeat the command to go on with them" if images else ""
        return DeviceUnreachable(f"no board is left: {reasons}{kept}")

    # -- the end

    def close(self) -> None:
        """Close what is open on the boards, if they answer at once, and forget what nobody waits for."""
        for future in self._sent:
            future.release()
        # A worker closes after what it is at, which notices that nobody waits for it, unless its board hangs.
        boards = [board for board in self._names if board not in self._hanging]
        closing = [self._submit("close", close_board, board) for board in boards]
        until = time.monotonic() + _CLOSE_S
        while not all(future.done() for future in closing) and time.monotonic() < until:
            time.sleep(_NAP_S)

    def _give_up(self, future: Future, board: str) -> None:
        """Do not wait for a task any more."""
        future.release()
        self._hanging.add(board)

    def result(self) -> Spread:
        self._journal.remove()
        kept = [kept for _, kept in sorted(self._parts.answers.items())]
        # An earlier call may have had other boards.
        boards = dict.fromkeys([*self._names, *(one.board for one in kept if one.board)])
        shares = tuple(self._share(board, kept) for board in boards)
        return Spread(
            [one.scores for one in kept], shares, self._agreed.kind, self._agreed.runtime, self._parts.resumed
        )

    def _share(self, board: str, kept: Sequence[Kept]) -> BoardShare:
        own = [one for one in kept if one.board == board]
        seconds = sum(one.inference_s for one in own)
        return BoardShare(board, sum(len(one.scores) for one in own), seconds, self._aside.get(board))


def _canary(parts: int, read: Callable[[int], np.ndarray]) -> tuple[np.ndarray, ...]:
    """The first images, in a few parts. Raises EdgemobileError if there are none."""
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
    """Whether an error says that Dask lost the worker, or the task."""
    return type(error).__module__.startswith(("distributed", "dask", "asyncio", "concurrent"))
