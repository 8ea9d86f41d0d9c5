"""How long work tells how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["Progress", "Silent"]


class Progress(Protocol):
    def step(self, title: str, total: int | None = None) -> AbstractContextManager[Callable[[int], None]]:
        """A step begins; the context gives a function to call with how much of `total` is done."""
        ...


class Silent:
    """Nobody listens: library use, `--quiet`, a pipe."""

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        yield lambda done: None
