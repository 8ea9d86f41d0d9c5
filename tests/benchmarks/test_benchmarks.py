"""The benchmarks' tables; running them is for a quiet machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

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
