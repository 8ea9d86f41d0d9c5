"""The parts of an evaluation: which are answered, and which to send next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from edgemobile.devices.fleet.board import Answered
from edgemobile.devices.fleet.journal import Journal, Kept, part_name

__all__ = ["Parts", "Task"]

# Tasks are large, so that their overhead is small. The last ones are smaller, so that all boards finish together.
_MOST_PARTS, _MOST_BYTES, _LEFT_PER_BOARD = 4, 16 * 2**20, 2


@dataclass(frozen=True)
class Task:
    """Parts to answer, by number, with their images f32[n,px,px,3]."""

    parts: tuple[int, ...]
    images: tuple[np.ndarray, ...] = field(repr=False)

    @property
    def count(self) -> int:
        return sum(map(len, self.images))


class Parts:
    """`count` parts and their answers, which are also stored in `journal`.

    `read` returns the images of a part, f32[n,px,px,3] with n >= 0. `resumed` is the number of images that an earlier,
    interrupted call has answered.
    """

    def __init__(self, count: int, read: Callable[[int], np.ndarray], outputs: int, journal: Journal) -> None:
        self.answers: dict[int, Kept] = {}
        self.resumed = 0
        self._count, self._read, self._outputs, self._journal = count, read, outputs, journal
        self._unread = deque(range(count))
        self._ready: deque[Task] = deque()
        self._written: set[str] = set()

    @property
    def all_answered(self) -> bool:
        return len(self.answers) == self._count

    @property
    def all_sent(self) -> bool:
        return not self._unread and not self._ready

    @property
    def images(self) -> int:
        """The number of images in the answered parts."""
        return sum(len(kept.scores) for kept in self.answers.values())

    def is_answered(self, task: Task) -> bool:
        return all(number in self.answers for number in task.parts)

    # -- tasks

    def next(self, boards: int) -> Task | None:
        """The next task, with a size for this number of boards; None if there is none now."""
        return self._ready.popleft() if self._ready else self._read_task(boards)

    def read_ahead(self, boards: int) -> bool:
        """Read the images of one more task, up to one per board; returns whether there was one to read."""
        task = self._read_task(boards) if len(self._ready) < boards else None
        if task is not None:
            self._ready.append(task)
        return task is not None

    def retry(self, task: Task) -> None:
        """Make a task whose board failed the next one."""
        if not self.is_answered(task):
            self._ready.appendleft(task)

    def _read_task(self, boards: int) -> Task | None:
        """A task of the next parts without an answer."""
        numbers: list[int] = []
        images: list[np.ndarray] = []
        size = 0
        most = max(1, min(_MOST_PARTS, len(self._unread) // (_LEFT_PER_BOARD * boards)))
        while self._unread and len(numbers) < most and size < _MOST_BYTES:
            number = self._unread.popleft()
            part = self._read(number)
            if not self._is_known(number, part):
                numbers.append(number)
                images.append(part)
                size += part.nbytes
        return Task(tuple(numbers), tuple(images)) if numbers else None

    def _is_known(self, number: int, part: np.ndarray) -> bool:
        """Whether a part has no images, or was answered before."""
        name, nothing = part_name(part), Kept("", np.zeros((0, self._outputs), np.float32), 0.0)
        kept = self._journal.get(name, len(part), self._outputs) if len(part) else nothing
        if kept is None:
            return False
        self.answers[number] = kept
        # Two parts may have the same images.
        self.resumed += 0 if name in self._written else len(part)
        return True

    # -- answers

    def count(self, task: Task, board: str, found: Answered) -> None:
        """Store the answers of a board, except to parts that another board answered first."""
        for number, images, scores, seconds in zip(
            task.parts, task.images, found.scores, found.inference_s, strict=True
        ):
            if number not in self.answers:
                self.answers[number] = Kept(board, scores, seconds)
                self._written.add(name := part_name(images))
                self._journal.put(name, self.answers[number])

    def distrust(self, board: str) -> None:
        """Discard all answers of a board, including those of an earlier call, and queue their parts again."""
        self._journal.forget(board)
        wrong = [number for number, kept in self.answers.items() if kept.board == board]
        for number in wrong:
            del self.answers[number]
        self._unread.extend(wrong)
