"""Atomic writes of files, flushed to disk on request: after a power cut there is either the old file or the new one."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from edgemobile.errors import EdgemobileError

__all__ = ["replace_synced", "sync_folder", "write_whole"]


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
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            partial.write_text(text, encoding="utf-8")
            replace_synced(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        remedy = ". Make room on its disk, or write to another" if error.errno == errno.ENOSPC else ""
        raise EdgemobileError(f"cannot write {path}: {error.strerror or error}{remedy}") from error


def replace_synced(partial: Path, target: Path) -> None:
    """Rename `partial` to `target` in the same folder, with its content on the disk before. Raises OSError."""
    # Without this a file system may carry out the renaming first, and a power cut leaves an empty file.
    _sync(partial)
    os.replace(partial, target)
    _sync_entries(target.parent)


def sync_folder(folder: Path) -> None:
    """Flush the files in `folder`, and their names, to disk. Raises OSError."""
    for path in folder.iterdir():
        if path.is_file():
            _sync(path)
    _sync_entries(folder)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_entries(folder: Path) -> None:
    """Flush the names in `folder` to disk, if the system can flush a folder: Windows cannot."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
