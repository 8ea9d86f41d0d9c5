"""A machine whose onnxruntime saturates sums of int8 products is known by its sums, and can give the right ones."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx

from edgemobile.devices.host import saturation
from edgemobile.devices.host.saturation import open_on_target, target_elsewhere
from edgemobile.devices.runtimes.sessions import open_session
from edgemobile.exporters.onnx import to_bytes
from edgemobile.graph import Graph, Node, QParams, Tensor
from edgemobile.graph.interpreter import run_real
from edgemobile.model_file.metadata import TARGET

# AVX2 and no VNNI; the second is what many hosted CI machines are.
_SATURATING = ["Haswell", "EPYC-Milan"]
_RNG = np.random.default_rng(7)


def _graph() -> Graph:
    """A convolution, a pool and a classifier whose weights and images are as large as int8 has them."""
    image, scale = QParams(np.float32(1 / 128), 0), np.float32(0.01)

    def constants(name: str, shape: tuple[int, ...], source: np.float32) -> list[Tensor]:
        weights = _RNG.choice(np.array([-127, 127, 126], np.int8), shape)
        zeros = np.zeros(shape[0], np.int32)
        return [
            Tensor.constant(f"{name}.weight", weights, QParams(np.full(shape[0], scale), zeros, 0)),
            Tensor.constant(f"{name}.bias", zeros, QParams(np.full(shape[0], source * scale), zeros, 0)),
        ]

    tensors = [
        Tensor("image", (1, 8, 8, 3), "int8", qparams=image),
        Tensor("conv", (1, 6, 6, 16), "int8", qparams=QParams(np.float32(0.3), 0)),
        Tensor("pool", (1, 1, 1, 16), "int8", qparams=QParams(np.float32(0.3), 0)),
        Tensor("flat", (1, 16), "int8", qparams=QParams(np.float32(0.3), 0)),
        Tensor("logits", (1, 4), "int8", qparams=QParams(np.float32(2.0), 0)),
        *constants("conv", (16, 3, 3, 3), np.float32(1 / 128)),
        *constants("logits", (4, 16), np.float32(0.3)),
    ]
    conv = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1, "activation": ""}
    nodes = (
        Node("conv2d", ("image", "conv.weight", "conv.bias"), "conv", conv),
        Node("mean", ("conv",), "pool"),
        Node("reshape", ("pool",), "flat"),
        Node("linear", ("flat", "logits.weight", "logits.bias"), "logits", {"activation": ""}),
    )
    return Graph("loud", ("image",), ("logits",), nodes, {tensor.name: tensor for tensor in tensors})


def _written(folder: Path, graph: Graph, weights: Literal["int8", "uint8"], target: str | None = None) -> Path:
    path = folder / f"{weights}.onnx"
    path.write_bytes(to_bytes(graph, metadata={} if target is None else {TARGET: target}, weights=weights))
    return path


def test_the_probe_is_one_product_of_the_largest_integers() -> None:
    model = onnx.load_from_string(saturation._PROBE)
    onnx.checker.check_model(model)
    (node,), (weight,) = model.graph.node, model.graph.initializer
    assert node.op_type == "MatMulInteger"
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight), np.full((8, 1), 127, np.int8))


def test_this_machine_is_as_the_probe_says(tmp_path: Path) -> None:
    graph, images = _graph(), _RNG.choice([-1.0, 0.99], (8, 8, 8, 3)).astype(np.float32)
    expected = run_real(graph, images)
    signed = _written(tmp_path, graph, "int8")
    same = np.abs(open_session(signed).run(images) - expected).max() < 2.5
    assert same is not saturation.saturates_here()
    assert np.abs(open_session(signed, exact=True).run(images) - expected).max() < 2.5


_ON_A_SATURATING_CPU = """
import sys
from functools import partial
import numpy as np
from edgemobile.devices.host.saturation import open_on_target, saturates_here, target_elsewhere
from edgemobile.devices.runtimes.sessions import open_session

assert saturates_here()
images = np.load("images.npy")
opened = {name: open_on_target(partial(open_session, f"{name}.onnx")) for name in ("int8", "uint8")}
assert [dict(session.config) for session in opened.values()] == [{"session.x64quantprecision": "1"}, {}]
plain = open_session("int8.onnx").run(images)
np.savez("outputs.npz", plain=plain, **{name: session.run(images) for name, session in opened.items()})
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="an x86 is emulated on x86 alone")
@pytest.mark.parametrize("cpu", _SATURATING)
def test_sums_are_exact_on_a_cpu_that_saturates(tmp_path: Path, repo_root: Path, cpu: str) -> None:
    qemu = shutil.which("qemu-x86_64")
    if qemu is None:
        pytest.skip("qemu-x86_64 is not installed: apt-get install qemu-user")
    graph, images = _graph(), _RNG.choice([-1.0, 0.99], (8, 8, 8, 3)).astype(np.float32)
    _written(tmp_path, graph, "int8", "arm")
    _written(tmp_path, graph, "uint8")
    np.save(tmp_path / "images.npy", images)
    command = [qemu, "-cpu", cpu, sys.executable, "-c", _ON_A_SATURATING_CPU]
    env = {**os.environ, "PYTHONPATH": str(repo_root), "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = np.load(tmp_path / "outputs.npz")
    expected = run_real(graph, images)
    np.testing.assert_array_equal(found["int8"], found["uint8"])
    # A step is 2.0: a tie may be one away.
    assert np.abs(found["int8"] - expected).max() < 2.5
    assert np.abs(found["plain"] - expected).max() > 20


@pytest.mark.parametrize(("target", "saturates", "elsewhere"), [("arm", True, "arm"), ("arm", False, None)])
def test_only_a_file_that_names_its_target_is_run_as_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: str, saturates: bool, elsewhere: str | None
) -> None:
    monkeypatch.setattr(saturation, "saturates_here", lambda: saturates)
    assert target_elsewhere({TARGET: target}) == elsewhere
    assert target_elsewhere({}) is None
    named = open_on_target(partial(open_session, _written(tmp_path, _graph(), "int8", target)))
    assert bool(named.config) is saturates
    assert not open_on_target(partial(open_session, _written(tmp_path, _graph(), "int8"))).config
