"""A net of every op that exporters write in their own ways, small enough for a test of each."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["PX", "SmallNet", "make"]

PX = 32


class SmallNet(nn.Module):
    """Hard-swish behind a convolution and a linear layer, squeeze-and-excite, residuals, concatenation, pools."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 5, 2, 2, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.project = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        # Two layers of one shape on one input: what tells them apart is their weights.
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)
        self.head = nn.Sequential(nn.Linear(12, 16), nn.Hardswish(), nn.Linear(16, 5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(self.stem(images))
        gate = self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        x = x + self.project(x * nn.functional.hardsigmoid(gate))
        x = torch.cat([torch.relu(self.right(x)), self.left(x)], 1)
        return self.head(nn.functional.max_pool2d(x, 2).mean((2, 3)))


def make() -> SmallNet:
    """The same net every time, its batch norms settled on noise."""
    torch.manual_seed(0)
    net = SmallNet()
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = None
        nn.init.uniform_(norm.weight, 0.6, 1.6)
        nn.init.uniform_(norm.bias, -0.4, 0.6)
    nn.init.normal_(net.excite.weight, std=1.0)
    net.train()
    with torch.no_grad():
        net(torch.randn(64, 3, PX, PX))
    return net.eval()
