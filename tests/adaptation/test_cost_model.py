"""What a net costs is predicted from others: on costs that were counted on an emulated Cortex-A72, by

edgemobile adapt v2 --data images/ --on emulated:cortex-a72 --out smaller
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from edgemobile.adaptation.cost_model import CostModel, fitted, non_negative_least_squares
from edgemobile.adaptation.cost_table import FITTED, HELD_OUT, int8_file, random_nets, unit_on
from edgemobile.adaptation.features import Tile, features
from edgemobile.adaptation.limits import Limits, read_budget
from edgemobile.adaptation.moves import moves, widths_by_saliency
from edgemobile.adaptation.pruning import droppable_blocks
from edgemobile.adaptation.saliency import Saliency
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.models.arch import Arch, get_arch, scaled
from edgemobile.models.channel_groups import channel_groups, with_widths
from edgemobile.models.nets import build_net
from edgemobile.models.table import exact_arch

_GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "int8_costs.json").read_text())


def _arch(name: str) -> Arch:
    return exact_arch(scaled(get_arch(name), input_px=_GOLDEN["input_px"], classes=_GOLDEN["classes"]))


def _model(name: str, unit: str, costs: Sequence[float] | None = None) -> CostModel:
    nets = random_nets(_arch(name), FITTED + HELD_OUT)
    costs = costs or _GOLDEN["costs"][name][unit]
    return fitted(_GOLDEN["device"], unit, nets[:FITTED], costs[:FITTED], nets[FITTED:], costs[FITTED:])


@pytest.mark.parametrize("name", ["v2", "v3-large"])
@pytest.mark.parametrize(("unit", "most"), [("instructions", 0.004), ("ms", 0.03)])
def test_it_predicts_nets_that_it_was_not_fitted_to(name: str, unit: str, most: float) -> None:
    model = _model(name, unit)
    assert len(model.errors) == HELD_OUT == 20
    assert model.largest_error < most
    # XNNPACK's kernel for this core computes two pixels of eight channels at once.
    assert (model.tile.rows, model.tile.columns) == (2, 8)


def test_it_is_refused_where_it_does_not() -> None:
    costs = list(_GOLDEN["costs"]["v2"]["instructions"])
    costs[FITTED + 3] *= 1.05
    with pytest.raises(EdgemobileError, match=r"wrong by up to [45]\.\d% of the instructions of 20 nets"):
        _model("v2", "instructions", costs)


def test_random_nets_are_the_same_every_time_and_differ_from_each_other() -> None:
    arch = _arch("v3-small")
    nets = random_nets(arch, 12)
    assert nets == random_nets(arch, 12)
    assert nets[0] == arch
    assert len(set(nets)) == 12
    assert min(len(net.blocks) for net in nets) < len(arch.blocks)


def test_a_net_that_torch_export_must_trace() -> None:
    arch = exact_arch(scaled(get_arch("efficientnet-lite0"), width=0.35, input_px=32, classes=3))
    noise = np.random.default_rng(0).standard_normal((1, 32, 32, 3), np.float32)
    assert int8_file("lite", arch, build_net(arch, dropout=0.0), noise, keep_dead=True).format == "tflite"


def test_channels_count_in_whole_tiles() -> None:
    arch = _arch("v3-large")
    work = [features(with_widths(arch, {"last": width}), Tile(2, 16, 8))["products"] for width in (944, 952, 960)]
    assert work[0] < work[1] == work[2]


def test_non_negative_least_squares_meets_the_optimality_conditions() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.normal(size=(30, 12)), rng.normal(size=30)
        x = non_negative_least_squares(a, b)
        gradient = a.T @ (b - a @ x)
        assert x.min() >= 0
        assert np.abs(gradient[x > 0]).max(initial=0) < 1e-8
        assert gradient[x == 0].max(initial=-1) < 1e-8
    exact = np.abs(rng.normal(size=12))
    assert np.allclose(non_negative_least_squares(a, a @ exact), exact)


def test_units_and_budgets() -> None:
    assert [read_budget(text).amount for text in ("0.6", "12ms", "20M-instructions", ".5")] == [0.6, 12, 2e7, 0.5]
    assert read_budget("350K-instructions").unit == "instructions"
    assert (unit_on("emulated:cortex-a72", None), unit_on("local", None)) == ("instructions", "ms")
    assert unit_on("emulated:cortex-a72", "ms") == "ms"
    with pytest.raises(Unsupported, match=r"local is none\. Give a time: 12ms"):
        unit_on("local", "instructions")


# ---- the choice -----------------------------------------------------------------------------------------------------


def _even(arch: Arch, **salient: float) -> Saliency:
    """All channels alike, but those of the groups named."""
    groups = {group.name: group for group in channel_groups(arch)}
    scales = {name: salient.get(name.replace(".", "_"), 1.0) for name in groups}
    channels = {name: torch.full((group.channels,), scales[name]).double() for name, group in groups.items()}
    kernels = {row: 1e6 for row, block in enumerate(arch.blocks) if block.kernel == 5}
    return Saliency(channels, dict.fromkeys(droppable_blocks(arch), 1e6), kernels)


def test_the_knapsack_takes_what_matters_least_for_what_it_saves() -> None:
    arch = _arch("v3-large")
    model = _model("v3-large", "instructions")
    limits = Limits((model,), (0.5 * model.cost(arch),))
    widths = widths_by_saliency(arch, _even(arch, blocks_13_expand=1e-6, stem=1e6), limits, 1.6)
    assert limits.load(with_widths(arch, widths)) <= 1.6 < limits.load(arch)
    # Half of a group at most.
    assert widths["blocks.13.expand"] == 480
    assert "stem" not in widths


def test_moves_save_about_what_is_wanted_on_the_worst_device() -> None:
    arch = _arch("v3-large")
    model = _model("v3-large", "instructions")
    whole = model.cost(arch)
    limits = Limits((model, model), (0.9 * whole, 0.5 * whole))
    assert limits.load(arch) == pytest.approx(2)
    found = moves(arch, _even(arch, blocks_12_expand=1e-6), limits, 0.05)
    assert found[0].name.startswith("blocks.12.expand 672 -> ")
    assert found[0].saved == pytest.approx(0.05, abs=0.01)
    for move in found:
        assert move.saved == pytest.approx(2 - limits.load(move.arch))
        assert move.saved >= 0.0125
    assert {"without blocks.4", "blocks.4.kernel 5 -> 3"} <= {move.name for move in found}
