"""A net whose modules have the names of tensor suffixes: x1, x6, eq, gate, plus3."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")


import torch
from drifts import PREPROCESS, PX, Net, compared, flip_bit, node_at
from torch import nn

from edgemobile.images.samples import from_noise
from edgemobile.lower import export_program, lower
from edgemobile.quant.ptq import ptq

MODULES = ("block.x1", "block.x6", "block.eq", "block.gate", "block.plus3", "x1")


class _Block(nn.Module):
    """eq(x1(x)) * hardsigmoid(plus3(gate(mean))) + x, where x1 and x6 are convolutions and eq is a hard-swish."""

    def __init__(self) -> None:
        super().__init__()
        self.x1, self.x6 = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.eq, self.gate, self.plus3 = nn.Hardswish(), nn.Conv2d(8, 8, 1), nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.x6(self.eq(self.x1(x)))
        return x + y * self.plus3(self.gate(y.mean((2, 3), keepdim=True)))


class _Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x, self.act, self.block = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), _Block()
        self.d6, self.x1 = nn.Conv2d(8, 16, 1), nn.Hardswish()
        self.eq = nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.eq(self.x1(self.d6(self.block(self.act(self.x(images))))).mean((2, 3)))


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Net:
    torch.manual_seed(0)
    module = _Named()
    with torch.no_grad():
        # Channels of different ranges, so that equalization has an effect.
        module.x.weight *= torch.linspace(0.2, 2, 8)[:, None, None, None]
        module.d6.weight *= 4
        module.eq.weight *= 8
    graph = lower(export_program(module.eval(), (1, 3, PX, PX)), "named")
    images = from_noise(PREPROCESS, calibration=24, check=1, seed=1).calibration
    made = Net(graph, ptq(graph, [images]).graph, tmp_path_factory.mktemp("named"))
    for form in ("onnx", "tflite"):
        made.write(f"float32.{form}", graph)
        made.write(f"int8.{form}", made.int8)
    return made


def test_the_net_has_such_names_and_every_kind_of_origin(net: Net) -> None:
    assert net.graph.tensors.keys() >= {*MODULES}
    origins = net.int8.origins.values()
    assert any(origin.channel_factors for origin in origins)
    assert any(origin.gate for origin in origins)
    assert {origin.added for origin in origins} == {0, 3}
    assert {origin.factor for origin in origins} >= {1, 6, 1 / 6}


@pytest.mark.parametrize("form", ["onnx", "tflite"])
def test_int8_passes_and_every_layer_is_compared(net: Net, form: str) -> None:
    (file,) = compared(net, net.folder / f"int8.{form}").files
    assert file.passed, file.missed
    assert [name for name, _ in file.unmatched] == []
    # The hard-sigmoid is one op with its convolution.
    fused = {"block.gate"}
    assert [layer.name for layer in file.layers] == [
        "input",
        *(node.output for node in net.graph.nodes if node.output not in fused),
    ]
    assert min(layer.sqnr_db for layer in file.layers) > 20


def test_int8_in_both_formats_is_one_quantization(net: Net) -> None:
    (file,) = compared(net, net.folder / "int8.onnx", ref="int8.tflite").files
    assert file.passed, file.missed
    assert not any("another quantization" in note for note in file.notes)


@pytest.mark.parametrize("path", ["block.x1", "block.x6"])
def test_a_damaged_layer_is_named(net: Net, path: str) -> None:
    wrong = net.write(f"{path}.tflite", flip_bit(net.int8, path, 6))
    (file,) = compared(net, wrong).files
    assert file.first_diverging is not None
    assert file.first_diverging.name == path
    assert file.cause is not None
    assert file.cause.kind == "flipped bit"
    (file,) = compared(net, wrong, ref="int8.onnx").files
    assert any(node_at(net.graph, path).inputs[1] in missed for missed in file.missed)
