"""A TFLite file as a checkpoint: what goes out comes back, and other files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgemobile.errors import EdgemobileError
from edgemobile.exporters import tflite
from edgemobile.loading.checkpoint import build, load_weights
from edgemobile.lower import export_program, lower
from edgemobile.models.arch import Arch, get_arch, scaled
from edgemobile.models.nets import build_net
from edgemobile.preprocess import IMAGENET
from edgemobile.quant.ptq import ptq
from edgemobile.quant.recipe import Recipe
from edgemobile.quant.weights_only import to_float16

_PX = 32
_PLAIN = Recipe("plain", split_gates="none", equalize=0, refit=0, bias_correction=False)


def _settled(arch: Arch) -> torch.nn.Module:
    """A net whose batch norm has seen images."""
    torch.manual_seed(0)
    net = build_net(arch).train()
    with torch.no_grad():
        for _ in range(10):
            net(torch.randn(8, 3, _PX, _PX))
    return net.eval()


def _written(path: Path, net: torch.nn.Module, precision: str) -> Path:
    graph = lower(export_program(net, (1, 3, _PX, _PX)))
    images = np.random.default_rng(0).normal(size=(8, _PX, _PX, 3)).astype(np.float32)
    forms = {
        "float32": lambda: graph,
        "float16": lambda: to_float16(graph),
        "int8": lambda: ptq(graph, [images], _PLAIN).graph,
    }
    path.write_bytes(tflite.to_bytes(forms[precision](), metadata={}))
    return path


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("float16", 2e-3), ("int8", 0.05)])
@pytest.mark.parametrize("name", ["v1", "v2"])
def test_the_weights_come_back(name: str, precision: str, tolerance: float, tmp_path: Path) -> None:
    arch = scaled(get_arch(name), width=0.5, input_px=_PX, classes=7)
    net = _settled(arch)
    checkpoint = load_weights(_written(tmp_path / "theirs.tflite", net, precision), get_arch(name))
    assert (checkpoint.width, checkpoint.classes, checkpoint.padding) == (0.5, 7, "both")
    _, again = build(get_arch(name), checkpoint, input_px=_PX)
    x = torch.randn(4, 3, _PX, _PX)
    with torch.no_grad():
        want, got = net(x), again(x)
    assert (want - got).abs().max() < tolerance * want.abs().max()
    assert want.std() > 1e-3


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    net = _settled(scaled(get_arch("v1"), width=0.25, input_px=_PX, classes=7))
    path = _written(tmp_path / "v1.tflite", net, "float32")
    with pytest.raises(EdgemobileError, match=r"v1\.tflite does not contain v2 layer by layer: it has 28 layers"):
        load_weights(path, get_arch("v2"))
    with pytest.raises(EdgemobileError, match="reference model"):
        load_weights(path)
    with pytest.raises(EdgemobileError, match="does not exist"):
        load_weights(tmp_path / "none.tflite", get_arch("v1"))
    (tmp_path / "broken.tflite").write_bytes(path.read_bytes()[:200])
    with pytest.raises(EdgemobileError):
        load_weights(tmp_path / "broken.tflite", get_arch("v1"))


def test_googles_quantized_v2_says_how_it_pads_and_what_its_pixels_mean(shared_data: Path) -> None:
    checkpoint = load_weights(shared_data / "models" / "mobilenet_v2_1.0_224_quant.tflite", get_arch("v2"))
    assert (checkpoint.width, checkpoint.classes, checkpoint.padding) == (1.0, 1001, "same")
    assert checkpoint.preprocess is not None
    assert checkpoint.preprocess.input_px == 224
    assert checkpoint.preprocess.shorter_px == IMAGENET.shorter_px
    assert checkpoint.preprocess.mean == pytest.approx((128 / 255,) * 3)
    assert checkpoint.preprocess.std == pytest.approx((128 / 255,) * 3)
