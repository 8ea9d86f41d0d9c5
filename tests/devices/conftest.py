"""A real sshd on loopback, and one whose programs are the emulated aarch64 userland's."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback_sshd import Board, NoSshd, start_sshd

from edgemobile.devices.host.emulation import Emulation, find_emulation
from edgemobile.errors import EdgemobileError


def _start(folder: Path, force: str = "") -> Board:
    try:
        return start_sshd(folder, force=force)
    except NoSshd as reason:
        pytest.skip(str(reason))


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
