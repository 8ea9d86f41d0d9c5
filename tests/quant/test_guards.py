"""Calibration images that cannot calibrate are told apart from those that can."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edgemobile.errors import EdgemobileError
from edgemobile.graph import Graph, Node, QParams, Tensor
from edgemobile.quant.guards import check_images, dead_channels, note_on_channels, raised_scales

_RNG = np.random.default_rng(0)


def _pictures(count: int = 8, px: int = 32) -> np.ndarray:
    """Smooth random pictures, about normalised."""
    small = _RNG.integers(0, 255, (count, 6, 6, 3), dtype=np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((px, px), Image.Resampling.BICUBIC)) for image in small]
    return ((np.stack(large) / 255 - 0.45) / 0.23).astype(np.float32)


def test_pictures_pass() -> None:
    assert check_images([_pictures(), _pictures(3)]) == []


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (np.zeros((4, 32, 32, 3), np.float32), "single colour"),
        (np.repeat(_pictures(1), 4, axis=0), "same image"),
        ((_pictures() * 0.23 + 0.45) * 255, "not normalised"),
        (_RNG.normal(size=(8, 32, 32, 3)).astype(np.float32), "noise"),
    ],
)
def test_what_cannot_calibrate_is_refused_or_noted(images: np.ndarray, reason: str) -> None:
    with pytest.raises(EdgemobileError, match=reason):
        check_images([images])
    (note,) = check_images([images], strict=False)
    assert reason in note


@pytest.mark.parametrize(("batches", "reason"), [([], "empty"), ([_pictures() * np.nan], "not finite")])
def test_what_has_no_range_is_always_refused(batches: list[np.ndarray], reason: str) -> None:
    with pytest.raises(EdgemobileError, match=reason):
        check_images(batches, strict=False)


def test_dead_channels_are_counted() -> None:
    weight = np.ones((3, 2), np.float32)
    weight[1] = 0
    tensors = [Tensor("input", (1, 2)), Tensor("fc", (1, 3)), Tensor.constant("w", weight)]
    tensors.append(Tensor.constant("b", np.zeros(3, np.float32)))
    node = Node("linear", ("input", "w", "b"), "fc", {"activation": ""})
    graph = Graph("g", ("input",), ("fc",), (node,), {tensor.name: tensor for tensor in tensors})
    assert dead_channels(graph) == ["all weights zero, which makes a channel constant: 1 of 3 channels of fc"]


def test_one_note_names_the_layers_most_concerned() -> None:
    layers = [("a", 1, 8), ("b", 0, 8), ("c", 8, 8), ("d", 2, 8), ("e", 3, 16), ("f", 1, 16)]
    assert note_on_channels("odd", layers) == [
        "odd: 8 of 8 channels of c, 2 of 8 channels of d, 3 of 16 channels of e, and fewer of 2 more layers"
    ]
    assert note_on_channels("odd", [("b", 0, 8)]) == []


@pytest.mark.parametrize(("axis", "raised"), [(0, 2), (None, 3)])
def test_raised_scales_are_counted(axis: int | None, raised: int) -> None:
    weight = np.array([[1.27], [0.127], [-2.54]], np.float32)
    needed = np.array([0.01, 0.001, 0.02])
    qparams = QParams(needed * [1, 2, 2] if axis == 0 else np.array([0.05]), np.zeros(3 if axis == 0 else 1), axis)
    assert raised_scales(weight, qparams) == raised
