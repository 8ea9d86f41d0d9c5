"""The papers' tables: each MobileNet is a table of blocks, scaled by a width and a resolution multiplier.

To add a model: a table of blocks, an entry in ARCHS, and its goldens in tests/models/ (test_cost.py, test_nets.py).

Sources: MobileNets (arXiv:1704.04861, table 1), MobileNetV2 (arXiv:1801.04381, table 2),
Searching for MobileNetV3 (arXiv:1905.02244, tables 1 and 2), EfficientNet (arXiv:1905.11946, table 1; Lite: no
squeeze-and-excite, ReLU6, stem and head of one size), MobileNetV4 (arXiv:2404.10518, table 11). Where a paper leaves a
detail open, the table follows the public checkpoints: torchvision's for v2 and v3, timm's for v1 and v4, TensorFlow's
for EfficientNet-Lite.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Literal

from edgemobile.errors import Unsupported

__all__ = [
    "ARCHS",
    "Arch",
    "Block",
    "ScaledBlock",
    "Tail",
    "get_arch",
    "last_halving",
    "make_divisible",
    "scaled",
    "scaled_blocks",
    "scaled_stem",
    "scaled_tail",
]

Activation = Literal["relu", "relu6", "hardswish"]
RELU: Activation = "relu"
RELU6: Activation = "relu6"
HSWISH: Activation = "hardswish"

Kind = Literal["inverted", "separable", "conv"]
# What a net ends with: a classifier; Lite R-ASPP, which segments; SSDLite, which detects.
Head = Literal["classifier", "lraspp", "ssdlite"]
# How stem and tail scale with the width multiplier.
#   scaled       with it
#   tail-floor   the tail never shrinks below its size at width 1 (v2)
#   six-fold     the tail's convolution is six times the last block's output (v3)
#   outer-fixed  stem and the layer after the pool keep their size (v4)
#   fixed        stem and tail keep their size (EfficientNet-Lite)
Ends = Literal["scaled", "tail-floor", "six-fold", "outer-fixed", "fixed"]


@dataclass(frozen=True)
class Block:
    """One row of a paper's table. Channels are those at width 1.

    inverted    [depthwise `start`] -> 1x1 to `expand` -> [depthwise `kernel`] -> [squeeze-and-excite] -> linear 1x1,
                with a skip where stride and channels allow. A kernel of 0 omits that depthwise convolution (v4).
    separable   depthwise `kernel` -> 1x1, both activated, no skip (v1)
    conv        a plain convolution (v4's first rows)

    `expand` is the width of the depthwise convolution: channels, or a multiple of the input (`Arch.expand_is_ratio`),
    and 0 without expansion. `squeeze` is the width of squeeze-and-excite where it is not a quarter of `expand`.
    """

    kernel: int
    expand: int
    out_channels: int
    stride: int = 1
    act: Activation = RELU6
    se: bool = False
    start: int = 0
    kind: Kind = "inverted"
    dilation: int = 1
    squeeze: int = 0

    @property
    def halves(self) -> bool:
        """Whether it halves the resolution: a dilated block keeps it, and sees as far."""
        return self.stride == 2 and self.dilation == 1


@dataclass(frozen=True)
class Tail:
    """What follows the blocks: an optional 1x1 convolution before the pool, an optional 1x1 layer after it.

    `conv` and `hidden` are channels at width 1; 0 omits the layer. Only v3's efficient last stage has both.
    `hidden_norm`: the layer after the pool has a batch norm and no bias (v4).
    """

    conv: int = 0
    hidden: int = 0
    act: Activation = RELU6
    hidden_norm: bool = False


@dataclass(frozen=True)
class Arch:
    """A MobileNet at one width, resolution and number of classes, and the head on it.

    `keys` names the state_dict layout of its net (models.layers.KEYS). `padding` "both" pads both ends of a side
    equally, as PyTorch does; "same" puts the odd pixel at the end, as TensorFlow does. `ends` is how stem and tail grow
    with the width.
    """

    name: str
    paper: str
    keys: Literal[
        "timm", "timm-v4", "torchvision-v2", "torchvision-v3", "torchvision-lraspp", "v2-ssdlite", "torchvision-ssdlite"
    ]
    stem: int
    stem_act: Activation
    blocks: tuple[Block, ...]
    tail: Tail
    ends: Ends = "scaled"
    padding: Literal["both", "same"] = "both"
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    expand_is_ratio: bool = False
    width: float = 1.0
    input_px: int = 224
    classes: int = 1000
    head: Head = "classifier"

    def __post_init__(self) -> None:
        if not 0.05 <= self.width <= 8:
            raise Unsupported(f"width multiplier {self.width:g} of {self.name} is out of range: allowed are 0.05 to 8")
        if not 32 <= self.input_px <= 2048:
            raise Unsupported(f"resolution {self.input_px} px of {self.name} is out of range: allowed are 32 to 2048")
        if self.classes < 1:
            raise Unsupported(f"{self.name} with {self.classes} classes: at least 1 is needed")


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round to the nearest multiple of `divisor`, never below 90 % of `channels` (the TF-Slim rule the papers use)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def _v1() -> tuple[Block, ...]:
    rows = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    return tuple(Block(kernel=3, expand=0, out_channels=c, stride=s, kind="separable") for c, s in rows)


def _repeated(*rows: tuple[int, int, int, int, int]) -> tuple[Block, ...]:
    """Rows t, c, n, s, k: expansion, channels, repeats, stride of the first repeat, kernel."""
    return tuple(
        Block(kernel=k, expand=t, out_channels=c, stride=s if i == 0 else 1) for t, c, n, s, k in rows for i in range(n)
    )


_V2_BLOCKS = _repeated(
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 32, 3, 2, 3),
    (6, 64, 4, 2, 3),
    (6, 96, 3, 1, 3),
    (6, 160, 3, 2, 3),
    (6, 320, 1, 1, 3),
)

_EFFICIENTNET_B0 = _repeated(
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)

_V3_LARGE = (
    Block(kernel=3, expand=16, out_channels=16, se=False, act=RELU, stride=1),
    Block(kernel=3, expand=64, out_channels=24, se=False, act=RELU, stride=2),
    Block(kernel=3, expand=72, out_channels=24, se=False, act=RELU, stride=1),
    Block(kernel=5, expand=72, out_channels=40, se=True, act=RELU, stride=2),
    Block(kernel=5, expand=120, out_channels=40, se=True, act=RELU, stride=1),
    Block(kernel=5, expand=120, out_channels=40, se=True, act=RELU, stride=1),
    Block(kernel=3, expand=240, out_channels=80, se=False, act=HSWISH, stride=2),
    Block(kernel=3, expand=200, out_channels=80, se=False, act=HSWISH, stride=1),
    Block(kernel=3, expand=184, out_channels=80, se=False, act=HSWISH, stride=1),
    Block(kernel=3, expand=184, out_channels=80, se=False, act=HSWISH, stride=1),
    Block(kernel=3, expand=480, out_channels=112, se=True, act=HSWISH, stride=1),
    Block(kernel=3, expand=672, out_channels=112, se=True, act=HSWISH, stride=1),
    Block(kernel=5, expand=672, out_channels=160, se=True, act=HSWISH, stride=2),
    Block(kernel=5, expand=960, out_channels=160, se=True, act=HSWISH, stride=1),
    Block(kernel=5, expand=960, out_channels=160, se=True, act=HSWISH, stride=1),
)

_V3_SMALL = (
    Block(kernel=3, expand=16, out_channels=16, se=True, act=RELU, stride=2),
    Block(kernel=3, expand=72, out_channels=24, se=False, act=RELU, stride=2),
    Block(kernel=3, expand=88, out_channels=24, se=False, act=RELU, stride=1),
    Block(kernel=5, expand=96, out_channels=40, se=True, act=HSWISH, stride=2),
    Block(kernel=5, expand=240, out_channels=40, se=True, act=HSWISH, stride=1),
    Block(kernel=5, expand=240, out_channels=40, se=True, act=HSWISH, stride=1),
    Block(kernel=5, expand=120, out_channels=48, se=True, act=HSWISH, stride=1),
    Block(kernel=5, expand=144, out_channels=48, se=True, act=HSWISH, stride=1),
    Block(kernel=5, expand=288, out_channels=96, se=True, act=HSWISH, stride=2),
    Block(kernel=5, expand=576, out_channels=96, se=True, act=HSWISH, stride=1),
    Block(kernel=5, expand=576, out_channels=96, se=True, act=HSWISH, stride=1),
)

_V4_CONV_SMALL = (
    Block(kernel=3, expand=0, out_channels=32, stride=2, act=RELU, kind="conv"),
    Block(kernel=1, expand=0, out_channels=32, stride=1, act=RELU, kind="conv"),
    Block(kernel=3, expand=0, out_channels=96, stride=2, act=RELU, kind="conv"),
    Block(kernel=1, expand=0, out_channels=64, stride=1, act=RELU, kind="conv"),
    Block(start=5, kernel=5, expand=192, out_channels=96, stride=2, act=RELU),
    Block(start=0, kernel=3, expand=192, out_channels=96, stride=1, act=RELU),
    Block(start=0, kernel=3, expand=192, out_channels=96, stride=1, act=RELU),
    Block(start=0, kernel=3, expand=192, out_channels=96, stride=1, act=RELU),
    Block(start=0, kernel=3, expand=192, out_channels=96, stride=1, act=RELU),
    Block(start=3, kernel=0, expand=384, out_channels=96, stride=1, act=RELU),
    Block(start=3, kernel=3, expand=576, out_channels=128, stride=2, act=RELU),
    Block(start=5, kernel=5, expand=512, out_channels=128, stride=1, act=RELU),
    Block(start=0, kernel=5, expand=512, out_channels=128, stride=1, act=RELU),
    Block(start=0, kernel=5, expand=384, out_channels=128, stride=1, act=RELU),
    Block(start=0, kernel=3, expand=512, out_channels=128, stride=1, act=RELU),
    Block(start=0, kernel=3, expand=512, out_channels=128, stride=1, act=RELU),
)


def _minimalistic(arch: Arch) -> Arch:
    """The v3 authors' minimalistic variant: no SE, ReLU for h-swish, 3x3 only."""
    return replace(
        arch,
        name=f"{arch.name}-minimalistic",
        stem_act=RELU,
        blocks=tuple(replace(block, kernel=3, se=False, act=RELU) for block in arch.blocks),
        tail=replace(arch.tail, act=RELU),
    )


def _v3(name: str, blocks: tuple[Block, ...], tail: Tail) -> Arch:
    return Arch(
        name=name,
        paper="arXiv:1905.02244",
        keys="torchvision-v3",
        stem=16,
        stem_act=HSWISH,
        blocks=blocks,
        tail=tail,
        ends="six-fold",
        bn_eps=1e-3,
        bn_momentum=0.01,
    )


_V3S = (
    _v3("v3-small", _V3_SMALL, Tail(conv=576, hidden=1024, act=HSWISH)),
    _v3("v3-large", _V3_LARGE, Tail(conv=960, hidden=1280, act=HSWISH)),
)

_V1 = Arch(
    name="v1",
    paper="arXiv:1704.04861",
    keys="timm",
    stem=32,
    stem_act=RELU6,
    blocks=_v1(),
    tail=Tail(),
)

_V2 = Arch(
    name="v2",
    paper="arXiv:1801.04381",
    keys="torchvision-v2",
    stem=32,
    stem_act=RELU6,
    blocks=_V2_BLOCKS,
    tail=Tail(conv=1280),
    ends="tail-floor",
    expand_is_ratio=True,
)

_LITE0 = replace(
    _V2,
    name="efficientnet-lite0",
    paper="arXiv:1905.11946",
    blocks=_EFFICIENTNET_B0,
    ends="fixed",
    padding="same",
    bn_eps=1e-3,
    bn_momentum=0.01,
)

_V4S = Arch(
    name="v4-conv-small",
    paper="arXiv:2404.10518",
    keys="timm-v4",
    stem=32,
    stem_act=RELU,
    blocks=_V4_CONV_SMALL,
    tail=Tail(conv=960, hidden=1280, act=RELU, hidden_norm=True),
    ends="outer-fixed",
)


def _lraspp(arch: Arch) -> Arch:
    """Lite R-ASPP on a v3: its last three blocks are dilated in place of the stride, so that 1/16 is left.

    The numbers are torchvision's: 21 classes of Pascal VOC, at 520 px.
    """
    last = tuple(replace(block, dilation=2) for block in arch.blocks[-3:])
    return replace(
        arch,
        name=f"{arch.name}-lraspp",
        keys="torchvision-lraspp",
        blocks=(*arch.blocks[:-3], *last),
        tail=replace(arch.tail, hidden=128),
        input_px=520,
        classes=21,
        head="lraspp",
    )


def _ssdlite(arch: Arch) -> Arch:
    """SSDLite on v2 or v3-large, for the 90 classes of COCO and the background, at 320 px.

    Batch norm as in torchvision's ssdlite320_mobilenet_v3_large, which trains as TensorFlow's detectors do.
    """
    return replace(
        arch,
        name=f"{arch.name}-ssdlite",
        keys="torchvision-ssdlite" if arch.keys == "torchvision-v3" else "v2-ssdlite",
        tail=replace(arch.tail, hidden=0),
        bn_eps=1e-3,
        bn_momentum=0.03,
        input_px=320,
        classes=91,
        head="ssdlite",
    )


def _reduced_tail(arch: Arch) -> Arch:
    """A v3 with half the channels in what follows C4, as its paper's detectors have (section 6.3)."""
    c4 = last_halving(arch)
    first = replace(arch.blocks[c4], out_channels=arch.blocks[c4].out_channels // 2)
    halved = [
        replace(block, expand=block.expand // 2, out_channels=block.out_channels // 2)
        for block in arch.blocks[c4 + 1 :]
    ]
    return replace(arch, blocks=(*arch.blocks[:c4], first, *halved))


def last_halving(arch: Arch) -> int:
    """The index of the last block that halves the resolution, to 1/32. Its expansion is the papers' C4, at 1/16."""
    return max(index for index, block in enumerate(arch.blocks) if block.halves)


ARCHS: dict[str, Arch] = {
    arch.name: arch
    for arch in (
        _V1,
        _V2,
        *_V3S,
        *(_minimalistic(arch) for arch in _V3S),
        _V4S,
        _LITE0,
        *(_lraspp(arch) for arch in _V3S),
        _ssdlite(_V2),
        _ssdlite(_reduced_tail(_V3S[1])),
    )
}


# What torchvision and timm call the nets of the table, width 1.
_ALSO_CALLED = {
    "mobilenet_v1": "v1",
    "mobilenetv1_100": "v1",
    "mobilenet_v2": "v2",
    "mobilenetv2_100": "v2",
    "mobilenet_v3_small": "v3-small",
    "mobilenetv3_small_100": "v3-small",
    "mobilenet_v3_large": "v3-large",
    "mobilenetv3_large_100": "v3-large",
    "lraspp_mobilenet_v3_large": "v3-large-lraspp",
    "ssdlite320_mobilenet_v3_large": "v3-large-ssdlite",
    "mobilenetv4_conv_small": "v4-conv-small",
    "efficientnet_lite0": "efficientnet-lite0",
}


def get_arch(name: str) -> Arch:
    """The reference model called `name` here, in torchvision or in timm, in any case.

    Raises Unsupported with the nearest names.
    """
    plain = name.casefold()
    called = _ALSO_CALLED.get(plain, plain)
    if called in ARCHS:
        return ARCHS[called]
    near = difflib.get_close_matches(name, ARCHS, n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise Unsupported(f"unknown model {name!r}. {hint}Known models: {', '.join(ARCHS)}")


def scaled(arch: Arch, *, width: float | None = None, input_px: int | None = None, classes: int | None = None) -> Arch:
    """`arch` with another width multiplier, input resolution (pixels per side) or number of classes; None keeps it."""
    return replace(
        arch,
        width=arch.width if width is None else width,
        input_px=arch.input_px if input_px is None else input_px,
        classes=arch.classes if classes is None else classes,
    )


@dataclass(frozen=True)
class ScaledBlock:
    """A block at the arch's width, with the real channels of the table's row."""

    kernel: int
    in_channels: int
    expand: int
    out_channels: int
    stride: int
    act: Activation
    squeeze: int
    start: int
    kind: Kind
    dilation: int = 1

    @property
    def expands(self) -> bool:
        """Whether a 1x1 convolution expands the input first; it is omitted if the width does not change."""
        return self.expand != self.in_channels

    @property
    def skip(self) -> bool:
        return self.kind == "inverted" and self.stride == 1 and self.in_channels == self.out_channels

    @property
    def start_stride(self) -> int:
        """The stride is that of the later depthwise convolution, if there is one."""
        return 1 if self.kernel else self.stride


def scaled_stem(arch: Arch) -> int:
    return arch.stem if arch.ends in ("outer-fixed", "fixed") else make_divisible(arch.stem * arch.width)


def scaled_blocks(arch: Arch) -> tuple[ScaledBlock, ...]:
    """The blocks of `arch` in real channels."""
    blocks = []
    in_channels = scaled_stem(arch)
    for row in arch.blocks:
        if row.expand == 0:
            expand = in_channels
        elif arch.expand_is_ratio:
            expand = in_channels * row.expand
        else:
            expand = make_divisible(row.expand * arch.width)
        out_channels = make_divisible(row.out_channels * arch.width)
        # torchvision squeezes make_divisible(expand // 4, 8); Keras rounds the other way.
        squeeze = (row.squeeze or make_divisible(expand // 4)) if row.se else 0
        blocks.append(
            ScaledBlock(
                row.kernel,
                in_channels,
                expand,
                out_channels,
                row.stride if row.dilation == 1 else 1,
                row.act,
                squeeze,
                row.start,
                row.kind,
                row.dilation,
            )
        )
        in_channels = out_channels
    return tuple(blocks)


def scaled_tail(arch: Arch) -> tuple[int, int]:
    """(channels of the convolution before the pool, of the hidden layer after it); 0 if there is none."""
    conv, hidden = (make_divisible(c * arch.width) if c else 0 for c in (arch.tail.conv, arch.tail.hidden))
    match arch.ends:
        case "tail-floor":
            return max(conv, arch.tail.conv), max(hidden, arch.tail.hidden)
        case "six-fold":
            return 6 * scaled_blocks(arch)[-1].out_channels, hidden
        case "outer-fixed":
            return conv, arch.tail.hidden
        case "fixed":
            return arch.tail.conv, arch.tail.hidden
        case _:
            return conv, hidden
