"""Images and weights in the wrong layout, and another preprocessing, are named."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

import torch
from drifts import PREPROCESS, STEM, Net, assert_named, compared, with_data

from edgemobile.comparison.observing import local_targets
from edgemobile.comparison.run import ParityRequest, parity
from edgemobile.exporters import FORMATS
from edgemobile.lower import export_program, lower


class _Flat(torch.nn.Module):
    """A convolution flattened into a linear layer: the columns must follow the image from NCHW to NHWC."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.flatten = torch.nn.Flatten()
        self.fc = torch.nn.Linear(5 * 4 * 4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.flatten(torch.relu(self.conv(x))))


def test_a_flatten_without_its_transpose_is_named(net: Net) -> None:
    torch.manual_seed(1)
    module = _Flat()
    program = export_program(module, (1, 3, 8, 8))
    torch.export.save(program, net.folder / "flat.pt2")
    graph = lower(program, "flat")
    path = net.folder / "flat.tflite"
    weight = with_data(graph, "fc.weight", module.fc.weight.detach().numpy())
    path.write_bytes(FORMATS["tflite"].load().to_bytes(weight, metadata={}))
    (file,) = compared(net, path, ref="flat.pt2").files
    assert_named(file, "fc", "layout")


def test_an_image_in_the_wrong_layout_is_named(net: Net) -> None:
    """A caller passes NCHW bytes to a file that reads NHWC."""

    def careless(data: bytes, images: np.ndarray) -> list[np.ndarray]:
        assert right.layers is not None
        return right.layers(data, np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(images.shape))

    (right,) = local_targets(("litert",))
    place = replace(right, name="careless", layers=careless)
    (file,) = compared(net, net.folder / "float32.tflite", places=(place,)).files
    assert_named(file, STEM, "layout")


def test_another_preprocessing_is_the_cause_where_it_is(net: Net) -> None:
    path = net.folder / "inception.onnx"
    stated = replace(PREPROCESS, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    metadata = {"edgemobile.preprocess": json.dumps(stated.to_json())}
    path.write_bytes(FORMATS["onnx"].load().to_bytes(net.graph, metadata=metadata))
    request = ParityRequest(str(net.folder / "float32.onnx"), (str(path),), images=8)
    (file,) = parity(request).files
    assert not file.passed
    assert file.cause is not None
    assert file.cause.kind == "preprocess"
    assert file.cause.explained_db > 90
