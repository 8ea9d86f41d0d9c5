"""torch's own exporter and onnxruntime's own quantizer, as a second opinion on the native writer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for module in ("onnx", "onnxscript", "onnxsim", "onnxruntime"):
    pytest.importorskip(module)

from edgemobile.devices.runtimes.sessions import open_session  # noqa: E402
from edgemobile.errors import EdgemobileError, Unsupported  # noqa: E402
from edgemobile.exporters import onnx as native  # noqa: E402
from edgemobile.exporters import torch_onnx  # noqa: E402
from edgemobile.lower import export_program, lower  # noqa: E402

IMAGES = np.random.default_rng(0).standard_normal((4, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def net() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1),
        torch.nn.BatchNorm2d(8),
        torch.nn.Hardswish(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 5),
    ).eval()


@pytest.fixture(scope="module")
def data(net: Any) -> bytes:
    return torch_onnx.to_bytes(net, (1, 3, 16, 16), metadata={"model": "small"})


def test_agrees_with_pytorch_and_the_native_writer(net: Any, data: bytes) -> None:
    with torch.no_grad():
        reference = net(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2))).numpy()
    assert reference.std(axis=0).mean() > 1e-3
    ours = native.to_bytes(lower(export_program(net, (1, 3, 16, 16))), metadata={})
    for file in (data, ours):
        np.testing.assert_allclose(open_session(file).run(IMAGES), reference, atol=1e-5)


def test_file_is_whole_named_and_says_nothing_of_where_it_was_made(data: bytes) -> None:
    assert native.op_counts(data)["HardSwish"] == 1
    assert native.read_metadata(data) == {"model": "small"}
    session = open_session(data)
    assert (session.input.name, session.output.name) == ("input", "output")
    assert b"site-packages" not in data


def test_takes_an_exported_program(net: Any, data: bytes) -> None:
    program = export_program(net, (1, 3, 16, 16))
    again = torch_onnx.to_bytes(program, (1, 3, 16, 16))
    np.testing.assert_allclose(open_session(again).run(IMAGES), open_session(data).run(IMAGES), atol=1e-6)


def test_quantizer_makes_an_int8_file_near_the_float_one(data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    batches = [image[None].transpose(0, 3, 1, 2) for image in IMAGES]
    quantized = torch_onnx.quantize_static(data, batches, metadata={"edgemobile.precision": "int8"})
    assert native.read_metadata(quantized) == {"edgemobile.precision": "int8"}
    assert "QuantizeLinear" in native.op_counts(quantized)
    float_logits, logits = open_session(data).run(IMAGES), open_session(quantized).run(IMAGES)
    assert 0 < np.abs(float_logits - logits).max() < 0.1 * np.abs(float_logits).max()
    assert capfd.readouterr() == ("", "")


def test_refusals_are_one_line(data: bytes) -> None:
    with pytest.raises(EdgemobileError, match="calibration set is empty"):
        torch_onnx.quantize_static(data, [])

    class Branches(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x if x.sum() > 0 else -x

    with pytest.raises(Unsupported, match=r"torch\.onnx cannot export") as caught:
        torch_onnx.to_bytes(Branches(), (1, 3, 8, 8))
    assert "\n" not in str(caught.value)
