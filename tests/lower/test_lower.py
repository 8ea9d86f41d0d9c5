"""The Graph computes what PyTorch computes, layer by layer; what it cannot express is refused by name."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgemobile.errors import Unsupported
from edgemobile.graph import Graph
from edgemobile.graph.interpreter import run
from edgemobile.lower import export_program, lower
from edgemobile.lower.ops import LOWERINGS
from edgemobile.models.arch import ARCHS, scaled
from edgemobile.models.nets import build_net

MIN_SQNR_DB = 90.0


def _trained_like(net: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norm as training leaves it: not the identity, each channel its own."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            for tensor, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.3, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
            ):
                if tensor is not None:
                    tensor.data.uniform_(low, high, generator=generator)
    return net.eval()


def _images(channels: int, px: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, channels, px, px, generator=torch.Generator().manual_seed(1))


def _nhwc(value: torch.Tensor) -> np.ndarray:
    return (value.permute(0, 2, 3, 1) if value.ndim == 4 else value).numpy()


def _sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    noise = float(np.sum((reference.astype(np.float64) - other) ** 2))
    return np.inf if noise == 0 else 10 * np.log10(float(np.sum(reference.astype(np.float64) ** 2)) / noise)


def _assert_equal(net: nn.Module, x: torch.Tensor) -> Graph:
    """Lower `net` and hold its output, and every tensor named like a module, against PyTorch's forward hooks.

    A module called more than once has no one output; its tensors are held through what comes behind them.
    """
    net = _trained_like(net)
    graph = lower(export_program(net, (1, *x.shape[1:])))
    seen: dict[str, list[torch.Tensor]] = {}

    def watch(path: str) -> Callable:
        # A clone: an in-place activation behind the module would overwrite what it returned.
        return lambda module, inputs, output: seen.setdefault(path, []).append(output.clone())

    for path, module in net.named_modules():
        module.register_forward_hook(watch(path))
    with torch.no_grad():
        expected = _nhwc(net(x))
    values = run(graph, _nhwc(x), keep_all=True)
    assert _sqnr_db(expected, values[graph.outputs[0]]) >= MIN_SQNR_DB
    for node in graph.nodes:
        if len(seen.get(node.output, ())) == 1:
            reference = _nhwc(seen[node.output][0])
            assert values[node.output].shape == reference.shape, node.output
            assert _sqnr_db(reference, values[node.output]) >= MIN_SQNR_DB, node.output
    return graph


@functools.cache
def _checked(name: str, width: float, px: int) -> tuple[Graph, set[str]]:
    """The graph of a reference model, held against PyTorch; and the model's module paths."""
    torch.manual_seed(0)
    net = build_net(scaled(ARCHS[name], width=width, input_px=px, classes=11))
    return _assert_equal(net, _images(3, px)), {path for path, _ in net.named_modules()}


@pytest.mark.parametrize(
    ("name", "width", "px"),
    [
        *((name, 1.0, 32) for name, arch in ARCHS.items() if arch.head == "classifier"),
        ("v1", 0.35, 49),
        ("v2", 0.5, 33),
        ("v3-large", 0.35, 49),
        ("efficientnet-lite0", 0.5, 49),
    ],
)
def test_every_model_equals_pytorch_layer_by_layer(name: str, width: float, px: int) -> None:
    graph, paths = _checked(name, width, px)
    # All but the skips and gates, which are functional, carry the path of a module.
    unnamed = {node.output.rsplit(".", 1)[-1] for node in graph.nodes if node.output not in paths}
    assert unnamed <= {"add", "mul", "reshape"}


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("v1", {"conv2d": 27, "mean": 1, "reshape": 1, "linear": 1}),
        ("v2", {"conv2d": 52, "add": 10, "mean": 1, "reshape": 1, "linear": 1}),
        (
            "v3-large",
            {
                "conv2d": 62,
                "hardswish": 21,
                "hardsigmoid": 8,
                "mul": 8,
                "mean": 9,
                "add": 10,
                "reshape": 1,
                "linear": 2,
            },
        ),
        (
            "v3-small",
            {
                "conv2d": 52,
                "hardswish": 19,
                "hardsigmoid": 9,
                "mul": 9,
                "mean": 10,
                "add": 6,
                "reshape": 1,
                "linear": 2,
            },
        ),
        ("v3-large-minimalistic", {"conv2d": 46, "mean": 1, "add": 10, "reshape": 1, "linear": 2}),
        ("v3-small-minimalistic", {"conv2d": 34, "mean": 1, "add": 6, "reshape": 1, "linear": 2}),
        ("v4-conv-small", {"conv2d": 46, "add": 10, "mean": 1, "reshape": 1, "linear": 1}),
        ("efficientnet-lite0", {"conv2d": 49, "add": 9, "mean": 1, "reshape": 1, "linear": 1}),
    ],
)
def test_op_counts(name: str, counts: dict[str, int]) -> None:
    """Batch norm, ReLU and ReLU6 are gone; h-swish and h-sigmoid are whole."""
    assert _checked(name, 1.0, 32)[0].op_counts() == counts


def test_batch_norm_folds_in_float64() -> None:
    """The folded weights are the float64 ones, rounded once."""
    torch.manual_seed(0)
    net = _trained_like(nn.Sequential(nn.Conv2d(3, 8, 3, bias=True), nn.BatchNorm2d(8, eps=1e-3)))
    conv, norm = net[0], net[1]
    graph = lower(export_program(net, (1, 3, 8, 8)))
    k = norm.weight.double() / torch.sqrt(norm.running_var.double() + 1e-3)
    weight = conv.weight.double() * k[:, None, None, None]
    bias = (conv.bias.double() - norm.running_mean.double()) * k + norm.bias.double()
    node = graph.nodes[0]
    assert node.output == "1"
    np.testing.assert_array_equal(graph[node.inputs[1]].data, weight.permute(0, 2, 3, 1).float().detach().numpy())
    np.testing.assert_array_equal(graph[node.inputs[2]].data, bias.float().detach().numpy())


# ---- models of other people


class _Shared(nn.Module):
    """One convolution called twice, another batch norm behind each call, and a module whose name looks numbered."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(3)
        self.bn2 = nn.BatchNorm2d(3)
        self.conv_1 = nn.Conv2d(3, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_1(self.conv(self.conv(self.bn2(self.conv(self.bn1(self.conv(x)))))))


class _Functional(nn.Module):
    """No modules for its activations and pools; numbers and parameters beside images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.gain = nn.Parameter(torch.linspace(0.5, 2, 8).reshape(1, 8, 1, 1))
        self.register_buffer("offset", torch.linspace(-1, 1, 8).reshape(8, 1, 1))
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.conv(x))
        x = torch.add(x, 0.25) * self.gain + self.offset
        x = F.hardswish(x) * 2.0
        return F.relu(self.head(x.mean([2, 3])))


class _PreActivation(nn.Module):
    """x is overwritten by the in-place ReLU before the sum reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return x + self.conv(self.relu(x))


class _Fork(nn.Module):
    """The convolution feeds a ReLU and the sum: the ReLU may not be fused."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return x + self.relu(x)


class _Ghost(nn.Module):
    """Half of the channels computed from the other half, put together and cut to what they are; two heads' features."""

    def __init__(self) -> None:
        super().__init__()
        self.primary = nn.Conv2d(3, 4, 1)
        self.cheap = nn.Conv2d(4, 6, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(10)
        self.head = nn.Linear(14, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.primary(x))
        y = self.norm(torch.cat([x, F.relu6(self.cheap(x))], dim=-3)[:, :10, :, :])
        return self.head(torch.cat((y.mean([2, 3]), x.mean([2, 3])), 1))


class _PreActivationBehindDropout(nn.Module):
    """In eval mode a dropout returns its input itself: the in-place ReLU behind it overwrites what the sum reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return x + self.conv(F.relu_(F.dropout(F.dropout(x, 0.5, self.training), 0.2, self.training)))


class _InPlaceBehindContiguous(nn.Module):
    """contiguous() of what was transposed is a copy: what the ReLU overwrites is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1).to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return x + F.relu_(x.contiguous()) * 2.0


class _Constants(nn.Module):
    """Operands that only parameters, buffers and numbers go into, and a convolution's weight too."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 1, 1))
        self.gain = nn.Parameter(torch.linspace(-1, 2, 4))
        self.register_buffer("offset", torch.linspace(-1, 1, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight / self.weight.norm()
        gain = torch.sigmoid(self.gain).view(1, 4, 1, 1) * torch.tensor(3.0)
        return F.conv2d(x, weight) * gain + F.relu_(self.offset + 0.5)[:, None, None]


class _Auxiliary(nn.Module):
    """A head that is computed and not returned: what it reads feeds the ReLU alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        self.head(x)
        return F.relu(x)


class _Flat(nn.Module):
    """Works on [N, features] from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6, bias=False)
        self.bn = nn.BatchNorm1d(6)
        self.shift = nn.Parameter(torch.linspace(-1, 1, 6).reshape(1, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.fc(x))) + self.shift


class _PaddedTwice(nn.Module):
    """Two convolutions read the padded picture, and a third reads it without its padding."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3, padding=1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padded = F.pad(x, (2, 0, 0, 2))
        return self.convs[0](padded) + self.convs[1](padded) + self.convs[2](x)


class _BroadNorm(nn.Module):
    """The convolution before the batch norm feeds something else too, once directly and once through a dropout."""

    def __init__(self, dropout: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.between = nn.Dropout() if dropout else nn.Identity()
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.bn(self.between(x)) + x


class _HandMadeGates(nn.Module):
    """MobileNetV3 as its first implementations have it: hard-swish of ReLU6 and numbers, gates through view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.relu6 = nn.ReLU6(inplace=True)
        self.fc = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x = x * (self.relu6(x + 3) / 6)
        x = x * F.relu6(3.0 + x) / 6.0
        x = (F.hardtanh(x + 3.0, 0, 6) * (1 / 6)) * x
        n, channels = x.shape[:2]
        gate = self.relu6(self.fc(F.adaptive_avg_pool2d(x, 1).view(n, channels)) + 3) / 6
        return x * gate.view(n, channels, 1, 1) + x * F.relu6(x + 2.0) / 6


class _Normalises(nn.Module):
    """Its own preprocessing, and a gate between a squeeze and an unsqueeze."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.5, 1.0, 2.0])[:, None, None])
        self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv((x - self.mean) / self.std).clamp(min=0)
        gate = self.fc(x.mean([2, 3], keepdim=True).squeeze(-1).squeeze(-1))
        return (x * gate[:, :, None, None]).clamp_(0, 6)


def _flattened(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 3), nn.Flatten(), *between, nn.Linear(16, 5))


_STRANGERS: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "shared": (_Shared, {"conv2d": 5}),
    "functional": (
        _Functional,
        {"conv2d": 1, "add": 2, "mul": 2, "hardswish": 1, "mean": 1, "reshape": 1, "linear": 1},
    ),
    "pre-activation": (_PreActivation, {"conv2d": 2, "add": 1}),
    "pre-activation behind dropout": (_PreActivationBehindDropout, {"conv2d": 2, "add": 1}),
    "in-place behind a copy": (_InPlaceBehindContiguous, {"conv2d": 1, "relu": 1, "mul": 1, "add": 1}),
    "constants": (_Constants, {"conv2d": 1, "mul": 1, "add": 1}),
    "auxiliary head": (_Auxiliary, {"conv2d": 1}),
    "fork": (_Fork, {"conv2d": 1, "relu": 1, "add": 1}),
    "channels put together": (_Ghost, {"conv2d": 3, "concat": 2, "mean": 2, "reshape": 2, "linear": 1}),
    "root module": (lambda: nn.Conv2d(3, 4, 3), {"conv2d": 1}),
    "same": (lambda: nn.Conv2d(3, 4, (4, 3), padding="same", dilation=2), {"conv2d": 1}),
    "same, odd": (lambda: nn.Conv2d(3, 4, (4, 2), padding="same"), {"conv2d": 1}),
    "valid": (lambda: nn.Conv2d(3, 4, 3, padding="valid"), {"conv2d": 1}),
    "uneven": (lambda: nn.Conv2d(3, 4, (3, 5), stride=(2, 1), padding=(0, 2), dilation=(2, 1)), {"conv2d": 1}),
    "zero pad, uneven": (
        lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 2, 3)), nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU6()),
        {"conv2d": 1},
    ),
    "zero pad on top of padding": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.ZeroPad2d((1, 2, 0, 0)), nn.Conv2d(4, 4, 3, padding=1)),
        {"conv2d": 2},
    ),
    "pad of the width alone": (
        lambda: nn.Sequential(_Call(lambda x: F.pad(x, (2, 1))), nn.Conv2d(3, 4, 3)),
        {"conv2d": 1},
    ),
    "one pad, two readers": (_PaddedTwice, {"conv2d": 3, "add": 2}),
    "groups": (lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 9, 3, groups=3), nn.ReLU6()), {"conv2d": 2}),
    "depthwise multiplier": (lambda: nn.Conv2d(3, 6, 3, groups=3, bias=False), {"conv2d": 1}),
    "two norms": (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)), {"conv2d": 1}),
    "plain norm": (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)), {"conv2d": 1}),
    "norm behind dropout": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(), nn.BatchNorm2d(4), nn.ReLU()),
        {"conv2d": 1},
    ),
    "norm alone": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU()),
        {"conv2d": 3},
    ),
    "norm of what others read": (lambda: _BroadNorm(dropout=False), {"conv2d": 2, "add": 1}),
    "norm of what others read, dropout": (lambda: _BroadNorm(dropout=True), {"conv2d": 2, "add": 1}),
    "gates by hand": (
        _HandMadeGates,
        {
            "conv2d": 1,
            "hardswish": 3,
            "mean": 1,
            "reshape": 2,
            "linear": 1,
            "hardsigmoid": 1,
            "mul": 3,
            "add": 2,
        },
    ),
    "sigmoid and SiLU": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU(), nn.Conv2d(4, 4, 1), nn.Sigmoid()),
        {"conv2d": 2, "sigmoid": 2, "mul": 1},
    ),
    "tanh and leaky ReLU": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 1), nn.Tanh()),
        {"conv2d": 2, "leaky_relu": 1, "tanh": 1},
    ),
    "GELU, ELU and PReLU": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.GELU(), nn.Conv2d(4, 4, 1), nn.ELU(), nn.Conv2d(4, 4, 1), nn.PReLU(4), nn.PReLU()
        ),
        {"conv2d": 3, "gelu": 1, "elu": 1, "prelu": 2},
    ),
    "ranges": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 3, 1), nn.Hardtanh(-0.2, 0.1), nn.Conv2d(3, 3, 1), _Call(lambda x: x.clamp(max=0.3))),
            *(nn.Conv2d(3, 3, 1), _Call(lambda x: x.clamp_max(0.2)), _Call(lambda x: x.clamp_min(-0.1))),
        ),
        {"conv2d": 3, "clip": 4},
    ),
    "batch norm of pooled features": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, 5)),
        {"mean": 1, "reshape": 1, "mul": 1, "add": 1, "linear": 1},
    ),
    "differences and squares": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 1),
            _Call(lambda x: (1 - x) - x.mean([2, 3], keepdim=True) + x**2 + x.square() - (-x)),
        ),
        {"conv2d": 1, "mul": 6, "add": 5, "mean": 1},
    ),
    "pads of zeros and reflections": (
        lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 2, 3)), nn.MaxPool2d(3), nn.ReflectionPad2d((1, 0, 2, 1))),
        {"conv2d": 1, "max_pool2d": 1, "reflect_pad": 1},
    ),
    "average pools beyond the image": (
        lambda: nn.Sequential(
            nn.AvgPool2d(3, 2, padding=1),
            nn.AvgPool2d(3, 1, padding=1, count_include_pad=False),
            nn.AvgPool2d(2, ceil_mode=True),
            nn.AvgPool2d((2, 1), 1, divisor_override=3),
        ),
        {"conv2d": 4, "mul": 3},
    ),
    "its own preprocessing": (
        _Normalises,
        {"conv2d": 1, "add": 1, "mul": 2, "mean": 1, "reshape": 4, "linear": 1, "relu6": 1},
    ),
    "pools of ceil_mode": (
        lambda: nn.Sequential(
            nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.Conv2d(3, 4, 1)
        ),
        {"max_pool2d": 2, "conv2d": 1},
    ),
    "ceil_mode that changes nothing": (
        lambda: nn.Sequential(nn.AvgPool2d(3, 3, ceil_mode=True), nn.MaxPool2d(3, ceil_mode=True)),
        {"avg_pool2d": 1, "max_pool2d": 1},
    ),
    "pools to a grid": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d((9, 9)), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(27, 5)),
        {"avg_pool2d": 1, "reshape": 1, "linear": 1},
    ),
    "pools": (
        lambda: nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d((1, 1))),
        {"max_pool2d": 1, "avg_pool2d": 1, "mean": 1},
    ),
    "flatten 2x2": (_flattened, {"conv2d": 1, "max_pool2d": 1, "reshape": 1, "linear": 1}),
    "flatten 2x2, dropout": (
        lambda: _flattened(nn.Dropout()),
        {"conv2d": 1, "max_pool2d": 1, "reshape": 1, "linear": 1},
    ),
    "two activations": (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(), nn.ReLU()), {"conv2d": 1, "relu": 1}),
    "hardtanh 0 to 6": (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.Hardtanh(0, 6)), {"conv2d": 1}),
}


@pytest.mark.parametrize("name", _STRANGERS)
def test_other_peoples_models(name: str) -> None:
    torch.manual_seed(0)
    make, counts = _STRANGERS[name]
    graph = _assert_equal(make(), _images(3, 9))
    assert graph.op_counts() == counts
    assert graph.inputs == ("input",)
    assert all(graph.tensors), "a tensor without a name"


def test_an_auxiliary_heads_weights_are_not_kept() -> None:
    graph = lower(export_program(_Auxiliary(), (1, 3, 9, 9)))
    assert not [name for name in graph.tensors if name.startswith("head")]


@pytest.mark.parametrize("wrap", [lambda y: y, lambda y: (y,), lambda y: [None, y], lambda y: (y, 1.0)])
def test_one_tensor_in_an_output_is_the_output(wrap: Callable[[torch.Tensor], object]) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), _Call(wrap))
    assert lower(export_program(net, (1, 3, 9, 9))).outputs == ("0",)


def test_an_output_that_an_activation_reads_stays_an_output() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), _Call(lambda y: (y, F.relu(y))))
    graph = lower(export_program(_trained_like(net), (1, 3, 9, 9)))
    assert graph.op_counts() == {"conv2d": 1, "relu": 1}
    x = _images(3, 9)
    with torch.no_grad():
        expected = dict(zip(graph.outputs, map(_nhwc, net(x)), strict=True))
    for name, value in run(graph, _nhwc(x)).items():
        assert _sqnr_db(expected[name], value) >= MIN_SQNR_DB


def test_flat_models() -> None:
    torch.manual_seed(0)
    graph = _assert_equal(_Flat(), torch.randn(3, 6, generator=torch.Generator().manual_seed(2)))
    assert graph.op_counts() == {"linear": 1, "add": 1}


def test_two_calls_of_a_module_never_take_another_modules_name() -> None:
    torch.manual_seed(0)
    graph = lower(export_program(_trained_like(_Shared()), (1, 3, 9, 9)))
    assert [node.output for node in graph.nodes] == ["bn1", "bn2", "conv", "conv_2", "conv_1"]
    assert len({node.inputs[1] for node in graph.nodes}) == 5


def test_two_inputs_keep_their_names() -> None:
    class Sum(nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return left + right

    example = torch.zeros(1, 2, 3, 3)
    graph = lower(torch.export.export(Sum().eval(), (example, example)))
    assert graph.inputs == ("left", "right")
    assert graph["left"].shape == (1, 3, 3, 2)


# ---- refusals


class _Call(nn.Module):
    """forward = `function`, behind a named child so that the error has a path to show."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class _Offset(nn.Module):
    """x + a buffer of `shape`."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("offset", torch.ones(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.offset


def _overwritten_flat(x: torch.Tensor) -> torch.Tensor:
    """The pooled image is read once more, behind an in-place ReLU of what it is flattened to."""
    pooled = x.mean([2, 3], keepdim=True)
    F.relu_(pooled.flatten(1))
    return x * pooled


def _before(module: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), module)


class _Mixed(nn.Module):
    """[N, 4] beside [N, 4, 4, 4]: PyTorch aligns the last dimensions, which NHWC moves."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return x + x.mean([2, 3])


_UNSUPPORTED = [
    (lambda: _before(nn.Softsign()), "aten.abs.default (at 1)", "has no lowering. Supported: aten."),
    (lambda: _before(nn.GELU("tanh")), "aten.gelu.default (at 1)", "use approximate='none'"),
    (lambda: _before(nn.ELU(0.5)), "aten.elu.default (at 1)", "only alpha 1 is supported"),
    (lambda: _before(nn.AdaptiveAvgPool2d(4)), "aten.adaptive_avg_pool2d.default (at 1)", "found (9, 9) to (4, 4)"),
    (lambda: _before(nn.Softmax(1)), "aten.softmax.int (at 1)", "leave it out of forward()"),
    (
        lambda: nn.Sequential(_Call(lambda x: x.permute(0, 2, 3, 1).reshape(1, 81, 3)), nn.BatchNorm1d(81)),
        "aten.batch_norm.default (at 1)",
        "only [N, C] and [N, C, H, W] are supported, found [1, 81, 3]",
    ),
    (lambda: _before(_Call(lambda x: 1 / x)), "(at 1)", "Supported"),
    (lambda: _before(_Call(lambda x: x / x.mean([2, 3], keepdim=True))), "aten.div.Tensor (at 1)", "by a constant"),
    (lambda: _before(_Call(lambda x: torch.sub(x, x, alpha=2))), "aten.sub.Tensor (at 1)", "alpha=2"),
    (lambda: _before(_Call(lambda x: x**3)), "aten.pow.Tensor_Scalar (at 1)", "only the power 2"),
    (lambda: _before(_Call(lambda x: x.clamp(1, 1))), "aten.clamp.default (at 1)", "found [1, 1]"),
    (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        "aten.batch_norm.default (at 1)",
        "has no running statistics",
    ),
    (lambda: nn.Sequential(nn.Linear(9, 4)), "aten.linear.default (at 0)", "needs an input [N, features], found 4"),
    (lambda: _before(_Call(lambda x: x.view(1, 4, 81))), "aten.view.default (at 1)", "[1, 4, 9, 9] -> [1, 4, 81]"),
    (
        lambda: _before(_Call(lambda x: x.flatten(1) * 2.0)),
        "aten.flatten.using_ints (at 1)",
        "only a linear layer",
    ),
    (lambda: _flattened(nn.ReLU()), "aten.flatten.using_ints (at 3)", "only a linear layer"),
    (lambda: _flattened(nn.Dropout(), nn.ReLU()), "aten.flatten.using_ints (at 3)", "only a linear layer"),
    (lambda: _before(_Call(lambda x: torch.cat([x, x], 0))), "aten.cat.default (at 1)", "found dim=0 of 4"),
    (lambda: _before(_Call(lambda x: torch.cat([x, torch.ones(1, 1, 9, 9)], 1))), "aten.cat.default", "a constant"),
    (lambda: _before(_Call(lambda x: x[:, :, :2])), "aten.slice.Tensor (at 1)", "[1, 4, 9, 9] -> [1, 4, 2, 9]"),
    (lambda: _before(_Call(lambda x: x.mean(1))), "aten.mean.dim (at 1)", "only the mean over height and width"),
    (lambda: _before(_Call(lambda x: torch.add(x, x, alpha=2))), "aten.add.Tensor (at 1)", "alpha=2"),
    (lambda: _before(_Offset(9)), "aten.add.Tensor (at 1)", "shape [9] of an image"),
    (lambda: _before(_Offset(9, 9)), "aten.add.Tensor (at 1)", "shape [9, 9] of an image"),
    (_Mixed, "aten.add.Tensor (at the top level)", "broadcasting [4, 2] dimensions"),
    (lambda: _before(_Call(lambda x: F.dropout(x, 0.5))), "aten.dropout.default (at 1)", "pass training=self.training"),
    (lambda: _before(_Call(_overwritten_flat)), "aten.relu_.default (at 1)", "read again as [1, 4, 1, 1]"),
    (lambda: _before(_Call(lambda x: x + torch.rand(1, 4, 1, 1))), "aten.rand.default (at 1)", "has no lowering"),
    (lambda: _before(nn.MaxPool2d(2, dilation=2)), "aten.max_pool2d.default (at 1)", "with dilation"),
    (lambda: nn.Conv2d(3, 4, 3, padding_mode="circular"), "aten.pad.default", "mode='circular'"),
    (lambda: _before(nn.ConstantPad2d(1, 0.5)), "aten.pad.default (at 1)", "padding with zeros and reflection"),
    (lambda: _before(nn.ZeroPad2d(-1)), "aten.pad.default (at 1)", "by 0 or more; found pad=[-1, -1, -1, -1]"),
    (
        lambda: _before(_Call(lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)))),
        "aten.pad.default (at 1)",
        "only height and width",
    ),
    (
        lambda: _before(_Call(lambda x: F.conv2d(x, x.mean([2, 3], keepdim=True)))),
        "aten.conv2d.default (at 1)",
        "must be parameters or buffers, found a computed tensor",
    ),
]


@pytest.mark.parametrize(("make", "what", "why"), _UNSUPPORTED)
def test_what_cannot_be_lowered_is_refused_by_name(make: Callable[[], nn.Module], what: str, why: str) -> None:
    program = export_program(make(), (1, 3, 9, 9))
    with pytest.raises(Unsupported) as caught:
        lower(program)
    message = str(caught.value)
    assert message.startswith("cannot lower ")
    assert what in message
    assert why in message
    assert "\n" not in message


def test_an_unknown_op_lists_what_is_supported() -> None:
    with pytest.raises(Unsupported) as caught:
        lower(export_program(_before(nn.Softsign()), (1, 3, 9, 9)))
    assert all(op in str(caught.value) for op in LOWERINGS if op.startswith("aten."))


def test_an_image_without_a_batch_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"must have 4 dimensions \[N, C, H, W\], found \[3, 9, 9\]"):
        lower(export_program(nn.Conv2d(3, 4, 3), (3, 9, 9)))


def test_a_net_in_training_mode_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    program = torch.export.export(net, (torch.zeros(2, 3, 9, 9),))
    with pytest.raises(Unsupported, match="training mode"):
        lower(program)


def test_a_constant_model_is_refused() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.answer = nn.Parameter(torch.ones(1, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.answer

    with pytest.raises(Unsupported, match="the output of the model is a constant"):
        lower(export_program(Constant(), (1, 3, 9, 9)))


def test_what_torch_cannot_trace_is_refused_in_one_line() -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(Unsupported, match=r"torch\.export cannot trace Branch on input \[1, 3, 9, 9\]") as caught:
        export_program(Branch(), (1, 3, 9, 9))
    assert "\n" not in str(caught.value)
