"""Sessions on real runtimes, what they refuse, and interleaved latency."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemobile.devices.runtimes.latency import Latency, latency_ns
from edgemobile.devices.runtimes.sessions import Port, Session, open_session
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.graph import Graph, Node, QParams, Tensor

RNG = np.random.default_rng(0)


def _mean_of_pixels(batch: int = 2) -> bytes:
    """An ONNX file: [batch,3,4,6] -> [batch,3], the mean over the image."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from edgemobile.exporters.onnx import to_bytes

    tensors = [Tensor("input", (batch, 4, 6, 3)), Tensor("pool", (batch, 1, 1, 3)), Tensor("y", (batch, 3))]
    nodes = (Node("mean", ("input",), "pool"), Node("reshape", ("pool",), "y"))
    return to_bytes(Graph("mean", ("input",), ("y",), nodes, {t.name: t for t in tensors}), metadata={})


def test_onnx_session_splits_pads_and_keeps_the_order(tmp_path: Path) -> None:
    path = tmp_path / "mean.onnx"
    path.write_bytes(_mean_of_pixels())
    session = open_session(path)
    assert session.runtime == "onnxruntime"
    assert session.version[0].isdigit()
    assert session.input == Port("input", (2, 3, 4, 6), "float32", "NCHW")
    images = RNG.standard_normal((5, 4, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(session.run(images), images.mean(axis=(1, 2)), atol=1e-6)
    assert session.run(images[:0]).shape == (0, 3)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(EdgemobileError, match=r"NCHW\[2, 3, 4, 6\].*\[2, 5, 6, 3\]"):
        open_session(_mean_of_pixels()).run(np.zeros((2, 5, 6, 3), np.float32))


class _Fixed(Session):
    """A runtime that gives back what it was given."""

    runtime, version = "fixed", "1"

    def __init__(self, source: Port, target: Port) -> None:
        self.input, self.output = source, target

    def invoke(self, prepared: np.ndarray) -> np.ndarray:
        return prepared


def test_integer_ports_quantize_on_the_way_in_and_out() -> None:
    port = Port("x", (1, 2, 2, 3), "int8", "NHWC", 0.5, 3)
    session = _Fixed(port, port)
    images = RNG.uniform(-20, 20, (4, 2, 2, 3)).astype(np.float32)
    assert session.prepare(images[:1]).dtype == np.int8
    assert np.abs(session.run(images) - images).max() <= 0.25
    assert port.qparams is not None
    assert port.qparams.axis is QParams(1.0, 0).axis


def test_integers_without_a_scale_are_refused() -> None:
    port = Port("x", (1, 2, 2, 3), "uint8", "NHWC")
    with pytest.raises(Unsupported, match="uint8 without a scale"):
        _Fixed(port, port).run(np.zeros((1, 2, 2, 3), np.float32))


@pytest.mark.parametrize("data", [b"", b"\x08", b"\x08\x08nonsense", b"not a model at all"])
def test_what_is_no_model_is_refused_in_one_line(data: bytes) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(EdgemobileError) as caught:
        open_session(data)
    assert "\n" not in str(caught.value)


def test_truncated_onnx_is_refused() -> None:
    data = _mean_of_pixels()
    with pytest.raises(EdgemobileError, match="onnxruntime cannot open the model"):
        open_session(data[: len(data) // 2])


def test_missing_file_and_wrong_runtime_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgemobileError, match="cannot read"):
        open_session(tmp_path / "absent.tflite")
    with pytest.raises(Unsupported, match=r"does not read the model, which is onnx\. Allowed: onnxruntime"):
        open_session(_mean_of_pixels(), runtime="litert")
    with pytest.raises(EdgemobileError, match="threads"):
        open_session(_mean_of_pixels(), threads=0)


# Makes a small TFLite file, runs it whole, then cuts it at 16 places; in a child, which alone would die of a crash.
_TFLITE = """
import numpy as np, tensorflow as tf
from edgemobile.devices.runtimes.sessions import open_session
from edgemobile.errors import EdgemobileError
kernel = tf.constant(np.random.default_rng(0).standard_normal((1, 1, 3, 4)), tf.float32)
step = tf.function(lambda x: tf.reduce_mean(tf.nn.conv2d(x, kernel, 1, "VALID"), [1, 2]))
concrete = step.get_concrete_function(tf.TensorSpec((2, 4, 4, 3), tf.float32))
data = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
session = open_session(data)
images = np.random.default_rng(1).standard_normal((3, 4, 4, 3)).astype(np.float32)
expected = (images @ kernel.numpy()[0, 0]).mean(axis=(1, 2))
assert np.abs(session.run(images) - expected).max() < 1e-5
assert (session.runtime, session.input.layout, session.input.shape) == ("litert", "NHWC", (2, 4, 4, 3))
for cut in range(8, len(data) - 200, len(data) // 16):
    try:
        open_session(data[:cut])
    except EdgemobileError as error:
        assert "\\n" not in str(error)
    else:
        raise SystemExit(f"cut at {cut} of {len(data)} was accepted")
print("done")
"""


def test_tflite_session_and_its_truncations() -> None:
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("tensorflow")
    child = subprocess.run([sys.executable, "-c", _TFLITE], capture_output=True, text=True, timeout=120, check=False)
    assert child.stdout.strip().endswith("done"), child.stderr[-2000:]


def test_board_code_needs_no_training_framework() -> None:
    code = "import sys\nfor m in ('torch', 'onnx', 'tensorflow'): sys.modules[m] = None\n"
    code += "import edgemobile.devices.runtimes.sessions, edgemobile.devices.runtimes.latency"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_latency_interleaves_and_keeps_every_value() -> None:
    calls: list[str] = []
    time = iter(range(0, 10_000, 10))

    class Traced:
        def __init__(self, name: str) -> None:
            self.name = name

        def invoke(self, prepared: Any) -> None:
            calls.append(f"{self.name}{prepared}")

    sessions = {"a": Traced("a"), "b": Traced("b")}
    result = latency_ns(sessions, {"a": 1, "b": 2}, rounds=3, warmup=1, clock=lambda: next(time))
    assert calls == ["a1", "b2", "b2", "a1", "a1", "b2", "b2", "a1"]
    assert result["a"] == Latency((10,), (10, 10, 10))
    with pytest.raises(ValueError, match="rounds"):
        latency_ns(sessions, {"a": 1, "b": 2}, rounds=0)


def test_latency_summary() -> None:
    assert Latency((), (100, 110, 120, 130, 140)).median_ns == 120
    assert Latency((), (100, 110, 120, 130, 140)).spread == pytest.approx(20 / 120)
    assert Latency((), (100,)).spread == 0


@pytest.mark.parametrize(
    ("layout", "shape", "settled"),
    [
        ("NCHW", (2, 3, 1, 1), (2, 3, 96, 96)),
        ("NHWC", (1, 1, 1, 3), (1, 96, 96, 3)),
        ("NHWC", (1, 1, 1, 1), (1, 96, 96, 3)),
        # What the file fixes stays, also a grey image's one channel.
        ("NCHW", (1, 3, 224, 224), (1, 3, 224, 224)),
        ("NHWC", (1, 28, 28, 1), (1, 28, 28, 1)),
        ("", (1, 1), (1, 1)),
    ],
)
def test_only_what_is_free_is_settled(layout: str, shape: tuple[int, ...], settled: tuple[int, ...]) -> None:
    port = Port("x", shape, "float32", layout)
    session = _Fixed(port, port)
    session.settle(96)
    assert session.input == Port("x", settled, "float32", layout)


def test_pixels_without_a_scale_become_reals() -> None:
    port = Port("x", (1, 2, 2, 3), "uint8", "NHWC")
    session = _Fixed(port, port)
    session.settle(2)
    assert (session.input.scale, session.input.zero_point) == (1.0, 0)
    assert session.prepare(np.full((1, 2, 2, 3), 7, np.float32)).tolist() == np.full((1, 2, 2, 3), 7).tolist()
