"""Work folders: a new folder is completed next to its final name, with a lock that shows whether its maker lives."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from edgemobile.errors import EdgemobileError
from edgemobile.util.locking import try_lock

__all__ = ["LOCK", "abandoned_work", "new_work", "work_prefix"]

LOCK = "lock"


def work_prefix(out: Path) -> str:
    """How the names of work folders for `out` begin."""
    return f".{out.name}.work-"


def new_work(out: Path) -> tuple[Path, FileLock]:
    """A new folder next to `out`, and the lock in it, which shows other runs that it is in use.

    Raises OSError, or EdgemobileError if the lock cannot be created.
    """
    while True:
        work = Path(tempfile.mkdtemp(prefix=work_prefix(out), dir=out.parent))
        try:
            lock = try_lock(work / LOCK)
        except EdgemobileError:
            # Before it was locked, another run may have removed it as a leftover.
            if not work.exists():
                continue
            with suppress(OSError):
                work.rmdir()
            raise
        except BaseException:
            _remove_empty(work)
            raise
        if lock is not None and (work / LOCK).exists():
            return work, lock


def abandoned_work(out: Path) -> Iterator[Path]:
    """The work folders that killed runs left next to `out`, each locked while it is the current one."""
    try:
        works = [path for path in out.parent.iterdir() if path.name.startswith(work_prefix(out)) and path.is_dir()]
    except OSError:
        return
    for work in works:
        with suppress(EdgemobileError, OSError):
            lock = try_lock(work / LOCK)
            if lock is None:
                continue
            try:
                yield work
            finally:
                lock.release()


def _remove_empty(work: Path) -> None:
    with suppress(OSError):
        (work / LOCK).unlink(missing_ok=True)
        os.rmdir(work)
