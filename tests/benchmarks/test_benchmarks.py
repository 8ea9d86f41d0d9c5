"""The benchmarks' tables; running them is for a quiet machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from edgemobile.devices.host.counting import Block, CacheMisses, Execution
from edgemobile.devices.host.estimating import Estimate
from edgemobile.errors import EdgemobileError

for _extra in ("torch", "onnx", "onnxruntime", "ai_edge_litert"):
    pytest.importorskip(_extra)


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def int8_latency(
    repo_root: Path, load_script: Callable[[str], ModuleType], monkeypatch_module: pytest.MonkeyPatch
) -> ModuleType:
    monkeypatch_module.syspath_prepend(repo_root / "benchmarks")  # as where a script lies
    return load_script("benchmarks/int8_latency.py")


def test_every_row_has_a_file_of_its_own_and_the_baseline_is_a_row(int8_latency: ModuleType) -> None:
    files = [row.file for row in int8_latency.ROWS]
    assert len(set(files)) == len(files)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") for name in files)
    assert int8_latency.BASELINE in [row.name for row in int8_latency.ROWS]


def test_drift_is_told_only_of_files_with_our_integers(int8_latency: ModuleType) -> None:
    ours = [row.name for row in int8_latency.ROWS if row.ours_int8]
    assert ours == ["tflite int8", *(f"onnx int8 for {target}" for target in ("cpu", "arm", "x86-vnni"))]
    assert [row.name for row in int8_latency.ROWS if row.is_onnx_int8] == [*ours[1:], "onnxruntime's quantizer int8"]


def test_what_grows_in_a_process_is_named(load_script: Callable[[str], ModuleType]) -> None:
    memory = load_script("benchmarks/memory.py")

    def samples(rss: Callable[[int], float], files: Callable[[int], int] = lambda index: 5) -> list[object]:
        return [memory.Sample(index, rss(index), 3, files(index)) for index in range(100)]

    # What fills in the first tenth stays out of it.
    assert memory.grown(samples(lambda index: min(index, 9) * 40)) == []
    assert memory.grown(samples(lambda index: 400 + index)) == ["memory grew from 414 to 494 MiB"]
    assert memory.grown(samples(lambda index: 400, lambda index: 5 + index // 30)) == ["files grew from 5 to 8"]
    now = memory.sample(1)
    assert now.rss_mib > 1
    assert now.threads >= 1
    assert now.files >= 3


def test_a_runtime_that_fails_has_its_reason_in_its_row_and_the_others_are_counted(
    repo_root: Path, load_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(repo_root / "benchmarks")
    rivals = load_script("benchmarks/rival_runtimes.py")
    estimate = Estimate("cortex-a72", 72e6, (CacheMisses(0, 0), CacheMisses(0, 0)), 1.0, "cortex-a72", "19.1.7")

    def counted(cpu: str, worker: str, arguments: list[str], site: Path | None = None, runtime: str = "") -> object:
        if runtime != "litert":
            raise EdgemobileError("no\nsuch file")
        return rivals.Counted(Execution({Block(0, ("d503201f",)): 93_700_000}), estimate, "2.3.0")

    monkeypatch.setattr(rivals, "count_inference", counted)
    monkeypatch.setattr(rivals, "CORES", ("cortex-a72",))
    for ending in ("float32.tflite", "int8.tflite"):
        (tmp_path / f"v2-{ending}").touch()
    sources = rivals.Sources(tmp_path, tmp_path, tmp_path, Path("python"), tmp_path, 224)
    head, _, float_row, int8_row, refused, *_ = list(rivals.table(sources))
    assert head.startswith("| runtime | file | core |")
    assert float_row == ("| litert 2.3.0 | edgemobile float32 tflite | cortex-a72 | 93.7 | 72.0 + 0.0 | 40.00 ms |")
    assert "| edgemobile int8 tflite |" in int8_row
    assert refused == "| tflite_runtime | edgemobile float32 tflite | cortex-a72 | - | - | no such file |"
    # An export of two models has two files of a kind: which one is meant is not guessed.
    (tmp_path / "v1-int8.tflite").touch()
    with pytest.raises(EdgemobileError, match=r"2 files \*-int8.tflite"):
        sources.file("-int8.tflite")
