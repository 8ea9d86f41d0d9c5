"""Correct files pass: every format and precision of one net, and files that only look damaged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")


from drifts import DEPTHWISE, PREPROCESS, PX, Net, assert_named, compared, flip_bit

from edgemobile.exporters import FORMATS
from edgemobile.graph.embed import embed, outside
from edgemobile.images.samples import from_noise
from edgemobile.lower import lower
from edgemobile.models.arch import get_arch, scaled
from edgemobile.models.cost import arch_costs, total
from edgemobile.quant.ptq import ptq


def test_every_format_and_precision_of_one_net_is_green(net: Net) -> None:
    files = [net.folder / f"{precision}.{name}" for precision in ("float32", "int8") for name in FORMATS]
    report = compared(net, *files, minimums={"sqnr_db": 0, "top1_agree": 0})
    arch = scaled(get_arch("v3-small"), width=0.35, classes=10, input_px=PX)
    assert report.passed, str(report)
    for file in report.files:
        # In int8 a hard-sigmoid is one op with the layer before it.
        fused = [node for node in net.graph.nodes if node.op == "hardsigmoid"] if file.precision == "int8" else []
        assert len(file.layers) == 1 + len(net.graph.nodes) - len(fused)
        assert all(layer.arithmetic_sqnr_db is not None for layer in file.layers[1:])
        assert file.unmatched == ()
        assert file.cause is None
        assert file.first_diverging is None
        assert sum(layer.macs for layer in file.layers) == total(arch_costs(arch)).macs
        names = [layer.name for layer in file.layers]
        for at, layer in enumerate(file.layers):
            # Each reads layers that are before it; a residual and a gate read two.
            assert set(layer.inputs) <= set(names[:at]), layer.name
            assert len(layer.inputs) == (2 if layer.op in ("add", "mul") else min(at, 1))
        worst = min(layer.arithmetic_sqnr_db for layer in file.layers if layer.arithmetic_sqnr_db is not None)
        assert worst > (95 if file.precision == "float32" else 15)
    int8 = report.files[-1]
    assert max(layer.excess for layer in int8.layers if layer.excess is not None) < 3
    assert max(layer.lsb for layer in int8.layers if layer.lsb is not None) <= 2


def test_the_same_file_twice_is_identical(net: Net) -> None:
    (file,) = compared(net, net.folder / "float32.tflite", ref="float32.tflite").files
    assert file.metrics["sqnr_db"] == math.inf
    assert file.metrics["kl_nats"] == file.metrics["max_abs"] == 0
    assert file.passed


def test_another_seed_shows_other_images(net: Net) -> None:
    found = [compared(net, net.folder / "int8.onnx", seed=seed).files[0].metrics["max_abs"] for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_intended_changes_of_quantization_are_not_damage(tmp_path: Path) -> None:
    """Calibrated at 32 px, most inputs of the last gate are silent: refit moves their weights by dozens of steps."""
    from edgemobile.loading.model import load_model

    model = load_model("v3-small", res=PX)
    graph = lower(model.program, model.name)
    images = from_noise(model.preprocess, calibration=16, check=1, seed=1).calibration
    quantized = ptq(graph, [images])
    made = Net(graph, quantized.graph, tmp_path)
    paths = [tmp_path / name for name in ("right.tflite", "wrong.tflite")]
    for path, int8 in zip(paths, (made.int8, flip_bit(made.int8, DEPTHWISE, 6)), strict=True):
        path.write_bytes(FORMATS["tflite"].load().to_bytes(int8, metadata={}))
    made.write("float32.onnx", graph)
    right, wrong = compared(made, *paths, minimums={"sqnr_db": 0, "top1_agree": 0}).files
    assert right.passed, right.missed
    assert max(layer.outlier_ratio for layer in right.layers if layer.outlier_ratio is not None) < 4
    assert_named(wrong, DEPTHWISE, "flipped bit")


def test_a_file_that_takes_pixels_is_green(net: Net) -> None:
    """The synthetic images are real numbers; both sides see whole pixels."""
    paths = []
    for name, graph in (("pixels.tflite", net.graph), ("pixels.onnx", net.graph), ("int8 pixels.tflite", net.int8)):
        paths.append(net.folder / name)
        metadata = {"edgemobile.preprocess": json.dumps(outside(PREPROCESS).to_json())}
        form = FORMATS[paths[-1].suffix[1:]].load()
        paths[-1].write_bytes(form.to_bytes(embed(graph, PREPROCESS), metadata=metadata))
    report = compared(net, *paths, minimums={"top1_agree": 0})
    assert "in whole pixels" in report.images
    for file in report.files[:2]:
        assert file.passed, file.missed
        assert file.notes == ()
        assert file.precision == "float32"
    assert report.files[2].first_diverging is None
    assert report.files[2].precision == "int8"
