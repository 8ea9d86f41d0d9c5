"""Arch -> its layers in order of execution, with real sizes and the module paths of a state_dict layout.

One function gives the order; a row of KEYS gives the names. Two rows in the same order translate between two
libraries' checkpoints (edgemobile.loading.key_layouts).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from edgemobile.models.arch import Arch, ScaledBlock, last_halving, scaled_blocks, scaled_stem, scaled_tail
from edgemobile.models.ssdlite import ANCHORS_PER_PIXEL, extra_channels

__all__ = ["KEYS", "Keys", "Layer", "block_places", "class_layers", "finer_block", "layers"]

Op = Literal["conv2d", "depthwise", "mean", "linear"]
Pair = tuple[str, str]  # module paths of a convolution and of its batch norm


@dataclass(frozen=True)
class Layer:
    """One layer with weights or one pool, at its real size. Shapes are (channels, height, width), batch 1.

    `name` is the PyTorch module path, so it matches the state_dict, the graph's tensors and a parity report; `norm` is
    the path of the batch norm after it, "" if there is none. `role` is the field of Keys with its name; the pool and
    the two convolutions of squeeze-and-excite are "squeeze", "fc1" and "fc2". `block` is its row of the table, -1
    outside of the blocks.
    """

    name: str
    op: Op
    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    kernel: int = 1
    stride: int = 1
    norm: str = ""
    bias: bool = False
    act: str = ""
    role: str = ""
    block: int = -1


@dataclass(frozen=True)
class Keys:
    """How a library names a model's modules: templates; the parts of a block are below `block`.

    For the block: {stage}.{place} as timm groups them, {index} from 0, {number} from 1, {before} from -1; {even} and
    {odd} are twice {index}, and one more. For the part: those, and {step} and {next} count the block's parts from 0 and
    1, {norm} its batch norms from 1. `first_block` is `block` for the first, if that differs. `last` is the position
    after the blocks.
    `plain_project` is the projection of a block that does not expand; `squeeze` is the pool and the two convolutions of
    squeeze-and-excite. `gate` and `low_classifier` are of Lite R-ASPP: what its pool is multiplied by, and what it
    makes of the finer features. `extra`, `logits` and `boxes` are of SSDLite, for each {level}: its own blocks, and
    what it makes of a level's features.
    """

    stem: Pair
    block: str
    expand: Pair
    depthwise: Pair
    project: Pair
    plain_project: Pair
    last: Pair
    hidden: Pair
    pool: str
    classifier: str
    first_block: str = ""
    squeeze: tuple[str, str, str] = ("", "", "")
    start: Pair = ("", "")
    conv: Pair = ("", "")
    gate: str = ""
    low_classifier: str = ""
    extra: str = ""
    logits: str = ""
    boxes: str = ""


_TORCHVISION_V3 = Keys(
    stem=("features.0.0", "features.0.1"),
    block="features.{number}.block",
    expand=("{step}.0", "{step}.1"),
    depthwise=("{step}.0", "{step}.1"),
    squeeze=("{step}.avgpool", "{step}.fc1", "{step}.fc2"),
    project=("{step}.0", "{step}.1"),
    plain_project=("{step}.0", "{step}.1"),
    last=("features.{number}.0", "features.{number}.1"),
    pool="avgpool",
    hidden=("classifier.0", ""),
    classifier="classifier.3",
)

_LRASPP = replace(
    _TORCHVISION_V3,
    stem=("backbone.0.0", "backbone.0.1"),
    block="backbone.{number}.block",
    last=("backbone.{number}.0", "backbone.{number}.1"),
    pool="classifier.scale.0",
    hidden=("classifier.cbr.0", "classifier.cbr.1"),
    classifier="classifier.high_classifier",
    gate="classifier.scale.1",
    low_classifier="classifier.low_classifier",
)


def _with_ssdlite(keys: Keys) -> Keys:
    return replace(
        keys,
        extra="backbone.extra.{level}",
        logits="head.classification_head.module_list.{level}",
        boxes="head.regression_head.module_list.{level}",
    )


_TIMM = Keys(
    stem=("conv_stem", "bn1"),
    block="blocks.{stage}.{place}",
    expand=("conv_pw", "bn{norm}"),
    depthwise=("conv_dw", "bn{norm}"),
    squeeze=("se", "se.conv_reduce", "se.conv_expand"),
    project=("conv_pwl", "bn{norm}"),
    plain_project=("conv_pw", "bn{norm}"),
    last=("conv_head", "bn2"),
    pool="global_pool",
    hidden=("", ""),
    classifier="classifier",
)

_TORCHVISION_V2 = replace(
    _TORCHVISION_V3,
    block="features.{number}.conv",
    project=("{step}", "{next}"),
    plain_project=("{step}", "{next}"),
    classifier="classifier.1",
)


def _conv_of_transformers(name: str) -> Pair:
    return f"{name}.convolution", f"{name}.normalization"


_TRANSFORMERS_V1 = Keys(
    stem=_conv_of_transformers("mobilenet_v1.conv_stem"),
    block="mobilenet_v1.layer",
    expand=("", ""),
    depthwise=_conv_of_transformers("{even}"),
    project=("", ""),
    plain_project=_conv_of_transformers("{odd}"),
    last=("", ""),
    hidden=("", ""),
    pool="mobilenet_v1.pooler",
    classifier="classifier",
)

_TRANSFORMERS_V2 = Keys(
    stem=_conv_of_transformers("mobilenet_v2.conv_stem.first_conv"),
    first_block="mobilenet_v2.conv_stem",
    block="mobilenet_v2.layer.{before}",
    expand=_conv_of_transformers("expand_1x1"),
    depthwise=_conv_of_transformers("conv_3x3"),
    project=_conv_of_transformers("reduce_1x1"),
    plain_project=_conv_of_transformers("reduce_1x1"),
    last=_conv_of_transformers("mobilenet_v2.conv_1x1"),
    hidden=("", ""),
    pool="mobilenet_v2.pooler",
    classifier="classifier",
)

KEYS: dict[str, Keys] = {
    "torchvision-v2": _TORCHVISION_V2,
    "torchvision-v3": _TORCHVISION_V3,
    "torchvision-ssdlite": _with_ssdlite(_TORCHVISION_V3),
    "v2-ssdlite": _with_ssdlite(_TORCHVISION_V2),
    "torchvision-lraspp": _LRASPP,
    "timm": _TIMM,
    "timm-v3": replace(_TIMM, last=("blocks.{stage}.0.conv", "blocks.{stage}.0.bn1"), hidden=("conv_head", "")),
    "timm-v4": replace(
        _TIMM,
        conv=("conv", "bn1"),
        start=("dw_start.conv", "dw_start.bn"),
        expand=("pw_exp.conv", "pw_exp.bn"),
        depthwise=("dw_mid.conv", "dw_mid.bn"),
        project=("pw_proj.conv", "pw_proj.bn"),
        plain_project=("pw_proj.conv", "pw_proj.bn"),
        last=("blocks.{stage}.0.conv", "blocks.{stage}.0.bn1"),
        hidden=("conv_head", "norm_head"),
    ),
    "transformers-v1": _TRANSFORMERS_V1,
    "transformers-v2": _TRANSFORMERS_V2,
    "efficientnet-pytorch": Keys(
        stem=("_conv_stem", "_bn0"),
        block="_blocks.{index}",
        expand=("_expand_conv", "_bn0"),
        depthwise=("_depthwise_conv", "_bn1"),
        project=("_project_conv", "_bn2"),
        plain_project=("_project_conv", "_bn2"),
        last=("_conv_head", "_bn1"),
        pool="_avg_pooling",
        hidden=("", ""),
        classifier="_fc",
    ),
}


def layers(arch: Arch, keys: str | None = None) -> Iterator[Layer]:
    """The layers of `arch`, named as its own net names them or by another row of KEYS."""
    walk = _Walk(arch, KEYS[keys or arch.keys])
    *places, behind = block_places(arch)
    match arch.head:
        case "classifier":
            yield from walk.backbone(places)
            yield from walk.tail(behind)
        case "lraspp":
            yield from walk.backbone(places)
            yield from walk.segmentation_tail(behind)
        case "ssdlite":
            cut = last_halving(arch) + 1
            yield from (_in_two_parts(layer, cut) for layer in walk.backbone(places))
            yield _in_two_parts(walk.last(behind), cut)
            yield from walk.detection_tail()


def class_layers(arch: Arch) -> dict[str, int]:
    """The layers whose outputs depend on the number of classes -> how many outputs each class has there."""
    found = list(layers(arch))
    if arch.head == "ssdlite":
        first, _ = KEYS[arch.keys].logits.split("{level}")
        heads = [layer.name for layer in found if layer.name.startswith(first) and layer.op == "conv2d"]
        return dict.fromkeys(heads, ANCHORS_PER_PIXEL)
    return {layer.name: 1 for layer in found[-2 if arch.head == "lraspp" else -1 :]}


def finer_block(arch: Arch) -> int:
    """The block whose output, at 1/8 of the resolution, Lite R-ASPP adds to the coarse features."""
    # The stem halves it first.
    return [index for index, block in enumerate(arch.blocks) if block.halves][1]


def block_places(arch: Arch) -> list[dict[str, int]]:
    """The position of each block, and the position after the last.

    timm starts a new stage where a block halves the resolution or adds channels.
    """
    places, channels = [], 0
    stage = place = -1
    for index, block in enumerate(arch.blocks):
        place += 1
        if not index or block.halves or block.out_channels > channels:
            stage, place = stage + 1, 0
        channels = block.out_channels
        places.append(_place(stage, place, index))
    return [*places, _place(stage + 1, 0, len(places))]


def _place(stage: int, place: int, index: int) -> dict[str, int]:
    count = {"index": index, "number": index + 1, "before": index - 1, "even": 2 * index, "odd": 2 * index + 1}
    return {"stage": stage, "place": place, **count}


class _Part(NamedTuple):
    """A convolution inside a block; `role` is the field of Keys with its name."""

    role: str
    channels: int
    kernel: int = 1
    stride: int = 1
    act: str = ""


def _parts(block: ScaledBlock) -> Iterator[_Part]:
    if block.kind == "conv":
        yield _Part("conv", block.out_channels, block.kernel, block.stride, block.act)
        return
    if block.start:
        yield _Part("start", block.in_channels, block.start, block.start_stride)
    if block.expands:
        yield _Part("expand", block.expand, act=block.act)
    if block.kernel:
        yield _Part("depthwise", block.expand, block.kernel, block.stride, block.act)
    if block.squeeze:
        yield _Part("squeeze", block.squeeze)
    role = "project" if block.expands else "plain_project"
    yield _Part(role, block.out_channels, act=block.act if block.kind == "separable" else "")


class _Walk:
    """Builds layers one after the other and tracks the shape. `row` is that of the block in the table."""

    def __init__(self, arch: Arch, keys: Keys) -> None:
        self.arch = arch
        self.keys = keys
        self.shape = (3, arch.input_px, arch.input_px)
        self.row = -1

    def backbone(self, places: list[dict[str, int]]) -> Iterator[Layer]:
        """The stem and the blocks."""
        stem, act = scaled_stem(self.arch), self.arch.stem_act
        yield self.conv(self.keys.stem, stem, kernel=3, stride=2, act=act, role="stem")
        for place, block in zip(places, scaled_blocks(self.arch), strict=True):
            yield from self.block(place, block)
        self.row = -1

    def last(self, place: dict[str, int]) -> Layer:
        """The convolution behind the blocks."""
        return self.conv(_at(place, self.keys.last), scaled_tail(self.arch)[0], act=self.arch.tail.act, role="last")

    def block(self, place: dict[str, int], block: ScaledBlock) -> Iterator[Layer]:
        self.row = place["index"]
        prefix = ((not self.row and self.keys.first_block) or self.keys.block).format(**place)
        norm = 0
        for step, part in enumerate(_parts(block)):
            norm += part.role != "squeeze"
            names = [
                f"{prefix}.{name.format(step=step, next=step + 1, norm=norm, **place)}"
                for name in getattr(self.keys, part.role)
            ]
            if part.role == "squeeze":
                yield from self.squeeze_excite(names, part.channels)
            else:
                op: Op = "depthwise" if part.role in ("start", "depthwise") else "conv2d"
                yield self.conv((names[0], names[1]), part.channels, part.kernel, part.stride, part.act, op, part.role)

    def tail(self, place: dict[str, int]) -> Iterator[Layer]:
        tail = self.arch.tail
        last, hidden = scaled_tail(self.arch)
        if last:
            yield self.last(place)
        yield self.pool(self.keys.pool)
        if hidden and tail.hidden_norm:
            yield self.conv(_at(place, self.keys.hidden), hidden, act=tail.act, role="hidden")
        elif hidden:
            yield self.linear(self.keys.hidden[0], hidden, act=tail.act, role="hidden")
        yield self.linear(self.keys.classifier, self.arch.classes, role="classifier")

    def segmentation_tail(self, place: dict[str, int]) -> Iterator[Layer]:
        """Lite R-ASPP: the coarse features, gated by their mean, are resized to the finer ones, and each is
        classified."""
        keys, classes = self.keys, self.arch.classes
        last, hidden = scaled_tail(self.arch)
        yield self.last(place)
        high = self.shape
        yield self.conv(keys.hidden, hidden, act="relu", role="hidden")
        yield Layer(keys.pool, "mean", high, (last, 1, 1), role="pool")
        yield Layer(keys.gate, "conv2d", (last, 1, 1), (hidden, 1, 1), act="sigmoid", role="gate")
        block, side = scaled_blocks(self.arch)[finer_block(self.arch)], -(-self.arch.input_px // 8)
        low = (block.out_channels, side, side)
        wide = (hidden, side, side)
        yield Layer(keys.low_classifier, "conv2d", low, (classes, side, side), bias=True, role="low_classifier")
        yield Layer(keys.classifier, "conv2d", wide, (classes, side, side), bias=True, role="classifier")

    def detection_tail(self) -> Iterator[Layer]:
        """SSDLite: more blocks, each half the size of the one before; then the logits and the boxes of every level."""
        keys, c4, side = self.keys, scaled_blocks(self.arch)[last_halving(self.arch)], -(-self.arch.input_px // 16)
        levels = [(c4.expand, side, side), self.shape]
        for level, channels in enumerate(extra_channels(self.arch)):
            steps = ((channels // 2, 1, 1, "conv2d"), (channels // 2, 3, 2, "depthwise"), (channels, 1, 1, "conv2d"))
            for step, (outputs, kernel, stride, op) in enumerate(steps):
                prefix = f"{keys.extra.format(level=level)}.{step}"
                yield self.conv((f"{prefix}.0", f"{prefix}.1"), outputs, kernel, stride, "relu6", op)  # type: ignore[arg-type]
            levels.append(self.shape)
        for name, columns in ((keys.logits, self.arch.classes), (keys.boxes, 4)):
            for level, shape in enumerate(levels):
                prefix = name.format(level=level)
                yield Layer(f"{prefix}.0.0", "depthwise", shape, shape, 3, 1, f"{prefix}.0.1", act="relu6")
                rows = (columns * ANCHORS_PER_PIXEL, *shape[1:])
                yield Layer(f"{prefix}.1", "conv2d", shape, rows, bias=True)

    def conv(
        self,
        names: Pair,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        act: str = "",
        op: Op = "conv2d",
        role: str = "",
    ) -> Layer:
        high, wide = (-(-size // stride) for size in self.shape[1:])
        made = (channels, high, wide)
        layer = Layer(names[0], op, self.shape, made, kernel, stride, names[1], act=act, role=role, block=self.row)
        self.shape = layer.out_shape
        return layer

    def squeeze_excite(self, names: list[str], squeeze: int) -> Iterator[Layer]:
        pool, fc1, fc2 = names
        wide, narrow, row = (self.shape[0], 1, 1), (squeeze, 1, 1), self.row
        yield Layer(pool, "mean", self.shape, wide, role="squeeze", block=row)
        yield Layer(fc1, "conv2d", wide, narrow, bias=True, act="relu", role="fc1", block=row)
        yield Layer(fc2, "conv2d", narrow, wide, bias=True, act="hardsigmoid", role="fc2", block=row)

    def pool(self, name: str) -> Layer:
        layer = Layer(name, "mean", self.shape, (self.shape[0], 1, 1), role="pool")
        self.shape = layer.out_shape
        return layer

    def linear(self, name: str, channels: int, act: str = "", role: str = "") -> Layer:
        layer = Layer(name, "linear", self.shape, (channels, 1, 1), bias=True, act=act, role=role)
        self.shape = layer.out_shape
        return layer


def _in_two_parts(layer: Layer, cut: int) -> Layer:
    """A layer of a backbone that is kept as two modules, as in torchvision's SSDLite.

    The first ends with the expansion of the block number `cut`, whose features are the first level.
    """

    def moved(name: str) -> str:
        _, number, *rest = name.split(".")
        behind = int(number) - cut
        if behind == 0 and rest[1] == "0":
            return ".".join(("backbone.features.0", number, *rest[2:]))
        if behind == 0:
            return ".".join(("backbone.features.1.0", *rest[1:]))
        part = ("0", number) if behind < 0 else ("1", str(behind))
        return ".".join(("backbone.features", *part, *rest))

    return replace(layer, name=moved(layer.name), norm=moved(layer.norm) if layer.norm else "")


def _at(place: dict[str, int], names: Pair) -> Pair:
    return names[0].format(**place), names[1].format(**place)
