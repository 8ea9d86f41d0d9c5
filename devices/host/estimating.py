"""Estimates the cost of a counted execution on a core: cycles by a scheduling model, cache misses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgemobile.devices.host.counting import Block, CacheMisses, Execution
from edgemobile.devices.host.emulation import CORES
from edgemobile.devices.host.llvm_mca import SCHEDULING_MODELS, Llvm, schedule

__all__ = ["Estimate", "estimate_executions"]

# The largest blocks with this share of all instructions are scheduled. The rest, some thousand blocks that ran a few
# times each, is assumed to need the same number of cycles per instruction.
_COVERED = 0.999


@dataclass(frozen=True)
class Estimate:
    """The cost of one inference on `core`, from models of the core; nothing here was measured.

    `compute_cycles` is by LLVM's scheduling model of `scheduled_as`, with every load in L1. `caches` are the misses of
    every level of data cache from L1 on. Both are valid at any clock. `covered` is the share of the instructions that
    was scheduled. edgemobile/latency/estimates.py converts it to time.
    """

    core: str
    compute_cycles: float
    caches: tuple[CacheMisses, ...]
    covered: float
    scheduled_as: str
    llvm: str

    def __post_init__(self) -> None:
        if self.compute_cycles <= 0 or not 0 < self.covered <= 1:
            raise ValueError("an estimate has cycles, of a share of the instructions between 0 and 1")
        if self.core not in CORES or len(self.caches) != len(CORES[self.core].caches):
            raise ValueError(f"an estimate is of one of {', '.join(CORES)}, with the misses of each of its caches")


def estimate_executions(executions: Sequence[Execution], cpu: str, llvm: Llvm) -> list[Estimate]:
    """The estimate of each execution on a core of SCHEDULING_MODELS; all their blocks are scheduled at once.

    Raises EdgemobileError if LLVM fails.
    """
    parts = [_largest(execution) for execution in executions]
    cycles = schedule([block for part in parts for block in part], cpu, llvm)
    return [_estimate(*pair, cycles, cpu, llvm) for pair in zip(executions, parts, strict=True)]


def _estimate(
    execution: Execution, part: Sequence[Block], cycles: Mapping[Block, float], cpu: str, llvm: Llvm
) -> Estimate:
    covered = sum(_instructions(execution, block) for block in part) / execution.instructions
    scheduled = sum(cycles[block] * execution.runs[block] for block in part)
    model = SCHEDULING_MODELS[cpu]
    return Estimate(cpu, scheduled / covered, execution.caches, covered, model, llvm.version)


def _largest(execution: Execution) -> list[Block]:
    """The blocks that make up _COVERED of the instructions, the largest first."""
    ordered = sorted(execution.runs, key=lambda block: _instructions(execution, block), reverse=True)
    wanted, found = _COVERED * execution.instructions, 0
    part = []
    for block in ordered:
        if found >= wanted:
            break
        part.append(block)
        found += _instructions(execution, block)
    return part


def _instructions(execution: Execution, block: Block) -> int:
    return execution.runs[block] * len(block.words)
