"""Work folders: a new folder is completed next to its final name, with a lock that shows whether its process is still
running.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from edgemobile.errors import EdgemobileError
from edgemobile.util.locking import try_lock

__all__ = ["LOCK", "abandoned_work", "new_work", "work_path"]

LOCK = "lock"


def work_path(out: Path) -> Path:
    """A name next to `out` for a work folder."""
    return out.with_name(f"{_prefix(out)}{secrets.token_hex(4)}")


def new_work(out: Path) -> tuple[Path, FileLock]:
    """A new folder next to `out`, and the lock in it, which shows other runs that it is in use.

    Raises OSError, or EdgemobileError if the lock cannot be created.
    """
    while True:
        work = work_path(out)
        try:
            # Not tempfile.mkdtemp: an interruption before it returns leaves a folder whose name is unknown.
            work.mkdir(mode=0o700)
            lock = try_lock(work / LOCK)
        except BaseException as error:
            # Before it was locked, another run may have removed it as a leftover.
            if isinstance(error, EdgemobileError) and not work.exists():
                continue
            with suppress(OSError):
                (work / LOCK).unlink(missing_ok=True)
                work.rmdir()
            raise
        if lock is not None and (work / LOCK).exists():
            return work, lock


def _prefix(out: Path) -> str:
    return f".{out.name}.work-"


def abandoned_work(out: Path) -> Iterator[Path]:
    """The work folders that killed runs left next to `out`, each locked while it is the current one."""
    try:
        works = [path for path in out.parent.iterdir() if path.name.startswith(_prefix(out)) and path.is_dir()]
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
