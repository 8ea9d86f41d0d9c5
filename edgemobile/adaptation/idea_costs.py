"""What the ideas of the papers save or cost on a device: both nets of each are measured as int8 files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from edgemobile.adaptation.cost_model import Unit
from edgemobile.adaptation.cost_table import int8_file, measured
from edgemobile.models.ideas import Idea, Variant, separable_convolutions
from edgemobile.models.nets import build_net
from edgemobile.util.progress import Progress

__all__ = ["IdeaCost", "idea_costs", "variant_net"]


@dataclass(frozen=True)
class IdeaCost:
    """What the int8 files of the nets `before` and `after` an idea cost on the device."""

    before: float
    after: float

    @property
    def share(self) -> float:
        return self.after / self.before


def idea_costs(ideas: Sequence[Idea], device: str, unit: Unit, progress: Progress) -> list[IdeaCost]:
    """Measure both nets of every idea, once each. Their weights are random: what kernels execute does not depend on
    them. Raises what a bench raises."""
    variants = list(dict.fromkeys(variant for idea in ideas for variant in (idea.before, idea.after)))
    with progress.step(f"write {len(variants)} nets", len(variants)) as report:
        files = []
        for number, variant in enumerate(variants):
            px = variant.arch.input_px
            noise = np.random.default_rng(0).standard_normal((2, px, px, 3), np.float32)
            name = f"{variant.arch.name}-{number}"
            files.append(int8_file(name, variant.arch, variant_net(variant), noise, keep_dead=True))
            report(number + 1)
    cost = dict(zip(variants, measured(device, unit, files, progress), strict=True))
    return [IdeaCost(cost[idea.before], cost[idea.after]) for idea in ideas]


def variant_net(variant: Variant) -> nn.Module:
    """A net of `variant` with random weights, in eval mode; the same ones every time."""
    arch = variant.arch
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # A v3 has a layer after the pool; without it, the classifier is the only one there.
        has_hidden = bool(arch.tail.hidden) or arch.keys != "torchvision-v3"
        net = build_net(arch if has_hidden else replace(arch, tail=replace(arch.tail, hidden=8)), dropout=0.0)
        if not has_hidden:
            net.classifier = nn.Linear(arch.tail.conv, arch.classes)
        if variant.standard:
            _make_standard(net, variant)
    return net.eval()


def _make_standard(net: nn.Module, variant: Variant) -> None:
    """Put standard convolutions in place of depthwise and 1x1 ones."""
    for pair in separable_convolutions(variant.arch):
        depthwise, standard = pair.depthwise, pair.standard
        parent, _, last = depthwise.name.rpartition(".")
        # In v1's block convolution, batch norm and activation are side by side; in others they are one module.
        paths = [parent] if last == "0" else [f"{parent}.{name}" for name in (last, "bn1", "act1")]
        for path in paths:
            # Dropout, in eval mode, passes values on, and no op remains of it.
            net.set_submodule(path, nn.Dropout(0.0))
        made = nn.Conv2d(
            standard.in_shape[0],
            standard.out_shape[0],
            standard.kernel,
            standard.stride,
            standard.kernel // 2,
            bias=False,
        )
        net.set_submodule(standard.name, made)
