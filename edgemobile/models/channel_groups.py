"""The channels of a net that can only be removed together: every weight that makes or reads them.

stem, blocks.3.out    the channels between blocks, through all blocks with a skip
blocks.3.expand       the width of a block: its expansion, depthwise convolution and squeeze-and-excite
blocks.3.squeeze      inside of a squeeze-and-excite
last, hidden          of the last stage
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from edgemobile.models.arch import Arch, ScaledBlock, Tail, scaled_blocks
from edgemobile.models.layers import Layer, layers

__all__ = ["NORM", "ChannelGroup", "channel_groups", "with_widths"]

# The entries of a batch norm that have a value for each channel.
NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class ChannelGroup:
    """`channels` channels, made by the layers `makers`.

    `slices` are (key of the state_dict, axis) of every weight with an axis for them. `places` are (row of the table, -1
    outside of the blocks; field) of every number in the table that is their count.
    """

    name: str
    channels: int
    makers: tuple[Layer, ...]
    slices: tuple[tuple[str, int], ...]
    places: tuple[tuple[int, str], ...]


def channel_groups(arch: Arch) -> tuple[ChannelGroup, ...]:
    """The groups of `arch`, a net with exact channels (models.table.exact_arch), in the order in which they are made.

    The input and the classes are no group.
    """
    walk = _Walk(scaled_blocks(arch))
    for layer in layers(arch):
        walk.take(layer)
    return tuple(
        ChannelGroup(one.name, one.channels, tuple(one.makers), tuple(one.slices), tuple(one.places))
        for one in walk.groups
    )


def with_widths(arch: Arch, widths: Mapping[str, int]) -> Arch:
    """`arch` with other numbers of channels in the groups of these names; others keep theirs."""
    stem, tail, blocks = arch.stem, arch.tail, list(arch.blocks)
    for group in channel_groups(arch):
        channels = widths.get(group.name, group.channels)
        for row, name in group.places:
            if row >= 0:
                blocks[row] = replace(blocks[row], **{name: channels})  # type: ignore[arg-type]
            elif name == "stem":
                stem = channels
            else:
                tail = _with(tail, name, channels)
    return replace(arch, stem=stem, tail=tail, blocks=tuple(blocks))


def _with(tail: Tail, name: str, channels: int) -> Tail:
    return replace(tail, conv=channels) if name == "conv" else replace(tail, hidden=channels)


@dataclass
class _Open:
    """A group while the layers that read it are still coming."""

    name: str
    channels: int
    makers: list[Layer] = field(default_factory=list)
    slices: list[tuple[str, int]] = field(default_factory=list)
    places: list[tuple[int, str]] = field(default_factory=list)


class _Walk:
    """Takes the layers in order. `current` is what the blocks pass on, `wide` the width of the block."""

    def __init__(self, blocks: tuple[ScaledBlock, ...]) -> None:
        self.blocks = blocks
        self.groups: list[_Open] = []
        self.current = self.wide = _Open("", 0)

    def take(self, layer: Layer) -> None:
        match layer.role:
            case "stem":
                self.current = self.wide = self.made(layer, "stem", -1, "stem")
            case "expand":
                _reads(self.current, layer)
                self.wide = self.made(layer, f"blocks.{layer.block}.expand", layer.block, "expand")
            case "depthwise":
                if not self.blocks[layer.block].expands:
                    self.wide = self.current
                _makes(self.wide, layer)
            case "fc1":
                _reads(self.wide, layer)
                self.squeezed = self.made(layer, f"blocks.{layer.block}.squeeze", layer.block, "squeeze")
            case "fc2":
                _reads(self.squeezed, layer)
                _makes(self.wide, layer, is_source=False)
            case "project" | "plain_project":
                self.project(layer)
            case "last" | "hidden":
                _reads(self.current, layer)
                self.current = self.made(layer, layer.role, -1, "conv" if layer.role == "last" else "hidden")
            case "classifier":
                _reads(self.current, layer)

    def project(self, layer: Layer) -> None:
        _reads(self.wide, layer)
        if self.blocks[layer.block].skip:
            _makes(self.current, layer)
            self.current.places.append((layer.block, "out_channels"))
        else:
            self.current = self.made(layer, f"blocks.{layer.block}.out", layer.block, "out_channels")

    def made(self, layer: Layer, name: str, row: int, place: str) -> _Open:
        group = _Open(name, layer.out_shape[0], places=[(row, place)])
        _makes(group, layer)
        self.groups.append(group)
        return group


def _makes(group: _Open, layer: Layer, *, is_source: bool = True) -> None:
    group.slices += _made_keys(layer)
    if is_source:
        group.makers.append(layer)


def _reads(group: _Open, layer: Layer) -> None:
    group.slices.append((f"{layer.name}.weight", 1))


def _made_keys(layer: Layer) -> Iterator[tuple[str, int]]:
    yield f"{layer.name}.weight", 0
    if layer.bias:
        yield f"{layer.name}.bias", 0
    if layer.norm:
        yield from ((f"{layer.norm}.{name}", 0) for name in NORM)
