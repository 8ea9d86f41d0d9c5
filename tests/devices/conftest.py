"""A real sshd on loopback, and one whose programs are the emulated aarch64 userland's."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgemobile.devices.host.emulation import Emulation, find_emulation
from edgemobile.devices.host.profiles import Device
from edgemobile.errors import EdgemobileError


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
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            subprocess.run(["kill", "-KILL", *_below(child), child], check=False, stderr=subprocess.DEVNULL)


def _below(pid: str) -> list[str]:
    """sshd's own processes below `pid`, not what they started: that is what has to go on."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [one for one in found if Path(f"/proc/{one}/comm").read_text().startswith("sshd")]
    except OSError:
        return []


def _start(folder: Path, force: str = "") -> Board:
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ["PATH"])
    if sshd is None:
        pytest.skip("no sshd here: sudo apt-get install --no-install-recommends openssh-server")
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
        "SetEnv SHLVL=1",
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
    pytest.skip(f"sshd does not start here: {(folder / 'log').read_text()[-200:]}")


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A real sshd whose far side is this machine."""
    board = _start(tmp_path_factory.mktemp("sshd"))
    yield board
    board.process.terminate()
    board.process.wait(10)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a real disk of so many bytes; skips where this user may not mount one."""
    made: list[Path] = []

    def make(size: int) -> Path:
        folder = tmp_path / f"disk{len(made)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "edgemobile-test", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no disk can be mounted here: run as root")
        made.append(folder)
        return folder

    yield make
    for folder in made:
        # A worker may still be in it.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def emulation() -> Callable[[str], Emulation]:
    """The installed emulation of a core; skips where `edgemobile devices setup emulated:CPU` did not run."""

    def find(cpu: str) -> Emulation:
        try:
            return find_emulation(cpu)
        except EdgemobileError as error:
            pytest.skip(str(error))

    return find


@pytest.fixture(scope="session")
def arm_sshd(tmp_path_factory: pytest.TempPathFactory, emulation: Callable[[str], Emulation]) -> Iterator[Board]:
    """A real sshd whose `python3` and `uname` are the emulated aarch64 userland's. Its shell is this machine's."""
    folder = tmp_path_factory.mktemp("arm-sshd")
    found = emulation("cortex-a72")
    guest = ["env", *(f"{key}={value}" for key, value in found.environment.items() if key.startswith("QEMU"))]
    python = shlex.join([*guest, *found.command(["python3"])])
    tools = {
        "python3": f'exec {python} "$@"',
        "uname": f"exec {python} -S -c 'import platform; print(platform.machine())'",
    }
    (folder / "bin").mkdir()
    for name, line in tools.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / "bin" / name).chmod(0o755)
    path = shlex.quote(f"{folder / 'bin'}:/usr/bin:/bin")
    (folder / "force").write_text(f'#!/bin/sh\nPATH={path}\nexport PATH\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
    (folder / "force").chmod(0o755)
    board = _start(folder, force=str(folder / "force"))
    yield board
    board.process.terminate()
    board.process.wait(10)
