"""Unusable calibration images are found, and usable ones are not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edgemobile.errors import EdgemobileError
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.quant.guards import check_images, dead_channels, silent_layers

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
        ((_pictures() * 0.23 + 0.45) * 255, "not normalized"),
        (_RNG.normal(size=(8, 32, 32, 3)).astype(np.float32), "noise"),
    ],
)
def test_unusable_images_are_refused_or_noted(images: np.ndarray, reason: str) -> None:
    with pytest.raises(EdgemobileError, match=reason):
        check_images([images])
    (note,) = check_images([images], strict=False)
    assert reason in note


@pytest.mark.parametrize(("batches", "reason"), [([], "empty"), ([_pictures() * np.nan], "not finite")])
def test_images_without_a_range_are_always_refused(batches: list[np.ndarray], reason: str) -> None:
    with pytest.raises(EdgemobileError, match=reason):
        check_images(batches, strict=False)


def _layers(dead: dict[str, int]) -> Graph:
    """Consecutive linear layers of 8 channels; `dead` is layer -> its number of channels without weights."""
    tensors, nodes, x = [Tensor("input", (1, 8))], [], "input"
    for name, count in dead.items():
        weight = np.ones((8, 8), np.float32)
        weight[:count] = 0
        tensors += [Tensor(name, (1, 8)), Tensor.constant(f"{name}.w", weight)]
        tensors.append(Tensor.constant(f"{name}.b", np.zeros(8, np.float32)))
        nodes.append(Node("linear", (x, f"{name}.w", f"{name}.b"), name, {"activation": ""}))
        x = name
    return Graph("g", ("input",), (x,), tuple(nodes), {tensor.name: tensor for tensor in tensors})


def test_dead_channels_are_counted_in_one_note() -> None:
    assert dead_channels(_layers({"a": 0, "b": 0})) == []
    (note,) = dead_channels(_layers({"a": 1, "b": 0, "c": 6, "d": 2}))
    assert note == "dead channels, weights all zero: 9, up to 6 of 8 in a layer (c); they cost size, not accuracy"


def test_silent_layers_are_listed_in_one_note() -> None:
    graph = _layers(dict.fromkeys("abcde", 0))
    quiet = {"input": (0.0, 1.0), **dict.fromkeys("abcde", (0.0, 0.0))}
    note = "zero on every calibration image, so their scale is a guess: "
    assert silent_layers(graph, quiet) == [f"{note}a, b, c, and 2 more layers"]
    assert silent_layers(graph, {**dict.fromkeys(quiet, (-1.0, 2.0)), "b": (0.0, 0.0)}) == [f"{note}b"]
    assert silent_layers(graph, dict.fromkeys(quiet, (-1.0, 2.0))) == []
