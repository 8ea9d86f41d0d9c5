"""A board reached with ssh: the user's own OpenSSH, with their configuration, agent, jump hosts and known_hosts.

One connection is opened and shared by every command (ControlMaster); nothing is asked (BatchMode) and an unknown or
changed host key is refused.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
import weakref
from pathlib import Path

from edgemobile.devices.host.folders import inside
from edgemobile.devices.host.processes import bounded_run, exit_reason, required
from edgemobile.devices.host.shell import ShellTransport
from edgemobile.devices.host.transport import Completed, DeviceUnreachable
from edgemobile.errors import EdgemobileError

__all__ = ["SshTransport"]

_INSTALL = "sudo apt-get install openssh-client"
_CONNECT_S = 60
# ssh's own failures, as opposed to those of the program on the board.
_FAILED = 255
_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": "15",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ClearAllForwardings": "yes",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "LogLevel": "ERROR",
}

# ssh's message -> how to fix it. {there} is how the user would write it: user@host, with -p and -F; {forget} removes
# the host from known_hosts.
_REMEDIES = (
    ("HOST IDENTIFICATION HAS CHANGED", "its host key changed; if you installed it anew: {forget}"),
    ("Host key verification failed", "its host key is not known here; log in once and compare it: ssh {there}"),
    ("Permission denied", "it does not know your key: ssh-copy-id {there}"),
    (
        "Could not resolve hostname",
        "no such name in this network; try its address: edgemobile devices add NAME ssh://ADDRESS",
    ),
    ("Connection refused", "no ssh server is running there; on the board: sudo systemctl enable --now ssh"),
    ("timed out", "it is off, or not in this network: ping {host}"),
    ("No route to host", "it is off, or not in this network: ping {host}"),
)


class SshTransport(ShellTransport):
    """`host` is a name of the user's ssh configuration or of the network. `root` is below the board's own home unless
    it begins with '/'. `config` is an ssh configuration to use instead of the user's.

    Raises MissingTool if ssh is not installed.
    """

    def __init__(
        self,
        host: str,
        *,
        user: str | None = None,
        port: str | None = None,
        root: str | None = None,
        config: str | None = None,
        name: str = "",
    ) -> None:
        self.name = name or host
        self._host, self._port = host, port
        self._root = root
        self._ssh = required("ssh", _INSTALL)
        route = [*(["-F", config] if config else []), *(["-p", port] if port else [])]
        self._where = [*route, *(["-l", user] if user else [])]
        self._there = " ".join([*route, f"{user}@{host}" if user else host])
        # The path of a socket may have at most about 100 bytes, which a user's TMPDIR may exceed.
        folder = tempfile.gettempdir() if len(tempfile.gettempdir()) < 50 else "/tmp"
        self._folder = tempfile.TemporaryDirectory(prefix="edgemobile-", dir=folder, ignore_cleanup_errors=True)
        self._socket = Path(self._folder.name, "ssh")
        self._found_root: str | None = None
        self._ended = weakref.finalize(self, _end, self._command("-O", "exit"), self._socket)

    @property
    def root(self) -> str:
        """The folder on the board. The first use connects."""
        if self._found_root is None:
            self._found_root = self._root if self._root and self._root.startswith("/") else self._ask_root()
        return self._found_root

    def close(self) -> None:
        """Close the shared connection; a later call opens a new one."""
        _end(self._command("-O", "exit"), self._socket)

    def _shell(self, script: str, *, stdin: bytes | Path, timeout_s: float, max_bytes: int) -> Completed:
        self._connect()
        command = [*self._command("-o", "ControlMaster=no"), script]
        done = bounded_run(command, stdin=stdin, timeout_s=timeout_s, max_bytes=max_bytes, named=f"ssh {self.name}")
        # A program may also exit with 255; then the connection still exists.
        if done.returncode == _FAILED and not self._is_connected():
            raise self._unreachable(done)
        return done

    def _connect(self) -> None:
        if self._socket.exists():
            return
        command = [*self._command("-o", "ControlMaster=yes", "-o", "ControlPersist=600"), "exit 0"]
        # The remaining master keeps its standard error open: a pipe would never end.
        with tempfile.TemporaryFile() as said:
            try:
                code = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    timeout=_CONNECT_S,
                    start_new_session=True,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                raise DeviceUnreachable(f"{self.name} does not answer within {_CONNECT_S} s") from None
            said.seek(0)
            done = Completed(code, b"", said.read(2**16))
        if code:
            raise self._unreachable(done)

    def _is_connected(self) -> bool:
        if self._socket.exists() and bounded_run(self._command("-O", "check"), timeout_s=20).returncode == 0:
            return True
        self._socket.unlink(missing_ok=True)
        return False

    def _command(self, *words: str) -> list[str]:
        options = [word for key, value in _OPTIONS.items() for word in ("-o", f"{key}={value}")]
        return [self._ssh, *self._where, *options, "-S", str(self._socket), *words, "--", self._host]

    def _ask_root(self) -> str:
        script = 'printf %s "${XDG_CACHE_HOME:-$HOME/.cache}/edgemobile"'
        if self._root is not None:
            script = f'printf %s/%s "$HOME" {shlex.quote(inside(self._root))}'
        done = self._shell(script, stdin=b"", timeout_s=60, max_bytes=2**16)
        found = done.stdout.decode("utf-8", "replace")
        if done.returncode or not re.fullmatch(r"/[^\0-\x1f\x7f:]{1,500}", found):
            raise EdgemobileError(
                f"{self.name} names {found[:80]!r} as its cache, which is not a folder. Set one in its row: "
                'root = "/..."'
            )
        return found

    def _unreachable(self, done: Completed) -> DeviceUnreachable:
        said = done.stderr.decode("utf-8", "replace")
        remedy = next((remedy for sign, remedy in _REMEDIES if sign in said), "try it by hand: ssh {there}")
        remedy = remedy.format(host=self._host, there=self._there, forget=self._forget(said))
        return DeviceUnreachable(f"{self.name} is not reachable: {exit_reason(done)}; {remedy}")

    def _forget(self, said: str) -> str:
        """The command that removes a changed key, with the name and the file from ssh's message: with a port, or a
        HostName or HostKeyAlias in the configuration, the name differs from the host's.
        """
        known = f"[{self._host}]:{self._port}" if self._port not in (None, "22") else self._host
        name = re.search(r"ost key for (\S+) has changed", said)
        file = re.search(r"^Offending .* key in (.+):\d+\s*$", said, re.MULTILINE)
        words = ["-R", name[1] if name else known]
        if file and Path(file[1]) != Path("~/.ssh/known_hosts").expanduser():
            words = ["-f", file[1], *words]
        return shlex.join(["ssh-keygen", *words])


def _end(command: list[str], socket: Path) -> None:
    if socket.exists():
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=20,
        )
        # The connection also removes it when it ends.
        socket.unlink(missing_ok=True)
