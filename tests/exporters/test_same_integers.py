"""One int8 graph, two formats: the files hold the same integers, and their runtimes compute the same integers.

Ops are judged one by one, each on the reference's own inputs; from end to end a rounding that differs once travels on.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

import torch

from edgemobile.comparison.oracle import explain_difference
from edgemobile.devices.runtimes.sessions import open_session
from edgemobile.exporters import onnx, tflite
from edgemobile.exporters.model_files import model_file
from edgemobile.graph import Graph, Node, QParams, Tensor
from edgemobile.graph.affine import dequantize, quantize
from edgemobile.graph.interpreter import run, run_real
from edgemobile.inspection.tensor_diff import diff_tensors
from edgemobile.loading.model import load_model
from edgemobile.lower import export_program, lower
from edgemobile.quant.ptq import ptq
from edgemobile.quant.recipe import Recipe

PX = 64
CALIBRATION, CHECKED = 4, 8


@dataclass(frozen=True)
class Made:
    """The bundled model in int8, both its files, and the reference's every tensor for one image."""

    graph: Graph
    onnx: bytes
    tflite: bytes
    images: np.ndarray
    values: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def made() -> Made:
    model = load_model("v3-large", res=PX)
    rng = np.random.default_rng(3)
    images = rng.standard_normal((CALIBRATION + CHECKED, PX, PX, 3)).astype(np.float32)
    graph = ptq(lower(model.program, model.name), [images[:CALIBRATION]]).graph
    integers = _input_integers(graph, images[-1:])
    constants = {name: t.data for name, t in graph.constants.items() if t.data is not None}
    values = run(graph, integers, keep_all=True) | constants
    files = onnx.to_bytes(graph, metadata={}), tflite.to_bytes(graph, metadata={})
    return Made(graph, *files, images[CALIBRATION:], values)


def _input_integers(graph: Graph, images: np.ndarray) -> np.ndarray:
    qparams = graph[graph.inputs[0]].qparams
    assert qparams is not None
    return quantize(images, qparams, "int8")


def test_both_files_hold_the_integers_of_the_graph(made: Made) -> None:
    from_onnx, from_tflite = onnx.read_tensors(made.onnx), tflite.read_tensors(made.tflite)
    quantized = {name: t for name, t in made.graph.tensors.items() if t.qparams is not None or t.is_constant}
    for found in (from_onnx, from_tflite):
        diff = diff_tensors(quantized, found)
        assert diff.differing == {}
        # Where every gate is a Clip, ONNX has no 3 to add.
        assert set(diff.only_left) <= {"hswish.three"}
        assert diff.compared == len(quantized) - len(diff.only_left)
    diff = diff_tensors(from_onnx, from_tflite)
    assert diff.same
    layers = [node for node in made.graph.nodes if node.op in ("conv2d", "linear")]
    assert len(layers) >= 64
    assert diff.biases == len({node.inputs[2] for node in layers})
    assert diff.weights == len(made.graph.constants) - diff.biases
    # The rest is the TFLite writer's own: shapes, axes and rims of PAD.
    assert diff.only_left == ()
    assert all(name.startswith("const/") or name.endswith("/pad") for name in diff.only_right)


def _alone(graph: Graph, node: Node) -> Graph:
    """`node` as a graph of its own, on the values that are no constants."""
    inputs = tuple(dict.fromkeys(name for name in node.inputs if not graph[name].is_constant))
    return Graph("one", inputs, (node.output,), (node,), graph.tensors)


def _onnxruntime(graph: Graph, values: dict[str, np.ndarray]) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(onnx.to_bytes(graph, metadata={}), options)
    feeds = {}
    for name in graph.inputs:
        qparams = graph[name].qparams
        assert qparams is not None
        real = dequantize(values[name], qparams)
        feeds[name] = real.transpose(0, 3, 1, 2) if real.ndim == 4 else real
    (real,) = session.run(None, feeds)
    qparams = graph[graph.outputs[0]].qparams
    assert qparams is not None
    return quantize(real.transpose(0, 2, 3, 1) if real.ndim == 4 else real, qparams, "int8")


def _litert(graph: Graph, values: dict[str, np.ndarray]) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=tflite.to_bytes(graph, metadata={}), num_threads=1)
    interpreter.allocate_tensors()
    for name, detail in zip(graph.inputs, interpreter.get_input_details(), strict=True):
        interpreter.set_tensor(detail["index"], values[name])
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.parametrize("compute", [_onnxruntime, _litert])
def test_every_op_computes_the_integers_of_the_reference(
    made: Made, compute: Callable[[Graph, dict[str, np.ndarray]], np.ndarray]
) -> None:
    differing = 0
    for node in made.graph.nodes:
        reference = made.values[node.output]
        found = compute(_alone(made.graph, node), made.values)
        apart = found != reference
        assert np.abs(found.astype(int) - reference).max() <= 1, f"{node.op} {node.output}"
        assert not apart.any() or node.op in _EXACT, f"{node.op} {node.output}: sums of products are exact"
        if apart.any():
            # relu6(x + 3) at x = 0 is one: 3 is 127.5 steps of 6/255. In x * relu6(x + 3) it changes nothing.
            assert _from_tie(made, node)[apart].max() < 1e-3, f"{node.op} {node.output} differs where there is no tie"
        differing += int(apart.sum())
    assert differing < 2e-3 * sum(made.values[node.output].size for node in made.graph.nodes)


# Ops on reals of two scales, as float64 computes them without rounding.
_EXACT: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "mul": np.multiply,
    "mean": lambda x: x.mean(axis=(1, 2), keepdims=True),
}


def _from_tie(made: Made, node: Node) -> np.ndarray:
    """How far each exact result lies from the middle between two integers, in steps of the output."""
    reals = []
    for name in node.inputs:
        qparams = made.graph[name].qparams
        assert qparams is not None
        reals.append((made.values[name].astype(np.float64) - qparams.zero_point[0]) * float(qparams.scale[0]))
    output = made.graph[node.output].qparams
    assert output is not None
    steps = _EXACT[node.op](*reals) / float(output.scale[0])
    return np.abs(steps - np.floor(steps) - 0.5)


def _ties() -> tuple[Graph, dict[str, np.ndarray]]:
    """A 1x1 convolution of zeros whose biases land, times the multiplier of their channel, within an ulp of a half."""
    rng, channels = np.random.default_rng(6), 512
    source, target = np.float32(0.0371), np.float32(0.0519)
    accumulators = rng.integers(1_000, 1_000_000, channels).astype(np.int32)
    scales = ((rng.integers(-90, 90, channels) + 0.5) * target / (accumulators * np.float64(source))).astype(np.float32)
    accumulators, scales = np.where(scales < 0, -accumulators, accumulators), np.abs(scales)
    zeros = np.zeros(channels, np.int32)
    tensors = [
        Tensor("x", (1, 1, 1, 4), "int8", qparams=QParams(source, np.int32(3))),
        Tensor("y", (1, 1, 1, channels), "int8", qparams=QParams(target, np.int32(0))),
        Tensor.constant("w", np.zeros((channels, 1, 1, 4), np.int8), QParams(scales, zeros, 0)),
        Tensor.constant("b", accumulators.astype(np.int32), QParams(source * scales, zeros, 0)),
    ]
    attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1, "activation": ""}
    node = Node("conv2d", ("x", "w", "b"), "y", attrs)
    graph = Graph("ties", ("x",), ("y",), (node,), {tensor.name: tensor for tensor in tensors})
    return graph, {"x": np.full((1, 1, 1, 4), 5, np.int8)}


@pytest.mark.parametrize("compute", [_onnxruntime, _litert])
def test_the_multiplier_has_the_bits_of_the_runtimes(
    compute: Callable[[Graph, dict[str, np.ndarray]], np.ndarray],
) -> None:
    """scale_in * scale_w / scale_out in float32: rounded from float64 it is at times a bit off, and decides ties."""
    graph, values = _ties()
    np.testing.assert_array_equal(compute(graph, values), run(graph, values)["y"])


@pytest.mark.parametrize("file", ["onnx", "tflite"])
def test_end_to_end_drift_is_that_of_a_rounding_not_of_another_arithmetic(made: Made, file: str) -> None:
    result = made.graph.outputs[0]
    qparams = made.graph[result].qparams
    assert qparams is not None
    reference = run(made.graph, _input_integers(made.graph, made.images))[result].astype(int)
    found = quantize(open_session(getattr(made, file)).run(made.images), qparams, "int8").astype(int)
    assert reference.std(axis=0).mean() > 1, "a net that ignores its input proves nothing"
    assert (found.argmax(axis=1) == reference.argmax(axis=1)).mean() >= 0.99
    assert np.abs(found - reference).mean() <= 1


@pytest.mark.parametrize("peeking", [-0.5, 1e-5])
def test_a_layer_that_never_or_hardly_moves_has_a_scale_that_the_kernels_take(tmp_path: Path, peeking: float) -> None:
    """LiteRT aborts, and takes the process along, where a product is to be multiplied by 2^8 or more."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Conv2d(8, 4, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 8, 1),
        torch.nn.Hardsigmoid(),
    )
    images = np.random.default_rng(0).standard_normal((8, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        before_relu = net[:4](torch.from_numpy(images.transpose(0, 3, 1, 2)))
        # All but the topmost share of the values is cut.
        net[3].bias -= before_relu.amax((0, 2, 3)) - peeking * before_relu.std()
    result = ptq(lower(export_program(net.eval(), (1, 3, 32, 32))), [images], Recipe(refit=0, bias_correction=False))
    assert any("zero on every calibration image" in note for note in result.notes) == (peeking < 0)
    path = tmp_path / "net.tflite"
    path.write_bytes(tflite.to_bytes(result.graph, metadata={}))
    script = (
        "import sys, numpy as np; from pathlib import Path; "
        "from edgemobile.devices.runtimes.sessions import open_session; "
        "np.save(sys.argv[3], open_session(Path(sys.argv[1])).run(np.load(sys.argv[2])))"
    )
    np.save(tmp_path / "images.npy", images)
    subprocess.run([sys.executable, "-c", script, path, tmp_path / "images.npy", tmp_path / "out.npy"], check=True)
    found = np.load(tmp_path / "out.npy").reshape(len(images), -1)
    np.testing.assert_allclose(found, run_real(result.graph, images), atol=0.03)


def test_ops_of_decoders_and_other_activations_have_the_same_integers_in_both_formats() -> None:
    """Beside each op a convolution, as in a net: calibrated together, and every op within a tie of the reference."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.PReLU(8), torch.nn.ReflectionPad2d(1)),
        *(torch.nn.Conv2d(8, 8, 3), torch.nn.GELU(), torch.nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
        *(torch.nn.ConvTranspose2d(8, 8, 4, 2, 1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()),
        *(torch.nn.Conv2d(8, 12, 1), torch.nn.ELU(), torch.nn.Conv2d(12, 12, 1), torch.nn.PixelShuffle(2)),
        *(torch.nn.Conv2d(3, 3, 1), torch.nn.Hardtanh(-0.1, 0.2)),
    ).eval()
    images = np.random.default_rng(3).standard_normal((6, 16, 16, 3)).astype(np.float32)
    graph = ptq(lower(export_program(net, (1, 3, 16, 16))), [images[:5]]).graph
    clip = next(node for node in graph.nodes if node.op == "clip")
    source = graph[clip.inputs[0]].qparams
    assert source is not None
    assert source.scale[0] == pytest.approx(0.3 / 255), "the integers before a clip do not stop at its ends"
    files = {"net.onnx": onnx.to_bytes(graph, metadata={}), "net.tflite": tflite.to_bytes(graph, metadata={})}
    assert diff_tensors(onnx.read_tensors(files["net.onnx"]), tflite.read_tensors(files["net.tflite"])).differing == {}
    exact = run_real(graph, images[5:])
    for name, data in files.items():
        assert explain_difference(graph, model_file(Path(name), data), images[5:], 1).wrong == ()
        assert np.abs(open_session(data).rows(images[5:]) - exact).max() <= 2.01 * 0.3 / 255
