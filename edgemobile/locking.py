"""Locks between processes, which the system releases when a process dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from edgemobile.errors import EdgemobileError

__all__ = ["locked", "try_lock"]


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file `path`; where another process holds it, call `on_wait` and wait.

    Raises EdgemobileError where no file can be made there.
    """
    lock = try_lock(path)
    if lock is None:
        on_wait()
        lock = FileLock(path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def try_lock(path: Path) -> FileLock | None:
    """The lock file `path`, held; None where another process holds it. Raises EdgemobileError as `locked` does."""
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return None
    except OSError as error:
        raise EdgemobileError(f"cannot lock {path}: {error.strerror or error}") from error
    return lock
