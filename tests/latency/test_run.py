"""A bench on this machine from request to run, and what it says about a figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import FACTS, make_case, make_counted, make_run

pytest.importorskip("onnxruntime")

from edgemobile.devices.host.processes import MissingTool
from edgemobile.devices.host.records import Case, Settings
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.exporters import onnx
from edgemobile.exporters.model_files import read_model_file
from edgemobile.graph import Graph, Node, QParams, Tensor
from edgemobile.latency import run as module
from edgemobile.latency.run import BenchRequest, advice, bench, cores_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path: Path, colour_model: Callable[..., bytes]) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(colour_model("bgr"))
    return path


def test_this_machine(model: Path) -> None:
    file = read_model_file(model)
    run = bench(BenchRequest((file, file), settings=Settings(runs=20, threads=(1,))))
    (case,) = run.cases
    assert (run.device, run.emulated, case.precision, case.batch) == ("local", False, "float32", 1)
    assert len(case.values_ns) == 20
    assert run.facts.runtimes["onnxruntime"] == case.version


def test_a_file_replaced_meanwhile_is_measured_as_it_was(
    model: Path, colour_model: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured, and every figure beside it, is of the bytes that were read at first."""
    file, step = read_model_file(model), module.run_job

    def replaced(*words: Any, **options: Any) -> Any:
        model.write_bytes(colour_model("brg") + b"\x72\x00")
        return step(*words, **options)

    monkeypatch.setattr(module, "run_job", replaced)
    (case,) = bench(BenchRequest((file,), settings=Settings(runs=5))).cases
    assert (case.sha256, case.bytes) == (sha256(file.data).hexdigest(), len(file.data))
    assert sha256(model.read_bytes()).hexdigest() != case.sha256


def test_a_free_resolution_is_measured_at_224(tmp_path: Path, colour_model: Callable[..., bytes]) -> None:
    path = tmp_path / "free.onnx"
    path.write_bytes(colour_model("bgr", shape=("batch", 3, "height", "width")))
    (case,) = bench(BenchRequest((read_model_file(path),), settings=Settings(runs=5))).cases
    assert case.input == "float32 NCHW[1, 3, 224, 224]"


@pytest.mark.parametrize(("text", "cores"), [(None, []), ("0", [0]), ("2-3", [2, 3]), ("0, 2-4", [0, 2, 3, 4])])
def test_cores(text: str | None, cores: list[int]) -> None:
    assert cores_of(text) == cores


@pytest.mark.parametrize("text", ["", "a", "3-2", "-1", "1,1", "1-", "0-99999", "0;rm"])
def test_what_are_no_cores(text: str) -> None:
    with pytest.raises(EdgemobileError, match="cores"):
        cores_of(text)


def test_no_file_is_nothing_to_measure() -> None:
    with pytest.raises(EdgemobileError, match="nothing to measure: give at least one"):
        BenchRequest(())


def test_under_emulation_time_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Transport:
        emulated = True

        def close(self) -> None: ...

    class Device:
        name = "emulated:cortex-a72"

    monkeypatch.setattr(module, "open_device", lambda name: (Device(), Transport()))
    with pytest.raises(
        Unsupported, match=r"counts the instructions of one thread .* Not supported: --threads, --seconds"
    ):
        bench(BenchRequest((read_model_file(model),), "emulated:cortex-a72", Settings(threads=(1, 4), seconds=1.0)))
    with pytest.raises(Unsupported, match=r"--memory. Allowed: .*, --clock, --profile$"):
        bench(BenchRequest((read_model_file(model),), "emulated:cortex-a72", Settings(memory=True, profile=True)))


def test_a_clock_is_for_estimates(model: Path) -> None:
    with pytest.raises(Unsupported, match=r"--clock is for the estimated time .*; local is not emulated"):
        bench(BenchRequest((read_model_file(model),), settings=Settings(clock_mhz=1500.0)))


def test_without_llvm_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MissingTool("llvm-mca not found: estimated cycles need llvm 19. Run: sudo apt-get install llvm-19")

    monkeypatch.setattr(module, "find_llvm", missing)
    (note,) = module._notes(make_run(make_counted()), 1)
    assert note.startswith("time is not estimated: llvm-mca not found")
    assert note.endswith("apt-get install llvm-19")


# ---- advice ---------------------------------------------------------------------------------------------------------


def _case(file: str, precision: str, ms: float, **changes: Any) -> Case:
    return make_case(file, ms, **{"precision": precision, "partitions": 1, "outside": {}, **changes})


FUSED = {"partitions": 22, "outside": {"HARD_SWISH": 21}}


def test_int8_slower_than_float_says_why() -> None:
    float32, fused = _case("float.tflite", "float32", 5), _case("fused.tflite", "int8", 8, **FUSED)
    (words,) = advice(make_run(float32, fused))
    assert words.startswith(
        "fused.tflite (int8) is slower than float.tflite (float32): the delegate splits it into 22 partitions"
    )
    assert "21 HARD_SWISH run outside them (export with --hswish delegated)" in words
    assert "dot products" not in words
    whole = replace(fused, partitions=1, outside={})
    (words,) = advice(make_run(float32, whole, facts=replace(FACTS, features=("neon",))))
    assert words.endswith("this CPU has no instructions for int8 dot products (neon, no dotprod)")
    (words,) = advice(make_run(float32, whole))
    assert words.endswith("the reason is not known; --profile shows the ops")


@pytest.mark.parametrize(("machine", "target"), [("aarch64", "arm"), ("x86_64", "x86-vnni")])
def test_uint8_weights_are_a_reason_where_int8_ones_are_exact(tmp_path: Path, machine: str, target: str) -> None:
    qparams = QParams(np.float32(0.1), 0)
    tensors = [
        Tensor("input", (1, 4), "int8", qparams=qparams),
        Tensor.constant("w", np.ones((2, 4), np.int8), QParams(np.full(2, 0.1), np.zeros(2), axis=0)),
        Tensor.constant("b", np.ones(2, np.int32), QParams(np.full(2, 0.01), np.zeros(2), axis=0)),
        Tensor("y", (1, 2), "int8", qparams=qparams),
    ]
    node = Node("linear", ("input", "w", "b"), "y", {"activation": ""})
    graph = Graph("one", ("input",), ("y",), (node,), {tensor.name: tensor for tensor in tensors})
    found = {}
    for weights in ("uint8", "int8"):
        path = tmp_path / f"{weights}.onnx"
        path.write_bytes(onnx.to_bytes(graph, metadata={}, weights=weights))
        told = {"runtime": "onnxruntime", "sha256": sha256(path.read_bytes()).hexdigest()}
        run = make_run(_case("float.onnx", "float32", 5, **told), _case(str(path), "int8", 8, **told))
        features = ("dotprod",) if machine == "aarch64" else ("avx512_vnni",)
        run = replace(run, facts=replace(run.facts, machine=machine, features=features))
        (found[weights],) = advice(run, [read_model_file(path)])
    assert found["uint8"].endswith(
        f"its weights are uint8, for which onnxruntime has slower kernels (export with --target {target})"
    )
    assert found["int8"].endswith("the reason is not known; --profile shows the ops")


def test_a_file_is_compared_with_its_own_float_twin(tmp_path: Path, colour_model: Callable[..., bytes]) -> None:
    """A large net in int8 is slower than a small one in float, which is no finding."""
    files = []

    def case(name: str, precision: str, ms: float, model: str, weights: str) -> Case:
        path = tmp_path / f"{name}.onnx"
        metadata = {"edgemobile.model": model, "edgemobile.weights_sha256": weights}
        path.write_bytes(colour_model("bgr", metadata=metadata if model else {}))
        files.append(read_model_file(path))
        return _case(str(path), precision, ms, runtime="onnxruntime", sha256=files[-1].sha256)

    small, large = case("v3-float", "float32", 5, "v3-small", "a"), case("v1-float", "float32", 7, "v1", "b")
    int8 = case("v1-int8", "int8", 8, "v1", "b")
    assert advice(make_run(small, int8), files) == []
    (words,) = advice(make_run(small, large, int8), files)
    assert words.startswith("v1-int8.onnx (int8) is slower than v1-float.onnx (float32)")
    retrained, unknown = case("again", "float32", 7, "v1", "c"), case("theirs", "float32", 5, "", "")
    assert advice(make_run(retrained, int8), files) == []
    # Who measures just two files compares them, whatever they do not say.
    assert len(advice(make_run(unknown, int8), files)) == 1
    assert advice(make_run(small, unknown, int8), files) == []


def test_int8_that_is_not_slower_is_not_blamed() -> None:
    float32 = _case("float.tflite", "float32", 5)
    assert advice(make_run(float32, _case("int8.tflite", "int8", 3, **FUSED))) == []
    # Within the noise, or on another number of threads, or in another runtime.
    noisy = tuple((ms * 1_000_000,) * 5 for ms in (5, 7, 5, 7, 5) for _ in range(2))
    assert (
        advice(make_run(float32, _case("int8.tflite", "int8", 5, rounds_ns=noisy, rounds_per_process=(2,) * 5))) == []
    )
    assert advice(make_run(float32, _case("int8.tflite", "int8", 8, threads=4))) == []
    assert advice(make_run(float32, _case("int8.onnx", "int8", 8, runtime="onnxruntime"))) == []
