"""The transport shared by ssh and adb: it only needs to run POSIX shell scripts on the board.

Every name, argument and value in a script is quoted with shlex.quote, so the board's shell does not change it.
"""

from __future__ import annotations

import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgemobile.devices.host.folders import inside
from edgemobile.devices.host.processes import MAX_OUTPUT_BYTES, exit_reason
from edgemobile.devices.host.transport import Completed, DeviceUnreachable, disk_full
from edgemobile.errors import EdgemobileError

__all__ = ["ShellTransport"]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Exit codes of our own scripts, which programs on the board do not use.
_NO_ROOT, _NO_FILE, _CUT_OFF = 96, 97, 98
# Small systems have a `sync` that takes no file, or none.
_SYNC = 'sync "$p" 2>/dev/null || sync || :'
# The lowest transfer rate, in bytes per second, that counts as a working connection.
_SLOWEST_BYTES_S = 100_000


class ShellTransport(ABC):
    """Works in `root` on the board called `name`. A subclass defines how to send a script."""

    emulated = False
    name: str

    @property
    @abstractmethod
    def root(self) -> str:
        """The folder on the board."""

    @abstractmethod
    def _shell(self, script: str, *, stdin: bytes | Path, timeout_s: float, max_bytes: int) -> Completed:
        """Run `script` with the board's sh. Raises DeviceUnreachable if there is no connection or it is lost."""

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60, env: Mapping[str, str] | None = None
    ) -> Completed:
        """Run a program in `root`; one that does not exist ends with code 127.

        Raises DeviceUnreachable if the connection is lost or it does not end in time (it may continue there),
        EdgemobileError if its output is more than 16 MiB.
        """
        return self._in_root(f"exec {_words(argv, env)}", stdin=stdin, timeout_s=timeout_s)

    def start(self, argv: Sequence[str], *, log: str, env: Mapping[str, str] | None = None) -> None:
        """Start a program in its own session: it continues without the connection."""
        target = _quoted_path(log)
        # Android and very small systems may lack one of the two.
        script = (
            f"{_made(log)}if command -v setsid >/dev/null 2>&1; then s=setsid; else s=nohup; fi; "
            f"$s {_words(argv, env)} </dev/null >>{target} 2>&1 &"
        )
        self._checked(self._in_root(script), f"start {argv[0]}")

    def put(self, source: Path | bytes, target: str, *, durable: bool = True) -> None:
        """Write a temporary file beside `target`, compare its size, and rename it: whole or not at all.

        `durable` has it on the disk first, and its name before this returns.
        """
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        partial = shlex.quote(f"./{inside(target)}.") + "$$.partial"
        synced = f"{{ {_SYNC}; }} && " if durable else ""
        named = _SYNC.replace("$p", "${p%/*}") if durable else ":"
        # A cut connection looks like the end of the file to `cat`; only the size tells.
        script = (
            f'{_made(target)}p={partial}; trap \'rm -f "$p"\' EXIT; cat >"$p" && '
            f'[ "$(wc -c <"$p")" -eq {size} ] && {synced}mv -f "$p" {_quoted_path(target)} || exit {_CUT_OFF}; {named}'
        )
        done = self._in_root(script, stdin=source, timeout_s=60 + size / _SLOWEST_BYTES_S)
        self._checked(done, f"write {target}")

    def read(self, path: str, *, offset: int = 0, max_bytes: int) -> bytes | None:
        name = _quoted_path(path)
        script = f"[ -f {name} ] || exit {_NO_FILE}; tail -c +{offset + 1} {name} | head -c {max_bytes}"
        done = self._in_root(script, timeout_s=60 + max_bytes / _SLOWEST_BYTES_S, max_bytes=max(max_bytes, 2**16))
        if done.returncode == _NO_FILE:
            return None
        self._checked(done, f"read {path}")
        return done.stdout[:max_bytes]

    @abstractmethod
    def close(self) -> None:
        """Close the connection; started programs continue."""

    def _in_root(
        self, script: str, *, stdin: bytes | Path = b"", timeout_s: float = 60, max_bytes: int = MAX_OUTPUT_BYTES
    ) -> Completed:
        root = shlex.quote(self.root)
        enter = f"cd {root} 2>/dev/null || {{ mkdir -p {root} && chmod 700 {root} && cd {root}; }} || exit {_NO_ROOT}; "
        done = self._shell(enter + script, stdin=stdin, timeout_s=timeout_s, max_bytes=max_bytes)
        if done.returncode == _NO_ROOT:
            raise EdgemobileError(
                f"cannot use {self.root} on {self.name}: {exit_reason(done)}. Set another in its row (root = ...)"
            )
        return done

    def _checked(self, done: Completed, what: str) -> None:
        if done.returncode == _CUT_OFF and not done.stderr:
            raise DeviceUnreachable(f"{self.name}: the connection was lost during: {what}")
        if done.returncode:
            full = b"No space left" in done.stderr
            reason = disk_full(self.root, movable=True) if full else exit_reason(done)
            raise EdgemobileError(f"cannot {what} on {self.name}: {reason}")


def _words(argv: Sequence[str], env: Mapping[str, str] | None) -> str:
    for variable in env or {}:
        if not _VARIABLE.fullmatch(variable):
            raise EdgemobileError(f"environment variable {variable!r} is not a valid name in a shell")
    for word in (*argv, *(env or {}).values()):
        if "\0" in word:
            raise EdgemobileError(f"argument {word!r} contains a NUL, which arguments cannot have")
    return shlex.join(["env", *(f"{name}={value}" for name, value in (env or {}).items()), *argv])


def _quoted_path(path: str) -> str:
    # "./" keeps a name that begins with '-' from being an option.
    return shlex.quote(f"./{inside(path)}")


def _made(target: str) -> str:
    parent = inside(target).rpartition("/")[0]
    return f"mkdir -p {_quoted_path(parent)} || exit 1; " if parent else ""
