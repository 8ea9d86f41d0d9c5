"""A session in its own process: the same answers, and whatever a file does to its runtime ends there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

from hostile_files import endless, huge, make_onnx

from edgemobile.devices.runtimes import isolated
from edgemobile.devices.runtimes.isolated import open_isolated
from edgemobile.devices.runtimes.sessions import open_layers, open_session
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.exporters import FORMATS
from edgemobile.graph import Graph, Node, Tensor


def _file(format: str) -> bytes:
    """A convolution of 3 channels to 4, of 8 px."""
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(4, 3, 3, 3)).astype(np.float32), np.arange(4, dtype=np.float32)
    attrs = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1, "activation": "relu"}
    tensors = {
        "x": Tensor("x", (1, 8, 8, 3)),
        "w": Tensor("w", weight.shape, data=weight),
        "b": Tensor("b", bias.shape, data=bias),
        "y": Tensor("y", (1, 8, 8, 4)),
    }
    graph = Graph("small", ("x",), ("y",), (Node("conv2d", ("x", "w", "b"), "y", attrs),), tensors)
    return FORMATS[format].load().to_bytes(graph, metadata={"edgemobile.model": "small"})


@pytest.mark.parametrize("layers", [False, True])
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_it_answers_as_a_session_here(format: str, layers: bool) -> None:
    data = _file(format)
    here = open_layers(data) if layers else open_session(data)
    there = open_isolated(data, layers=layers)
    for name in ("runtime", "version", "inputs", "outputs", "config"):
        assert getattr(there, name) == getattr(here, name)
    assert dict(there.metadata) == dict(here.metadata)
    assert there.delegation() == here.delegation()
    images = np.random.default_rng(1).normal(size=(3, 8, 8, 3)).astype(np.float32)
    for one, other in zip(there.run_all(images), here.run_all(images), strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_takes_another_size_where_the_file_leaves_it_open() -> None:
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, "h", "w"])
    there = open_isolated(make_onnx(helper.make_node("Relu", ["x"], ["y"]), outputs=[y], inputs=[x]))
    there.settle(16)
    assert there.input.shape == (1, 3, 16, 16)
    assert there.invoke(np.ones((1, 3, 16, 16), np.float32)).shape == (1, 3, 16, 16)


def test_errors_there_are_errors_here() -> None:
    with pytest.raises(EdgemobileError, match=r"cannot open mine\.onnx"):
        open_isolated(b"\x08\x09 no more", name="mine.onnx")
    with pytest.raises(Unsupported, match="neither TFLite"):
        open_isolated(b"nothing of the kind", name="mine.onnx")
    with pytest.raises(Unsupported, match="'litert' does not read mine"):
        open_isolated(_file("onnx"), runtime="litert", name="mine")


def test_a_file_that_never_ends_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "_RUN_S", 1.0)
    monkeypatch.setattr(isolated, "_IMAGE_S", 0.0)
    session = open_isolated(endless(), name="endless.onnx")
    started = time.monotonic()
    with pytest.raises(EdgemobileError, match=r"endless\.onnx: it did not run within 1 s"):
        session.invoke(np.zeros((1, 4), np.float32))
    assert time.monotonic() - started < 20


def test_a_file_that_wants_all_memory_is_named() -> None:
    # Old versions of onnxruntime compute it when they open the file.
    with pytest.raises(EdgemobileError, match=r"huge\.onnx"):
        open_isolated(huge(), name="huge.onnx").invoke(np.zeros((1, 4), np.float32))


def test_a_crash_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heap checker of glibc ends a process by SIGABRT; here the process does it itself."""
    abort = "import os; import edgemobile.devices.runtimes.isolated as one; one._opened = lambda *a: os.abort(); "
    monkeypatch.setattr(isolated, "_START", isolated._START.replace("from edgemobile", abort + "from edgemobile", 1))
    with pytest.raises(EdgemobileError, match=rf"mine\.onnx crashed the runtime \(signal {signal.SIGABRT:d}\)"):
        open_isolated(_file("onnx"), name="mine.onnx")


@pytest.mark.parametrize(
    "answer",
    [
        b"\xff" * 8,
        b"\x02" + b"\0" * 7 + b"{}",
        b"\x40" + b"\0" * 7 + b'{"arrays": [["<f4", [4000000000, 4000000000]]]}'.ljust(0x40),
        b"\x40" + b"\0" * 7 + b'{"arrays": [["|O", [1]]]}'.ljust(0x40),
        b"\x40" + b"\0" * 7 + b"no JSON".ljust(0x40),
    ],
    ids=["header", "no arrays", "huge", "objects", "text"],
)
def test_what_it_says_is_not_trusted(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that took over its process still cannot make this one allocate, unpickle or hang."""
    monkeypatch.setattr(isolated, "_START", f"import sys; sys.stdout.buffer.write({answer!r}); sys.stdout.flush()")
    with pytest.raises(EdgemobileError, match=r"mine\.onnx"):
        open_isolated(b"any", name="mine.onnx")


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_flipped_bytes_never_end_this_process(format: str) -> None:
    whole, rng = _file(format), random.Random(0)
    for _ in range(12):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(8, len(data))] ^= 1 << rng.randrange(8)
        try:
            session = open_isolated(bytes(data), name="mutant")
            session.run(np.zeros((1, 8, 8, 3), np.float32))
        except EdgemobileError:
            continue


def test_the_process_ends_with_the_session_and_with_its_owner(tmp_path: Path) -> None:
    session = open_isolated(_file("onnx"))
    process = session._process.running
    assert process.poll() is None
    del session
    assert process.wait(10) is not None
    (tmp_path / "model.onnx").write_bytes(endless())
    program = (
        "import sys; import numpy; from pathlib import Path\n"
        "from edgemobile.devices.runtimes.isolated import open_isolated\n"
        "session = open_isolated(Path(sys.argv[1]).read_bytes())\n"
        "print(session._process.running.pid, flush=True); session.invoke(numpy.zeros((1, 4), numpy.float32))"
    )
    owner = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "model.onnx")], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("it outlived its owner")
