"""Boards on loopback: each a real sshd, a real worker and a real onnxruntime, whose inference waits, lies or fails.

What a board does is told in a file of its root, so that it can change in the middle of a job.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy
import onnxruntime
from loopback_sshd import Board, start_sshd

from edgemobile.devices.host.wheels import PINS
from edgemobile.util.progress import Report

__all__ = ["LoopbackBoard", "Shelf", "WhenDone", "loopback_boards"]

# Stands in for the runtime's package: the real one, with a session that does what `behaviour.json` says.
_RUNTIME = """
import importlib.util, json, sys, time

def _load():
    site, behaviour = {site!r}, {behaviour!r}
    sys.path.append(site)
    folder = site + "/onnxruntime"
    spec = importlib.util.spec_from_file_location(
        "onnxruntime", folder + "/__init__.py", submodule_search_locations=[folder]
    )
    real = sys.modules["onnxruntime"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(real)

    class Session(real.InferenceSession):
        def run(self, *words, **options):
            with open(behaviour) as file:
                does = json.load(file)
            time.sleep(does["image_s"])
            outputs = super().run(*words, **options)
            return [output[:, ::-1].copy() for output in outputs] if does["lies"] else outputs

    real.InferenceSession = Session

_load()
"""


@dataclass(frozen=True)
class LoopbackBoard:
    """A board called `name`, whose files are in `root`."""

    name: str
    sshd: Board
    root: Path

    @property
    def row(self) -> str:
        """Its row of devices.toml."""
        options = {"ssh_config": self.sshd.config, "root": self.root, "python": sys.executable}
        lines = [f"[{self.name}]", 'address = "ssh://board"', 'tags = ["shelf"]']
        return "\n".join([*lines, *(f'{key} = "{value}"' for key, value in options.items())]) + "\n"

    def does(self, *, image_s: float = 0.0, lies: bool = False) -> None:
        """From the next image on, each takes `image_s` longer, and the outputs are in the wrong order if it `lies`."""
        partial = self.root / "behaviour.partial"
        partial.write_text(json.dumps({"image_s": image_s, "lies": lies}))
        os.replace(partial, self.root / "behaviour.json")

    def workers(self) -> list[int]:
        """The processes that run on it now."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (process / "cwd").resolve() == self.root.resolve():
                    found.append(int(process.name))
        return found

    @property
    def jobs(self) -> list[str]:
        """The folders of jobs on it."""
        folder = self.root / "jobs"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def hang(self) -> None:
        """Nothing on it goes on, and nothing answers, though connections stay."""
        self.sshd.hang()
        for pid in self.workers():
            os.kill(pid, signal.SIGSTOP)

    def kill(self) -> None:
        """Pull its plug: nothing runs and nothing answers any more."""
        if self.sshd.process.poll() is None:
            self.sshd.process.send_signal(signal.SIGSTOP)
            self.sshd.cut()
            self.sshd.process.kill()
            self.sshd.process.wait()
        for pid in self.workers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class WhenDone:
    """Progress that calls `act` as soon as `images` of an evaluation are done."""

    def __init__(self, images: int, act: Callable[[], object]) -> None:
        self.images, self.act, self.acted = images, act, False

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Report]:
        def report(done: int, total: int | None = None) -> None:
            if done >= self.images and not self.acted and title.startswith("evaluate"):
                self.acted = True
                self.act()

        yield report


# Starts boards with the given names.
Shelf = Callable[..., list[LoopbackBoard]]


@contextmanager
def loopback_boards(folder: Path, names: Sequence[str], image_s: float = 0.0) -> Iterator[list[LoopbackBoard]]:
    """Boards that run, with onnxruntime set up. Raises NoSshd."""
    boards: list[LoopbackBoard] = []
    try:
        for name in names:
            boards.append(_started(folder / name, name))
            boards[-1].does(image_s=image_s)
        yield boards
    finally:
        for board in boards:
            board.kill()


def _started(folder: Path, name: str) -> LoopbackBoard:
    root, temporary = folder / "root", folder / "tmp"
    runtime = root / "runtimes" / "onnxruntime"
    runtime.mkdir(parents=True)
    temporary.mkdir()
    # A lock that all users of a board share is in its folder for temporary files; here, all boards have one machine.
    sshd = start_sshd(folder, env=f"TMPDIR={temporary}")
    site = Path(onnxruntime.__file__).parent.parent
    (runtime / "onnxruntime.py").write_text(_RUNTIME.format(site=str(site), behaviour=str(root / "behaviour.json")))
    for package in Path(numpy.__file__).parent.parent.glob("numpy*"):
        (runtime / package.name).symlink_to(package)
    packages = next(list(pin.packages) for pin in PINS if pin.runtime == "onnxruntime")
    (root / "runtimes" / "onnxruntime.json").write_text(json.dumps({"version": 1, "packages": packages}))
    return LoopbackBoard(name, sshd, root)
