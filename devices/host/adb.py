"""A board behind adb, the Android debug bridge: the user's own binary and its server."""

from __future__ import annotations

import re
from pathlib import Path

from edgemobile.devices.host.processes import bounded_run, exit_reason, required
from edgemobile.devices.host.shell import ShellTransport
from edgemobile.devices.host.transport import Completed, DeviceUnreachable

__all__ = ["AdbTransport"]

_INSTALL = "sudo apt-get install adb"
# The only folder on every Android where the debug bridge may write and run programs.
_ROOT = "/data/local/tmp/edgemobile"
# adb exits with 1 for its own failures and for the program's; lines that start with these words are its own.
_LOST = re.compile(
    rb"^(?:adb: |error: )+.*(not found|offline|unauthorized|no devices|closed|protocol fault|connect)", re.M
)
_REMEDIES = {
    b"unauthorized": "allow this computer on its screen",
    b"offline": "plug it in again, or: adb reconnect",
}


class AdbTransport(ShellTransport):
    """The board with serial number `serial` (see `adb devices`). Raises MissingTool if adb is not installed."""

    def __init__(self, serial: str, *, root: str | None = None, name: str = "") -> None:
        self.name = name or serial
        self._root = root or _ROOT
        self._adb = [required("adb", _INSTALL), "-s", serial]

    @property
    def root(self) -> str:
        return self._root

    def close(self) -> None:
        """Does nothing: adb's server holds the connection."""

    def _shell(self, script: str, *, stdin: bytes | Path, timeout_s: float, max_bytes: int) -> Completed:
        # adb joins its words with spaces for the board's sh: one word is the script as it is.
        command = [*self._adb, "shell", "-T", script]
        done = bounded_run(command, stdin=stdin, timeout_s=timeout_s, max_bytes=max_bytes, named=f"adb {self.name}")
        lost = _LOST.search(done.stderr) if done.returncode else None
        if lost:
            remedy = _REMEDIES.get(lost[1], "is it plugged in? adb devices")
            raise DeviceUnreachable(f"{self.name} is not reachable: {exit_reason(done)}; {remedy}")
        return done
