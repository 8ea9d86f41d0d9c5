"""How long work tells how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["Progress", "Report", "Silent", "unheard"]


class Report(Protocol):
    """How much of a step is done; `total` where it became known only now."""

    def __call__(self, done: int, total: int | None = None) -> None: ...


def unheard(done: int, total: int | None = None) -> None:
    """A Report to nobody."""


class Progress(Protocol):
    def step(self, title: str, total: int | None = None) -> AbstractContextManager[Report]:
        """A step begins; the context gives a function to call with how much of `total` is done."""
        ...


class Silent:
    """Nobody listens: library use, `--quiet`, a pipe."""

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Report]:
        yield unheard
