"""Time on a board without the board: what was counted on its emulated core, at the board's clock.

    compute   cycles by LLVM's scheduling model, with every load in L1, times a factor of the core
    memory    what misses of the data caches add: lines x the time a line takes, and the latency of those that no
              prefetcher foresees

Both parts are models, so a figure is always called estimated and comes with how far such figures were off where
somebody published a measured one: docs/estimates.md, which benchmarks/estimates.py reproduces.

Add a board here: a row in BOARDS.
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
    """A board by its core and the clock that the core runs at."""

    name: str
    core: str
    clock_mhz: float

    @property
    def words(self) -> str:
        """ "Raspberry Pi 5, 2.4 GHz"; without a name the clock alone."""
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
    """What cycles and lines of 64 bytes cost on the boards with a core, beyond what the scheduling model knows.

    `compute_factor` is for what that model takes to be free: a branch not foreseen, the front end, a full store buffer.
    `line_cycles` and `latency_cycles` are of a line out of L2, then out of L3 where there is one: the first for every
    line, the second besides for a line that no prefetcher foresees. `dram_bytes_per_ns` and `dram_ns` are the same of a
    line out of memory, whose clock is its own.
    """

    compute_factor: float
    line_cycles: tuple[float, ...]
    latency_cycles: tuple[float, ...]
    dram_bytes_per_ns: float
    dram_ns: float

    def memory_cycles(self, estimate: Estimate, clock_mhz: float) -> float:
        """Cycles that the misses of an estimate add at a clock."""
        misses = [level.misses for level in estimate.caches]
        unforeseen = [level.misses - level.streamed for level in estimate.caches]
        cycles = 0.0
        for level, (line, latency) in enumerate(zip(self.line_cycles, self.latency_cycles, strict=True)):
            cycles += line * max(misses[level] - misses[level + 1], 0)
            cycles += latency * max(unforeseen[level] - unforeseen[level + 1], 0)
        ns = misses[-1] * _LINE_BYTES / self.dram_bytes_per_ns + unforeseen[-1] * self.dram_ns
        return cycles + ns * clock_mhz / 1000


# `benchmarks/estimates.py --fit` gives the factors, the cycles of a line and the bytes per ns, from published times of
# nets that are not MobileNets; memory is never faster than its bus. The latencies are round numbers and matter little.
COSTS = {
    "cortex-a53": Costs(1.19, (0.0,), (15.0,), 7.2, 150.0),
    "cortex-a72": Costs(1.0, (11.5,), (12.0,), 12.8, 120.0),
    "cortex-a76": Costs(1.0, (0.0, 0.0), (8.0, 30.0), 17.1, 110.0),
}


@dataclass(frozen=True)
class KnownError:
    """How far estimates of `figures` published times of MobileNets were off, as shares of those: 0.1 is 10 %."""

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
    """The estimate on every board of its core, or at a clock that is said."""
    rows = [board for board in BOARDS if board.core == estimate.core]
    boards: Sequence[Board] = rows if clock_mhz is None else [Board("", estimate.core, clock_mhz)]
    costs = COSTS[estimate.core]
    compute = costs.compute_factor * estimate.compute_cycles
    return [Estimated(board, compute, costs.memory_cycles(estimate, board.clock_mhz)) for board in boards]


def caveat(estimate: Estimate) -> str:
    """What stands below every estimate: whose model it is, and how far such estimates are off."""
    model = f"llvm-mca {estimate.llvm}'s model of {SCHEDULING_MODELS[estimate.core]}"
    known = KNOWN_ERRORS.get(estimate.core)
    error = (
        "nobody published a time to check it with"
        if known is None
        else f"of {known.figures} published times of MobileNets on this core such estimates were off by "
        f"{known.mean:.1%} on average, {known.largest:.1%} at most"
    )
    return f"estimated, not measured: {model}, and a model of the data caches; one thread; {error} (docs/estimates.md)"
