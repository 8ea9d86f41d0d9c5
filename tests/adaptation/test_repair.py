"""Repairs: what a smaller net gives is brought back towards what the larger one gave."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgemobile.adaptation.data import full_net
from edgemobile.adaptation.pruning import Weights, with_channels, without_block
from edgemobile.adaptation.repair import Repair
from edgemobile.adaptation.saliency import saliency_of
from edgemobile.images.dataset import open_dataset
from edgemobile.loading.model import load_model
from edgemobile.loading.stored_images import CALIBRATION_IMAGES
from edgemobile.models.layers import layers
from edgemobile.quant.torch_graph import to_nchw


@pytest.fixture(scope="module")
def net() -> Weights:
    return full_net(load_model("v3-small"))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """The images in the package for these weights, f32[39,96,96,3]."""
    dataset = open_dataset(CALIBRATION_IMAGES)
    return dataset.load_batch(range(len(dataset)), load_model("v3-small").preprocess)[0]


@torch.no_grad()
def _logits(net: Weights, images: np.ndarray) -> torch.Tensor:
    return net.module()(to_nchw(images)).double()


def _error(net: Weights, wanted: Weights, images: np.ndarray) -> float:
    expected = _logits(wanted, images)
    return float((_logits(net, images) - expected).square().mean() / expected.square().mean())


def test_a_net_from_which_nothing_was_cut_stays_as_it_is(net: Weights, images: np.ndarray) -> None:
    same = Repair(net, images).after(lambda full: full)
    assert _error(same, net, images) < 1e-9


def test_narrower_nets_and_nets_without_a_block_come_closer(net: Weights, images: np.ndarray) -> None:
    repair = Repair(net, images)

    def narrow(full: Weights) -> Weights:
        return with_channels(full, {"blocks.9.expand": torch.arange(288)})

    assert _error(repair.after(narrow), net, images) < 0.1 * _error(narrow(net), net, images)
    dropped = repair.after(lambda full: without_block(full, 4))
    assert _error(dropped, net, images) < 0.3 * _error(without_block(net, 4), net, images)
    assert len(dropped.arch.blocks) == len(net.arch.blocks) - 1


def test_saliency_is_the_change_of_the_loss(net: Weights, images: np.ndarray) -> None:
    """Of a channel that is scaled by 1 - e, it is the change of the loss over e, squared; of one batch here."""
    classes = np.arange(8)
    saliency = saliency_of(net, images[:8], classes)
    layer = next(layer for layer in layers(net.arch) if layer.role == "last")

    def loss(scale: float, channel: int) -> float:
        state = {key: value.clone() for key, value in net.state.items()}
        for name in ("weight", "bias"):
            state[f"{layer.norm}.{name}"][channel] *= scale
        logits = _logits(Weights(net.arch, state), images[:8])
        return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(classes)))

    channel = int(saliency.channels["last"].argmax())
    slope = (loss(1.01, channel) - loss(0.99, channel)) / 0.02
    assert float(saliency.channels["last"][channel]) == pytest.approx(slope**2, rel=0.05)
    assert set(saliency.blocks) == {2, 4, 5, 7, 9, 10}
    assert set(saliency.kernels) == set(range(3, 11))
