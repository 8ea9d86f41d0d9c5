"""Disk faults below a folder: disk.c counts the calls that change files there, and makes one of them fail."""

from __future__ import annotations

import atexit
import ctypes
import errno
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CALLS", "FAULTS", "Fault", "Point", "counts", "load_and_restart", "lost_by_a_power_cut", "watch"]

CALLS = ("create", "write", "fsync", "rename", "remove")


@dataclass(frozen=True)
class Fault:
    """What happens at a call: an `errno`, or a `signal` to the process."""

    name: str
    errno: int = 0
    signal: int = 0
    calls: tuple[str, ...] = CALLS

    @property
    def words(self) -> str:
        """What an error has to say of it."""
        return os.strerror(self.errno) if self.errno else ""


# ENOSPC and EROFS last until the end of the process, as a full disk and one that was mounted read-only do.
FAULTS = (
    Fault("ENOSPC", errno=errno.ENOSPC, calls=("create", "write", "fsync", "rename")),
    Fault("EIO", errno=errno.EIO),
    Fault("EROFS", errno=errno.EROFS, calls=("create", "write", "rename", "remove")),
    Fault("SIGTERM", signal=signal.SIGTERM),
    Fault("SIGKILL", signal=signal.SIGKILL),
)


@dataclass(frozen=True)
class Point:
    """`fault` at the `index`th `call`, from 1."""

    call: str
    index: int
    fault: Fault

    def __str__(self) -> str:
        return f"{self.fault.name} at {self.call} {self.index}"


def load_and_restart() -> None:
    """Build disk.c and start this program again with it, unless it is loaded. Exits if it cannot be built."""
    if hasattr(ctypes.CDLL(None), "disk_watch"):
        atexit.register(Path(os.environ["LD_PRELOAD"]).unlink)
        return
    source = Path(__file__).with_name("disk.c")
    library = Path(os.environ.get("TMPDIR", "/tmp"), f"edgemobile-disk-{os.getpid()}.so")
    try:
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"cannot build {source}: {error}. Install gcc and libc6-dev, on Linux")
    os.environ["LD_PRELOAD"] = str(library)
    os.execv(sys.executable, [sys.executable, *sys.argv])


def watch(folder: Path, trace: int = -1, point: Point | None = None) -> None:
    """Count from here the calls of this process below `folder`, told to the file descriptor `trace`, with a fault."""
    library = ctypes.CDLL(None)
    library.disk_watch(os.fsencode(folder), trace)
    if point is not None:
        fault = point.fault
        call = CALLS.index(point.call)
        library.disk_fail(call, ctypes.c_long(point.index), fault.signal or fault.errno, int(bool(fault.signal)))


def counts() -> dict[str, int]:
    """call -> how often it was made since `watch`."""
    return {name: int(ctypes.CDLL(None).disk_count(index)) for index, name in enumerate(CALLS)}


def lost_by_a_power_cut(trace: str, seen: set[str]) -> list[str]:
    """What a power cut could spoil, by the order of calls in `trace`. `seen` are the paths that users look at.

    A file system may carry out a rename before it writes what is in the file, unless that was synced before; and the
    rename itself may get lost unless its folder is synced after it.
    """
    dirty: set[str] = set()
    names: dict[str, str] = {}
    found = []
    for line in trace.splitlines():
        call, path, other = line.split("\t")
        if call in ("create", "write"):
            dirty.add(path)
        if call == "create":
            dirty.add(str(Path(path).parent))
        if call == "fsync":
            dirty.discard(path)
            names.pop(path, None)
        if call == "rename":
            early = sorted(one for one in dirty if one == path or one.startswith(f"{path}/"))
            found += [f"{one} was renamed to {other} before it was synced" for one in early if other in seen]
            moved = {one: other + one[len(path) :] for one in early}
            dirty = {moved.get(one, one) for one in dirty}
            if other in seen:
                names[str(Path(other).parent)] = other
    return found + [f"the new name {name} was not synced" for name in names.values()]
