"""What may differ between the nets of a search: rows of the full net's table with fewer channels, smaller kernels,
without squeeze-and-excite, with ReLU, or left out, and the resolution.

A choice is option -> value, as Optuna stores it. Every net inherits the weights of the full one: of channels the most
salient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgemobile.adaptation.moves import kept_channels
from edgemobile.adaptation.pruning import (
    Weights,
    droppable_blocks,
    has_same_structure,
    with_channels,
    with_kernel,
    without_block,
    without_squeeze_excite,
)
from edgemobile.adaptation.saliency import Saliency
from edgemobile.models.arch import HSWISH, RELU, Arch, make_divisible
from edgemobile.models.channel_groups import channel_groups, with_widths

__all__ = ["SHARES", "Choice", "Value", "net_of", "options", "uniform", "widths_of"]

Value = int | float | bool | str
Choice = Mapping[str, Value]
# Of the full net's channels. Below 0.6, two widths of v3-small become equal, and a block gets a skip that the full net
# does not have.
SHARES = (0.6, 0.75, 0.875, 1.0)
_EXPANSIONS = (0.5, *SHARES)
_KERNELS = (3, 5)


def options(full: Arch, sides_px: tuple[int, ...]) -> dict[str, tuple[Value, ...]]:
    """Option -> its values, for nets cut from `full`, whose channels are exact."""
    groups = {group.name for group in channel_groups(full)}
    found: dict[str, tuple[Value, ...]] = {"px": sides_px, "width": SHARES}
    droppable = droppable_blocks(full)
    for row, block in enumerate(full.blocks):
        each: dict[str, tuple[Value, ...]] = {
            "expand": _EXPANSIONS,
            "kernel": _KERNELS,
            "se": (False, True),
            "act": (RELU, HSWISH),
            "kept": (False, True),
        }
        applies = {
            "expand": f"blocks.{row}.expand" in groups,
            "kernel": block.kernel == 5,
            "se": block.se,
            "act": block.act == HSWISH,
            "kept": row in droppable,
        }
        found |= {f"blocks.{row}.{name}": values for name, values in each.items() if applies[name]}
    return found


def uniform(full: Arch, px: int, share: float) -> dict[str, Value]:
    """The choice that is the width multiplier `share` on `full`: nothing else differs."""
    unchanged = {name: values[-1] for name, values in options(full, (px,)).items()}
    shares = {name: share for name in unchanged if name == "width" or name.endswith(".expand")}
    kernels = {name: 5 for name in unchanged if name.endswith(".kernel")}
    return {**unchanged, **kernels, **shares}


def widths_of(full: Arch, choice: Choice) -> dict[str, int]:
    """The widths of the groups of channels that differ from those of `full`."""
    widths = {}
    for group in channel_groups(full):
        row, _, place = group.name.rpartition(".")
        is_between = place == "out" or group.name in ("last", "hidden")
        share = choice["width"] if is_between else choice.get(f"{row}.expand", 1.0)
        widths[group.name] = min(group.channels, make_divisible(float(share) * group.channels))
    return {group.name: widths[group.name] for group in channel_groups(full) if widths[group.name] < group.channels}


def net_of(full: Weights, saliency: Saliency, choice: Choice) -> Weights | None:
    """The net of a `choice`, with the weights of `full`; None where two widths become equal, and a block would get a
    skip or lose its expansion."""
    widths = widths_of(full.arch, choice)
    if not has_same_structure(full.arch, with_widths(full.arch, widths)):
        return None
    net = with_channels(full, kept_channels(saliency, widths))
    for row in range(len(full.arch.blocks)):
        if choice.get(f"blocks.{row}.kernel", 0) == 3:
            net = with_kernel(net, row, 3)
        if choice.get(f"blocks.{row}.se") is False:
            net = without_squeeze_excite(net, row)
        if choice.get(f"blocks.{row}.act") == RELU:
            blocks = list(net.arch.blocks)
            blocks[row] = replace(blocks[row], act=RELU)
            net = Weights(replace(net.arch, blocks=tuple(blocks)), net.state)
    # The last first, so that the rows of the others stay.
    for row in reversed(range(len(full.arch.blocks))):
        if choice.get(f"blocks.{row}.kept") is False:
            net = without_block(net, row)
    return Weights(replace(net.arch, input_px=int(choice["px"])), net.state)
