"""Files of several inputs and outputs, of any dtype, with sizes left open: sessions, and a bench of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper

from edgemobile.devices.host.records import Run, Settings, load_run, save_run
from edgemobile.devices.runtimes.sessions import Port, open_session
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.exporters import tflite
from edgemobile.exporters.model_files import read_model_file
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.latency.run import BenchRequest, bench

QUICK: dict[str, Any] = {"runs": 2, "processes": 1}


def _onnx(nodes: list[Any], inputs: Mapping[str, tuple[list[Any], str]], outputs: Mapping[str, list[Any]]) -> bytes:
    taken = [helper.make_tensor_value_info(name, getattr(TensorProto, kind), s) for name, (s, kind) in inputs.items()]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    graph = helper.make_graph(nodes, "g", taken, given)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def _two_by_two() -> bytes:
    """Token ids and a mask in, two outputs out; the length is open."""
    nodes = [
        helper.make_node("Cast", ["ids"], ["i"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["i", "m"], ["masked"]),
        helper.make_node("Neg", ["masked"], ["negative"]),
    ]
    inputs = {"ids": (["batch", "length"], "INT64"), "mask": (["batch", "length"], "BOOL")}
    return _onnx(nodes, inputs, {"masked": ["batch", "length"], "negative": ["batch", "length"]})


def _any_size(*, name: str = "image") -> bytes:
    """[N,3,H,W] of any size -> itself."""
    return _onnx([helper.make_node("Relu", [name], ["y"])], {name: (["n", 3, "h", "w"], "FLOAT")}, {"y": list("nchw")})


def _bench(*files: Path, **settings: Any) -> Run:
    return bench(BenchRequest(tuple(map(read_model_file, files)), settings=Settings(**{**QUICK, **settings})))


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_every_input_and_output_has_a_port() -> None:
    session = open_session(_two_by_two())
    assert [(port.name, port.dtype, port.shape, port.free) for port in session.inputs] == [
        ("ids", "int64", (1, 1), (0, 1)),
        ("mask", "bool", (1, 1), (0, 1)),
    ]
    ids, mask = np.array([[3, 4]]), np.array([[True, False]])
    masked, negative = session.invoke_all([ids, mask])
    assert (masked.tolist(), negative.tolist()) == ([[3, 0]], [[-3, 0]])
    with pytest.raises(Unsupported, match=r"has 2 inputs \(ids, mask\)\. Supported: models with one input"):
        session.run(np.zeros((1, 2), np.float32))


@pytest.mark.parametrize("form", ["onnx", "tflite"])
def test_images_of_any_size_are_taken_at_one(form: str) -> None:
    """The shape of the output was taken from the file, which leaves it open: numpy refused to join the rows."""
    session = open_session(_any_size() if form == "onnx" else _open_tflite())
    session.settle(6)
    images = np.random.default_rng(0).random((3, 6, 6, 3)).astype(np.float32)
    found = session.run(images)
    assert np.array_equal(found, images.transpose(0, 3, 1, 2) if form == "onnx" else images)


def _open_tflite() -> bytes:
    """A TFLite file whose signature leaves height and width open."""
    pytest.importorskip("ai_edge_litert")
    from edgemobile.exporters.tflite_file import pack, unpack

    tensors = [Tensor("x", (1, 2, 2, 3)), Tensor("y", (1, 2, 2, 3))]
    node = Node("relu", ("x",), "y")
    model = unpack(tflite.to_bytes(Graph("g", ("x",), ("y",), (node,), {t.name: t for t in tensors}), metadata={}))
    for tensor in model.subgraphs[0].tensors:
        tensor.shape, tensor.shapeSignature = np.array([1, 1, 1, 3], np.int32), np.array([1, -1, -1, 3], np.int32)
    return pack(model)


def test_a_row_that_is_no_image_is_refused() -> None:
    """Of [5] for a batch of one, only the first number would be looked at."""
    nodes = [helper.make_node("Flatten", ["image"], ["flat"], axis=0), helper.make_node("Squeeze", ["flat"], ["y"])]
    session = open_session(_onnx(nodes, {"image": ([1, 3, 2, 2], "FLOAT")}, {"y": [12]}), name="flat.onnx")
    with pytest.raises(Unsupported, match=r"flat\.onnx has the output \[12\] for a batch of 1"):
        session.run(np.zeros((1, 2, 2, 3), np.float32))


def test_what_a_runtime_raises_in_an_inference_is_one_line() -> None:
    """A network whose convolutions want another size than it is shown ended in onnxruntime's traceback."""
    nodes = [
        helper.make_node("Shape", ["image"], ["s"]),
        helper.make_node("Constant", [], ["fixed"], value_ints=[1, 3, 4, 4]),
        helper.make_node("Reshape", ["image", "fixed"], ["y"]),
    ]
    session = open_session(_onnx(nodes, {"image": (["n", 3, "h", "w"], "FLOAT")}, {"y": [1, 3, 4, 4]}), name="r.onnx")
    session.settle(5)
    with pytest.raises(EdgemobileError, match=r"onnxruntime cannot run r\.onnx: ") as caught:
        session.run(np.zeros((1, 5, 5, 3), np.float32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "said"),
    [((1, 3, 8), "takes Nx3xNxN as input image, not 1x3x8"), ((1, 4, 8, 8), "Nx3xNxN as input image, not 1x4x8x8")],
)
def test_shapes_an_input_does_not_take_are_refused(shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(EdgemobileError, match=said):
        open_session(_any_size()).reshape({"image": shape})


def test_a_grey_input_of_open_width_stays_grey() -> None:
    """Its one channel was taken for a size that is open."""
    port = Port("x", (1, 1, 64, 1), "float32", "NCHW", free=(3,))
    assert port.settled(224).shape == (1, 1, 64, 224)
    with pytest.raises(Unsupported, match="has one grey channel"):
        port.settled(64).prepared(np.zeros((1, 64, 64, 3), np.float32))


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "uint8", "bool"])
def test_an_example_is_of_the_inputs_own_kind(dtype: str) -> None:
    example = Port("x", (2, 3), dtype).example(np.random.default_rng(0))
    assert (example.dtype, example.shape) == (np.dtype(dtype), (2, 3))


def test_text_has_no_example() -> None:
    with pytest.raises(Unsupported, match="input x is string"):
        Port("x", (1,), "string").example(np.random.default_rng(0))


# ---- bench ----------------------------------------------------------------------------------------------------------


def test_a_bench_of_several_inputs(tmp_path: Path) -> None:
    path = _write(tmp_path / "two.onnx", _two_by_two())
    with pytest.raises(EdgemobileError, match=r"inputs with dynamic sizes.*--shape ids=NxN --shape mask=NxN"):
        _bench(path)
    run = _bench(path, shapes={"ids": (1, 8), "mask": (1, 8)})
    assert run.cases[0].input == "ids int64 [1, 8], mask bool [1, 8]"
    assert len(run.cases[0].values_ns) == 2
    save_run(run, tmp_path / "run.json")
    assert load_run(tmp_path / "run.json") == run


def test_a_size_that_nobody_says_is_told(tmp_path: Path) -> None:
    path = _write(tmp_path / "open.onnx", _any_size())
    run = _bench(path)
    assert run.cases[0].input == "float32 NCHW[1, 3, 224, 224]"
    assert "open.onnx has dynamic dimensions in image: measured with float32 NCHW[1, 3, 224, 224]" in run.notes[-1]
    said = _bench(path, shapes={"image": (2, 3, 32, 48)})
    assert (said.cases[0].input, said.cases[0].batch) == ("float32 NCHW[2, 3, 32, 48]", 2)
    assert not any("open.onnx" in note for note in said.notes)


def test_a_shape_of_no_files_input_is_a_slip(tmp_path: Path) -> None:
    path = _write(tmp_path / "open.onnx", _any_size())
    with pytest.raises(
        EdgemobileError, match=r"--shape imgae: no file has an input with that name\. Inputs: image=Nx3"
    ):
        _bench(path, shapes={"imgae": (1, 3, 8, 8)})


def test_a_file_that_is_refused_does_not_keep_the_others_from_being_measured(tmp_path: Path) -> None:
    good = _write(tmp_path / "good.onnx", _any_size())
    torn = _write(tmp_path / "torn.onnx", _any_size()[:60])
    text = _onnx([helper.make_node("Cast", ["x"], ["y"], to=1)], {"x": ([1], "STRING")}, {"y": [1]})
    said = _write(tmp_path / "text.onnx", text)
    run = _bench(torn, good, said, shapes={"image": (1, 3, 8, 8)}, threads=(1, 2), processes=2, memory=True)
    assert [(case.file, case.threads, case.rounds_per_process) for case in run.cases] == [
        (str(good), 1, (1, 1)),
        (str(good), 2, (1, 1)),
    ]
    assert all(case.peak_mib for case in run.cases)
    assert [Path(one.file).name for one in run.refused] == ["torn.onnx", "text.onnx"]
    assert "onnxruntime cannot open" in run.refused[0].reason
    assert "no example can be made" in run.refused[1].reason
    save_run(run, tmp_path / "run.json")
    assert load_run(tmp_path / "run.json") == run


def test_a_bench_where_every_file_is_refused_says_why(tmp_path: Path) -> None:
    torn = _write(tmp_path / "torn.onnx", _any_size()[:60])
    with pytest.raises(EdgemobileError, match=r"local: onnxruntime cannot open .*torn\.onnx"):
        _bench(torn)
