"""`search`: nets of the space, the front, a stopped search, and what is refused. Costs are MACs here; that nets are
measured on devices is in tests/latency."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgemobile.adaptation.pruning import Weights, without_squeeze_excite
from edgemobile.adaptation.saliency import Saliency, saliency_of
from edgemobile.api import Searched
from edgemobile.errors import EdgemobileError, MissingExtra
from edgemobile.loading.checkpoint import arch_of, load_weights
from edgemobile.loading.model import load_model
from edgemobile.models.arch import Arch, get_arch, scaled, scaled_blocks
from edgemobile.models.cost import arch_costs, total
from edgemobile.models.nets import build_net
from edgemobile.models.table import exact_arch, table_of
from edgemobile.nas import run, trial
from edgemobile.nas.plot import save_plot
from edgemobile.nas.request import Found, SearchRequest, SearchResult
from edgemobile.nas.space import SHARES, net_of, options, uniform, widths_of
from edgemobile.nas.study import STUDY_FILE

pytest.importorskip("optuna")

_PX = 32
_LABELS = ["blue", "green", "red"]


@pytest.fixture(scope="module")
def full() -> Weights:
    arch = exact_arch(scaled(get_arch("v3-small"), input_px=_PX, classes=3))
    torch.manual_seed(0)
    return Weights.of(arch, build_net(arch, dropout=0.0))


@pytest.fixture(scope="module")
def saliency(full: Weights) -> Saliency:
    rng = np.random.default_rng(0)
    return saliency_of(full, rng.standard_normal((8, _PX, _PX, 3), np.float32), np.arange(8) % 3)


@pytest.fixture(scope="module")
def net(colours: Path) -> Path:
    """A v3-small with random weights."""
    checkpoint = load_weights("random", get_arch("v3-small"), classes=3)
    path = colours.parent / "net.safetensors"
    save_file(dict(checkpoint.state_dict), path, {"labels": json.dumps(_LABELS)})
    return path


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost is the number of MACs: the device is not asked."""

    def measured(device: str, unit: str, files: Sequence[Arch]) -> list[float]:
        assert (device, unit) == ("formula", "instructions")
        return [float(total(arch_costs(arch)).macs) for arch in files]

    monkeypatch.setattr(run, "unit_on", lambda device, asked: asked or "instructions")
    monkeypatch.setattr(trial, "int8_file", lambda name, arch, *_: arch)
    monkeypatch.setattr(trial, "measured", measured)


def _request(net: Path, colours: Path, out: Path, **given: object) -> SearchRequest:
    small = {"train_images": 16, "images": 16, "check_images": 6, "batch": 16, "population": 3, "threads": 1}
    return SearchRequest(str(net), colours, out, **{"on": "formula", "res": (_PX,), "trials": 6, **small, **given})


@pytest.fixture(scope="module")
def searched(net: Path, colours: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    with pytest.MonkeyPatch.context() as patch:
        _counted.__wrapped__(patch)
        return run.search(_request(net, colours, tmp_path_factory.mktemp("searched") / "out"))


# ---- the space ------------------------------------------------------------------------------------------------------


def test_the_full_net_is_the_multiplier_of_1(full: Weights, saliency: Saliency) -> None:
    same = net_of(full, saliency, uniform(full.arch, _PX, 1.0))
    assert same is not None
    assert same.arch == full.arch
    assert all(bool((same.state[key] == value).all()) for key, value in full.state.items())


def test_every_option_changes_its_row(full: Weights, saliency: Saliency) -> None:
    choice = uniform(full.arch, _PX, 1.0)
    changed = {"blocks.4.expand": 0.5, "blocks.4.kernel": 3, "blocks.5.se": False, "blocks.6.act": "relu"}
    net = net_of(full, saliency, {**choice, **changed, "blocks.9.kept": False, "px": 64})
    assert net is not None
    before, after = full.arch, net.arch
    assert (after.input_px, len(after.blocks)) == (64, len(before.blocks) - 1)
    rows = scaled_blocks(after)
    assert (rows[4].expand, rows[4].kernel, rows[4].squeeze) == (120, 3, 32)
    assert (rows[5].squeeze, rows[6].act, rows[7].act) == (0, "relu", "hardswish")
    assert after.blocks[9] == before.blocks[10]
    # The table describes it, and its net takes the weights and gives finite answers.
    assert table_of(after).arch().blocks == after.blocks
    assert net.module()(torch.zeros(1, 3, 64, 64)).isfinite().all()


def test_multipliers_leave_everything_else(full: Weights, saliency: Saliency) -> None:
    for share in SHARES:
        net = net_of(full, saliency, uniform(full.arch, _PX, share))
        assert net is not None
        assert [(row.kernel, row.squeeze > 0, row.act) for row in scaled_blocks(net.arch)] == [
            (row.kernel, row.squeeze > 0, row.act) for row in scaled_blocks(full.arch)
        ]
        assert widths_of(full.arch, uniform(full.arch, _PX, share)).get("last", 576) == round(576 * share / 8) * 8


def test_without_squeeze_excite_is_the_net_with_open_gates(full: Weights) -> None:
    """A bias of 3 in the second layer opens every gate: hard-sigmoid is 1 there."""
    prefix = "features.4.block.2"
    opened = {**full.state, f"{prefix}.fc2.weight": torch.zeros_like(full.state[f"{prefix}.fc2.weight"])}
    opened[f"{prefix}.fc2.bias"] = torch.full_like(full.state[f"{prefix}.fc2.bias"], 3.0)
    images = torch.randn(2, 3, _PX, _PX, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = Weights(full.arch, opened).module()(images)
        found = without_squeeze_excite(full, 3).module()(images)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_options_are_those_that_a_row_has(full: Weights) -> None:
    found = options(full.arch, (_PX, 64))
    assert found["px"] == (_PX, 64)
    assert not any(name.startswith("blocks.0.kernel") for name in found)
    assert {"blocks.0.se", "blocks.3.kernel", "blocks.3.act", "blocks.2.kept"} <= found.keys()
    assert "blocks.1.act" not in found
    assert "blocks.1.kept" not in found
    v1 = exact_arch(scaled(get_arch("v1"), input_px=_PX))
    assert options(v1, (_PX,)).keys() == {"px", "width"}


# ---- the search -----------------------------------------------------------------------------------------------------


def test_the_front_and_its_checkpoints(searched: SearchResult) -> None:
    assert [net.multiplier for net in searched.nets[:4]] == [1.0, 0.875, 0.75, 0.6]
    assert len({net.number for net in searched.nets}) == len(searched.nets)
    for net in searched.nets:
        better = [one for one in searched.nets if one.cost <= net.cost and one.top1 >= net.top1]
        is_best = all((one.cost, one.top1) == (net.cost, net.top1) for one in better)
        on_front = any((one.cost, one.top1) == (net.cost, net.top1) for one in searched.front)
        assert is_best == on_front
    assert [net.cost for net in searched.front] == sorted(net.cost for net in searched.front)
    kept = {path.name for path in (searched.out / "nets").iterdir()}
    assert kept == {f"{net.number}.safetensors" for net in (*searched.front, *searched.multipliers)}
    for net in searched.front:
        assert net.held_out_top1 is not None
        arch = arch_of(str(searched.out / net.file))
        assert total(arch_costs(scaled(arch, input_px=_PX))).macs == net.macs == net.cost
        model = load_model(str(searched.out / net.file))
        assert (model.labels, model.preprocess.input_px) == (("blue", "green", "red"), _PX)
    saved = json.loads((searched.out / "search.json").read_text())
    assert [net["number"] for net in saved["front"]] == [net.number for net in searched.front]


def test_a_stopped_search_goes_on(
    searched: SearchResult, net: Path, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost, asked = trial.Trials.cost, []

    def stopped(self: trial.Trials, net: Weights) -> float:
        asked.append(net)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return cost(self, net)

    monkeypatch.setattr(trial.Trials, "cost", stopped)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt, match="continue with --resume"):
        run.search(_request(net, colours, out))
    monkeypatch.setattr(trial.Trials, "cost", cost)
    with pytest.raises(EdgemobileError, match=r"exists already\. Use --resume"):
        run.search(_request(net, colours, out))
    with pytest.raises(EdgemobileError, match="has other values of --epochs"):
        run.search(_request(net, colours, out, epochs=2, resume=True))
    (out / "nets" / "77.safetensors").touch()
    result = run.search(_request(net, colours, out, trials=4, resume=True))
    assert not (out / "nets" / "77.safetensors").exists()
    # The width multipliers are all there, also the one that was interrupted.
    assert {found.multiplier: found.cost for found in result.multipliers} == {
        found.multiplier: found.cost for found in searched.multipliers
    }
    more = run.search(_request(net, colours, out, trials=5, resume=True))
    assert more.nets[:4] == result.nets
    assert len(more.nets) + more.unused >= 4
    assert (out / STUDY_FILE).is_file()
    again = run.search(_request(net, colours, out, trials=1, overwrite=True))
    assert len(again.nets) == 1


def test_what_beats_a_multiplier() -> None:
    def found(number: int, cost: float, held_out: float, multiplier: float | None = None) -> Found:
        return Found(number, {"px": _PX}, cost, 0.5, 1, 1, multiplier, held_out)

    wide, narrow = found(0, 10, 0.8, 1.0), found(1, 5, 0.7, 0.6)
    result = SearchResult(Path(), "d", "ms", (), (found(2, 9, 0.8), found(3, 5, 0.69)), (wide, narrow), 0, "2 images")
    assert result.beaten == (wide,)


def test_a_plot(searched: SearchResult, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    save_plot(searched, tmp_path / "front.svg")
    text = (tmp_path / "front.svg").read_text()
    assert all(f"<!-- {words} -->" in text for words in ("tried", "width multipliers, on images held out"))
    record = Searched.of(searched)
    assert "front of" in str(record)
    assert record.plot()._repr_svg_().count("<svg") == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"trials": 0}, "--trials must be at least 1, found 0"),
        ({"train_images": 8}, "--train-images must be at least 16, found 8"),
        ({"lr": 0.0}, "--lr must be above 0, found 0"),
        ({"images": 50}, "has 54 training images, fewer than --images 50 and --train-images 16 together"),
        ({"resume": True}, "no interrupted search"),
        ({"model": "a:b"}, "a:b cannot be searched"),
    ],
)
def test_refusals(net: Path, colours: Path, tmp_path: Path, given: dict, words: str) -> None:
    model = given.pop("model", net)
    with pytest.raises(EdgemobileError) as raised:
        run.search(_request(model, colours, tmp_path / "out", **given))
    assert words in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_without_the_extra(net: Path, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"pip install 'edgemobile\[search\]'"):
        run.search(_request(net, colours, tmp_path / "out"))
