"""The table of ops of a Graph: attributes, shape rule, and properties for quantization.

To add an op, add a row here and one in each writer; tests/graph/test_ops.py lists missing rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from edgemobile.graph.resizing import COORDINATES

__all__ = ["OPS", "Op"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Op:
    """One op.

    `attrs` are the attributes of its nodes. `shape(attrs, *input shapes)` returns the shape of the output, or None if
    the inputs do not fit; for `reshape` it returns the number of values of the output.

    has_weights     reads x, weight and bias
    shares_qparams  inputs and output must have the same scale and zero point: it moves or averages integers
    selects         every value of the output is a value of an input
    homogeneous     f(n * x) = n * f(x), for its one input
    channelwise     homogeneous for each channel separately
    read_only       only in files of other tools; no writer writes it
    """

    shape: Callable[..., Shape | None]
    attrs: tuple[str, ...] = ()
    has_weights: bool = False
    shares_qparams: bool = False
    selects: bool = False
    homogeneous: bool = False
    channelwise: bool = False
    read_only: bool = False


def _same(attrs: Mapping[str, Any], x: Shape) -> Shape:
    return x


def _broadcast(attrs: Mapping[str, Any], a: Shape, b: Shape) -> Shape | None:
    try:
        return np.broadcast_shapes(a, b)
    except ValueError:
        return None


def _conv2d(attrs: Mapping[str, Any], x: Shape, weight: Shape, bias: Shape) -> Shape | None:
    outputs, *kernel, inputs = weight
    if x[3] != inputs * attrs["groups"] or bias != (outputs,):
        return None
    spans = [(kernel[i] - 1) * attrs["dilation"][i] + 1 for i in (0, 1)]
    return (x[0], *_windows(x, spans, attrs), outputs)


def _linear(attrs: Mapping[str, Any], x: Shape, weight: Shape, bias: Shape) -> Shape | None:
    return (*x[:-1], weight[0]) if x[-1] == weight[1] and bias == weight[:1] else None


def _concat(attrs: Mapping[str, Any], *parts: Shape) -> Shape | None:
    axis = attrs["axis"]
    others = {(part[:axis], part[axis + 1 :]) for part in parts}
    if len(others) != 1 or not 0 < axis < len(parts[0]):
        return None
    before, after = others.pop()
    return (*before, sum(part[axis] for part in parts), *after)


def _transpose(attrs: Mapping[str, Any], x: Shape) -> Shape:
    return tuple(x[axis] for axis in attrs["perm"])


def _resize(attrs: Mapping[str, Any], x: Shape) -> Shape | None:
    known = attrs["coordinates"] in COORDINATES.get(attrs["mode"], ())
    return (x[0], *attrs["size"], x[3]) if known else None


def _slice(attrs: Mapping[str, Any], x: Shape) -> Shape | None:
    begin, end = attrs["begin"], attrs["end"]
    return (*x[:-1], end - begin) if 0 <= begin < end <= x[-1] else None


def _depth_to_space(attrs: Mapping[str, Any], x: Shape) -> Shape | None:
    block, (images, height, width, channels) = attrs["block"], x
    return None if channels % block**2 else (images, height * block, width * block, channels // block**2)


def _reflect_pad(attrs: Mapping[str, Any], x: Shape) -> Shape | None:
    (top, bottom), (left, right) = attrs["padding"]
    batch, height, width, channels = x
    fits = min(top, bottom, left, right) >= 0 and max(top, bottom) < height and max(left, right) < width
    return (batch, top + height + bottom, left + width + right, channels) if fits else None


def _prelu(attrs: Mapping[str, Any], x: Shape, slope: Shape) -> Shape | None:
    return x if slope == (*[1] * (len(x) - 2), x[-1]) else None


def _channel_shuffle(attrs: Mapping[str, Any], x: Shape) -> Shape | None:
    return x if x[-1] % attrs["groups"] == 0 else None


def _pool(attrs: Mapping[str, Any], x: Shape) -> Shape:
    return (x[0], *_windows(x, attrs["kernel"], attrs), x[3])


def _windows(x: Shape, spans: Sequence[int], attrs: Mapping[str, Any]) -> Shape:
    """The number of windows of `spans` pixels in the height and width of x [N,H,W,C]."""
    padding = attrs.get("padding", ((0, 0), (0, 0)))
    return tuple((x[1 + i] + sum(padding[i]) - spans[i]) // attrs["stride"][i] + 1 for i in (0, 1))


# `activation` is "", "relu" or "relu6", fused after the op. stride, dilation and kernel are (h, w); padding is
# ((top, bottom), (left, right)).
OPS: Mapping[str, Op] = MappingProxyType(
    {
        # x, weight, bias
        "conv2d": Op(_conv2d, ("stride", "padding", "dilation", "groups", "activation"), has_weights=True),
        # x[N,in], in files of other tools also [N,1,1,in]; weight, bias -> [N,out]
        "linear": Op(_linear, ("activation",), has_weights=True),
        "add": Op(_broadcast, ("activation",)),
        "mul": Op(_broadcast, ("activation",)),
        # along the dimension `axis`, 1 or more
        "concat": Op(_concat, ("axis",), shares_qparams=True, selects=True),
        # channels from `begin` up to but not including `end`
        "slice": Op(_slice, ("begin", "end"), shares_qparams=True, selects=True, homogeneous=True),
        # channel i * C / groups + j -> j * groups + i
        "channel_shuffle": Op(_channel_shuffle, ("groups",), shares_qparams=True, selects=True, homogeneous=True),
        # channel (i * block + j) * C + c of each pixel -> channel c of pixel (i, j) of a square of `block` by `block`
        "depth_to_space": Op(_depth_to_space, ("block",), shares_qparams=True, selects=True, homogeneous=True),
        # mirrors an image at its border, which is not repeated
        "reflect_pad": Op(
            _reflect_pad, ("padding",), shares_qparams=True, selects=True, homogeneous=True, channelwise=True
        ),
        # height and width to `size`; `mode` and `coordinates` as in graph/resizing.py
        "resize": Op(_resize, ("size", "mode", "coordinates"), shares_qparams=True, homogeneous=True, channelwise=True),
        # [N,H,W,C] -> [N,1,1,C], in files of other tools also [N,C]
        "mean": Op(lambda attrs, x: (x[0], 1, 1, x[3]), homogeneous=True, channelwise=True),
        "max_pool2d": Op(
            _pool,
            ("kernel", "stride", "padding"),
            shares_qparams=True,
            selects=True,
            homogeneous=True,
            channelwise=True,
        ),
        # no padding
        "avg_pool2d": Op(_pool, ("kernel", "stride"), shares_qparams=True, homogeneous=True, channelwise=True),
        "relu": Op(_same, homogeneous=True, channelwise=True),
        "relu6": Op(_same),
        # to the range from `low` to `high`, of which one may be infinite
        "clip": Op(_same, ("low", "high"), shares_qparams=True),
        # 0 to 1
        "relu1": Op(_same, read_only=True),
        # x * relu6(x + 3) / 6
        "hardswish": Op(_same),
        # relu6(x + 3) / 6
        "hardsigmoid": Op(_same),
        # 1 / (1 + exp(-x)); the int8 output has steps of 1 / 256 from 0
        "sigmoid": Op(_same),
        # the int8 output has steps of 1 / 128 around 0
        "tanh": Op(_same),
        # x, or slope * x if x is negative
        "leaky_relu": Op(_same, ("slope",), homogeneous=True, channelwise=True),
        # x, or slope * x if x is negative; the second input has a slope for each channel, [1,1,C] of an image
        "prelu": Op(_prelu, homogeneous=True, channelwise=True),
        # x, or exp(x) - 1 if x is negative
        "elu": Op(_same),
        # x * (1 + erf(x / sqrt(2))) / 2
        "gelu": Op(_same),
        # [N,classes]; the int8 output has steps of 1 / 256 from 0
        "softmax": Op(_same, read_only=True),
        # as numpy.transpose
        "transpose": Op(_transpose, ("perm",), shares_qparams=True, selects=True, homogeneous=True, read_only=True),
        # to the output's shape, row-major
        "reshape": Op(lambda attrs, x: (math.prod(x),), shares_qparams=True, selects=True, homogeneous=True),
        # float or integer -> integer, by the output's QParams
        "quantize": Op(_same),
        # integer or float16 -> float32
        "dequantize": Op(_same),
        # float -> float: quantizes each image over its own range, as layers of int8 weights may do (affine.rounded)
        "round": Op(_same, read_only=True),
    }
)
