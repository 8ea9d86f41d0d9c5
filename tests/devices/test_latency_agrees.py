"""What bench measures against LiteRT's own benchmark, in turns, on a TFLite file made here."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from edgemobile.devices.host.local import LocalTransport
from edgemobile.devices.host.records import Settings
from edgemobile.devices.host.runner import bench_job, run_job
from edgemobile.devices.runtimes.latency import warm_up_ns
from edgemobile.exporters.model_files import read_model_file
from edgemobile.graph import Graph, Node, Tensor


def test_warm_up_ends_when_it_is_steady() -> None:
    """Ten calls where nothing changes; until the slow ones are out of both windows otherwise; never for ever."""

    def taken(durations: list[int]) -> list[int]:
        now, lasting = 0, iter(durations)

        def clock() -> int:
            return now

        def invoke() -> None:
            nonlocal now
            now += next(lasting)

        return warm_up_ns(invoke, clock=clock)

    assert taken([100] * 99) == [100] * 10
    assert len(taken([900, 800, 700, 600, 500, 400, 300, 200, *[100] * 99])) == 16
    assert len(taken([100 + 10 * index for index in range(99)])) == 50
    assert len(taken([4_000_000_000] * 99)) == 3


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six convolutions, some milliseconds: long enough that the clock and Python do not count."""
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("flatbuffers")
    from edgemobile.exporters.tflite import to_bytes

    rng, shape = np.random.default_rng(0), (1, 64, 64, 16)
    attrs = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1, "activation": "relu"}
    tensors, nodes = [Tensor("x", shape)], []
    for index in range(6):
        weight = rng.normal(0, 0.05, (16, 3, 3, 16)).astype(np.float32)
        tensors += [Tensor(f"w{index}", weight.shape, data=weight)]
        tensors += [Tensor(f"b{index}", (16,), data=np.zeros(16, np.float32)), Tensor(f"y{index}", shape)]
        source = f"y{index - 1}" if index else "x"
        nodes.append(Node("conv2d", (source, f"w{index}", f"b{index}"), f"y{index}", attrs))
    tensors.append(Tensor("mean", (1, 1, 1, 16)))
    nodes.append(Node("mean", ("y5",), "mean"))
    graph = Graph("convolutions", ("x",), ("mean",), tuple(nodes), {tensor.name: tensor for tensor in tensors})
    path = tmp_path_factory.mktemp("models") / "convolutions.tflite"
    path.write_bytes(to_bytes(graph, metadata={}))
    return path


@dataclass(frozen=True)
class _Here:
    name: str = "local"
    python: tuple[str, ...] = (sys.executable,)
    env: dict[str, str] = field(default_factory=dict)


def _ours_ms(model: Path, root: Path) -> float:
    files = [read_model_file(model)]
    job = bench_job(files, Settings(runs=40), [], emulated=False)
    (case,) = run_job(_Here(), LocalTransport(root), _Here(), job, files).cases
    assert (case.runtime, case.partitions, dict(case.outside or {})) == ("litert", 1, {})
    return case.median_ns / 1e6


def _litert_ms(model: Path, result: Path) -> float:
    tool = [sys.executable, "-m", "ai_edge_litert.tools.benchmark_litert_model", f"--model={model}"]
    subprocess.run([*tool, "--num_runs=40", f"--result_json={result}"], capture_output=True, check=True, timeout=120)
    return json.loads(result.read_text())["latency"]["median_ms"]


def test_the_median_agrees_with_litert_s_own_benchmark(convolutions: Path, tmp_path: Path) -> None:
    """Within 3 %, of turns taken one after the other: of the quietest or of the middle ones, as others may use the
    machine meanwhile.
    """
    pytest.importorskip("ai_edge_litert.tools.benchmark_litert_model")
    ours, theirs = [], []
    for turn in range(24):
        ours.append(_ours_ms(convolutions, tmp_path / "root"))
        theirs.append(_litert_ms(convolutions, tmp_path / "litert.json"))
        middle = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        ratios = min(ours) / min(theirs), middle
        if turn >= 3 and min(abs(ratio - 1) for ratio in ratios) < 0.03:
            return
    pytest.fail(f"{ratios} times LiteRT's: {ours} against {theirs} ms")
