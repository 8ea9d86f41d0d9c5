"""Instructions of a real aarch64 runtime under emulation: how many there must be, and that they repeat.

Skips where no emulated core is set up: `edgemobile devices setup emulated:cortex-a72`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import edgemobile
from edgemobile.api import CostTable
from edgemobile.devices.host.profiles import open_device
from edgemobile.devices.host.records import Run, load_run
from edgemobile.devices.host.setup import ready
from edgemobile.errors import EdgemobileError
from edgemobile.exporters.model_files import read_model_file
from edgemobile.latency.run import BenchRequest, bench

CORE = "emulated:cortex-a72"
_CHANNELS, _PX, _CONVOLUTIONS = 16, 32, 4
# Of the four convolutions and the call from Python around them, by llvm 19's model of the Cortex-A72.
_ESTIMATED_CYCLES = 2_998_103
_MACS = _CONVOLUTIONS * _PX * _PX * 9 * _CHANNELS * _CHANNELS


@pytest.fixture(scope="module")
def core() -> str:
    try:
        device, transport = open_device(CORE)
        ready(device, transport, "litert")
    except EdgemobileError as error:
        pytest.skip(f"no emulated core: {error}")
    return CORE


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four float convolutions, whose multiply-adds are known."""
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("flatbuffers")
    import numpy as np

    from edgemobile.exporters.tflite import to_bytes
    from edgemobile.graph import Graph, Node, Tensor

    rng, shape = np.random.default_rng(0), (1, _PX, _PX, _CHANNELS)
    attrs = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1, "activation": "relu"}
    tensors, nodes = [Tensor("y0", shape)], []
    for index in range(1, _CONVOLUTIONS + 1):
        weight = rng.normal(0, 0.05, (_CHANNELS, 3, 3, _CHANNELS)).astype(np.float32)
        tensors += [Tensor(f"w{index}", weight.shape, data=weight)]
        tensors += [Tensor(f"b{index}", (_CHANNELS,), data=np.zeros(_CHANNELS, np.float32))]
        tensors += [Tensor(f"y{index}", shape)]
        nodes.append(Node("conv2d", (f"y{index - 1}", f"w{index}", f"b{index}"), f"y{index}", attrs))
    last = f"y{_CONVOLUTIONS}"
    graph = Graph("convolutions", ("y0",), (last,), tuple(nodes), {tensor.name: tensor for tensor in tensors})
    path = tmp_path_factory.mktemp("models") / "convolutions.tflite"
    path.write_bytes(to_bytes(graph, metadata={}))
    return path


@dataclass(frozen=True)
class _Twice:
    """The same counted by the library, and by the command line against a baseline of 5 % fewer instructions."""

    first: Run
    second: Run
    shown: str
    code: int


@pytest.fixture(scope="module")
def twice(core: str, convolutions: Path, tmp_path_factory: pytest.TempPathFactory) -> _Twice:
    folder = tmp_path_factory.mktemp("runs")
    first = bench(BenchRequest((read_model_file(convolutions),), core))
    value: dict[str, Any] = json.loads(first.to_text())
    for counts in value["cases"][0]["instructions"]:
        counts.update(total=int(counts["total"] * 0.95))
    (folder / "baseline.json").write_text(json.dumps(value))
    words = ["--on", core, "--baseline", folder / "baseline.json", "--max-regress", "1%", "--out", folder / "run.json"]
    code = "from edgemobile.cli import main; main()"
    argv = [sys.executable, "-c", code, "bench", str(convolutions), *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert (folder / "run.json").exists(), done.stderr
    return _Twice(first, load_run(folder / "run.json"), done.stdout, done.returncode)


def test_as_many_multiply_adds_as_the_model_has(twice: _Twice) -> None:
    """A vector instruction does four; edges and short rows waste a few."""
    (case,) = twice.first.cases
    assert _MACS <= 4 * case.instructions_median["fmla"] < 1.2 * _MACS
    assert case.instructions_median["dot"] == 0
    assert (case.runtime, case.partitions) == ("litert", 1)


def test_counts_repeat_within_a_thousandth(twice: _Twice) -> None:
    first, second = (run.cases[0].instructions_median["total"] for run in (twice.first, twice.second))
    assert abs(first / second - 1) < 1e-3


def test_a_count_does_not_depend_on_the_place_in_line(
    twice: _Twice, core: str, convolutions: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.tflite"
    other.write_bytes(convolutions.read_bytes())
    files = read_model_file(other), read_model_file(convolutions)
    second = bench(BenchRequest(files, core)).cases[1].instructions_median["total"]
    assert abs(second / twice.first.cases[0].instructions_median["total"] - 1) < 2e-4


def test_there_is_no_time_in_it(twice: _Twice) -> None:
    for run in (twice.first, twice.second):
        assert run.emulated
        assert run.facts.machine == "aarch64"
        assert all(case.load_ns is None and not case.rounds_ns for case in run.cases)
    before, _, after = twice.shown.partition("estimated")
    assert " ms" not in before
    assert not after or "Estimated, not measured: llvm-mca" in after


def test_the_table_and_the_gate(twice: _Twice) -> None:
    assert twice.code == 1
    for part in ("EMULATED", "They are not cycles and not time.", "more instructions; 1.00% is allowed"):
        assert part in twice.shown


def test_the_estimate_of_one_small_file(twice: _Twice) -> None:
    for run in (twice.first, twice.second):
        estimate = run.cases[0].estimate
        if estimate is None:
            pytest.skip("; ".join(run.notes))
        if not estimate.llvm.startswith("19."):
            pytest.skip(f"llvm {estimate.llvm} has other models than 19")
        assert estimate.compute_cycles == pytest.approx(_ESTIMATED_CYCLES, rel=0.01)
        assert estimate.covered >= 0.999
        first, second = estimate.caches
        # All of the weights and one image: 37 KB and 66 KB for each layer are more than L1 holds, and less than L2.
        assert second.misses < first.misses / 10
        assert first.streamed > 0.8 * first.misses


@pytest.fixture(scope="module")
def costs(core: str, convolutions: Path) -> CostTable:
    return edgemobile.cost_table(convolutions, on=core, runs=1)


def test_a_layer_costs_its_multiply_adds_and_all_of_them_the_whole_file(twice: _Twice, costs: CostTable) -> None:
    invoke, *rows = costs.rows
    assert [(row.name, row.op, row.macs) for row in rows] == [
        (f"y{index}", "CONV_2D", _MACS // _CONVOLUTIONS) for index in range(1, _CONVOLUTIONS + 1)
    ]
    assert invoke.op == "(invoke)"
    # Four of each are in a vector instruction, and others have to load what it takes.
    least = _MACS / _CONVOLUTIONS / 4
    assert all(least < row.instructions < 3 * least for row in rows)
    (whole,) = twice.first.cases
    assert sum(row.instructions for row in costs.rows) == pytest.approx(whole.instructions_median["total"], rel=1e-3)


def test_the_layers_of_an_estimate(twice: _Twice, costs: CostTable) -> None:
    estimate = twice.first.cases[0].estimate
    if estimate is None:
        pytest.skip("; ".join(twice.first.notes))
    found = [row.estimated for row in costs.rows if row.estimated]
    assert sum(one.compute_cycles for one in found) == pytest.approx(estimate.compute_cycles, rel=1e-3)
    assert all(row.times_bound and 0.9 < row.times_bound < 4 for row in costs.rows[1:])
    assert costs.by_op[0].op == "CONV_2D"
    for words in ("cost of each layer, estimated for a Raspberry Pi 4, 1.8 GHz", "x bound", "(invoke)"):
        assert words in str(costs)


def test_the_same_answers_as_here(core: str, tmp_path: Path, colour_model: Callable[..., bytes]) -> None:
    """Float kernels of two machines: alike to the last bits."""
    import numpy as np

    from edgemobile.devices.host.runner import infer
    from edgemobile.devices.runtimes.sessions import open_session

    pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    path.write_bytes(colour_model("bgr"))
    device, transport = open_device(core)
    try:
        prepared = ready(device, transport, "onnxruntime")
    except EdgemobileError as error:
        pytest.skip(f"no onnxruntime there: {error}")
    images = np.random.default_rng(0).standard_normal((3, 32, 32, 3)).astype(np.float32)
    (answer,) = infer(device, transport, prepared, read_model_file(path), iter([images]))
    np.testing.assert_allclose(answer, open_session(path).run(images), atol=1e-5)
