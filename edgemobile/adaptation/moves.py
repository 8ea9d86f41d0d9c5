"""What can be left out of a net in one step, and the choice by saliency alone.

A move removes the least salient channels of one group or of all, a block, or the rim of a 5x5 kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from edgemobile.adaptation.limits import Limits
from edgemobile.adaptation.pruning import (
    Weights,
    droppable_blocks,
    has_same_structure,
    with_channels,
    with_kernel,
    without_block,
)
from edgemobile.adaptation.saliency import Saliency
from edgemobile.models.arch import Arch
from edgemobile.models.channel_groups import channel_groups, with_widths

__all__ = ["Move", "kept_channels", "moves", "widths_by_saliency"]

# Channels are removed in eights, which every kernel's tile is a multiple of.
STEP = 8
_SMALLER_KERNEL = 3
# Of a group in one step: Taylor's first term says little of what it is without most of its channels.
_MOST_REMOVED = 0.5
# A move that saves less than this share of what a step should is none.
_LEAST_SAVED = 0.25


@dataclass(frozen=True)
class Move:
    """A step to the net `arch`. `name` says what it leaves out, such as "blocks.3.expand 120 -> 96".

    `saved` is how much less of the budget the net takes. `saliency` is of what is left out. `widths` are the groups
    that it changes; `drops` and `shrinks` are the row of the block that is left out, or has a smaller kernel.
    """

    name: str
    arch: Arch
    saved: float
    saliency: float
    widths: Mapping[str, int]
    drops: int | None = None
    shrinks: int | None = None

    @property
    def rate(self) -> float:
        """The saliency for each part of the budget saved."""
        return self.saliency / self.saved

    def apply(self, net: Weights, saliency: Saliency) -> Weights:
        if self.drops is not None:
            return without_block(net, self.drops)
        if self.shrinks is not None:
            return with_kernel(net, self.shrinks, _SMALLER_KERNEL)
        return with_channels(net, kept_channels(saliency, self.widths))


def kept_channels(saliency: Saliency, widths: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """The indices of the most salient channels of each group, ascending."""
    return {
        name: saliency.channels[name].argsort(descending=True, stable=True)[:count].sort().values
        for name, count in widths.items()
    }


def moves(arch: Arch, saliency: Saliency, limits: Limits, wanted: float) -> list[Move]:
    """What can be left out of `arch` to save about `wanted` of the budget, best by saliency first."""
    load = limits.load(arch)
    found = [move for move in _all(arch, saliency, limits, load, wanted) if move.saved >= _LEAST_SAVED * wanted]
    return sorted(found, key=lambda move: (move.rate, move.name))


def _all(arch: Arch, saliency: Saliency, limits: Limits, load: float, wanted: float) -> Iterator[Move]:
    widths = widths_by_saliency(arch, saliency, limits, load - wanted)
    if len(widths) > 1:
        smaller = with_widths(arch, widths)
        lost = sum(_lost(saliency, name, count) for name, count in widths.items())
        name = f"least salient channels of {len(widths)} groups"
        yield Move(name, smaller, load - limits.load(smaller), lost, widths)
    for group in channel_groups(arch):
        if count := _narrowed(arch, group.name, group.channels, limits, load - wanted):
            widths = {group.name: count}
            smaller = with_widths(arch, widths)
            name = f"{group.name} {group.channels} -> {count}"
            yield Move(name, smaller, load - limits.load(smaller), _lost(saliency, group.name, count), widths)
    for row in droppable_blocks(arch):
        smaller = replace(arch, blocks=arch.blocks[:row] + arch.blocks[row + 1 :])
        name = f"without blocks.{row}"
        yield Move(name, smaller, load - limits.load(smaller), saliency.blocks[row], {}, drops=row)
    for row, rim in saliency.kernels.items():
        blocks = list(arch.blocks)
        blocks[row] = replace(blocks[row], kernel=_SMALLER_KERNEL)
        smaller = replace(arch, blocks=tuple(blocks))
        name = f"blocks.{row}.kernel 5 -> 3"
        yield Move(name, smaller, load - limits.load(smaller), rim, {}, shrinks=row)


def _lost(saliency: Saliency, name: str, count: int) -> float:
    """The saliency of all but the `count` most salient channels of a group."""
    values = saliency.channels[name].sort().values
    return float(values[: len(values) - count].sum())


def _narrowed(arch: Arch, name: str, channels: int, limits: Limits, aim: float) -> int | None:
    """The most channels of a group with which the net is down to `aim` of the budget, or else the fewest possible; None
    if it cannot be narrowed."""
    counts = range(channels - STEP, _fewest(channels) - 1, -STEP)
    low, high = 0, len(counts) - 1
    while low < high:
        middle = (low + high) // 2
        if limits.load(with_widths(arch, {name: counts[middle]})) <= aim:
            high = middle
        else:
            low = middle + 1
    nearest = (*counts[low:], *reversed(counts[:low]))
    return next((count for count in nearest if has_same_structure(arch, with_widths(arch, {name: count}))), None)


def _fewest(channels: int) -> int:
    """The fewest channels that a group of `channels` has after one step."""
    return max(STEP, -(-int((1 - _MOST_REMOVED) * channels) // STEP) * STEP)


def widths_by_saliency(arch: Arch, saliency: Saliency, limits: Limits, aim: float) -> dict[str, int]:
    """Widths with which the net takes at most `aim` of the budget, by saliency alone: a knapsack, filled greedily.

    Again and again, the eight or sixteen channels with the least saliency for each part of the budget saved are left
    out. What a group offers is computed again only when it is the best: what other groups gave up changes it little.
    """
    total = {group.name: group.channels for group in channel_groups(arch)}
    lost = {name: [0.0, *saliency.channels[name].sort().values.cumsum(0).tolist()] for name in total}
    widths, load = dict(total), limits.load(arch)

    def offer(name: str) -> tuple[float, int]:
        """(saliency for each part of the budget saved, the width then); infinite if there is none."""
        found = [(math.inf, 0)]
        for count in (widths[name] - STEP, widths[name] - 2 * STEP):
            smaller = with_widths(arch, {**widths, name: count}) if count >= _fewest(total[name]) else arch
            saved = load - limits.load(smaller)
            if saved > 0 and has_same_structure(arch, smaller):
                change = lost[name][total[name] - count] - lost[name][total[name] - widths[name]]
                found.append((change / saved, count))
        return min(found)

    offers = {name: offer(name) for name in widths}
    while load > aim:
        name = min(offers, key=lambda each: offers[each])
        known, offers[name] = offers[name], offer(name)
        if offers[name] != known:
            continue
        if math.isinf(known[0]):
            break
        widths[name] = known[1]
        load = limits.load(with_widths(arch, widths))
        offers[name] = offer(name)
    return {name: count for name, count in widths.items() if count < total[name]}
