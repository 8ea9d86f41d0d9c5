"""The cost of each layer of a file on an emulated core.

The file is cut after every layer, and the instructions of each cut file are counted (`count_prefixes`). The cost of a
layer is the difference from the cut before it (`layer_costs`), so the sum of all layers is exactly the whole file. If a
runtime fuses ops across a cut, only the split between the two layers is affected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from edgemobile.devices.host.records import Case, Prefix
from edgemobile.devices.host.runner import Measured
from edgemobile.errors import Unsupported
from edgemobile.exporters.model_files import model_file
from edgemobile.exporters.prefixes import Layer, layers, prefix
from edgemobile.latency.estimates import Board, Estimated, on_boards
from edgemobile.model_file.model_file import ModelFile

__all__ = ["MACS_PER_CYCLE", "PREFIX_RUNS", "LayerCost", "by_op", "count_prefixes", "layer_costs", "negative"]

_Number = TypeVar("_Number", int, float)

# At most so many counts of each cut and so many layers, because of MAX_COUNTS_BYTES.
PREFIX_RUNS = 3
_MOST_LAYERS = 500
# If a cost is negative by less than this share of the whole file, it is noise: counts repeat within 0.003 %.
_NOISE = 1e-4

# The maximum multiply-accumulates per cycle of a core, by dtype, from the issue rates of the scheduling model: FMLA
# with 4 float32, SMLAL with 8 int8, and SDOT with 16 where the core has it. LLVM's model of the A55 issues two FMLA a
# cycle; the A53's units for float are taken to be half as wide, which was not checked on a board.
MACS_PER_CYCLE = {
    "cortex-a53": {"float32": 4, "int8": 8, "uint8": 8},
    "cortex-a72": {"float32": 4, "int8": 8, "uint8": 8},
    "cortex-a76": {"float32": 8, "int8": 32, "uint8": 32},
}


@dataclass(frozen=True)
class LayerCost:
    """The cost of one layer, or of all layers of one kind, in its net.

    `instructions` are for one inference. `estimated` is for a board, None if LLVM is not installed. `share` is the
    share of the estimated cycles of the net, or of its instructions if there is no estimate. `bound_cycles` is the
    minimum of cycles for the multiply-accumulates, 0 without any; None if they or the core's rate are not known. The
    costs may be slightly negative if an op costs nothing.
    """

    name: str
    op: str
    layers: int
    dtype: str
    macs: int | None
    instructions: float
    estimated: Estimated | None
    share: float
    bound_cycles: float | None

    @property
    def times_bound(self) -> float | None:
        """The estimated cycles of computing, without memory, over `bound_cycles`; None without multiply-accumulates or
        without an estimate.
        """
        if self.estimated is None or not self.bound_cycles:
            return None
        return self.estimated.compute_cycles / self.bound_cycles


def count_prefixes(
    file: ModelFile, measure: Callable[[list[ModelFile], list[int]], Measured]
) -> tuple[tuple[Prefix, ...], list[str]]:
    """(the prefixes of a file from no op to all ops, notes on cuts that the runtime refused).

    `measure` counts files on an emulated core. Its second argument is how many bytes of other memory to read before
    each inference of each file: the size of the file after the cut. Otherwise the weights of a short prefix would still
    be in the caches from the inference before; in the whole net, later weights evict them. Raises EdgemobileError for a
    file that cannot be read here, Unsupported for one of more than 500 layers.
    """
    cuts: list[Layer | None] = [None, *layers(file.contents)]
    if len(cuts) > _MOST_LAYERS + 1:
        raise Unsupported(
            f"{file.name} has {len(cuts) - 1} layers, and --profile counts at most {_MOST_LAYERS}. Omit --profile"
        )
    files = [_file(file, layer) for layer in cuts[:-1]] + [file]
    measured = measure(files, [max(file.bytes - one.bytes, 0) for one in files])
    cases = {case.sha256: case for case in measured.cases}
    counted = [(layer, cases.get(one.sha256)) for layer, one in zip(cuts, files, strict=True)]
    left_out = [layer.name if layer else "no op" for layer, case in counted if case is None]
    notes = [
        f"{file.name}: counted with the layer after it, because a file cut there does not run: {', '.join(left_out)}"
    ]
    return tuple(_prefixes(counted)), notes if left_out else []


def _file(file: ModelFile, layer: Layer | None) -> ModelFile:
    end = 0 if layer is None else layer.end
    path = Path(f"{file.path}: {end} of {len(file.contents.ops)} ops")
    return model_file(path, prefix(file.data, file.contents, layer))


def _prefixes(counted: Iterable[tuple[Layer | None, Case | None]]) -> Iterator[Prefix]:
    carried: int | None = 0
    for layer, case in counted:
        macs = _sum((carried, layer.macs if layer else 0))
        carried = macs if case is None else 0
        if case is not None:
            totals = tuple(one["total"] for one in case.instructions or ())
            name, op, dtype = (layer.name, layer.op, layer.dtype) if layer else ("", "", "")
            yield Prefix(name, op, macs, dtype, totals, case.estimate)


# ---- costs ----------------------------------------------------------------------------------------------------------


def layer_costs(case: Case, clock_mhz: float | None = None) -> list[LayerCost]:
    """The cost of every layer in order. The first row, with `op` "(invoke)", is an inference without any op.

    Estimated for the fastest board with the core, or at a given clock. [] if no prefixes were counted.
    """
    if not case.prefixes:
        return []
    begin, *rest = [(one, _estimated(one, clock_mhz)) for one in case.prefixes]
    found = [_cost(begin[0], begin[0].instructions_median, begin[1])]
    for (before, estimated_before), (one, estimated) in pairwise([begin, *rest]):
        instructions = one.instructions_median - before.instructions_median
        found.append(_cost(one, instructions, _difference(estimated, estimated_before)))
    return _with_shares(found)


def by_op(costs: Sequence[LayerCost]) -> list[LayerCost]:
    """The sum of the layers of each kind and dtype, the largest share first. Their `name` is ""."""
    groups: dict[tuple[str, str], list[LayerCost]] = {}
    for cost in costs:
        groups.setdefault((cost.op, cost.dtype), []).append(cost)
    return sorted(map(_added, groups.values()), key=lambda cost: -cost.share)


def negative(costs: Sequence[LayerCost]) -> list[LayerCost]:
    """The layers with a negative cost that is not noise: the runtime fuses them with the layer before."""
    whole = sum(cost.instructions for cost in costs)
    return [cost for cost in costs if cost.instructions < -_NOISE * whole]


def _cost(one: Prefix, instructions: float, estimated: Estimated | None) -> LayerCost:
    core = one.estimate.core if one.estimate else ""
    rate = MACS_PER_CYCLE.get(core, {}).get(one.dtype)
    bound = 0.0 if one.macs == 0 else None if one.macs is None or rate is None else one.macs / rate
    return LayerCost(one.layer, one.op or "(invoke)", 1, one.dtype, one.macs, instructions, estimated, 0.0, bound)


def _estimated(one: Prefix, clock_mhz: float | None) -> Estimated | None:
    boards = on_boards(one.estimate, clock_mhz) if one.estimate else []
    return max(boards, key=lambda found: found.board.clock_mhz, default=None)


def _difference(after: Estimated | None, before: Estimated | None) -> Estimated | None:
    if after is None or before is None:
        return None
    compute = after.compute_cycles - before.compute_cycles
    return Estimated(after.board, compute, after.memory_cycles - before.memory_cycles)


def _with_shares(costs: Sequence[LayerCost]) -> list[LayerCost]:
    weights = [cost.instructions if cost.estimated is None else cost.estimated.cycles for cost in costs]
    return [replace(cost, share=weight / sum(weights)) for cost, weight in zip(costs, weights, strict=True)]


def _added(costs: Sequence[LayerCost]) -> LayerCost:
    estimates = [cost.estimated for cost in costs if cost.estimated is not None]
    return LayerCost(
        "",
        costs[0].op,
        len(costs),
        costs[0].dtype,
        _sum(cost.macs for cost in costs),
        sum(cost.instructions for cost in costs),
        _total(estimates[0].board, estimates) if estimates else None,
        sum(cost.share for cost in costs),
        _sum(cost.bound_cycles for cost in costs),
    )


def _total(board: Board, estimates: Sequence[Estimated]) -> Estimated:
    compute = sum(one.compute_cycles for one in estimates)
    return Estimated(board, compute, sum(one.memory_cycles for one in estimates))


def _sum(values: Iterable[_Number | None]) -> _Number | None:
    """The sum; None if one of the values is None."""
    total: _Number = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total
