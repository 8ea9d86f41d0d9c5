"""int8 against int8: the op that differs is named, and a file with other integers is not compared, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")


from drifts import DEPTHWISE, PREPROCESS, QUICK, Net, compared, flip_bit, same_padding

from edgemobile.graph import Graph
from edgemobile.graph.origin import path_of
from edgemobile.images.samples import from_noise
from edgemobile.quant.ptq import ptq


def test_int8_in_both_formats_is_within_a_step_op_by_op(net: Net) -> None:
    files = [net.folder / "int8.onnx", net.folder / "int8.tflite"]
    report = compared(net, *files, ref="int8.tflite", minimums={"sqnr_db": 0, "top1_agree": 0})
    assert report.passed, str(report)
    for file in report.files:
        steps = [layer.lsb for layer in file.layers]
        assert len(steps) == len(net.int8.nodes)
        assert None not in steps
        assert max(filter(None, steps), default=0) <= 1


@pytest.mark.parametrize(
    ("make", "diverges_in"),
    [(same_padding, "arithmetic"), (lambda graph: flip_bit(graph, DEPTHWISE, 0), "constants")],
    ids=["same padding", "lowest bit"],
)
def test_the_op_that_differs_is_named(net: Net, make: Callable[[Graph], Graph], diverges_in: str) -> None:
    path = net.write(f"drift {diverges_in}.tflite", make(net.int8))
    (file,) = compared(net, path, ref="int8.onnx").files
    assert not file.passed
    assert file.first_diverging is not None
    name = file.first_diverging.name
    assert path_of(name, net.int8[name].origin) == DEPTHWISE
    assert file.first_diverging.diverges_in == diverges_in


def test_the_op_that_differs_is_named_where_no_name_has_a_factor(net: Net) -> None:
    images = from_noise(PREPROCESS, calibration=8, check=1, seed=1).calibration
    plain = replace(net, int8=ptq(net.graph, [images], QUICK).graph)
    plain.write("plain.onnx", plain.int8)
    path = plain.write("plain drift.tflite", flip_bit(plain.int8, DEPTHWISE, 6))
    (file,) = compared(plain, path, ref="plain.onnx").files
    assert not file.passed
    assert file.first_diverging is not None
    assert file.first_diverging.name == DEPTHWISE
    assert file.cause is not None
    assert file.cause.kind == "flipped bit"


def test_layers_with_other_integers_are_not_compared(net: Net) -> None:
    (file,) = compared(net, net.folder / "float32.onnx", ref="int8.onnx", minimums={"sqnr_db": 0}).files
    assert file.layers == ()
    assert "float reference" in file.not_compared
    assert file.missed_layers == ()


@pytest.mark.parametrize("form", ["onnx", "tflite"])
def test_a_file_whose_metadata_another_tool_dropped_is_not_taken_for_damaged(net: Net, form: str) -> None:
    path = net.folder / f"stripped.{form}"
    path.write_bytes(_stripped((net.folder / f"int8.{form}").read_bytes(), form))
    (file,) = compared(net, path, minimums={"sqnr_db": 0, "top1_agree": 0}).files
    assert file.passed, file.missed
    assert "edgemobile.origins" in file.not_compared
    assert "export the file again" in file.not_compared


def _stripped(data: bytes, form: str) -> bytes:
    if form == "onnx":
        import onnx

        model = onnx.load_from_string(data)
        del model.metadata_props[:]
        return bytes(model.SerializeToString())
    from edgemobile.exporters.tflite_file import pack, unpack

    flat = unpack(data)
    flat.metadata = []
    return pack(flat)
