"""The analytical cost against the papers' own tables, and against the torch modules."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgemobile.models.arch import ARCHS, scaled
from edgemobile.models.cost import arch_costs, layer_cost, total
from edgemobile.models.layers import layers
from edgemobile.models.nets import build_net

# Exact, at 1000 classes and 224 px: what timm (v1, v4, EfficientNet-Lite) and torchvision (v2, v3) count.
PARAMS = {
    "v1": 4_231_976,
    "v2": 3_504_872,
    "v3-large": 5_483_032,
    "v3-small": 2_542_856,
    "v4-conv-small": 3_774_024,
    "efficientnet-lite0": 4_652_008,
}
MACS = {
    "v1": 568_740_352,
    "v2": 300_774_272,
    "v3-large": 216_589_760,
    "v3-small": 56_510_400,
    "v4-conv-small": 186_005_568,
    "efficientnet-lite0": 385_187_552,
}


def test_lite_raspp_costs_what_torchvision_counts() -> None:
    """At 520 px and 21 classes: torchvision's documentation has 3221538 parameters and 2.086 GFLOPS."""
    whole = total(arch_costs(ARCHS["v3-large-lraspp"]))
    assert whole.params == 3_221_538
    assert round(whole.macs / 1e9, 3) == 2.086


def test_ssdlite_costs_what_torchvision_counts() -> None:
    """At 320 px and 91 classes: torchvision's documentation has 3440060 parameters and 0.583 GFLOPS."""
    whole = total(arch_costs(ARCHS["v3-large-ssdlite"]))
    assert whole.params == 3_440_060
    assert round(whole.macs / 1e9, 3) == 0.583


# (model, width, px): millions of MACs and of parameters as printed. MobileNets: tables 6 and 7. MobileNetV3: table 3.
# v2: table 4 for widths 1 and 1.4, and the table beside the authors' checkpoints for the rest.
# EfficientNet-Lite: the table beside a public reproduction. v4 is left out: its paper prints 0.2 G, one digit.
# v3 at other widths is left out: the authors keep the last layers wide there, the torchvision layout does not.
PUBLISHED = [
    ("v1", 1.0, 224, 569, 4.2),
    ("v1", 0.75, 224, 325, 2.6),
    ("v1", 0.5, 224, 149, 1.3),
    ("v1", 0.25, 224, 41, 0.5),
    ("v1", 1.0, 192, 418, 4.2),
    ("v1", 1.0, 160, 290, 4.2),
    ("v1", 1.0, 128, 186, 4.2),
    ("v2", 1.0, 224, 300, 3.47),
    ("v2", 1.4, 224, 585, 6.06),
    ("v2", 0.75, 224, 209, 2.61),
    ("v2", 0.5, 224, 97, 1.95),
    ("v2", 0.35, 224, 59, 1.66),
    ("v2", 1.0, 192, 221, 3.47),
    ("v2", 1.0, 160, 154, 3.47),
    ("v2", 1.0, 128, 99, 3.47),
    ("v2", 1.0, 96, 56, 3.47),
    ("v3-large", 1.0, 224, 219, 5.4),
    ("v3-small", 1.0, 224, 56, 2.5),
    ("efficientnet-lite0", 1.0, 224, 385, 4.65),
]


@pytest.mark.parametrize("name", PARAMS)
def test_golden_params_and_macs(name: str) -> None:
    whole = total(arch_costs(ARCHS[name]))
    assert (whole.params, whole.macs) == (PARAMS[name], MACS[name])


@pytest.mark.parametrize(("name", "width", "px", "macs", "params"), PUBLISHED)
def test_published_tables(name: str, width: float, px: int, macs: float, params: float) -> None:
    """Within 1.5 % of the printed MACs and 2 % of the parameters, or half of the last digit printed.

    The rest is what the tables count or leave out: squeeze-and-excite, biases, a background class.
    """
    whole = total(arch_costs(scaled(ARCHS[name], width=width, input_px=px)))
    assert abs(whole.macs / 1e6 - macs) <= max(0.015 * macs, 0.5)
    assert abs(whole.params / 1e6 - params) <= max(0.02 * params, 0.05)


@pytest.mark.parametrize("name", ARCHS)
@pytest.mark.parametrize("width", [0.35, 0.75, 1.0, 1.3])
def test_params_equal_the_torch_module(name: str, width: float) -> None:
    arch = scaled(ARCHS[name], width=width, classes=10)
    with torch.device("meta"):
        net = build_net(arch)
    assert total(arch_costs(arch)).params == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("name", ARCHS)
def test_layers_are_modules_with_these_shapes(name: str) -> None:
    arch = scaled(ARCHS[name], width=0.5, input_px=65, classes=5)
    net = build_net(arch).eval()
    shapes: dict[str, tuple[int, ...]] = {}
    macs: dict[str, int] = {}

    def watch(path: str):
        def hook(module, inputs, output):
            if not isinstance(output, torch.Tensor) or output.ndim == 3:
                return
            shapes[path] = (*output.shape[1:], *[1] * (4 - output.ndim))
            if hasattr(module, "weight"):
                macs[path] = module.weight.numel() * output[0, 0].numel()

        return hook

    for path, module in net.named_modules():
        module.register_forward_hook(watch(path))
    with torch.no_grad():
        net(torch.zeros(1, 3, 65, 65))
    rows = list(layers(arch))
    assert len({row.name for row in rows}) == len(rows)
    assert {row.name: row.out_shape for row in rows} == {row.name: shapes[row.name] for row in rows}
    weighted = {row.name: layer_cost(row).macs for row in rows if row.op != "mean"}
    assert weighted == {path: macs[path] for path in weighted}
    modules = dict(net.named_modules())
    leaves = {path for path, m in modules.items() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)}
    assert set(weighted) == leaves


@pytest.mark.parametrize(
    ("name", "width"), [("v1", 0.25), ("v1", 0.5), ("v1", 2), ("v2", 2), ("v2", 4), ("v3-large", 2), ("v3-small", 2)]
)
def test_macs_grow_with_width_squared(name: str, width: float) -> None:
    """Exactly so for pointwise convolutions where no width is rounded; depthwise ones grow with the width alone."""
    for a, b in zip(arch_costs(ARCHS[name]), arch_costs(scaled(ARCHS[name], width=width)), strict=True):
        if a.op == "depthwise":
            assert b.macs == width * a.macs
        elif a.op == "conv2d" and a.name not in ("conv_stem", "features.0.0") and ".fc" not in a.name:
            assert b.macs == width**2 * a.macs


@pytest.mark.parametrize("name", [name for name, arch in ARCHS.items() if arch.head == "classifier"])
@given(factor=st.integers(2, 6))
def test_macs_grow_with_resolution_squared(name: str, factor: int) -> None:
    """Exactly so for every layer before the last pool; the classifier and the squeezes do not see the resolution."""
    small = arch_costs(scaled(ARCHS[name], input_px=32))
    large = arch_costs(scaled(ARCHS[name], input_px=32 * factor))
    for a, b in zip(small, large, strict=True):
        if a.op in ("conv2d", "depthwise") and ".fc" not in a.name and a.name != "conv_head":
            assert b.macs == factor**2 * a.macs
        elif a.op != "mean":
            assert b.macs == a.macs
        assert a.params == b.params


def test_activation_bytes_total_is_the_peak() -> None:
    rows = arch_costs(ARCHS["v1"])
    assert total(rows).activation_bytes == 64 * 112 * 112 * 4 == max(row.activation_bytes for row in rows)


def test_nothing_costs_nothing() -> None:
    nothing = total([])
    assert (nothing.params, nothing.macs, nothing.activation_bytes, nothing.out_shape) == (0, 0, 0, ())
