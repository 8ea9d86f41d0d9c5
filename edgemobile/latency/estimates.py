"""Estimates time on a board without the board: from counts on its emulated core and the board's clock.

    compute   cycles by LLVM's scheduling model, with every load in L1, times a factor of the core
    memory    the cost of data cache misses: lines x the time per line, and the latency of those that no prefetcher
              predicts

Both parts are models, so a value is always called estimated, and is shown with the error of such estimates against
published measurements: docs/estimates.md, which benchmarks/estimates.py reproduces.

To add a board: a row in BOARDS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgemobile.devices.host.estimating import Estimate
from edgemobile.devices.host.llvm_mca import SCHEDULING_MODELS

__all__ = ["BOARDS", "COSTS", "KNOWN_ERRORS", "Board", "Costs", "Estimated", "KnownError", "caveat", "on_boards"]

_LINE_BYTES = 64


@dataclass(frozen=True)
class Board:
    """A board, by its core and its clock."""

    name: str
    core: str
    clock_mhz: float

    @property
    def words(self) -> str:
        """ "Raspberry Pi 5, 2.4 GHz"; only the clock if the board has no name."""
        return ", ".join(part for part in (self.name, f"{self.clock_mhz / 1000:g} GHz") if part)


BOARDS = (
    Board("Raspberry Pi Zero 2 W", "cortex-a53", 1000),
    Board("Raspberry Pi 3B+", "cortex-a53", 1400),
    Board("Raspberry Pi 4", "cortex-a72", 1500),
    Board("Raspberry Pi 4", "cortex-a72", 1800),
    Board("Raspberry Pi 5", "cortex-a76", 2400),
)


@dataclass(frozen=True)
class Costs:
    """The cost of cycles and of 64-byte lines on the boards with a core, beyond the scheduling model.

    `compute_factor` covers what that model ignores: mispredicted branches, the front end, a full store buffer.
    `line_cycles` and `latency_cycles` are for a line from L2, then from L3 if there is one: the first for every line,
    the second in addition for a line that no prefetcher predicts. `dram_bytes_per_ns` and `dram_ns` are the same for a
    line from memory, which has its own clock.
    """

    compute_factor: float
    line_cycles: tuple[float, ...]
    latency_cycles: tuple[float, ...]
    dram_bytes_per_ns: float
    dram_ns: float

    def memory_cycles(self, estimate: Estimate, clock_mhz: float) -> float:
        """Cycles that the cache misses of an estimate add at a clock."""
        misses = [level.misses for level in estimate.caches]
        unforeseen = [level.misses - level.streamed for level in estimate.caches]
        cycles = 0.0
        for level, (line, latency) in enumerate(zip(self.line_cycles, self.latency_cycles, strict=True)):
            cycles += line * max(misses[level] - misses[level + 1], 0)
            cycles += latency * max(unforeseen[level] - unforeseen[level + 1], 0)
        ns = misses[-1] * _LINE_BYTES / self.dram_bytes_per_ns + unforeseen[-1] * self.dram_ns
        return cycles + ns * clock_mhz / 1000


# `benchmarks/estimates.py --fit` fits the factors, the cycles per line and the bytes per ns to published times of
# nets that are not MobileNets; the memory bandwidth is at most that of its bus. The latencies are rounded and have
# little effect.
COSTS = {
    "cortex-a53": Costs(1.19, (0.0,), (15.0,), 7.2, 150.0),
    "cortex-a72": Costs(1.0, (11.5,), (12.0,), 12.8, 120.0),
    "cortex-a76": Costs(1.0, (0.0, 0.0), (8.0, 30.0), 17.1, 110.0),
}


@dataclass(frozen=True)
class KnownError:
    """The relative error of estimates against `figures` published times of MobileNets: 0.1 is 10 %."""

    figures: int
    mean: float
    largest: float


KNOWN_ERRORS = {
    "cortex-a53": KnownError(8, 0.139, 0.289),
    "cortex-a72": KnownError(4, 0.107, 0.265),
    "cortex-a76": KnownError(4, 0.065, 0.127),
}


@dataclass(frozen=True)
class Estimated:
    """The estimate of one inference on a board, in cycles of its core; `ms` is at its clock."""

    board: Board
    compute_cycles: float
    memory_cycles: float

    @property
    def cycles(self) -> float:
        return self.compute_cycles + self.memory_cycles

    @property
    def ms(self) -> float:
        return self.cycles / self.board.clock_mhz / 1000


def on_boards(estimate: Estimate, clock_mhz: float | None = None) -> list[Estimated]:
    """The estimate for every board with its core, or at a given clock."""
    rows = [board for board in BOARDS if board.core == estimate.core]
    boards: Sequence[Board] = rows if clock_mhz is None else [Board("", estimate.core, clock_mhz)]
    costs = COSTS[estimate.core]
    compute = costs.compute_factor * estimate.compute_cycles
    return [Estimated(board, compute, costs.memory_cycles(estimate, board.clock_mhz)) for board in boards]


def caveat(estimate: Estimate) -> str:
    """The text below every estimate: its model, and the error of such estimates."""
    model = f"llvm-mca {estimate.llvm}'s model of {SCHEDULING_MODELS[estimate.core]}"
    known = KNOWN_ERRORS.get(estimate.core)
    error = (
        "there is no published time to check it against"
        if known is None
        else f"for {known.figures} published times of MobileNets on this core, the error was "
        f"{known.mean:.1%} on average "
        f"and {known.largest:.1%} at most"
    )
    return f"estimated, not measured: {model}, and a model of the data caches; one thread; {error} (docs/estimates.md)"
