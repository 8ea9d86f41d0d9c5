"""Renaming without loss: never overwrites, or exchanges two names, atomically if the system supports it."""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["exchange", "rename_onto_nothing"]

# linux/fs.h and fcntl.h
_NOREPLACE, _EXCHANGE, _AT_FDCWD = 1, 2, -100
# Errors of a kernel or a file system without renameat2.
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def rename_onto_nothing(source: Path, target: Path) -> None:
    """Raises FileExistsError if `target` exists, even as an empty folder."""
    if _renameat2(source, target, _NOREPLACE):
        return
    # Windows refuses this. POSIX replaces an empty folder, so an empty folder created here reserves the name.
    if os.name == "posix":
        target.mkdir()
    try:
        source.rename(target)
    except OSError as error:
        with suppress(OSError):
            target.rmdir()
        if error.errno == errno.ENOTEMPTY:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names atomically; False if the system cannot."""
    return _renameat2(one, other, _EXCHANGE)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """False if the system has no such call. Raises OSError if it fails."""
    call = _libc_renameat2()
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(target))


@cache
def _libc_renameat2() -> Any:
    if os.name != "posix":
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
