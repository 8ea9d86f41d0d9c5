"""Atomic writes of files, flushed to disk on request: after a power cut there is either the old file or the new one."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgemobile.errors import EdgemobileError

__all__ = ["partial_file", "replace_synced", "sync_entries", "sync_folder", "write_whole"]


def write_whole(path: Path, text: str) -> None:
    """Replace `path` by UTF-8 `text` atomically: a reader finds either the old text or the new.

    A link keeps its target. A pipe or a terminal has no old text to lose and is written to directly.
    Raises EdgemobileError if it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        target = Path(os.path.realpath(path))
        with partial_file(target) as partial:
            partial.write_text(text, encoding="utf-8")
            replace_synced(partial, target)
    except OSError as error:
        remedy = ". Make room on its disk, or write to another" if error.errno == errno.ENOSPC else ""
        raise EdgemobileError(f"cannot write {path}: {error.strerror or error}{remedy}") from error


@contextmanager
def partial_file(target: Path) -> Iterator[Path]:
    """A new empty file next to `target`, to be filled and renamed to it; removed if it is still there at the end.

    It is locked meanwhile, so that the next writer of `target` can remove the file of a killed one. Raises OSError.
    """
    _remove_leftovers(target)
    handle = None
    while handle is None:
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
        try:
            handle = _created(partial)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)
        os.close(handle)


def _created(partial: Path) -> int | None:
    """The handle of a new file that holds its lock; None if it was removed as a leftover before it was locked."""
    handle = os.open(partial, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o666)
    if _lock(handle) is not False and os.fstat(handle).st_nlink:
        return handle
    os.close(handle)
    return None


def _remove_leftovers(target: Path) -> None:
    """Remove the partial files of `target` whose writers are dead. If files cannot be locked, none are removed."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.partial")
    with suppress(OSError):
        for path in [path for path in target.parent.iterdir() if ours.fullmatch(path.name) and path.is_file()]:
            handle = os.open(path, os.O_RDONLY)
            try:
                if _lock(handle):
                    path.unlink(missing_ok=True)
            finally:
                os.close(handle)


def _lock(handle: int) -> bool | None:
    """Lock an open file until it is closed; False if another process has it, None if files cannot be locked."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EAGAIN, errno.EACCES) else None
    return True


def replace_synced(partial: Path, target: Path) -> None:
    """Rename `partial` to `target` in the same folder, after its content was flushed to disk. Raises OSError."""
    # Without this a file system may carry out the renaming first, and a power cut leaves an empty file.
    _sync(partial)
    os.replace(partial, target)
    sync_entries(target.parent)


def sync_folder(folder: Path) -> None:
    """Flush all files below `folder`, and their names, to disk. Raises OSError."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_entries(path)
        elif path.is_file():
            _sync(path)
    sync_entries(folder)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_entries(folder: Path) -> None:
    """Flush the names in `folder` to disk, if the system can flush a folder: Windows cannot."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
