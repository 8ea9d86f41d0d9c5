"""What the papers' ideas save, against the figures that the papers print."""

from __future__ import annotations

import pytest
import torch

from edgemobile.adaptation.idea_costs import variant_net
from edgemobile.errors import Unsupported
from edgemobile.lower.module_trace import trace_modules
from edgemobile.models.arch import get_arch, scaled
from edgemobile.models.cost import layer_cost
from edgemobile.models.ideas import Idea, Variant, ideas, separable_convolutions
from edgemobile.models.table import FAMILIES


def _idea(model: str, name: str) -> Idea:
    return next(idea for idea in ideas(get_arch(model)) if idea.name.startswith(name))


def test_mobilenet_with_full_convolutions() -> None:
    """MobileNets, table 4: 4866 million MACs and 29.3 million parameters, against 569 and 4.2."""
    idea = _idea("v1", "depthwise")
    assert idea.before.cost.macs / 1e6 == pytest.approx(4866, rel=0.001)
    assert round(idea.before.cost.params / 1e6, 1) == 29.3
    assert round(idea.after.cost.macs / 1e6) == 569
    assert round(idea.after.cost.params / 1e6, 1) == 4.2


@pytest.mark.parametrize(("name", "macs"), [("width 0.75", 325), ("width 0.5", 149), ("resolution 160 px", 290)])
def test_narrower_and_smaller(name: str, macs: int) -> None:
    """MobileNets, tables 6 and 7."""
    assert _idea("v1", name).after.cost.macs / 1e6 == pytest.approx(macs, rel=0.005)


@pytest.mark.parametrize(("name", "saved", "printed"), [("efficient", 34.3, 30), ("16 channels", 10.4, 10)])
def test_what_v3_saves(name: str, saved: float, printed: int) -> None:
    """MobileNetV3, section 5.1: the efficient last stage saves 30 million MACs, and 16 channels in the stem save 10.

    By the layers of figure 5, 9 * 960 + 960 * 320 + 320 * 1280 MACs at each of 49 pixels are replaced by 960 * 1280
    after the pool, less 1000 classes alike: 34.3 million.
    """
    idea = _idea("v3-large", name)
    found = (idea.before.cost.macs - idea.after.cost.macs) / 1e6
    assert round(found, 1) == saved
    assert found == pytest.approx(printed, rel=0.15)


@pytest.mark.parametrize("model", FAMILIES)
def test_the_formula_holds_for_every_block(model: str) -> None:
    for pair in separable_convolutions(get_arch(model)):
        both = layer_cost(pair.depthwise).macs + layer_cost(pair.pointwise).macs
        assert both / layer_cost(pair.standard).macs == pytest.approx(pair.expected)
    idea = _idea(model, "depthwise")
    assert idea.share == pytest.approx(idea.expected)


def test_hard_swish_and_squeeze_excite_in_v3() -> None:
    small, large = _idea("v3-small", "hard-swish only"), _idea("v3-large", "hard-swish only")
    for idea in (small, large):
        assert idea.share == 1
        assert idea.extra_hardswish < 0
    # In v3-large, the stem, the blocks from the seventh on and the last stage; at 14x14 and 7x7 but for the stem.
    assert (
        large.after.hardswish_values
        == 16 * 112**2
        + 240 * (28**2 + 14**2)
        + 14**2 * 2 * (200 + 184 + 184 + 480 + 672)
        + 672 * (14**2 + 7**2)
        + 7**2 * (4 * 960 + 960)
        + 1280
    )
    squeezed = _idea("v3-large", "squeeze")
    widths = [(72, 24), (120, 32), (120, 32), (480, 120), (672, 168), (672, 168), (960, 240), (960, 240)]
    assert squeezed.after.cost.macs - squeezed.before.cost.macs == sum(2 * wide * narrow for wide, narrow in widths)


@pytest.mark.parametrize("model", ["v1", "v2", "v3-small"])
def test_the_nets_that_are_measured_are_those_that_are_counted(model: str) -> None:
    arch = scaled(get_arch(model), width=0.5 if model == "v1" else 1.0, input_px=32, classes=10)
    for variant in {variant for idea in ideas(arch) for variant in (idea.before, idea.after)}:
        net = variant_net(variant)
        assert sum(value.numel() for value in net.parameters()) == variant.cost.params
        traced = trace_modules(net, (1, 3, variant.arch.input_px, variant.arch.input_px))
        assert traced is not None
        convolutions = [node for node in traced.graph.nodes if node.target is torch.ops.aten.conv2d.default]
        found = [tuple(node.meta["val"].shape[1:]) for node in convolutions]
        assert found == [layer.out_shape for layer in variant.layers if layer.op in ("conv2d", "depthwise")]


def test_an_idea_that_a_net_does_not_contain_is_left_out() -> None:
    names = {idea.name for idea in ideas(get_arch("v3-large-minimalistic"))}
    assert not any(word in name for name in names for word in ("hard-swish", "squeeze", "5x5", "stem"))
    assert "efficient last stage" in names
    assert ideas(scaled(get_arch("v2"), width=0.05, input_px=32))[0].before == Variant(
        scaled(get_arch("v2"), width=0.05, input_px=32), standard=True
    )
    with pytest.raises(Unsupported, match=r"the ideas of v4-conv-small cannot be separated\. Supported: v1, v2"):
        ideas(get_arch("v4-conv-small"))
