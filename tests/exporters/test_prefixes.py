"""A file cut behind each of its layers: it runs, and computes what the whole file computes there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgemobile.devices.runtimes.sessions import open_layers
from edgemobile.exporters.intermediate_outputs import with_intermediate_outputs
from edgemobile.exporters.model_files import model_file
from edgemobile.exporters.prefixes import layers, prefix

pytest.importorskip("ai_edge_litert")
pytest.importorskip("onnxruntime")
pytest.importorskip("torch")

_FILES = ("net-float32.tflite", "net-int8.tflite", "net-float32.onnx", "net-int8.onnx")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small v3-small: squeeze-excite, residuals, hard-swish and padding before strides."""
    import edgemobile

    folder = tmp_path_factory.mktemp("prefixes")
    small = {"weights": "random", "width": 0.35, "res": 32, "classes": 3, "check_images": 2, "calib_images": 4}
    edgemobile.export("v3-small", int8=True, out=folder / "net", **small)
    for path in (folder / "net").glob("v3-small-*.*"):
        path.rename(path.with_name(path.name.replace("v3-small", "net")))
    return folder / "net"


@pytest.mark.parametrize("name", _FILES)
def test_a_cut_computes_what_the_whole_file_computes_there(exported: Path, name: str) -> None:
    whole = model_file(Path(name), (exported / name).read_bytes())
    found = layers(whole.contents)
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    for layer in found[:: len(found) // 8]:
        cut = prefix(whole.data, whole.contents, layer)
        shown = with_intermediate_outputs(whole.data, whole.contents, layer.outputs)
        ours, theirs = (open_layers(data, threads=1).run_all(image) for data in (cut, shown))
        assert len(ours) == len(theirs) == len(layer.outputs)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", _FILES)
def test_every_op_is_in_one_layer_and_cuts_grow(exported: Path, name: str) -> None:
    whole = model_file(Path(name), (exported / name).read_bytes())
    found = layers(whole.contents)
    ends = [layer.end for layer in found]
    assert ends == sorted(set(ends))
    assert ends[-1] == len(whole.contents.ops)
    assert found[-1].outputs == whole.contents.outputs
    sizes = [len(prefix(whole.data, whole.contents, layer)) for layer in (None, *found[::20])]
    assert sizes == sorted(sizes)
    assert sizes[0] < len(whole.data) / 2


@pytest.mark.parametrize("name", ["net-float32.tflite", "net-float32.onnx"])
def test_the_multiply_accumulates_are_those_of_the_table(exported: Path, name: str) -> None:
    from edgemobile.models.arch import get_arch, scaled
    from edgemobile.models.cost import arch_costs, total

    whole = model_file(Path(name), (exported / name).read_bytes())
    table = scaled(get_arch("v3-small"), width=0.35, input_px=32, classes=3)
    assert sum(layer.macs or 0 for layer in layers(whole.contents)) == total(arch_costs(table)).macs


def _described(data: bytes) -> list[tuple[str, str, int | None, str]]:
    contents = model_file(Path("net"), data).contents
    return [(layer.name, layer.op, layer.macs, layer.dtype) for layer in layers(contents)]


def test_the_first_layers_of_a_net(exported: Path) -> None:
    """By hand, from the table of v3-small: 32 px, a stem of 8 channels, then a depthwise one with squeeze-excite."""
    found = _described((exported / "net-float32.tflite").read_bytes())
    kinds = [op for _, op, _, _ in found]
    assert kinds[:4] == ["CONV_2D", "HARD_SWISH", "DEPTHWISE_CONV_2D", "MEAN"]
    assert found[0][2:] == (16 * 16 * 8 * 27, "float32")
    assert found[2][2] == 8 * 8 * 8 * 9
    assert not {"PAD", "RESHAPE"} & set(kinds)
    quantized = _described((exported / "net-int8.onnx").read_bytes())
    assert {dtype for _, _, macs, dtype in quantized if macs} == {"uint8"}
    assert not {"QuantizeLinear", "DequantizeLinear", "Pad"} & {op for _, op, _, _ in quantized[1:-1]}


def test_padding_belongs_to_its_reader_and_a_lone_activation_to_its_producer() -> None:
    """A file as other exporters write it: ops without a fused activation, and a value that two ops read."""
    from edgemobile.exporters.tflite_file import new, pack, schema

    codes = ["PAD", "RELU", "ADD", "MUL", "RESHAPE"]
    builtin = [getattr(schema.BuiltinOperator, code) for code in codes]
    names = ["x", "paddings", "padded", "relu", "sum", "product", "flat"]
    shapes = [(1, 2, 2, 1), (4, 2), *[(1, 4, 4, 1)] * 4, (1, 16)]
    paddings = np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32)
    tensors = [
        new("Tensor", name=name, shape=np.array(shape, np.int32), type=2 if name == "paddings" else 0, buffer=number)
        for number, (name, shape) in enumerate(zip(names, shapes, strict=True), 1)
    ]
    wired = [(0, [0, 1], [2]), (2, [2, 2], [4]), (1, [4], [3]), (3, [3, 2], [5]), (4, [5], [6])]
    options = {2: ("AddOptions", 11), 3: ("MulOptions", 21)}
    operators = []
    for code, given, made in wired:
        operator = new("Operator", opcodeIndex=code, inputs=np.array(given, np.int32), outputs=np.array(made, np.int32))
        if code in options:
            kind, number = options[code]
            operator.builtinOptionsType, operator.builtinOptions = number, new(kind, fusedActivationFunction=0)
        operators.append(operator)
    graph = new("SubGraph", tensors=tensors, operators=operators, inputs=np.array([0]), outputs=np.array([6]))
    buffers = [new("Buffer", data=None) for _ in range(len(names) + 1)]
    buffers[2].data = np.frombuffer(paddings.tobytes(), np.uint8)
    known = [new("OperatorCode", builtinCode=code, deprecatedBuiltinCode=min(code, 127), version=1) for code in builtin]
    data = pack(new("Model", version=3, operatorCodes=known, subgraphs=[graph], buffers=buffers))

    whole = model_file(Path("net"), data)
    found = layers(whole.contents)
    assert [(layer.op, layer.outputs) for layer in found] == [
        # The PAD and the RELU are in the layer of the ADD. `padded` is read within, so it need not be an output.
        ("ADD", ("relu",)),
        ("MUL", ("product",)),
        ("RESHAPE", ("flat",)),
    ]
    image = np.random.default_rng(0).normal(size=(1, 2, 2, 1)).astype(np.float32)
    (relu,) = open_layers(prefix(data, whole.contents, found[0])).run_all(image)
    np.testing.assert_array_equal(relu, np.maximum(2 * np.pad(image, [(0, 0), (1, 1), (1, 1), (0, 0)]), 0))
