"""Locks between processes, released by the system when a process dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout

from edgemobile.errors import EdgemobileError

__all__ = ["locked", "try_lock"]


@contextmanager
def locked(path: Path, waiting: Callable[[], AbstractContextManager[object]] = nullcontext) -> Iterator[None]:
    """Hold the lock file `path`; while another process holds it, wait inside `waiting()`.

    Raises EdgemobileError if the file cannot be created.
    """
    lock = try_lock(path)
    if lock is None:
        lock = FileLock(path)
        with waiting():
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def try_lock(path: Path) -> FileLock | None:
    """The lock file `path`, locked; None if another process holds it. Raises EdgemobileError as `locked` does."""
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return None
    except OSError as error:
        raise EdgemobileError(f"cannot lock {path}: {error.strerror or error}") from error
    return lock
