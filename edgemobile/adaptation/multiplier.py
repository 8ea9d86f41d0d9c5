"""The family's own way to a smaller net, its width multiplier, at the same cost: what an adapted net is compared with.

It is cut from the same weights by the same saliency and repaired the same way.
"""

from __future__ import annotations

from edgemobile.adaptation.limits import Limits
from edgemobile.adaptation.moves import kept_channels
from edgemobile.adaptation.pruning import Weights, has_same_structure, with_channels
from edgemobile.adaptation.repair import Repair
from edgemobile.adaptation.saliency import saliency_of
from edgemobile.adaptation.search import Images
from edgemobile.models.arch import Arch, scaled
from edgemobile.models.channel_groups import channel_groups
from edgemobile.models.table import exact_arch

__all__ = ["narrowed", "width_within"]

_STEP = 0.01


def width_within(arch: Arch, limits: Limits) -> float | None:
    """The largest width multiplier, in hundredths, at which `arch`, a net of a family's own table, is within the
    `limits`; None if none is, or none leaves its skips as they are."""
    full = exact_arch(arch)
    for hundredths in range(round(arch.width / _STEP) - 1, 4, -1):
        narrow = exact_arch(scaled(arch, width=hundredths * _STEP))
        if has_same_structure(full, narrow) and limits.load(narrow) <= 1:
            return hundredths * _STEP
    return None


def narrowed(net: Weights, arch: Arch, width: float, images: Images) -> Weights:
    """`net`, which has the widths of `arch`, at another width multiplier."""
    wanted = channel_groups(exact_arch(scaled(arch, width=width)))
    has = {group.name: group.channels for group in channel_groups(net.arch)}
    widths = {group.name: group.channels for group in wanted if group.channels < has[group.name]}
    kept = kept_channels(saliency_of(net, images.repair, images.repair_classes), widths)
    return Repair(net, images.repair).after(lambda full: with_channels(full, kept))
