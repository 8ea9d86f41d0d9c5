"""NetAdapt (Yang et al., arXiv:1804.03230) with the metric of MobileNetV3 (arXiv:1905.02244, section 5.2).

The first half of the way to the budget goes by saliency alone. Then in each step the most promising moves are tried:
cut, repaired without training, and measured on images that no net was trained or repaired on. The one that loses least
for each part of the budget saved is taken. A loss takes the place of the paper's accuracy: on a few hundred images most
candidates get the same number right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from edgemobile.adaptation.limits import Limits
from edgemobile.adaptation.moves import Move, kept_channels, moves, widths_by_saliency
from edgemobile.adaptation.pruning import Weights, with_channels
from edgemobile.adaptation.repair import Quality, Repair, quality_of
from edgemobile.adaptation.request import Step, Tried
from edgemobile.adaptation.saliency import saliency_of
from edgemobile.errors import EdgemobileError
from edgemobile.models.arch import Arch
from edgemobile.util.progress import Progress

__all__ = ["Images", "Search", "searched"]

# How much of the way saliency alone decides.
_BY_SALIENCY = 0.5


@dataclass(frozen=True)
class Images:
    """f32[N,H,W,3] with their classes i64[N]: to choose by, and to compute saliency and repair on."""

    choice: np.ndarray
    choice_classes: np.ndarray
    repair: np.ndarray
    repair_classes: np.ndarray

    def quality(self, net: Weights) -> Quality:
        return quality_of(net.module(), self.choice, self.choice_classes)


@dataclass(frozen=True)
class Search:
    """The state of a search: the net now, and the steps to it. The first is the full net."""

    net: Weights
    steps: tuple[Step, ...]


def searched(
    begin: Search,
    full: Arch,
    limits: Limits,
    images: Images,
    *,
    steps: int,
    candidates: int,
    save: Callable[[Search], None],
    progress: Progress,
) -> Search:
    """Continue the search `begin`, of a net cut from `full`, until it is within the `limits`; `save` gets it after
    every step.

    `begin` must have the step of the full net. Raises EdgemobileError if nothing more can be left out.
    """
    search = begin
    half = 1 + (1 - _BY_SALIENCY) * (limits.load(full) - 1)
    while (load := limits.load(search.net.arch)) > 1:
        if len(search.steps) == 1:
            with progress.step(f"leave out the least salient, {load:.2f} -> {half:.2f} of the budget"):
                search = _by_saliency(search, limits, images, half)
        else:
            wanted = min((half - 1) / steps, load - 1)
            search = _step(search, limits, images, wanted, candidates, progress)
        save(search)
    return search


def step_of(name: str, net: Weights, limits: Limits, quality: Quality, tried: tuple[Tried, ...] = ()) -> Step:
    costs = tuple(model.cost(net.arch) for model in limits.models)
    return Step(name, costs, quality.loss, quality.top1, tried)


def _by_saliency(search: Search, limits: Limits, images: Images, aim: float) -> Search:
    saliency = saliency_of(search.net, images.repair, images.repair_classes)
    widths = widths_by_saliency(search.net.arch, saliency, limits, aim)
    kept = kept_channels(saliency, widths)
    net = Repair(search.net, images.repair).after(lambda net: with_channels(net, kept))
    step = step_of(f"least salient channels of {len(widths)} groups", net, limits, images.quality(net))
    return Search(net, (*search.steps, step))


def _step(search: Search, limits: Limits, images: Images, wanted: float, candidates: int, progress: Progress) -> Search:
    number, load = len(search.steps), limits.load(search.net.arch)
    saliency = saliency_of(search.net, images.repair, images.repair_classes)
    options = moves(search.net.arch, saliency, limits, wanted)[:candidates]
    if not options:
        raise EdgemobileError(
            f"nothing more can be left out of the net, and it takes {load:.2f} of the budget. Choose a larger "
            "--budget, or fewer pixels with --res"
        )
    repair = Repair(search.net, images.repair)
    found: list[tuple[float, Move, Weights, Quality]] = []
    with progress.step(f"step {number}: {len(options)} moves at {load:.2f} of the budget", len(options)) as report:
        for move in options:
            net = repair.after(partial(move.apply, saliency=saliency))
            quality = images.quality(net)
            found.append(((quality.loss - search.steps[-1].loss) / move.saved, move, net, quality))
            report(len(found))
    tried = tuple(Tried(move.name, move.saved, move.saliency, q.loss, q.top1) for _, move, _, q in found)
    _, move, net, quality = min(found, key=lambda one: one[0])
    return replace(search, net=net, steps=(*search.steps, step_of(move.name, net, limits, quality, tried)))
