"""What a layer costs, from the counts of a file up to each of its layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_runs import make_case, make_counted, make_run

from edgemobile.devices.host.counting import CacheMisses
from edgemobile.devices.host.estimating import Estimate
from edgemobile.devices.host.llvm_mca import SCHEDULING_MODELS
from edgemobile.devices.host.records import Prefix
from edgemobile.errors import Unsupported
from edgemobile.exporters.model_files import model_file
from edgemobile.exporters.prefixes import layers
from edgemobile.latency import layer_costs as layer_costs_module
from edgemobile.latency.estimates import on_boards
from edgemobile.latency.layer_costs import MACS_PER_CYCLE, by_op, count_prefixes, layer_costs, negative
from edgemobile.model_file.model_file import ModelFile


def _estimate(cycles: float, lines: int = 0) -> Estimate:
    misses = (CacheMisses(lines, lines), CacheMisses(0, 0))
    return Estimate("cortex-a72", cycles, misses, 0.999, "cortex-a72", "19.1.7")


_PREFIXES = (
    Prefix("", "", 0, "", (10_000, 10_002, 10_001), _estimate(5_000)),
    Prefix("stem", "CONV_2D", 64_000, "int8", (50_001,), _estimate(25_000, 100)),
    Prefix("gate", "ADD", 0, "int8", (60_001,), _estimate(29_000, 100)),
    Prefix("head", "CONV_2D", 80_000, "int8", (110_001,), _estimate(49_000, 500)),
)


def test_a_layer_costs_what_its_cut_counts_more_than_the_one_before() -> None:
    costs = layer_costs(make_counted(prefixes=_PREFIXES))
    assert [(cost.name, cost.op) for cost in costs] == [
        ("", "(invoke)"),
        ("stem", "CONV_2D"),
        ("gate", "ADD"),
        ("head", "CONV_2D"),
    ]
    assert [cost.instructions for cost in costs] == [10_001, 40_000, 10_000, 50_000]
    estimated = [cost.estimated for cost in costs]
    assert [one.compute_cycles for one in estimated if one] == [5_000, 20_000, 4_000, 20_000]
    # A line out of L2 costs an A72 11.5 cycles (COSTS).
    assert [one.memory_cycles for one in estimated if one] == pytest.approx([0, 1_150, 0, 4_600])
    assert {one.board.words for one in estimated if one} == {"Raspberry Pi 4, 1.8 GHz"}


def test_the_layers_add_up_to_the_whole_file() -> None:
    costs = layer_costs(make_counted(prefixes=_PREFIXES), 1000)
    (whole,) = on_boards(_PREFIXES[-1].estimate or _estimate(1), 1000)
    assert sum(cost.estimated.cycles for cost in costs if cost.estimated) == pytest.approx(whole.cycles)
    assert sum(cost.share for cost in costs) == pytest.approx(1)
    sums = by_op(costs)
    assert [(one.op, one.layers, one.macs) for one in sums] == [
        ("CONV_2D", 2, 144_000),
        ("(invoke)", 1, 0),
        ("ADD", 1, 0),
    ]
    assert sum(one.instructions for one in sums) == 110_001


def test_how_far_from_the_bound() -> None:
    """64,000 int8 multiply-accumulates take an A72 at least 8,000 cycles."""
    _, stem, gate, _ = layer_costs(make_counted(prefixes=_PREFIXES))
    assert (stem.bound_cycles, gate.bound_cycles, gate.times_bound) == (8_000, 0, None)
    assert stem.times_bound == 20_000 / 8_000
    unknown = [replace(one, macs=None) for one in _PREFIXES]
    assert [cost.bound_cycles for cost in layer_costs(make_counted(prefixes=tuple(unknown)))] == [None] * 4
    assert by_op(layer_costs(make_counted(prefixes=tuple(unknown))))[0].macs is None


def test_without_llvm_the_shares_are_of_the_instructions() -> None:
    costs = layer_costs(make_counted(prefixes=tuple(replace(one, estimate=None) for one in _PREFIXES)))
    assert [cost.estimated for cost in costs] == [None] * 4
    assert costs[1].share == pytest.approx(40_000 / 110_001)
    assert costs[1].times_bound is None


def test_what_costs_less_than_nothing_is_named_and_noise_is_not() -> None:
    less = (*_PREFIXES[:2], Prefix("fused", "MUL", 0, "int8", (49_000,), None))
    assert [cost.name for cost in negative(layer_costs(make_counted(prefixes=less)))] == ["fused"]
    noise = (*_PREFIXES[:2], Prefix("same", "MUL", 0, "int8", (50_000,), None))
    assert negative(layer_costs(make_counted(prefixes=noise))) == []
    assert layer_costs(make_counted()) == []


def test_a_timed_case_has_no_prefixes() -> None:
    with pytest.raises(ValueError, match="no estimate and no prefixes"):
        make_run(make_case(prefixes=_PREFIXES))
    with pytest.raises(ValueError, match="instructions, at least 1"):
        Prefix("a", "ADD", 0, "int8", (), None)


# One of each instruction that a core's row of MACS_PER_CYCLE is for, in hex: FMLA v.4s, SMLAL v.8h, SDOT v.4s.
_FMLA, _SMLAL, _SDOT = 0x4E3FCFC0, 0x0E3F83C0, 0x4E9F97C0


@pytest.mark.parametrize(
    ("cpu", "dtype", "word", "lanes"),
    [
        ("cortex-a72", "float32", _FMLA, 4),
        ("cortex-a72", "int8", _SMLAL, 8),
        ("cortex-a76", "float32", _FMLA, 4),
        ("cortex-a76", "int8", _SDOT, 16),
        ("cortex-a53", "int8", _SMLAL, 8),
    ],
)
def test_the_bounds_are_those_of_the_scheduling_model(cpu: str, dtype: str, word: int, lanes: int) -> None:
    from edgemobile.devices.host.counting import Block
    from edgemobile.devices.host.llvm_mca import find_llvm, schedule
    from edgemobile.devices.host.processes import MissingTool

    try:
        llvm = find_llvm()
    except MissingTool as error:
        pytest.skip(str(error))
    # Each into a register of its own: v0 to v23.
    block = Block(0, tuple(f"{word + register:08x}" for register in range(24)))
    per_cycle = 24 / schedule([block], cpu, llvm)[block]
    assert per_cycle * lanes == pytest.approx(MACS_PER_CYCLE[cpu][dtype], rel=0.02)


def test_every_core_with_a_model_has_bounds() -> None:
    assert MACS_PER_CYCLE.keys() == SCHEDULING_MODELS.keys()


def test_a_cut_that_does_not_run_counts_with_the_next_and_too_many_are_refused(
    colour_model: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    file = model_file(Path("colours.onnx"), colour_model("bgr"))
    asked: list[tuple[ModelFile, int]] = []

    def measure(files: list[ModelFile], displaced_bytes: list[int]) -> Any:
        asked.extend(zip(files, displaced_bytes, strict=True))
        cases = [
            make_counted(str(one.path), (1000 * (1 + number),), sha256=one.sha256) for number, one in enumerate(files)
        ]
        return SimpleNamespace(cases=cases[1:])

    prefixes, (note,) = count_prefixes(file, measure)
    assert asked[-1] == (file, 0)
    assert all(displaced == file.bytes - one.bytes for one, displaced in asked if one.bytes < file.bytes)
    assert note.endswith("a file cut there does not run: no op")
    assert [one.layer for one in prefixes] == [layer.name for layer in layers(file.contents)]
    assert sum(one.macs or 0 for one in prefixes) == sum(layer.macs or 0 for layer in layers(file.contents))
    monkeypatch.setattr(layer_costs_module, "_MOST_LAYERS", 0)
    with pytest.raises(Unsupported, match=r"colours.onnx has \d+ layers, and --profile counts at most 0"):
        count_prefixes(file, measure)
