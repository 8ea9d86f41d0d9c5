"""Transposed convolutions and pixel shuffles: the same numbers as PyTorch, from a convolution and depth_to_space."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from edgemobile.errors import Unsupported  # noqa: E402
from edgemobile.graph import Graph  # noqa: E402
from edgemobile.graph.interpreter import run  # noqa: E402
from edgemobile.lower import export_program, lower  # noqa: E402

_PLAIN = {"conv2d": 1, "depth_to_space": 1}


def _lowered(net: nn.Module, channels: int = 3) -> Graph:
    """The graph of `net`, which gives PyTorch's outputs for an image of 5x7."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    graph = lower(export_program(net, (1, channels, 5, 7)))
    image = torch.randn(2, channels, 5, 7)
    with torch.no_grad():
        expected = net(image).permute(0, 2, 3, 1).numpy()
    found = run(graph, np.ascontiguousarray(image.permute(0, 2, 3, 1).numpy()))[graph.outputs[0]]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    return graph


@pytest.mark.parametrize(
    ("arguments", "taps"),
    [
        ({"kernel_size": 2, "stride": 2}, (1, 1)),
        ({"kernel_size": 4, "stride": 2, "padding": 1}, (3, 3)),
        ({"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}, (2, 2)),
        ({"kernel_size": (4, 2), "stride": 2, "padding": (1, 0)}, (3, 1)),
        ({"kernel_size": 8, "stride": 4, "padding": 2}, (3, 3)),
        ({"kernel_size": 3, "stride": 3, "bias": False}, (1, 1)),
        ({"kernel_size": 1, "stride": 2, "output_padding": 1}, (1, 1)),
        ({"kernel_size": 2, "stride": 2, "dilation": 3}, (2, 2)),
    ],
)
def test_a_transposed_convolution_is_a_convolution(arguments: dict[str, object], taps: tuple[int, int]) -> None:
    graph = _lowered(nn.ConvTranspose2d(3, 4, **arguments))
    assert graph.op_counts() == _PLAIN
    assert graph[graph.nodes[0].inputs[1]].shape[1:3] == taps


def test_of_stride_one_it_is_a_convolution_alone() -> None:
    assert _lowered(nn.ConvTranspose2d(3, 4, 3, padding=1)).op_counts() == {"conv2d": 1}


def test_groups_of_one_channel() -> None:
    graph = _lowered(nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=4), channels=4)
    assert graph.op_counts() == {**_PLAIN, "channel_shuffle": 1}


def test_batch_norm_and_relu_after_it_cost_nothing() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(3, 4, 2, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    graph = _lowered(net)
    assert graph.op_counts() == {"conv2d": 2, "depth_to_space": 1}
    assert [node.output for node in graph.nodes] == ["0.subpixels", "2", "3"]


def test_what_reads_it_before_relu_keeps_its_values() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(3, 4, 2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.up(x)
            return y + y.relu()

    assert _lowered(Both()).op_counts() == {**_PLAIN, "relu": 1, "add": 1}


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (nn.ConvTranspose2d(3, 4, 3, 2, 1), r"multiple of the stride.* found \[9, 13\].* use output_padding=1"),
        (nn.ConvTranspose2d(3, 4, (2, 3), (2, 3)), "equal in both directions"),
        (nn.ConvTranspose2d(3, 6, 2, 2, groups=3), "found groups=3"),
    ],
)
def test_what_has_no_such_form_is_refused(net: nn.Module, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        lower(export_program(net, (1, 3, 5, 7)))


def test_a_pixel_shuffle_after_a_convolution_changes_the_order_of_its_rows() -> None:
    net = nn.Sequential(nn.Conv2d(3, 18, 3, padding=1), nn.ReLU(), nn.PixelShuffle(3))
    assert _lowered(net).op_counts() == _PLAIN


def test_a_pixel_shuffle_of_one_channel_has_nothing_to_reorder() -> None:
    assert _lowered(nn.PixelShuffle(2), channels=4).op_counts() == {"depth_to_space": 1}


def test_a_pixel_shuffle_of_a_tensor_that_others_read_keeps_its_shuffle() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.up = nn.Conv2d(3, 8, 1), nn.Upsample(scale_factor=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return nn.functional.pixel_shuffle(y, 2) + self.up(y)[:, :2]

    counts = _lowered(Both()).op_counts()
    assert counts["channel_shuffle"] == counts["depth_to_space"] == 1
