"""Resizes, slices, splits and channel shuffles: what PyTorch computes, what the Graph does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgemobile.errors import Unsupported
from edgemobile.graph import Graph
from edgemobile.graph.interpreter import run
from edgemobile.lower import export_program, lower
from edgemobile.quant.torch_graph import TorchGraph, to_nhwc


class _Call(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def _lowered(function: Callable[[torch.Tensor], Any], x: torch.Tensor) -> Graph:
    return lower(export_program(_Call(function), x.shape))


def _shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def _shuffle_by_permute(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(1, 2, 3, *x.shape[2:]).permute(0, 2, 1, 3, 4).reshape(x.shape)


MOVES: dict[str, tuple[Callable[[torch.Tensor], Any], dict[str, int]]] = {
    "bilinear": (lambda x: F.interpolate(x, size=(13, 9), mode="bilinear"), {"resize": 1}),
    "bilinear by a factor": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), {"resize": 1}),
    "bilinear corners": (lambda x: F.interpolate(x, size=(13, 9), mode="bilinear", align_corners=True), {"resize": 1}),
    "bilinear to 1": (lambda x: F.interpolate(x, size=(1, 9), mode="bilinear", align_corners=True), {"resize": 1}),
    "bilinear down": (lambda x: F.interpolate(x, size=(3, 2), mode="bilinear"), {"resize": 1}),
    "nearest": (lambda x: F.interpolate(x, size=(13, 9), mode="nearest"), {"resize": 1}),
    "nearest down": (lambda x: F.interpolate(x, size=(3, 4), mode="nearest"), {"resize": 1}),
    "nearest exact": (lambda x: F.interpolate(x, size=(10, 9), mode="nearest-exact"), {"resize": 1}),
    "upsample": (nn.Upsample(scale_factor=3), {"resize": 1}),
    "to its own size": (lambda x: F.interpolate(x.relu(), size=(7, 5), mode="bilinear"), {"relu": 1}),
    "slice": (lambda x: x[:, 1:4], {"slice": 1}),
    "slice from the end": (lambda x: x[:, -2:], {"slice": 1}),
    "slice of features": (lambda x: x.mean((2, 3))[:, :2], {"mean": 1, "reshape": 1, "slice": 1}),
    "chunk": (
        lambda x: torch.cat([part.relu() for part in x.chunk(4, dim=1)], 1),
        {"slice": 3, "relu": 3, "concat": 1},
    ),
    "split": (lambda x: x.split([1, 5], dim=1)[1], {"slice": 1}),
    "split into equals": (lambda x: x.split(2, dim=1)[-1], {"slice": 1}),
    "split into one": (lambda x: x.relu().chunk(1, dim=1)[0], {"relu": 1}),
    "shuffle": (lambda x: _shuffle(x, 3), {"channel_shuffle": 1}),
    "shuffle by permute": (_shuffle_by_permute, {"channel_shuffle": 1}),
    "shuffle by flatten": (lambda x: x.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2), {"channel_shuffle": 1}),
    "rows": (lambda x: x.permute(0, 2, 3, 1).reshape(1, -1, 3), {"reshape": 1}),
    "rows by a copy": (lambda x: x.permute(0, 2, -1, 1).contiguous().flatten(1, 2), {"reshape": 1}),
    "rows as torchvision has them": (
        lambda x: x.view(1, -1, 3, 7, 5).permute(0, 3, 4, 1, 2).reshape(1, -1, 3),
        {"reshape": 1},
    ),
    "rows of several images": (
        lambda x: torch.cat([y.permute(0, 2, 3, 1).reshape(1, -1, 2) for y in (x, x[:, :4])], 1),
        {"slice": 1, "reshape": 2, "concat": 1},
    ),
    "images below each other": (lambda x: torch.cat([x, x.relu()], dim=2), {"relu": 1, "concat": 1}),
    "images beside each other": (lambda x: torch.cat([x, x.relu()], dim=-1), {"relu": 1, "concat": 1}),
    "nn.ChannelShuffle": (nn.ChannelShuffle(2), {"channel_shuffle": 1}),
}


@pytest.mark.parametrize("case", MOVES)
def test_the_graph_and_its_torch_form_move_what_pytorch_moves(case: str) -> None:
    function, ops = MOVES[case]
    x = torch.randn(1, 6, 7, 5, generator=torch.Generator().manual_seed(0))
    graph = _lowered(function, x)
    assert graph.op_counts() == ops
    expected, given = to_nhwc(function(x)), np.ascontiguousarray(to_nhwc(x))
    (found,) = run(graph, given).values()
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(to_nhwc(TorchGraph(graph)(given)[0]), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (
            lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
            r"scale_factor 1\.7 of .* is not an integer",
        ),
        (lambda x: F.interpolate(x, size=(9, 9), mode="bicubic"), "has no lowering"),
        (lambda x: x[:, :, 1:], r"only a slice of channels \(dim=1\)"),
        (lambda x: x[:, ::2], "with step 1"),
        (lambda x: x.chunk(2, dim=2)[0], r"only channels \(dim=1\) can be split"),
        (
            lambda x: torch.cat([x.relu().chunk(2, dim=1)[0].relu_(), x], 1),
            "an in-place op overwrites a part of a tensor",
        ),
        (lambda x: x.permute(0, 2, 3, 1), "differs between NHWC and NCHW"),
        (lambda x: x.permute(0, 2, 3, 1).reshape(1, -1), "differs between NHWC and NCHW"),
        (
            lambda x: x.permute(0, 3, 2, 1).reshape(1, -1, 6),
            "differs between NHWC and NCHW",
        ),
        (lambda x: x.view(1, 3, 2, 7, 5).permute(0, 3, 4, 2, 1).reshape(1, -1, 3), "only flattening"),
        (lambda x: torch.cat([x, x], dim=0), "along any dimension but the first"),
        (lambda x: x.view(1, 2, 3, 7, 5), "only flattening"),
        (lambda x: x.view(1, 2, 3, 7, 5).transpose(1, 2).relu().reshape(1, 6, 7, 5), "only flattening"),
    ],
)
def test_moves_that_files_do_not_have(function: Callable[[torch.Tensor], Any], reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        _lowered(function, torch.zeros(1, 6, 7, 5))
