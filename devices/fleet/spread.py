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
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemobile.devices.fleet.board import Answered, Opened, answer, close_board, open_board
from edgemobile.devices.fleet.cluster import worker_names
from edgemobile.devices.fleet.journal import Journal, Kept, part_name
from edgemobile.devices.host.transport import DeviceUnreachable
from edgemobile.errors import EdgemobileError, in_a_line
from edgemobile.model_file.model_file import ModelFile
from edgemobile.util.progress import Report

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["CANARY_IMAGES", "BoardShare", "Spread", "spread"]

_LOG = logging.getLogger(__name__)

# A quarter of them are asked again with every task: a few percent of its images.
CANARY_IMAGES, _CANARY_PARTS = 16, 4
# A task is long enough that starting one costs little, and short enough that the last ones end together.
_TASK_PARTS, _TASK_BYTES, _TASKS_PER_BOARD = 4, 16 * 2**20, 3
# Boards that have not opened the file so long after the first one did are set aside.
_OPEN_S = 60.0
# A board this many times slower than usual: its images also go to an idle one, and whoever is first has answered.
_SLOW, _LEAST_SLOW_S = 3.0, 5.0
_LOOK_S, _LOOK_AT_WORKERS_S, _CLOSE_S = 0.5, 2.0, 5.0


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
class _Task:
    """Parts to answer, by number. Their images are there until it is answered."""

    parts: tuple[int, ...]
    images: tuple[np.ndarray, ...] = field(repr=False)

    @property
    def count(self) -> int:
        return sum(map(len, self.images))


@dataclass(frozen=True)
class _Sent:
    task: _Task
    board: str
    canary: int
    at: float
    # It was sent to an idle board because another one is slow with it.
    is_copy: bool = False


def spread(
    client: Client,
    boards: Sequence[str],
    file: ModelFile,
    runtime: str,
    threads: int,
    outputs: int,
    parts: int,
    read: Callable[[int], np.ndarray],
    report: Report,
) -> Spread:
    """Have the `parts` answered, each f32[n,px,px,3] with any n >= 0 as `read` gives it, by the workers `boards`.

    What is answered is kept on disk until all is: a call that is interrupted is resumed by the same call.
    Raises EdgemobileError for boards of several kinds and for a canary without a majority, DeviceUnreachable when no
    board is left.
    """
    run = _Run(client, boards, file, runtime, threads, outputs, parts, read, report)
    try:
        run.open()
        run.answer()
    finally:
        run.close()
    return run.result()


class _Run:
    def __init__(
        self,
        client: Client,
        boards: Sequence[str],
        file: ModelFile,
        runtime: str,
        threads: int,
        outputs: int,
        parts: int,
        read: Callable[[int], np.ndarray],
        report: Report,
    ) -> None:
        self._client, self._names = client, tuple(boards)
        self._file, self._runtime, self._threads, self._outputs = file, runtime, threads, outputs
        self._parts, self._read, self._report = parts, read, report
        self._token = uuid.uuid4().hex[:12]
        self._live = list(boards)
        self._aside: dict[str, str] = {}
        self._canary = _canary(parts, read)
        self._expected: tuple[np.ndarray, ...] = ()
        # What the boards are, and their runtime with its version.
        self._kind = self._found = ""
        self._journal: Journal | None = None
        self._kept: dict[int, Kept] = {}
        self._written: set[str] = set()
        self._resumed = 0
        self._sent: dict[Future, _Sent] = {}
        self._unread = deque(range(parts))
        self._ready: deque[_Task] = deque()
        # Of finished tasks, per image.
        self._image_s: list[float] = []
        self._tasks = 0
        self._looked = time.monotonic()
        # Boards that may hang in a task. It closes what is open there when it notices that it was cancelled.
        self._hanging: set[str] = set()

    # -- the canary

    def open(self) -> None:
        """Open the file on all boards, and find those that agree."""
        asked = {
            self._submit(
                "open", open_board, board, self._file, self._runtime, self._threads, self._outputs, self._canary
            ): board
            for board in self._live
        }
        opened: dict[str, Opened] = {}
        until = float("inf")
        while any(board in self._live for board in asked.values()) and time.monotonic() < until:
            for future in self._finished(asked, _LOOK_S):
                board = asked.pop(future)
                if (found := self._outcome(future, board)) is not None:
                    opened[board] = found
                    until = min(until, time.monotonic() + _OPEN_S)
        for future, board in asked.items():
            self._cancel(future, board)
            self._set_aside(board, f"it did not answer the first images within {_OPEN_S:.0f} s of the first board")
        self._agree({board: opened[board] for board in self._live if board in opened})

    def _agree(self, opened: Mapping[str, Opened]) -> None:
        if not opened:
            raise self._nobody_left()
        kinds = _groups({board: one.kind for board, one in opened.items()})
        if len(kinds) > 1:
            listed = "; ".join(f"{kind}: {', '.join(boards)}" for kind, boards in kinds.items())
            raise EdgemobileError(
                f"the boards are of {len(kinds)} kinds, whose kernels may give other outputs. One evaluation takes "
                f"boards of one kind; name those of one: {listed}"
            )
        (self._kind,) = kinds
        runtimes = _groups({board: one.runtime for board, one in opened.items()})
        for board in self._minority(runtimes, "have different runtimes"):
            self._set_aside(board, f"it has {opened[board].runtime}; most have {self._most(runtimes)}")
        left = {board: one for board, one in opened.items() if board in self._live}
        answers = _groups({board: tuple(part.tobytes() for part in one.canary) for board, one in left.items()})
        right = left[max(answers.values(), key=len)[0]]
        for board in self._minority(answers, "give different outputs for the same images"):
            self._set_aside(board, _difference(left[board].canary, right.canary, "those of most boards of its kind"))
        self._expected, self._found = right.canary, right.runtime
        about = [self._file.sha256, self._found, self._threads, self._kind]
        self._journal = Journal(about, self._expected)

    @staticmethod
    def _most(groups: Mapping[Any, Sequence[str]]) -> Any:
        return max(groups, key=lambda key: len(groups[key]))

    def _minority(self, groups: Mapping[Any, Sequence[str]], words: str) -> list[str]:
        """The boards outside of the largest group. Raises EdgemobileError if no group is the largest."""
        sizes = sorted(map(len, groups.values()), reverse=True)
        if len(sizes) > 1 and sizes[0] == sizes[1]:
            listed = " and ".join(", ".join(boards) for boards in groups.values())
            raise EdgemobileError(
                f"{listed} are of one kind ({self._kind}) and {words}, so one of them is wrong, and more boards of "
                "that kind would have to show which. Evaluate on each alone, or: edgemobile parity FILE FILE --on BOARD"
            )
        most = self._most(groups)
        return [board for key, boards in groups.items() if key != most for board in boards]

    # -- the images

    def answer(self) -> None:
        """Have all parts answered."""
        while len(self._kept) < self._parts:
            if not self._live:
                raise self._nobody_left()
            self._send()
            reading = self._unread and len(self._ready) < len(self._live)
            for future in self._finished(self._sent, 0.0 if reading else _LOOK_S):
                # A board that was slow with the same task may be done, too.
                if future in self._sent:
                    self._take(future)
            self._copy_what_is_late()

    def _send(self) -> None:
        """Give every idle board a task, and read images for the next ones while all are at work."""
        for board in self._idle():
            task = self._ready.popleft() if self._ready else self._next()
            if task is None:
                break
            self._start(task, board)
        if len(self._ready) >= len(self._live) or any(future.done() for future in self._sent):
            return
        if (task := self._next()) is not None:
            self._ready.append(task)

    def _idle(self) -> list[str]:
        busy = {sent.board for sent in self._sent.values()}
        return [board for board in self._live if board not in busy]

    def _next(self) -> _Task | None:
        """The next parts that nobody has answered yet."""
        numbers: list[int] = []
        images: list[np.ndarray] = []
        size = 0
        most = min(_TASK_PARTS, max(1, -(-self._parts // (_TASKS_PER_BOARD * len(self._live)))))
        while self._unread and len(numbers) < most and size < _TASK_BYTES:
            number = self._unread.popleft()
            part = self._read(number)
            if not self._known(number, part):
                numbers.append(number)
                images.append(part)
                size += part.nbytes
        return _Task(tuple(numbers), tuple(images)) if numbers else None

    def _known(self, number: int, part: np.ndarray) -> bool:
        """Whether a part has no images, or was answered before an earlier call was interrupted."""
        assert self._journal is not None
        name, nothing = part_name(part), Kept("", np.zeros((0, self._outputs), np.float32), 0.0)
        kept = self._journal.get(name, len(part), self._outputs) if len(part) else nothing
        if kept is None:
            return False
        self._kept[number] = kept
        # Two parts may have the same images.
        self._resumed += 0 if name in self._written else len(part)
        self._tell()
        return True

    def _start(self, task: _Task, board: str, *, is_copy: bool = False) -> None:
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
        elif found.canary.tobytes() != self._expected[sent.canary].tobytes():
            words = _difference([found.canary], [self._expected[sent.canary]], "what it gave before")
            self._set_aside(sent.board, f"{words}; nothing that it answered counts")
            self._distrust(sent.board)
            self._again(sent.task)
        else:
            self._count(sent, found)

    def _count(self, sent: _Sent, found: Answered) -> None:
        assert self._journal is not None
        took = time.monotonic() - sent.at
        self._image_s.append(took / sent.task.count)
        for number, images, scores, seconds in zip(
            sent.task.parts, sent.task.images, found.scores, found.inference_s, strict=True
        ):
            if number not in self._kept:
                self._kept[number] = Kept(sent.board, scores, seconds)
                self._written.add(name := part_name(images))
                self._journal.put(name, self._kept[number])
        self._tell()
        for other in [future for future, one in self._sent.items() if one.task is sent.task]:
            late = self._sent.pop(other)
            self._cancel(other, late.board)
            if sent.is_copy:
                waited = time.monotonic() - late.at
                self._set_aside(
                    late.board,
                    f"it had not answered {late.task.count} images after {waited:.0f} s, which {sent.board} did in "
                    f"{took:.1f} s",
                )

    def _distrust(self, board: str) -> None:
        assert self._journal is not None
        self._journal.forget(board)
        wrong = [number for number, kept in self._kept.items() if kept.board == board]
        for number in wrong:
            del self._kept[number]
        self._unread.extend(wrong)
        self._tell()

    def _again(self, task: _Task) -> None:
        """What another board has to do, unless one has it already."""
        if not any(sent.task is task for sent in self._sent.values()):
            self._ready.appendleft(task)

    def _copy_what_is_late(self) -> None:
        """Send what a slow board has to an idle one too, once there is nothing else to do for that."""
        if not self._image_s:
            return
        usual, now = statistics.median(self._image_s), time.monotonic()
        copied = {id(sent.task) for sent in self._sent.values() if sent.is_copy}
        late = [
            sent
            for sent in self._sent.values()
            if id(sent.task) not in copied and now - sent.at > max(_LEAST_SLOW_S, _SLOW * usual * sent.task.count)
        ]
        if self._ready or self._unread:
            return
        for sent, board in zip(sorted(late, key=lambda one: one.at), self._idle(), strict=False):
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
        from distributed import wait

        if not futures:
            return []
        try:
            if wait_s and not any(future.done() for future in futures):
                wait(list(futures), timeout=wait_s, return_when="FIRST_COMPLETED")
        except TimeoutError:
            pass
        except Exception as error:
            # Those of a worker that is gone; each of them says so itself.
            if not _is_of_dask(error):
                raise
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
                self._cancel(future, board)

    def _outcome(self, future: Future, board: str) -> Any | None:
        """What a task returned; None if it failed, which sets its board aside. Raises what is a bug of ours."""
        if future.status == "finished":
            return future.result()
        error = future.exception() if future.status == "error" else None
        if error is not None and not isinstance(error, EdgemobileError) and not _is_of_dask(error):
            raise error
        lost = f"Dask lost its task: {in_a_line(error)}" if error is not None else "its Dask worker is gone"
        self._set_aside(board, str(error) if isinstance(error, EdgemobileError) else lost)
        return None

    def _set_aside(self, board: str, reason: str) -> None:
        if board in self._live:
            self._live.remove(board)
            words = reason.removeprefix(f"{board}: ").removeprefix(f"{board} ")
            self._aside[board] = words
            _LOG.warning("%s is set aside: %s", board, words)

    def _nobody_left(self) -> EdgemobileError:
        reasons = "; ".join(f"{board}: {reason}" for board, reason in self._aside.items())
        images = sum(len(kept.scores) for kept in self._kept.values())
        kept = f". {images} images are answered and kept: repeat the command to go on with them" if images else ""
        return DeviceUnreachable(f"no board is left: {reasons}{kept}")

    def _tell(self) -> None:
        self._report(sum(len(kept.scores) for kept in self._kept.values()))

    # -- the end

    def close(self) -> None:
        """Close what is open on the boards, if they answer at once, and forget what nobody waits for."""
        from distributed import wait

        for future in self._sent:
            future.cancel()
        # A worker closes after what it is at, which notices that it was cancelled, unless its board hangs.
        boards = [board for board in self._names if board not in self._hanging]
        with suppress(TimeoutError, OSError):
            wait([self._submit("close", close_board, board) for board in boards], timeout=_CLOSE_S)

    def _cancel(self, future: Future, board: str) -> None:
        """Do not wait for a task any more."""
        future.cancel()
        self._hanging.add(board)

    def result(self) -> Spread:
        assert self._journal is not None
        self._journal.remove()
        kept = [self._kept[number] for number in range(self._parts)]
        # An earlier call may have had other boards.
        shares = [
            self._share(board, kept) for board in dict.fromkeys([*self._names, *(one.board for one in kept)]) if board
        ]
        return Spread([one.scores for one in kept], tuple(shares), self._kind, self._found, self._resumed)

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


def _groups(values: Mapping[str, Any]) -> dict[Any, list[str]]:
    """Value -> those that have it."""
    groups: dict[Any, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(value, []).append(name)
    return groups


def _difference(found: Sequence[np.ndarray], expected: Sequence[np.ndarray], whose: str) -> str:
    one, other = np.concatenate(found), np.concatenate(expected)
    if one.shape != other.shape:
        return f"it answered {list(one.shape)} values instead of {list(other.shape)}"
    count = int(np.sum(one.view(np.uint32) != other.view(np.uint32)))
    apart = np.abs(one.astype(np.float64) - other).max()
    return f"{count} of {one.size} outputs for the first images differ from {whose}, by up to {apart:.3g}"


def _is_of_dask(error: BaseException) -> bool:
    """Whether an error says that Dask lost the worker, or the task."""
    return type(error).__module__.startswith(("distributed", "dask", "asyncio", "concurrent"))
