"""`edgemobile inspect`: the facts of known graphs are found in their files; files of other tools; expectations."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

from onnx import helper

from edgemobile.cli import cli
from edgemobile.devices.runtimes import isolated
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.exporters import onnx, tflite
from edgemobile.exporters.model_files import model_file
from edgemobile.exporters.onnx_contents import load as load_onnx
from edgemobile.exporters.onnx_contents import read_contents as read_onnx
from edgemobile.graph import Graph, Node, QParams, Tensor
from edgemobile.inspection import facts_of, hswish_forms, inspect_file
from edgemobile.inspection.expectations import missed_expectations, parse_expectations
from edgemobile.inspection.tensor_diff import diff_tensors
from edgemobile.quant.ptq import ptq
from edgemobile.quant.recipe import Recipe
from edgemobile.quant.weights_only import to_float16, to_int8_weights

WRITERS: dict[str, Any] = {"onnx": onnx.to_bytes, "tflite": tflite.to_bytes}
METADATA = {
    "edgemobile.labels": json.dumps(["cat", "dog", "fish"]),
    "edgemobile.preprocess": json.dumps({"input_px": 8}),
    "note": "hello",
}


def _float_graph() -> Graph:
    """conv, hard-swish, a pool, a hard-sigmoid gate on the image and a classifier; channel 2 of the conv is dead."""
    rng = np.random.default_rng(1)

    def constant(name: str, *shape: int) -> Tensor:
        return Tensor.constant(name, rng.normal(0, 0.5, shape).astype(np.float32))

    conv = constant("conv.weight", 6, 3, 3, 3)
    assert conv.data is not None
    conv.data[2] = 0
    shapes = {
        "input": (1, 8, 8, 3),
        "conv": (1, 8, 8, 6),
        "act": (1, 8, 8, 6),
        "pool": (1, 1, 1, 6),
        "gate": (1, 1, 1, 6),
        "se": (1, 8, 8, 6),
        "last": (1, 1, 1, 6),
        "flat": (1, 6),
        "fc": (1, 3),
    }
    tensors = [Tensor(name, shape) for name, shape in shapes.items()]
    tensors += [conv, constant("conv.bias", 6), constant("fc.weight", 3, 6), constant("fc.bias", 3)]
    plain = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1, "activation": ""}
    nodes = (
        Node("conv2d", ("input", "conv.weight", "conv.bias"), "conv", plain),
        Node("hardswish", ("conv",), "act"),
        Node("mean", ("act",), "pool"),
        Node("hardsigmoid", ("pool",), "gate"),
        Node("mul", ("act", "gate"), "se", {"activation": ""}),
        Node("mean", ("se",), "last"),
        Node("reshape", ("last",), "flat"),
        Node("linear", ("flat", "fc.weight", "fc.bias"), "fc", {"activation": ""}),
    )
    return Graph("small", ("input",), ("fc",), nodes, {tensor.name: tensor for tensor in tensors})


BATCH = np.random.default_rng(2).standard_normal((4, 8, 8, 3)).astype(np.float32)
GRAPHS = {
    "float32": lambda: _float_graph(),
    "float16": lambda: to_float16(_float_graph()),
    "weight-only": lambda: to_int8_weights(_float_graph()),
    "int8": lambda: ptq(_float_graph(), [BATCH], Recipe(split_gates="none")).graph,
    "split": lambda: ptq(_float_graph(), [BATCH], Recipe(split_gates="stem")).graph,
    "fused": lambda: ptq(_float_graph(), [BATCH], Recipe(hswish="fused")).graph,
}


def _write(tmp_path: Path, precision: str, kind: str, graph: Graph | None = None) -> Path:
    path = tmp_path / f"{precision}.{kind}"
    path.write_bytes(WRITERS[kind](graph or GRAPHS[precision](), metadata=METADATA))
    return path


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("precision", "hswish", "arithmetic"),
    [
        ("float32", {"fused": 1}, {"float32"}),
        ("float16", {"fused": 1}, {"float32", "float32, float16 weights", "constant"}),
        ("weight-only", {"fused": 1}, {"float32", "float32, int8 weights", "constant"}),
        ("int8", {"delegated": 1}, {"int8"}),
        ("split", {"delegated": 1}, {"int8"}),
        ("fused", {"fused": 1}, {"int8"}),
    ],
)
def test_facts_of_our_own_files(
    tmp_path: Path, kind: str, precision: str, hswish: dict[str, int], arithmetic: set[str]
) -> None:
    facts = inspect_file(_write(tmp_path, precision, kind))
    assert (facts.format, facts.hswish, facts.labels, facts.preprocess) == (kind, hswish, 3, {"input_px": 8})
    assert facts.producer.startswith("edgemobile")
    assert facts.metadata["note"] == "hello"
    assert (facts.notes, sum(facts.bytes_by_dtype.values())) == ((), facts.bytes)
    if kind == "onnx" and precision in ("int8", "split", "fused"):
        arithmetic = arithmetic | {"conversion", "constant"}
    assert set(facts.ops_by_precision) == arithmetic
    assert sum(sum(ops.values()) for ops in facts.ops_by_precision.values()) == sum(facts.ops.values())
    layout, shape = ("NCHW", (1, 3, 8, 8)) if kind == "onnx" else ("NHWC", (1, 8, 8, 3))
    assert (facts.inputs[0].layout, facts.inputs[0].shape) == (layout, shape)
    assert {weight.name: weight.dead_channels for weight in facts.weights}[facts.weights[0].name] == 1


@pytest.mark.parametrize("kind", WRITERS)
def test_facts_of_int8_are_the_graphs_own_numbers(tmp_path: Path, kind: str) -> None:
    graph = GRAPHS["int8"]()
    facts = inspect_file(_write(tmp_path, "int8", kind, graph))
    assert len(facts.weights) == 2
    for weight in facts.weights:
        tensor = graph[weight.name]
        assert tensor.qparams is not None
        bias = next(node.inputs[2] for node in graph.nodes if weight.name in node.inputs)
        assert (weight.scales, weight.channels) == (tensor.qparams.scale.size, tensor.shape[0])
        assert weight.scale_min == pytest.approx(float(tensor.qparams.scale.min()), rel=1e-6)
        assert weight.bias_peak == np.abs(graph[bias].data).max()
        assert weight.bias_share == weight.bias_peak / 2**31
    if kind == "tflite":
        qparams = graph["input"].qparams
        assert qparams is not None
        assert facts.inputs[0].scale == float(qparams.scale[0])
        assert (facts.inputs[0].zero_point, facts.delegate_partitions) == (int(qparams.zero_point[0]), 1)
    else:
        assert facts.islands == ()
        assert facts.runtime_ops_by_precision is not None
        assert set(facts.runtime_ops_by_precision) == {"int8", "conversion"}


def test_a_fused_hard_swish_is_an_island_for_onnxruntime_and_cuts_the_delegate(tmp_path: Path) -> None:
    facts = inspect_file(_write(tmp_path, "fused", "onnx"))
    assert facts.islands == (("HardSigmoid", "Mul"),)
    partitions = inspect_file(_write(tmp_path, "fused", "tflite")).delegate_partitions
    assert partitions is not None
    assert partitions > 1


def test_bias_without_integers_is_guarded_by_its_scales(tmp_path: Path) -> None:
    """onnxruntime's quantizer and others may keep the bias in float; its peak is then computed from the scales."""
    arrays = {"s": 0.5, "z": 0, "ws": 0.25}
    constants = [
        helper.make_tensor("s", 1, [], [arrays["s"]]),
        helper.make_tensor("z", 2, [], [0]),
        helper.make_tensor("ws", 1, [], [arrays["ws"]]),
        helper.make_tensor("wz", 3, [], [0]),
        helper.make_tensor("w", 3, [2, 3, 1, 1], [1, 2, 3, 0, 0, 0]),
        helper.make_tensor("b", 1, [2], [1e9, -1.0]),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xr"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wr"]),
        helper.make_node("Conv", ["xr", "wr", "b"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, 1, [1, c, 4, 4]) for name, c in (("x", 3), ("y", 2))]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path = tmp_path / "bias.onnx"
    path.write_bytes(model.SerializeToString())
    (weight,) = inspect_file(path).weights
    assert (weight.bias_peak, weight.dead_channels, weight.scales) == (8_000_000_000, 1, 1)
    assert weight.bias_share is not None
    assert weight.bias_share > 1
    shown = CliRunner().invoke(cli, ["inspect", str(path)]).output
    assert "OVERFLOWS" in shown


_GATE = [("Add", ["three", "x"], "a"), ("Clip", ["a", "zero", "six"], "g")]


@pytest.mark.parametrize(
    ("nodes", "form"),
    [
        ([("HardSwish", ["x"], "y")], {"fused": 1}),
        ([("HardSigmoid", ["x"], "g"), ("Mul", ["x", "g"], "y")], {"decomposed": 1}),
        (
            [*_GATE, ("Mul", ["x", "g"], "m"), ("Div", ["m", "six"], "y")],
            {"decomposed": 1},
        ),
        (
            [*_GATE, ("Div", ["g", "six"], "s"), ("Mul", ["s", "x"], "y")],
            {"decomposed": 1},
        ),
        # x * hardsigmoid(other) is squeeze-and-excite, not hard-swish.
        ([("Relu", ["x"], "r"), ("HardSigmoid", ["r"], "g"), ("Mul", ["x", "g"], "y")], {}),
        ([("Add", ["x", "six"], "a"), ("Clip", ["a", "zero", "six"], "g"), ("Mul", ["x", "g"], "y")], {}),
    ],
    ids=["fused", "hardsigmoid", "clip then sixth", "sixth then product", "squeeze", "not three"],
)
def test_forms_of_hard_swish(nodes: list[tuple[str, list[str], str]], form: dict[str, int]) -> None:
    constants = [helper.make_tensor(n, 1, [], [v]) for n, v in (("zero", 0.0), ("three", 3.0), ("six", 6.0))]
    ports = [helper.make_tensor_value_info(name, 1, [1, 3]) for name in ("x", "y")]
    made = [helper.make_node(op, inputs, [output]) for op, inputs, output in nodes]
    model = helper.make_model(helper.make_graph(made, "g", ports[:1], ports[1:], constants))
    assert hswish_forms(read_onnx(model.SerializeToString())) == form


# ---- two files ------------------------------------------------------------------------------------------------------


def test_the_same_integers_across_formats(tmp_path: Path) -> None:
    graph = GRAPHS["int8"]()
    files = [str(_write(tmp_path, "int8", kind, graph)) for kind in WRITERS]
    result = CliRunner().invoke(cli, ["inspect", files[0], "--diff", files[1], "--json"], standalone_mode=False)
    diff = json.loads(result.output)["diff"]
    assert diff["same"]
    assert (diff["biases"], diff["differing"], diff["only_left"]) == (2, {}, [])
    assert "the same integers" in CliRunner().invoke(cli, ["inspect", files[0], "--diff", files[1]]).output


def _quantized(name: str, data: list[int], scale: float = 1.0, zero_point: int = 0) -> Tensor:
    return Tensor.constant(name, np.array(data, np.int8), QParams(np.float32(scale), np.int32(zero_point)))


def test_what_differs_is_counted() -> None:
    left = {"same": _quantized("same", [1, 2]), "w": _quantized("w", [1, 2, 3]), "mine": _quantized("mine", [1])}
    right = {"same": _quantized("same", [1, 2]), "w": _quantized("w", [1, 127, -3], 1.5, 4)}
    diff = diff_tensors(left, right)
    assert not diff.same
    assert (diff.compared, diff.only_left, diff.only_right) == (2, ("mine",), ())
    assert diff.differing == {
        "w": "2 of 3 values differ, by at most 125; 1 of 1 scales differ, by at most 0.33 of their value; "
        "1 of 1 zero points differ, by at most 4"
    }


def test_nothing_in_common_is_not_the_same() -> None:
    assert not diff_tensors({}, {}).same
    assert not diff_tensors({"a": _quantized("a", [1])}, {"b": _quantized("b", [1])}).same
    assert diff_tensors({"a": _quantized("a", [1])}, {"a": Tensor("a", (1,))}).compared == 0
    nan = Tensor.constant("n", np.array([np.nan], np.float32))
    assert diff_tensors({"n": nan}, {"n": nan}).same


# ---- expectations and refusals --------------------------------------------------------------------------------------


def test_expectations_hold_or_are_named(tmp_path: Path) -> None:
    path = _write(tmp_path, "fused", "tflite")
    facts = inspect_file(path)
    assert missed_expectations(facts, parse_expectations("HARD_SWISH=1, TRANSPOSE=0,fused=1")) == []
    assert missed_expectations(facts, {"HARD_SWISH": 2, "delegated": 1}) == [
        f"{path}: expected HARD_SWISH=2, found 1",
        f"{path}: expected delegated=1, found 0",
    ]
    with pytest.raises(Unsupported, match=r"HARDSWISH is not an op of tflite\. This file has .*HARD_SWISH"):
        missed_expectations(facts, {"HARDSWISH": 0})
    command = ["inspect", str(path), "--expect"]
    assert CliRunner().invoke(cli, [*command, "HARD_SWISH=1"], standalone_mode=False).return_value == 0
    missed = CliRunner().invoke(cli, [*command, "HARD_SWISH=2"], standalone_mode=False)
    assert missed.return_value == 1
    assert "expected HARD_SWISH=2, found 1" in missed.stderr


def test_runtime_ops_may_be_expected_of_onnx(tmp_path: Path) -> None:
    facts = inspect_file(_write(tmp_path, "int8", "onnx"))
    assert missed_expectations(facts, {"QLinearConv": 1, "islands": 0, "Transpose": 0}) == []
    with pytest.raises(Unsupported, match="delegate_partitions"):
        missed_expectations(facts, {"delegate_partitions": 1})


@pytest.mark.parametrize("expected", ["islands", "QLinearConv", "Transpose"])
@pytest.mark.parametrize("why", ["the runtime refuses the file", "the disk is full", "no folder for temporary files"])
def test_what_the_runtime_does_not_tell_is_unknown_and_not_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str, expected: str
) -> None:
    path = _write(tmp_path, "int8", "onnx")
    if why == "the runtime refuses the file":
        model = load_onnx(path.read_bytes())
        model.opset_import[0].version = 999
        path.write_bytes(model.SerializeToString())
    if why == "no folder for temporary files":
        elsewhere = f"import tempfile; tempfile.tempdir = {str(tmp_path / 'none')!r}; from edgemobile"
        monkeypatch.setattr(isolated, "_START", isolated._START.replace("from edgemobile", elsewhere, 1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        if why == "the disk is full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        ran = CliRunner().invoke(cli, ["inspect", str(path), "--expect", f"{expected}=0"], standalone_mode=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    monkeypatch.undo()
    assert isinstance(ran.exception, Unsupported), ran.exception
    assert f"{expected} of {path} is not known here: " in str(ran.exception)
    assert ("refuses" in why) == ("cannot open int8.onnx" in str(ran.exception))
    if why == "the runtime refuses the file":
        assert "float islands  unknown" in CliRunner().invoke(cli, ["inspect", str(path)]).output
        assert json.loads(CliRunner().invoke(cli, ["inspect", str(path), "--json"]).output)["islands"] is None


@pytest.mark.parametrize("text", ["", "A", "A=x", "=1", "A=-1", "A=1,A=2"])
def test_expectations_written_wrongly_are_refused(text: str) -> None:
    with pytest.raises(EdgemobileError):
        parse_expectations(text)


@pytest.mark.parametrize("content", [None, b"", b"no model", b"\x08\x08", b"\x00\x00\x00\x00TFL3\xff\xff\xff\xff"])
def test_no_model_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EdgemobileError) as caught:
        inspect_file(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", WRITERS)
def test_json_is_strict_and_terminal_output_is_whole(tmp_path: Path, kind: str) -> None:
    path = _write(tmp_path, "int8", kind)
    result = CliRunner().invoke(cli, ["inspect", str(path), "--json"], standalone_mode=False)
    facts = json.loads(result.output, parse_constant=lambda name: pytest.fail(name))
    assert facts["hswish"] == {"delegated": 1}
    shown = CliRunner().invoke(cli, ["inspect", str(path), "--tensors"]).output
    for word in ("1 delegated", "per channel", "bias guard", "dead channels", "conv.weight", "fc.weight"):
        assert word in shown


@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_files_are_read_or_refused_but_never_trip_the_reader(tmp_path: Path, kind: str) -> None:
    """Truncated, and with changed bytes, in a hundred ways; without the runtimes, whose crashes we cannot fix."""
    rng = np.random.default_rng(4)
    whole = np.frombuffer(_write(tmp_path, "int8", kind).read_bytes(), np.uint8)
    refused = []
    for index in range(100):
        data = whole[: rng.integers(len(whole))].copy() if index % 3 == 0 else whole.copy()
        data[rng.integers(len(data), size=3)] = rng.integers(256, size=3)
        try:
            facts_of(model_file(tmp_path / "damaged", data.tobytes()), ask_runtimes=False)
        except EdgemobileError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all(words.startswith(str(tmp_path / "damaged")) for words in refused)


def test_a_graph_that_bites_its_tail_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["b"], ["a"], to=1), helper.make_node("Cast", ["a"], ["b"], to=1)]
    port = helper.make_tensor_value_info("b", 1, [1])
    path = tmp_path / "cycle.onnx"
    path.write_bytes(helper.make_model(helper.make_graph(nodes, "g", [], [port])).SerializeToString())
    with pytest.raises(EdgemobileError, match="later op"):
        inspect_file(path)
