"""Arch -> torch.nn.Module: the only model code that uses torch.

state_dict keys, their order and shapes are torchvision's for v2, v3 and EfficientNet-Lite (v2 with other numbers) and
timm's for v1 and v4, so that public checkpoints load with strict=True; edgemobile.loading.key_layouts translates the
keys of other libraries. Inputs are f32[N,3,H,W], outputs f32[N,classes] logits; those of Lite R-ASPP
f32[N,classes,H,W], of SSDLite f32[N,anchors,4] and f32[N,anchors,classes].
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from edgemobile.graph.padding import same_pads
from edgemobile.models.arch import Arch, ScaledBlock, last_halving, scaled_blocks, scaled_stem, scaled_tail
from edgemobile.models.layers import block_places, finer_block
from edgemobile.models.ssdlite import ANCHORS_PER_PIXEL, extra_channels

__all__ = ["LRASPP", "MobileNetV1", "MobileNetV2", "MobileNetV3", "MobileNetV4", "SSDLite", "build_net"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "hardswish": nn.Hardswish}


def build_net(arch: Arch, *, dropout: float = 0.2) -> nn.Module:
    """A newly initialized net for `arch`, in training mode. Seed torch first for reproducible weights."""
    net = _NETS[arch.keys](arch, dropout)
    _initialise(net)
    return net


def _initialise(net: nn.Module) -> None:
    """He initialization for convolutions, N(0, 0.01) for linear layers, as the public training recipes do."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)


def _activation(name: str) -> nn.Module:
    return _ACTIVATIONS[name](inplace=True)


class _SamePaddedConv2d(nn.Conv2d):
    """TensorFlow's 'SAME': output ceil(size / stride), the odd pixel of padding at the bottom and on the right."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (top, bottom), (left, right) = same_pads(x.shape[2:], self.kernel_size, self.stride, (1, 1))
        padded = nn.functional.pad(x, (left, right, top, bottom)) if top + bottom + left + right else x
        return nn.functional.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


def _conv(
    arch: Arch,
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    *,
    depthwise: bool = False,
    dilation: int = 1,
) -> nn.Conv2d:
    groups = in_channels if depthwise else 1
    if arch.padding == "same":
        return _SamePaddedConv2d(in_channels, out_channels, kernel, stride, groups=groups, bias=False)
    padding = kernel // 2 * dilation
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)


def _norm(arch: Arch, channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=arch.bn_eps, momentum=arch.bn_momentum)


def _conv_norm(
    arch: Arch,
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    act: str | None = None,
    *,
    depthwise: bool = False,
    dilation: int = 1,
    names: tuple[str, str, str] = ("0", "1", "2"),
) -> nn.Sequential:
    """A convolution, its batch norm and, with `act`, its activation, under `names`."""
    conv = _conv(arch, in_channels, out_channels, kernel, stride, depthwise=depthwise, dilation=dilation)
    steps = [conv, _norm(arch, out_channels), *([_activation(act)] if act else [])]
    return nn.Sequential(OrderedDict(zip(names, steps, strict=False)))


def _stages(arch: Arch, blocks: list[nn.Module]) -> nn.Sequential:
    """Blocks grouped as timm groups them; one block more than in the table is a separate stage."""
    stages: list[list[nn.Module]] = []
    for place, block in zip(block_places(arch), blocks, strict=False):
        if place["place"] == 0:
            stages.append([])
        stages[-1].append(block)
    return nn.Sequential(*(nn.Sequential(*stage) for stage in stages))


def _features(arch: Arch, block: type[nn.Module]) -> nn.Sequential:
    """The stem, the blocks and the convolution behind them, in torchvision's order."""
    stem, blocks = scaled_stem(arch), scaled_blocks(arch)
    return nn.Sequential(
        _conv_norm(arch, 3, stem, 3, 2, arch.stem_act),
        *(block(arch, row) for row in blocks),
        _conv_norm(arch, blocks[-1].out_channels, scaled_tail(arch)[0], act=arch.tail.act),
    )


class _Separable(nn.Module):
    """v1's block: depthwise, then pointwise, each with batch norm and activation. Keys as in timm."""

    def __init__(self, arch: Arch, block: ScaledBlock) -> None:
        super().__init__()
        self.conv_dw = _conv(arch, block.in_channels, block.in_channels, block.kernel, block.stride, depthwise=True)
        self.bn1 = _norm(arch, block.in_channels)
        self.act1 = _activation(block.act)
        self.conv_pw = _conv(arch, block.in_channels, block.out_channels)
        self.bn2 = _norm(arch, block.out_channels)
        self.act2 = _activation(block.act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act1(self.bn1(self.conv_dw(x)))
        return self.act2(self.bn2(self.conv_pw(x)))


class MobileNetV1(nn.Module):
    """MobileNets: 13 separable blocks. Keys as in timm's mobilenetv1."""

    def __init__(self, arch: Arch, dropout: float = 0.2) -> None:
        super().__init__()
        stem, blocks = scaled_stem(arch), scaled_blocks(arch)
        self.conv_stem = _conv(arch, 3, stem, 3, 2)
        self.bn1 = _norm(arch, stem)
        self.act1 = _activation(arch.stem_act)
        self.blocks = _stages(arch, [_Separable(arch, block) for block in blocks])
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(blocks[-1].out_channels, arch.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.act1(self.bn1(self.conv_stem(x))))
        return self.classifier(self.dropout(torch.flatten(self.global_pool(x), 1)))


class _InvertedResidualV2(nn.Module):
    """Expand, depthwise, linear bottleneck; a skip if stride is 1 and the channels match."""

    def __init__(self, arch: Arch, block: ScaledBlock) -> None:
        super().__init__()
        self.use_res_connect = block.skip
        steps: list[nn.Module] = []
        if block.expands:
            steps.append(_conv_norm(arch, block.in_channels, block.expand, act=block.act))
        steps += [
            _conv_norm(arch, block.expand, block.expand, block.kernel, block.stride, block.act, depthwise=True),
            _conv(arch, block.expand, block.out_channels),
            _norm(arch, block.out_channels),
        ]
        self.conv = nn.Sequential(*steps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class MobileNetV2(nn.Module):
    """Inverted residuals with linear bottlenecks. Keys as in torchvision's mobilenet_v2."""

    def __init__(self, arch: Arch, dropout: float = 0.2) -> None:
        super().__init__()
        last, _ = scaled_tail(arch)
        self.features = _features(arch, _InvertedResidualV2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, arch.classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class _SqueezeExcite(nn.Module):
    """Scale each channel by hard_sigmoid(fc2(relu(fc1(mean(x)))))."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeeze, 1)
        self.fc2 = nn.Conv2d(squeeze, channels, 1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.activation(self.fc1(self.avgpool(x)))
        return self.scale_activation(self.fc2(gate)) * x


class _InvertedResidualV3(nn.Module):
    """Expand, depthwise, squeeze-and-excite after the depthwise activation, linear bottleneck, skip."""

    def __init__(self, arch: Arch, block: ScaledBlock) -> None:
        super().__init__()
        self.use_res_connect = block.skip
        steps: list[nn.Module] = []
        if block.expands:
            steps.append(_conv_norm(arch, block.in_channels, block.expand, act=block.act))
        steps.append(
            _conv_norm(
                arch,
                block.expand,
                block.expand,
                block.kernel,
                block.stride,
                block.act,
                depthwise=True,
                dilation=block.dilation,
            )
        )
        if block.squeeze:
            steps.append(_SqueezeExcite(block.expand, block.squeeze))
        steps.append(_conv_norm(arch, block.expand, block.out_channels))
        self.block = nn.Sequential(*steps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.block(x) if self.use_res_connect else self.block(x)


class MobileNetV3(nn.Module):
    """v3-small and v3-large, with the efficient last stage. Keys as in torchvision's mobilenet_v3."""

    def __init__(self, arch: Arch, dropout: float = 0.2) -> None:
        super().__init__()
        last, hidden = scaled_tail(arch)
        self.features = _features(arch, _InvertedResidualV3)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(last, hidden),
            _activation(arch.tail.act),
            nn.Dropout(dropout),
            nn.Linear(hidden, arch.classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class _LiteRASPP(nn.Module):
    """Classifies every pixel by coarse features [N,high,H/16,W/16] and finer ones [N,low,H/8,W/8]: [N,classes,H/8,W/8].

    The coarse ones are multiplied by a gate of their mean over the image. Keys as in torchvision's LRASPPHead.
    """

    def __init__(self, low: int, high: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.cbr = nn.Sequential(nn.Conv2d(high, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True))
        self.scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(high, hidden, 1, bias=False), nn.Sigmoid())
        self.low_classifier = nn.Conv2d(low, classes, 1)
        self.high_classifier = nn.Conv2d(hidden, classes, 1)

    def forward(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        x = self.cbr(high) * self.scale(high)
        x = nn.functional.interpolate(x, size=low.shape[-2:], mode="bilinear", align_corners=False)
        return self.low_classifier(low) + self.high_classifier(x)


class LRASPP(nn.Module):
    """Segmentation by Lite R-ASPP on v3, without its classifier: {"out": f32[N,classes,H,W]}.

    Keys as in torchvision's lraspp_mobilenet_v3_large.
    """

    def __init__(self, arch: Arch, dropout: float = 0.2) -> None:
        super().__init__()
        last, hidden = scaled_tail(arch)
        self.finer = 1 + finer_block(arch)
        self.backbone = _features(arch, _InvertedResidualV3)
        low = scaled_blocks(arch)[self.finer - 1].out_channels
        self.classifier = _LiteRASPP(low, last, hidden, arch.classes)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        low = self.backbone[: self.finer + 1](x)
        logits = self.classifier(low, self.backbone[self.finer + 1 :](low))
        return {"out": nn.functional.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)}


class _SSDLiteBackbone(nn.Module):
    """The features of every level: C4's expansion at 1/16, the last ones at 1/32, and four blocks of half the size."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        c4 = last_halving(arch)
        is_v2 = arch.keys == "v2-ssdlite"
        whole = _features(arch, _InvertedResidualV2 if is_v2 else _InvertedResidualV3)
        rows = list(whole)
        steps = rows[c4 + 1].get_submodule("conv" if is_v2 else "block")
        assert isinstance(steps, nn.Sequential)
        # A slice keeps the names of the steps, which are therefore 1, 2 and so on in the second part.
        self.features = nn.Sequential(
            nn.Sequential(*rows[: c4 + 1], steps[0]), nn.Sequential(steps[1:], *rows[c4 + 2 :])
        )
        channels = (scaled_tail(arch)[0], *extra_channels(arch))
        self.channels = (scaled_blocks(arch)[c4].expand, *channels)
        self.extra = nn.ModuleList(_extra(arch, *pair) for pair in pairwise(channels))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        levels = []
        for part in (*self.features, *self.extra):
            x = part(x)
            levels.append(x)
        return levels


def _extra(arch: Arch, in_channels: int, out_channels: int) -> nn.Sequential:
    half = out_channels // 2
    return nn.Sequential(
        _conv_norm(arch, in_channels, half, act="relu6"),
        _conv_norm(arch, half, half, 3, 2, "relu6", depthwise=True),
        _conv_norm(arch, half, out_channels, act="relu6"),
    )


class _SSDLiteOutput(nn.Module):
    """A depthwise and a 1x1 convolution on each level: `columns` numbers for every anchor, f32[N,anchors,columns].

    The anchors are those of the first level, row by row, pixel by pixel, then those of the second and so on.
    """

    def __init__(self, arch: Arch, in_channels: tuple[int, ...], columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.module_list = nn.ModuleList(
            nn.Sequential(
                _conv_norm(arch, channels, channels, 3, act="relu6", depthwise=True),
                nn.Conv2d(channels, columns * ANCHORS_PER_PIXEL, 1),
            )
            for channels in in_channels
        )

    def forward(self, levels: list[torch.Tensor]) -> torch.Tensor:
        rows = []
        for step, level in zip(self.module_list, levels, strict=True):
            values = step(level)
            rows.append(values.permute(0, 2, 3, 1).reshape(values.shape[0], -1, self.columns))
        return torch.cat(rows, dim=1)


class _SSDLiteHead(nn.Module):
    def __init__(self, arch: Arch, in_channels: tuple[int, ...]) -> None:
        super().__init__()
        self.classification_head = _SSDLiteOutput(arch, in_channels, arch.classes)
        self.regression_head = _SSDLiteOutput(arch, in_channels, 4)

    def forward(self, levels: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"bbox_regression": self.regression_head(levels), "cls_logits": self.classification_head(levels)}


class SSDLite(nn.Module):
    """Detection by SSDLite on v2 or v3: {"bbox_regression": f32[N,anchors,4], "cls_logits": f32[N,anchors,classes]}.

    They are raw: edgemobile.detection decodes them. The first class is the background. Keys as in torchvision's
    ssdlite320_mobilenet_v3_large; those of v2 are made in the same way from mobilenet_v2.
    """

    def __init__(self, arch: Arch, dropout: float = 0.2) -> None:
        super().__init__()
        self.backbone = _SSDLiteBackbone(arch)
        self.head = _SSDLiteHead(arch, self.backbone.channels)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.head(self.backbone(x))


# timm's names for a part of a bottleneck, and for a layer that is itself a block.
_part = partial(_conv_norm, names=("conv", "bn", "act"))
_whole = partial(_conv_norm, names=("conv", "bn1", "act"))


class _UniversalInvertedBottleneck(nn.Module):
    """Depthwise, expand, depthwise, project; a depthwise with kernel 0 is omitted; a skip if the shapes match."""

    def __init__(self, arch: Arch, block: ScaledBlock) -> None:
        super().__init__()
        self.use_res_connect = block.skip
        inside, outside, wide, act = block.in_channels, block.out_channels, block.expand, block.act
        if block.start:
            self.dw_start = _part(arch, inside, inside, block.start, block.start_stride, depthwise=True)
        if block.expands:
            self.pw_exp = _part(arch, inside, wide, act=act)
        if block.kernel:
            self.dw_mid = _part(arch, wide, wide, block.kernel, block.stride, act, depthwise=True)
        self.pw_proj = _part(arch, wide, outside)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for step in self.children():
            y = step(y)
        return x + y if self.use_res_connect else y


def _v4_block(arch: Arch, block: ScaledBlock) -> nn.Module:
    if block.kind == "inverted":
        return _UniversalInvertedBottleneck(arch, block)
    return _whole(arch, block.in_channels, block.out_channels, block.kernel, block.stride, block.act)


class MobileNetV4(nn.Module):
    """v4's convolutional models: universal inverted bottlenecks. Keys as in timm's mobilenetv4."""

    def __init__(self, arch: Arch, dropout: float = 0.2) -> None:
        super().__init__()
        stem, blocks = scaled_stem(arch), scaled_blocks(arch)
        last, hidden = scaled_tail(arch)
        last_conv = _whole(arch, blocks[-1].out_channels, last, act=arch.tail.act)
        self.conv_stem = _conv(arch, 3, stem, 3, 2)
        self.bn1 = _norm(arch, stem)
        self.act1 = _activation(arch.stem_act)
        self.blocks = _stages(arch, [*(_v4_block(arch, block) for block in blocks), last_conv])
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.conv_head = _conv(arch, last, hidden)
        self.norm_head = _norm(arch, hidden)
        self.act2 = _activation(arch.tail.act)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, arch.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.act1(self.bn1(self.conv_stem(x))))
        x = self.act2(self.norm_head(self.conv_head(self.global_pool(x))))
        return self.classifier(self.dropout(torch.flatten(x, 1)))


_NETS: dict[str, type[nn.Module]] = {
    "timm": MobileNetV1,
    "timm-v4": MobileNetV4,
    "torchvision-v2": MobileNetV2,
    "torchvision-v3": MobileNetV3,
    "torchvision-lraspp": LRASPP,
    "torchvision-ssdlite": SSDLite,
    "v2-ssdlite": SSDLite,
}
