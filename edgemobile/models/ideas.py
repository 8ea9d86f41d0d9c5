"""What the ideas of the papers save or cost: each as two nets, without it and with it, and what its formula says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from edgemobile.errors import Unsupported
from edgemobile.models.arch import ARCHS, HSWISH, RELU, Arch, Block, Tail, scaled
from edgemobile.models.cost import Cost, layer_cost, total
from edgemobile.models.layers import Layer, layers
from edgemobile.models.table import FAMILIES, exact_arch

__all__ = ["Idea", "Separable", "Variant", "ideas", "separable_convolutions"]

_V1, _V3 = "arXiv:1704.04861", "arXiv:1905.02244"
_SHARES = (0.75, 0.5)
_USUAL_STEM = 32
_NARROWEST = 0.05
# Other resolutions are multiples of it: the last blocks see no partial pixels then.
_LARGEST_STRIDE = 32


@dataclass(frozen=True)
class Variant:
    """The net `arch`. With `standard`, a standard convolution takes the place of every depthwise convolution of a block
    and the 1x1 convolution behind it."""

    arch: Arch
    standard: bool = False

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        found = tuple(layers(self.arch))
        if not self.standard:
            return found
        whole = {pair.pointwise.name: pair.standard for pair in separable_convolutions(self.arch)}
        kept = (layer for layer in found if layer.role != "depthwise")
        return tuple(whole.get(layer.name, layer) for layer in kept)

    @cached_property
    def cost(self) -> Cost:
        return total(layer_cost(layer) for layer in self.layers)

    @cached_property
    def hardswish_values(self) -> int:
        """How many values of an inference go through a hard-swish."""
        shapes = (layer.out_shape for layer in self.layers if layer.act == HSWISH)
        return sum(channels * high * wide for channels, high, wide in shapes)


@dataclass(frozen=True)
class Separable:
    """The depthwise and the 1x1 convolution of a block."""

    depthwise: Layer
    pointwise: Layer

    @property
    def standard(self) -> Layer:
        """The standard convolution with the same input and output: one kernel over all channels."""
        depthwise = self.depthwise
        return replace(self.pointwise, in_shape=depthwise.in_shape, kernel=depthwise.kernel, stride=depthwise.stride)

    @property
    def expected(self) -> float:
        """MACs of the two over those of the standard convolution: 1/N + 1/K^2, for N output channels and a kernel of
        K x K (arXiv:1704.04861, section 3.1)."""
        return 1 / self.pointwise.out_shape[0] + 1 / self.depthwise.kernel**2


def separable_convolutions(arch: Arch) -> tuple[Separable, ...]:
    """Those of the blocks of `arch`, in order."""
    depthwise = {layer.block: layer for layer in layers(arch) if layer.role == "depthwise"}
    roles = ("project", "plain_project")
    return tuple(Separable(depthwise[layer.block], layer) for layer in layers(arch) if layer.role in roles)


@dataclass(frozen=True)
class Idea:
    """An idea of the papers: the net `before` it and `after` it.

    `rule` says what changes, `source` where it is from. `expected` is what the formula says of MACs after / before,
    None if there is no formula of the whole net.
    """

    name: str
    rule: str
    source: str
    before: Variant
    after: Variant
    expected: float | None = None

    @property
    def share(self) -> float:
        """MACs after / before, counted layer by layer."""
        return self.after.cost.macs / self.before.cost.macs

    @property
    def extra_hardswish(self) -> int:
        """How many more values go through a hard-swish after it."""
        return self.after.hardswish_values - self.before.hardswish_values


def ideas(arch: Arch) -> tuple[Idea, ...]:
    """The ideas that `arch` contains, with what each saves or costs. Raises Unsupported for a net that is not a
    classifier of v1, v2, v3 or EfficientNet-Lite."""
    if arch.name not in FAMILIES:
        raise Unsupported(f"the ideas of {arch.name} cannot be separated. Supported: {', '.join(FAMILIES)}")
    return tuple(idea for rows in _IDEAS for idea in rows(arch) if idea.before != idea.after)


def _separable(arch: Arch) -> Iterator[Idea]:
    standard, whole = Variant(arch, standard=True), Variant(arch)
    pairs = separable_convolutions(arch)
    # What the formula does not speak of is the same on both sides.
    saved = sum(layer_cost(pair.standard).macs * (1 - pair.expected) for pair in pairs)
    yield Idea(
        "depthwise separable convolutions",
        "a KxK convolution to N channels costs 1/N + 1/K^2 as depthwise KxK and 1x1",
        f"{_V1}, section 3.1",
        standard,
        whole,
        1 - saved / standard.cost.macs,
    )


def _narrower(arch: Arch) -> Iterator[Idea]:
    for share in (share for share in _SHARES if share * arch.width >= _NARROWEST):
        narrow = scaled(arch, width=share * arch.width)
        yield Idea(
            f"width {narrow.width:g}",
            "channels times α cost α²",
            f"{_V1}, section 3.3",
            Variant(arch),
            Variant(narrow),
            share**2,
        )


def _smaller(arch: Arch) -> Iterator[Idea]:
    sides = [int(share * arch.input_px) // _LARGEST_STRIDE * _LARGEST_STRIDE for share in _SHARES]
    for px in dict.fromkeys(side for side in sides if side):
        yield Idea(
            f"resolution {px} px",
            "sides times ρ cost ρ²",
            f"{_V1}, section 3.4",
            Variant(arch),
            Variant(scaled(arch, input_px=px)),
            (px / arch.input_px) ** 2,
        )


def _last_stage(arch: Arch) -> Iterator[Idea]:
    """The last stage of v2 on this net, as in figure 5: one more bottleneck, and the features before the pool."""
    net = exact_arch(arch)
    if not net.tail.hidden:
        return
    last = net.blocks[-1].out_channels
    bottleneck = Block(kernel=3, expand=net.tail.conv, out_channels=2 * last, act=net.tail.act)
    usual = replace(net, blocks=(*net.blocks, bottleneck), tail=Tail(conv=net.tail.hidden, act=net.tail.act))
    yield Idea(
        "efficient last stage",
        f"the {net.tail.hidden} features are computed after the pool, without the bottleneck before them",
        f"{_V3}, section 5.1",
        Variant(usual),
        Variant(net),
    )


def _stem(arch: Arch) -> Iterator[Idea]:
    net = exact_arch(arch)
    if arch.ends == "six-fold" and arch.width == 1 and net.stem_act == HSWISH:
        yield Idea(
            f"{net.stem} channels in the stem",
            f"hard-swish needs {net.stem} channels at half of the resolution where ReLU needs {_USUAL_STEM}",
            f"{_V3}, section 5.1",
            Variant(replace(net, stem=_USUAL_STEM)),
            Variant(net),
        )


def _hardswish(arch: Arch) -> Iterator[Idea]:
    net = exact_arch(arch)
    if not Variant(net).hardswish_values:
        return
    without = replace(_activated(net, RELU), stem_act=RELU, tail=replace(net.tail, act=RELU))
    yield Idea(
        "hard-swish only in the deep half",
        "ReLU where there are most pixels, in place of hard-swish in all blocks",
        f"{_V3}, section 5.2",
        Variant(_activated(net, HSWISH)),
        Variant(net),
    )
    yield Idea(
        "hard-swish against ReLU",
        "hard-swish where the net has it, in place of ReLU everywhere",
        f"{_V3}, section 5.2",
        Variant(without),
        Variant(net),
    )


def _squeeze_excite(arch: Arch) -> Iterator[Idea]:
    net = exact_arch(arch)
    without = replace(net, blocks=tuple(replace(block, se=False, squeeze=0) for block in net.blocks))
    yield Idea(
        "squeeze-and-excite",
        "each channel is scaled by a factor that two small layers compute from the means of all channels",
        f"{_V3}, section 5.3",
        Variant(without),
        Variant(net),
    )


def _kernels(arch: Arch) -> Iterator[Idea]:
    net = exact_arch(arch)
    small = replace(net, blocks=tuple(replace(block, kernel=min(block.kernel, 3)) for block in net.blocks))
    yield Idea(
        "5x5 depthwise kernels",
        "in place of 3x3 kernels",
        f"{ARCHS[arch.name].paper}, the net's table",
        Variant(small),
        Variant(net),
    )


def _activated(arch: Arch, act: str) -> Arch:
    return replace(arch, blocks=tuple(replace(block, act=act) for block in arch.blocks))  # type: ignore[arg-type]


_IDEAS: tuple[Callable[[Arch], Iterator[Idea]], ...] = (
    _separable,
    _narrower,
    _smaller,
    _last_stage,
    _stem,
    _hardswish,
    _squeeze_excite,
    _kernels,
)
