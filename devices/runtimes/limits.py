"""Limits on the memory and time of code that runs a model file, and checks that a process is alive."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = [
    "MEMORY_BYTES",
    "OWNER_VARIABLE",
    "TIMED_OUT",
    "end_with_parent",
    "identity",
    "limit_memory",
    "limit_time",
    "owner_is_gone",
]

# In addition to the memory of the interpreter and the runtime. A MobileNet at 224 px needs 50 MiB.
MEMORY_BYTES, _MEMORY_OF_FILE = 3 * 2**30, 30
# In the environment of a worker on the host's own machine: the identity of the host's process.
OWNER_VARIABLE = "EDGEMOBILE_OWNER"
# The beginning of faulthandler's message in the log of a process that it ended.
TIMED_OUT = "Timeout ("
# linux/prctl.h
_PR_SET_PDEATHSIG = 1


def limit_memory(file_bytes: int) -> None:
    """Limit this process to 3 GiB and 30 times the file's size beyond its current memory, if the system can.

    The limit is on address space: it does not change how fast anything runs.
    """
    try:
        import resource
    except ImportError:
        return
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = taken + MEMORY_BYTES + _MEMORY_OF_FILE * file_bytes
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    # Only the soft limit: another file may be opened later.
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextmanager
def limit_time(seconds: float) -> Iterator[None]:
    """End this process, with a traceback on standard error, if the block takes longer, even inside native code."""
    if sys.__stderr__ is not None:
        with suppress(OSError, ValueError, RuntimeError):
            faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, the process that started it, ends. Only on Linux."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def identity(pid: int) -> str | None:
    """The id and the start time of a process, since ids are reused; None if it is not running."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            state, *others = file.read().rpartition(")")[2].split()
        return None if state in "ZX" else f"{pid}:{others[18]}"
    except (OSError, IndexError):
        pass
    if os.path.exists("/proc/self/stat"):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return f"{pid}:"


def owner_is_gone() -> bool:
    """Whether the process that the environment names as the owner of this one has ended."""
    owner = os.environ.get(OWNER_VARIABLE, "")
    pid = owner.partition(":")[0]
    return pid.isdigit() and identity(int(pid)) != owner
