"""An emulated Arm core as a board: the local transport with every program run by qemu."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgemobile.devices.host.emulation import find_emulation
from edgemobile.devices.host.folders import cache_folder, inside
from edgemobile.devices.host.local import LocalTransport

__all__ = ["COUNTS_VARIABLE", "EmulatedTransport"]

# Instructions of a program started with this variable are counted, to the file on the board that it names.
COUNTS_VARIABLE = "EDGEMOBILE_COUNTS"


class EmulatedTransport(LocalTransport):
    """Programs are those of the aarch64 userland: `python3` and little else. Wall-clock times are meaningless here.

    Raises MissingTool if `cpu` is not set up.
    """

    emulated = True

    def __init__(self, cpu: str) -> None:
        self.emulation = find_emulation(cpu)
        # One folder for all cores, so that models and runtimes are stored once.
        super().__init__(cache_folder("emulated") / "board")

    def _command(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        given = dict(env)
        counts = given.pop(COUNTS_VARIABLE, None)
        target = None if counts is None else self._made(counts)
        environment = {**self.emulation.environment, **given}
        if not self.emulation.program(argv[0]).exists():
            # The name alone: it is not on qemu's machine, and must not be found on this one.
            return [str(Path("/nonexistent", inside(Path(argv[0]).name)))], environment
        return self.emulation.command(argv, target), environment
