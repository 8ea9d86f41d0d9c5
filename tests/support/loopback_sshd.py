"""A real sshd on loopback, with its own keys, whose far side is this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from edgemobile.devices.host.profiles import Device

__all__ = ["Board", "NoSshd", "start_sshd"]


class NoSshd(Exception):
    """There is no sshd on this machine, or it does not start."""


@dataclass
class Board:
    """An sshd of its own: `config` reaches it as host `board`, with its own key and known_hosts."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def root(self) -> str:
        return str(self.folder / "root folder")

    @property
    def device(self) -> Device:
        return Device("board", "ssh://board", {"ssh_config": str(self.config), "root": self.root})

    def cut(self) -> None:
        """End every connection, as a pulled cable does; the sshd goes on listening."""
        self._signal_connections("-KILL")

    def hang(self) -> None:
        """Connections stay, and nothing answers any more."""
        self.process.send_signal(signal.SIGSTOP)
        self._signal_connections("-STOP")

    def _signal_connections(self, name: str) -> None:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            subprocess.run(["kill", name, *_below(child), child], check=False, stderr=subprocess.DEVNULL)


def _below(pid: str) -> list[str]:
    """sshd's own processes below `pid`, not what they started: that is what has to go on."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [one for one in found if Path(f"/proc/{one}/comm").read_text().startswith("sshd")]
    except OSError:
        return []


def start_sshd(folder: Path, *, force: str = "", env: str = "") -> Board:
    """Raises NoSshd."""
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ["PATH"])
    if sshd is None:
        raise NoSshd("no sshd here: sudo apt-get install --no-install-recommends openssh-server")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shutil.copy(folder / "user.pub", folder / "authorized")
    folder.chmod(0o700)
    settings = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder / 'host'}",
        f"AuthorizedKeysFile {folder / 'authorized'}",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        "PermitRootLogin prohibit-password",
        f"PidFile {folder / 'pid'}",
        # Below a shell, bash does not read this user's ~/.bashrc, which may take longer than the command.
        f"SetEnv SHLVL=1 {env}",
        f"ForceCommand {force}" if force else "",
    ]
    (folder / "sshd_config").write_text("\n".join(settings) + "\n")
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    lines = ["Host board", "HostName 127.0.0.1", f"Port {port}", f"IdentityFile {folder / 'user'}"]
    lines += ["IdentitiesOnly yes", f"UserKnownHostsFile {folder / 'known'}"]
    (folder / "ssh_config").write_text("\n".join(lines) + "\n")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    log = (folder / "log").open("wb")
    process = subprocess.Popen([sshd, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log, stdout=log)
    for _ in range(100):
        with socket.socket() as trying:
            if trying.connect_ex(("127.0.0.1", port)) == 0:
                return Board(folder, port, process)
        time.sleep(0.05)
    process.terminate()
    raise NoSshd(f"sshd does not start here: {(folder / 'log').read_text()[-200:]}")
