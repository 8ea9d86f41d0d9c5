"""How the host reaches a board: runs commands, starts jobs that continue without the connection, copies files.

To add a transport: a file next to this one with a class with these methods, and a row in profiles.SCHEMES.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgemobile.errors import EdgemobileError

__all__ = ["Completed", "DeviceUnreachable", "Transport", "disk_full"]


class DeviceUnreachable(EdgemobileError):
    """The board does not answer, or the connection was lost."""

    exit_code = 4


@dataclass(frozen=True)
class Completed:
    """A finished command on the board."""

    returncode: int
    stdout: bytes
    stderr: bytes


def disk_full(root: str, *, movable: bool) -> str:
    """What to say of a board whose disk is full; a `movable` root can be named in the board's row."""
    also = ', or set a folder on another disk in its row (root = "/...")' if movable else ""
    return f"the disk of {root} is full. Make room there{also}"


class Transport(Protocol):
    """A connection to a board. Paths there are relative to `root`, the only folder that edgemobile uses on it.

    Every method raises DeviceUnreachable if the connection is lost; programs on the board continue.
    """

    emulated: bool

    @property
    def root(self) -> str:
        """The folder on the board; the first access may connect."""
        ...

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60, env: Mapping[str, str] = ...
    ) -> Completed:
        """Run a program in `root` and wait for it. Arguments are passed unchanged: no shell interprets them."""
        ...

    def start(self, argv: Sequence[str], *, log: str, env: Mapping[str, str] = ...) -> None:
        """Start a program in `root` that continues without the connection, with its output in the file `log`."""
        ...

    def put(self, source: Path | bytes, target: str, *, durable: bool = True) -> None:
        """Write a file whole or not at all; folders on the way are made. `durable` also through a power cut there."""
        ...

    def read(self, path: str, *, offset: int = 0, max_bytes: int) -> bytes | None:
        """At most `max_bytes` bytes of a file from `offset`; None if there is no such file."""
        ...

    def close(self) -> None: ...
