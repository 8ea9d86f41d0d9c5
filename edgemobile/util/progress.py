"""The interface for progress of long work, independent of how it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["Progress", "Report", "Silent", "unheard"]


class Report(Protocol):
    """Report how much of a step is done; `total` if it only became known now."""

    def __call__(self, done: int, total: int | None = None) -> None: ...


def unheard(done: int, total: int | None = None) -> None:
    """A Report that ignores everything."""


class Progress(Protocol):
    def step(self, title: str, total: int | None = None) -> AbstractContextManager[Report]:
        """Begin a step; the context gives a function to call with how much of `total` is done."""
        ...


class Silent:
    """Shows nothing: for use as a library, `--quiet` and pipes."""

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Report]:
        yield unheard
