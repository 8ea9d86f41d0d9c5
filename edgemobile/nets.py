"""Arch -> torch.nn.Module: the only model code on torch.

state_dict keys, their order and shapes are torchvision's for v2 and v3 and timm's for v1, so that public checkpoints
load with strict=True. Inputs are f32[N,3,H,W], outputs f32[N,classes] logits.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from edgemobile.arch import Arch, ScaledBlock, scaled_blocks, scaled_stem, scaled_tail, timm_block_names

__all__ = ["MobileNetV1", "MobileNetV2", "MobileNetV3", "build_net"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "hardswish": nn.Hardswish}


def build_net(arch: Arch, *, dropout: float = 0.2) -> nn.Module:
    """A freshly initialised net for `arch`, in training mode. Seed torch before for repeatable weights."""
    net = {"timm": MobileNetV1, "torchvision-v2": MobileNetV2, "torchvision-v3": MobileNetV3}[arch.keys](arch, dropout)
    _initialise(net)
    return net


def _initialise(net: nn.Module) -> None:
    """He initialisation for convolutions, N(0, 0.01) for linear layers, as the public training recipes do."""
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


def _conv(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, *, depthwise: bool = False
) -> nn.Conv2d:
    groups = in_channels if depthwise else 1
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)


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
) -> nn.Sequential:
    steps: list[nn.Module] = [
        _conv(in_channels, out_channels, kernel, stride, depthwise=depthwise),
        _norm(arch, out_channels),
    ]
    if act:
        steps.append(_activation(act))
    return nn.Sequential(*steps)


class _Separable(nn.Module):
    """v1's block: depthwise, then pointwise, each with batch norm and activation. Keys as in timm."""

    def __init__(self, arch: Arch, block: ScaledBlock) -> None:
        super().__init__()
        self.conv_dw = _conv(block.in_channels, block.in_channels, block.kernel, block.stride, depthwise=True)
        self.bn1 = _norm(arch, block.in_channels)
        self.act1 = _activation(block.act)
        self.conv_pw = _conv(block.in_channels, block.out_channels)
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
        self.conv_stem = _conv(3, stem, 3, 2)
        self.bn1 = _norm(arch, stem)
        self.act1 = _activation(arch.stem_act)
        stages: OrderedDict[str, OrderedDict[str, nn.Module]] = OrderedDict()
        for name, block in zip(timm_block_names(arch), blocks, strict=True):
            _, stage, index = name.split(".")
            stages.setdefault(stage, OrderedDict())[index] = _Separable(arch, block)
        self.blocks = nn.Sequential(OrderedDict((key, nn.Sequential(stage)) for key, stage in stages.items()))
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(blocks[-1].out_channels, arch.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.act1(self.bn1(self.conv_stem(x))))
        return self.classifier(self.dropout(torch.flatten(self.global_pool(x), 1)))


class _InvertedResidualV2(nn.Module):
    """Expand, depthwise, linear bottleneck; a skip where stride is 1 and the channels match."""

    def __init__(self, arch: Arch, block: ScaledBlock) -> None:
        super().__init__()
        self.use_res_connect = block.skip
        steps: list[nn.Module] = []
        if block.expands:
            steps.append(_conv_norm(arch, block.in_channels, block.expand, act=block.act))
        steps += [
            _conv_norm(arch, block.expand, block.expand, block.kernel, block.stride, block.act, depthwise=True),
            _conv(block.expand, block.out_channels),
            _norm(arch, block.out_channels),
        ]
        self.conv = nn.Sequential(*steps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class MobileNetV2(nn.Module):
    """Inverted residuals with linear bottlenecks. Keys as in torchvision's mobilenet_v2."""

    def __init__(self, arch: Arch, dropout: float = 0.2) -> None:
        super().__init__()
        stem, blocks = scaled_stem(arch), scaled_blocks(arch)
        last, _ = scaled_tail(arch)
        self.features = nn.Sequential(
            _conv_norm(arch, 3, stem, 3, 2, arch.stem_act),
            *(_InvertedResidualV2(arch, block) for block in blocks),
            _conv_norm(arch, blocks[-1].out_channels, last, act=arch.tail.act),
        )
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
            _conv_norm(arch, block.expand, block.expand, block.kernel, block.stride, block.act, depthwise=True)
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
        stem, blocks = scaled_stem(arch), scaled_blocks(arch)
        last, hidden = scaled_tail(arch)
        self.features = nn.Sequential(
            _conv_norm(arch, 3, stem, 3, 2, arch.stem_act),
            *(_InvertedResidualV3(arch, block) for block in blocks),
            _conv_norm(arch, blocks[-1].out_channels, last, act=arch.tail.act),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(last, hidden),
            _activation(arch.tail.act),
            nn.Dropout(dropout),
            nn.Linear(hidden, arch.classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
