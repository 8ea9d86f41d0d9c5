"""The nets are the public ones: state_dict keys, order and shapes, and the numbers that come out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgemobile.loading.key_layouts import recognised, translated
from edgemobile.models.arch import ARCHS, scaled
from edgemobile.models.nets import build_net

PUBLIC = [
    "timm_mobilenetv1_100",
    "torchvision_mobilenet_v2",
    "torchvision_mobilenet_v3_large",
    "torchvision_mobilenet_v3_small",
    "timm_mobilenetv4_conv_small",
]

# The same models under other libraries' keys.
FOREIGN = [
    "timm_mobilenetv2_100",
    "timm_mobilenetv3_large_100",
    "timm_mobilenetv3_small_100",
    "timm_tf_efficientnet_lite0",
    "efficientnet_lite0_pytorch",
    "transformers_mobilenet_v1",
    "transformers_mobilenet_v2",
]


@pytest.fixture(params=FOREIGN)
def foreign(request: pytest.FixtureRequest, goldens: Path) -> dict:
    return json.loads((goldens / f"state_dict_{request.param}.json").read_text())


@pytest.fixture(params=PUBLIC)
def golden(request: pytest.FixtureRequest, goldens: Path) -> dict:
    return json.loads((goldens / f"state_dict_{request.param}.json").read_text())


def test_state_dict_is_the_public_one(golden: dict) -> None:
    with torch.device("meta"):
        net = build_net(ARCHS[golden["model"]])
    assert [[key, list(value.shape)] for key, value in net.state_dict().items()] == golden["state_dict"]


def test_batch_norm_is_the_public_one(golden: dict) -> None:
    with torch.device("meta"):
        net = build_net(ARCHS[golden["model"]])
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(golden["batch_norm"]["eps"], golden["batch_norm"]["momentum"])}


def test_logits_are_the_public_ones(golden: dict) -> None:
    net = build_net(ARCHS[golden["model"]])
    net.load_state_dict(_wave_weights(net.state_dict()), strict=True)
    _assert_logits(net, golden)


def test_lite_raspp_is_the_public_one(goldens: Path) -> None:
    golden = json.loads((goldens / "state_dict_torchvision_lraspp_mobilenet_v3_large.json").read_text())
    net = build_net(ARCHS[golden["model"]]).eval()
    assert [[key, list(value.shape)] for key, value in net.state_dict().items()] == golden["state_dict"]
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(norm["eps"], norm["momentum"]) for norm in golden["batch_norm"]}
    net.load_state_dict(_wave_weights(net.state_dict()), strict=True)
    row, column = golden["pixel"]
    with torch.no_grad():
        out = net(_image(golden["input_px"]))["out"]
    assert out.shape == (1, 21, golden["input_px"], golden["input_px"])
    logits = out[0, :10, row, column].numpy()
    np.testing.assert_allclose(logits, golden["logits"], rtol=1e-3, atol=1e-3 * np.std(golden["logits"]))


def test_ssdlite_is_the_public_one(goldens: Path) -> None:
    golden = json.loads((goldens / "state_dict_torchvision_ssdlite320_mobilenet_v3_large.json").read_text())
    net = build_net(ARCHS[golden["model"]]).eval()
    assert [[key, list(value.shape)] for key, value in net.state_dict().items()] == golden["state_dict"]
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(norm["eps"], norm["momentum"]) for norm in golden["batch_norm"]}
    net.load_state_dict(_wave_weights(net.state_dict()), strict=True)
    with torch.no_grad():
        made = {name: rows[0, golden["anchor"]] for name, rows in net(_image(golden["input_px"])).items()}
    assert {name: len(row) for name, row in made.items()} == {"bbox_regression": 4, "cls_logits": 91}
    np.testing.assert_allclose(made["bbox_regression"], golden["bbox_regression"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(made["cls_logits"][:10], golden["cls_logits"], rtol=1e-3, atol=1e-3)


def test_v2_ssdlite_is_made_as_the_public_one_of_v3() -> None:
    """The expansion of C4, at 1/16, is the first level: layer 15 of the paper, whose first is the stem."""
    with torch.device("meta"):
        net = build_net(ARCHS["v2-ssdlite"]).eval()
        levels = net.backbone(torch.empty(1, 3, 320, 320))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (576, 20, 20),
        (1280, 10, 10),
        (512, 5, 5),
        (256, 3, 3),
        (256, 2, 2),
        (128, 1, 1),
    ]
    assert "backbone.features.0.14.0.weight" in net.state_dict()
    assert "backbone.features.1.0.1.0.weight" in net.state_dict()


def test_other_libraries_keys_give_their_logits(foreign: dict) -> None:
    arch = ARCHS[foreign["model"]]
    state = _wave_weights({key: _empty(key, shape) for key, shape in foreign["state_dict"]})
    layout = recognised(state, arch)
    assert layout is not None
    assert layout.keys == foreign["layout"]
    assert (layout.bn_eps or arch.bn_eps) == foreign["batch_norm"]["eps"]
    net = build_net(replace(arch, bn_eps=foreign["batch_norm"]["eps"], padding=layout.padding or arch.padding))
    net.load_state_dict(translated(state, arch, layout), strict=True)
    _assert_logits(net, foreign)


def _empty(key: str, shape: list[int]) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.int64 if key.endswith("num_batches_tracked") else torch.float32)


def _image(px: int) -> torch.Tensor:
    return torch.sin(torch.arange(3 * px * px, dtype=torch.float64) * 0.013).reshape(1, 3, px, px).float()


def _assert_logits(net: torch.nn.Module, golden: dict) -> None:
    with torch.no_grad():
        logits = net.eval()(_image(golden["input_px"]))[0, :10].numpy()
    np.testing.assert_allclose(logits, golden["logits"], rtol=1e-3, atol=1e-3 * np.std(golden["logits"]))


def _wave_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The recipe the goldens were made with: sines, so that no random generator has to stay the same."""
    waves = {}
    for index, (key, value) in enumerate(state.items()):
        wave = torch.sin(torch.arange(value.numel(), dtype=torch.float64) * 0.7 + index)
        if not value.dtype.is_floating_point:
            waves[key] = value
            continue
        if key.endswith("running_var"):
            wave = 1 + 0.5 * wave
        elif value.dim() == 1:
            wave = 1 + 0.3 * wave if key.endswith("weight") else 0.1 * wave
        else:
            wave = wave * (3.0 / value[0].numel()) ** 0.5
        waves[key] = wave.reshape(value.shape).to(value.dtype)
    return waves


@pytest.mark.parametrize("name", ARCHS)
def test_a_seed_repeats_the_weights(name: str) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_net(scaled(ARCHS[name], width=0.25, classes=4)).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("name", ARCHS)
def test_gradients_reach_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    net = build_net(scaled(ARCHS[name], width=0.25, classes=4), dropout=0.0)
    made = net(torch.randn(4, 3, 64, 64))
    outputs = made.values() if isinstance(made, dict) else [made]
    sum(output.square().sum() for output in outputs).backward()
    assert not [key for key, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize("name", [name for name, arch in ARCHS.items() if arch.head == "classifier"])
def test_dropout_is_what_was_asked(name: str) -> None:
    with torch.device("meta"):
        net = build_net(ARCHS[name], dropout=0.35)
    assert [m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)] == [0.35]
