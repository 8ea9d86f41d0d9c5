"""Unpacks wheels on the board:
`python -m edgemobile.devices.board.unpack RUNTIME MODULE MARKER ATTEMPT [WHEEL SHA256]...`

The wheels are in wheels/ATTEMPT, which no other attempt uses. They and partly unpacked files are removed afterwards,
whether it succeeds or fails. A lock serializes attempts, and one that finds the work done changes nothing. A folder
becomes runtimes/RUNTIME only once MODULE could be imported from it; MARKER, the list of its packages, is written last.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import shutil
import signal
import sys
import time
import traceback
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from edgemobile.errors import EdgemobileError

__all__ = ["NO_SPACE", "NO_START", "main"]

# Exit codes, besides 0 and Python's own 1.
NO_SPACE, NO_START = 3, 4
_OLD_WHEELS_S = 86400


def main(argv: Sequence[str]) -> int:
    """Works in the current folder, the board's root."""
    # The host imports this module for its exit codes, and its system may not have fcntl.
    import fcntl

    runtime, module, marker, attempt, *wheels = argv
    try:
        with open("lock-setup", "a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _put_there(runtime, module, marker, attempt, wheels)
    except EdgemobileError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return NO_SPACE
    finally:
        shutil.rmtree(f"wheels/{attempt}", ignore_errors=True)


def _put_there(runtime: str, module: str, marker: str, attempt: str, wheels: Sequence[str]) -> int:
    target, marked = Path("runtimes", runtime), Path("runtimes", f"{runtime}.json")
    partial, old, new_marker = (
        Path("runtimes", f"{runtime}.{attempt}.{end}") for end in ("partial", "old", "json.partial")
    )
    target.parent.mkdir(exist_ok=True)
    _sweep(attempt)
    with suppress(FileNotFoundError):
        if marked.read_text(encoding="utf-8") == marker:
            return 0
    try:
        for name, sha256 in zip(wheels[::2], wheels[1::2]):  # noqa: B905  # strict= came with Python 3.10
            _unpack(Path("wheels", attempt, name), sha256, partial)
        if not _starts(module, partial):
            return NO_START
        # Written before anything is moved, since the disk may be full, and synced, so that after a power cut there is
        # never a marker for an incomplete runtime.
        new_marker.write_text(marker, encoding="utf-8")
        os.sync()
        with suppress(FileNotFoundError):
            marked.unlink()
        with suppress(FileNotFoundError):
            target.rename(old)
        partial.rename(target)
        os.sync()
        new_marker.rename(marked)
    finally:
        for path in (partial, old, new_marker):
            _remove(path)
    return 0


def _unpack(wheel: Path, sha256: str, folder: Path) -> None:
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != sha256:
        raise EdgemobileError(f"{wheel.name} arrived damaged")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)


def _starts(module: str, folder: Path) -> bool:
    """Whether `module` can be imported from `folder`: in a child, because an unsuitable wheel may kill its process.

    The child is forked, because under emulation this process cannot start another program.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.path.insert(0, str(folder.absolute()))
            importlib.import_module(module)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        print(f"{signal.Signals(os.WTERMSIG(status)).name} while importing {module}", file=sys.stderr)
    return status == 0


def _sweep(attempt: str) -> None:
    """Remove leftovers of interrupted attempts. Only the process with the lock uses runtimes/; wheels that are a day
    old are no longer needed.
    """
    for path in Path("runtimes").iterdir():
        if path.suffix in (".partial", ".old"):
            _remove(path)
    for path in Path("wheels").iterdir():
        with suppress(FileNotFoundError):
            if path.name != attempt and time.time() - path.stat().st_mtime > _OLD_WHEELS_S:
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
