"""The theoretical cost of a model: parameters, multiply-accumulates (MACs) and activation bytes, one row per layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgemobile.models.arch import Arch
from edgemobile.models.layers import Layer, layers

__all__ = ["Cost", "arch_costs", "layer_cost", "total"]


@dataclass(frozen=True)
class Cost:
    """Cost of one layer, or a total. `activation_bytes` is the float32 output, batch 1."""

    name: str
    op: str
    out_shape: tuple[int, ...]
    params: int
    macs: int
    activation_bytes: int


def layer_cost(layer: Layer) -> Cost:
    """Cost of `layer`.

    MACs of a convolution: out_h * out_w * out_c * kernel^2 * in_c / groups. Pools and activations count none, as in the
    papers. Batch norm counts its gamma and beta as parameters; an exporter folds it away.
    """
    in_c, (out_c, out_h, out_w) = layer.in_shape[0], layer.out_shape
    fan_in = {"conv2d": in_c, "linear": in_c, "depthwise": 1, "mean": 0}[layer.op] * layer.kernel**2
    params = out_c * fan_in + out_c * layer.bias + 2 * out_c * bool(layer.norm)
    return Cost(
        name=layer.name,
        op=layer.op,
        out_shape=layer.out_shape,
        params=params,
        macs=out_h * out_w * out_c * fan_in,
        activation_bytes=4 * out_c * out_h * out_w,
    )


def arch_costs(arch: Arch) -> list[Cost]:
    """One row per layer, in order of execution."""
    return [layer_cost(layer) for layer in layers(arch)]


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of `costs`; `activation_bytes` is the largest single output, not the sum. 0 for no layers."""
    rows = list(costs)
    return Cost(
        name="total",
        op="",
        out_shape=rows[-1].out_shape if rows else (),
        params=sum(row.params for row in rows),
        macs=sum(row.macs for row in rows),
        activation_bytes=max((row.activation_bytes for row in rows), default=0),
    )
