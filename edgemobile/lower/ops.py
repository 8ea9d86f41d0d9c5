"""One function per aten op: adds it to a Graph, or refuses it.

Add an op here: a function and its row in LOWERINGS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemobile.graph import Node, Tensor
from edgemobile.graph.padding import Pads, unpadded
from edgemobile.lower.lowering import Lowering, arguments, both_sides, pair
from edgemobile.lower.moves import MOVES, channel_slice, ends_rows, ends_shuffle, starts_rows, starts_shuffle
from edgemobile.lower.pools import POOLS
from edgemobile.lower.subpixels import SUBPIXELS, subpixel_layer

if TYPE_CHECKING:
    import torch

__all__ = ["FOLDED", "LOWERINGS", "SHARING"]

# pad begins with the last dimension: left, right, top, bottom.
_PAD_DEFAULTS: dict[str, dict[str, Any]] = {
    "aten.pad.default": {"mode": "constant", "value": None},
    "aten.constant_pad_nd.default": {"value": 0},
}


def _conv2d(walk: Lowering, fx: torch.fx.Node) -> str:
    """With any kernel, stride, padding, dilation and groups; weights must be stored."""
    x, weight, bias, stride, padding, dilation, groups = arguments(
        fx, "input", "weight", bias=None, stride=1, padding=0, dilation=1, groups=1
    )
    kernel = walk.array(fx, weight)
    if isinstance(padding, str):
        padding = _string_padding(walk, fx, padding, kernel.shape[2:], pair(dilation))
    pads = padding if isinstance(padding, tuple) and isinstance(padding[0], tuple) else both_sides(padding)
    path = walk.layer_path(weight, "conv2d")
    offset = np.zeros(len(kernel), np.float32) if bias is None else walk.array(fx, bias)
    return walk.emit(
        fx,
        "conv2d",
        (
            walk.image(fx, x),
            walk.constant(f"{path}.weight", kernel.transpose(0, 2, 3, 1)),
            walk.constant(f"{path}.bias", offset),
        ),
        stride=pair(stride),
        padding=_summed(pads, walk.pads.get(x, unpadded)),
        dilation=pair(dilation),
        groups=groups,
        activation="",
    )


def _summed(a: Pads, b: Pads) -> Pads:
    height, width = ((before + more, after + extra) for (before, after), (more, extra) in zip(a, b, strict=True))
    return height, width


def _pad(walk: Lowering, fx: torch.fx.Node) -> str:
    """Zeros around an image, as padding of the convolutions that read it, or of one that copies it; or its reflection.

    Given:  y = conv(pad(x, p), w, padding=q)
    Result: y = conv(x, w, padding=p + q)
    """
    x, pad, *rest = arguments(fx, "input", "pad", **_PAD_DEFAULTS[str(fx.target)])
    mode, value = rest if len(rest) == 2 else ("constant", *rest)
    if mode not in ("constant", "reflect") or value not in (None, 0):
        walk.refuse(fx, f"only padding with zeros and reflection are supported, found mode={mode!r}, value={value}")
    if len(x.meta["val"].shape) != 4 or len(pad) > 4 or min(pad) < 0:
        walk.refuse(fx, f"only height and width of [N, C, H, W] can be padded, by 0 or more; found pad={list(pad)}")
    if mode == "reflect":
        return _reflect_pad(walk, fx)
    left, right, top, bottom = (*pad, 0, 0)[:4]
    pads = ((top, bottom), (left, right))
    if all("aten.conv2d" in str(user.target) and user.args[0] is fx for user in fx.users):
        walk.pads[fx] = pads
        return walk.image(fx, x)
    ones = np.ones(x.meta["val"].shape[1])
    return walk.depthwise(fx, walk.image(fx, x), ones, np.zeros_like(ones), padding=pads)


def _reflect_pad(walk: Lowering, fx: torch.fx.Node) -> str:
    """Of height and width."""
    x, padding = arguments(fx, "input", "pad")[:2]
    left, right, top, bottom = (*padding, 0, 0)[:4]
    return walk.emit(fx, "reflect_pad", (walk.image(fx, x),), padding=((top, bottom), (left, right)))


def _string_padding(
    walk: Lowering, fx: torch.fx.Node, padding: str, kernel: Sequence[int], dilation: tuple[int, int]
) -> Pads:
    """The pixels of padding='same' (stride 1 only in PyTorch), with the odd pixel at the end, or 'valid' (none)."""
    spans = [(k - 1) * d if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
    top, left = (span // 2 for span in spans)
    return (top, spans[0] - top), (left, spans[1] - left)


def _batch_norm(walk: Lowering, fx: torch.fx.Node) -> str:
    """Folded into the layer before it, in float64; otherwise a depthwise 1x1 convolution, or a product and a sum.

    Given:  y = BN(conv(x, w) + b)
    Result: y = conv(x, w') + b', w' = w * k, b' = (b - mean) * k + beta, k = gamma / sqrt(var + eps)
    """
    x, gamma, beta, mean, var, training, _, eps = arguments(
        fx, "input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"
    )
    if training or mean is None:
        walk.refuse(fx, "batch norm is in training mode or has no running statistics; call net.eval() first")
    name = walk.operand(fx, x, "input")
    variance = walk.array(fx, var).astype(np.float64)
    k = 1 / np.sqrt(variance + eps)
    if gamma is not None:
        k = k * walk.array(fx, gamma)
    shift = 0.0 if beta is None else walk.array(fx, beta).astype(np.float64)
    last = walk.producer(name)
    conv = subpixel_layer(walk, name) or last
    if last is None or conv is None or not conv.has_weights or not walk.feeds_only(name, fx):
        if len(fx.meta["val"].shape) == 2:
            return _scaled(walk, fx, name, k, shift - walk.array(fx, mean) * k)
        if len(fx.meta["val"].shape) != 4:
            walk.refuse(fx, f"only [N, C] and [N, C, H, W] are supported, found {list(fx.meta['val'].shape)}")
        return walk.depthwise(fx, name, k, shift - walk.array(fx, mean) * k)
    weight, bias = (walk.tensors[constant].data for constant in conv.inputs[1:])
    assert weight is not None
    assert bias is not None
    # A transposed convolution has a row for each place in a square of pixels.
    k, shift, center = (np.resize(each, len(weight)) for each in (k, shift, walk.array(fx, mean)))
    walk.put_constant(conv.inputs[1], weight.astype(np.float64) * k.reshape(-1, *[1] * (weight.ndim - 1)))
    walk.put_constant(conv.inputs[2], (bias.astype(np.float64) - center) * k + shift)
    return _renamed(walk, fx, last)


def _scaled(walk: Lowering, fx: torch.fx.Node, features: str, scale: np.ndarray, shift: np.ndarray) -> str:
    """y = x * scale + shift, both f[C], of features [N, C]."""
    path, shape = walk.name_of(fx, "add"), tuple(fx.meta["val"].shape)
    factors = walk.constant(f"{path}.scale", scale)
    product = walk.emit_of(fx, "mul", (features, factors), ".scaled", shape, activation="")
    return walk.emit(fx, "add", (product, walk.constant(f"{path}.shift", shift)), activation="")


def _renamed(walk: Lowering, fx: torch.fx.Node, node: Node) -> str:
    """Use `node` for `fx` as well: its tensor gets the name of the later module."""
    name = walk.name_of(fx, node.op)
    walk.tensors[name] = Tensor(name, walk.tensors.pop(node.output).shape)
    walk.replace_last(node.output, Node(node.op, node.inputs, name, node.attrs))
    walk.values.update({old: name for old, value in walk.values.items() if walk.is_name(value, node.output)})
    return name


def _linear(walk: Lowering, fx: torch.fx.Node) -> str:
    """On [N, features], with stored weights."""
    x, weight, bias = arguments(fx, "input", "weight", bias=None)
    matrix = walk.array(fx, weight)
    if len(fx.meta["val"].shape) != 2:
        walk.refuse(fx, f"linear needs an input [N, features], found {len(fx.meta['val'].shape)} dimensions")
    path = walk.layer_path(weight, "linear")
    name = walk.operand(fx, x, "input")
    flatten = walk.producer(name)
    if flatten is not None and flatten.op == "reshape":
        matrix = _channels_last_columns(matrix, walk.tensors[flatten.inputs[0]].shape)
    offset = np.zeros(len(matrix), np.float32) if bias is None else walk.array(fx, bias)
    constants = walk.constant(f"{path}.weight", matrix), walk.constant(f"{path}.bias", offset)
    return walk.emit(fx, "linear", (name, *constants), activation="")


def _channels_last_columns(matrix: np.ndarray, nhwc: tuple[int, ...]) -> np.ndarray:
    """The weight of a layer trained on flattened NCHW, with its columns in the order of flattened NHWC."""
    if len(nhwc) != 4:
        return matrix
    _, height, width, channels = nhwc
    return matrix.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(len(matrix), -1)


def _flatten(walk: Lowering, fx: torch.fx.Node) -> str:
    """To [N, features], to the rows of an image, to or from 1x1 images, and in a channel shuffle."""
    source = fx.args[0]
    before, after = tuple(source.meta["val"].shape), tuple(fx.meta["val"].shape)  # type: ignore[union-attr]
    if starts_shuffle(fx) or starts_rows(fx):
        return walk.image(fx, source)
    if ends_rows(fx):
        return walk.emit(fx, "reshape", (walk.operand(fx, source, "input"),))
    if (view := ends_shuffle(fx)) is not None:
        groups = view.meta["val"].shape[1]
        return walk.emit(fx, "channel_shuffle", (walk.operand(fx, source, "input"),), groups=groups)
    if after == before:
        return walk.operand(fx, source, "input")
    if before[:2] == after[:2] and set(before[2:] + after[2:]) <= {1}:
        # [N, C] has the same order in every layout, with or without a height and a width of 1.
        return walk.emit(fx, "reshape", (walk.operand(fx, source, "input"),))
    if len(after) != 2 or after[0] != before[0]:
        walk.refuse(fx, f"only flattening to [N, features] is supported, found {list(before)} -> {list(after)}")
    permuted = before[2:] != (1, 1)
    if permuted and not _feeds_only_linear(fx):
        walk.refuse(fx, f"only a linear layer may read the flattened {list(before)}: NHWC and NCHW differ in order")
    return walk.emit(fx, "reshape", (walk.operand(fx, source, "input"),), ".nhwc" if permuted else "")


def _feeds_only_linear(fx: torch.fx.Node) -> bool:
    return all(
        _feeds_only_linear(user) if str(user.target) in _IDENTITIES else "aten.linear" in str(user.target)
        for user in fx.users
    )


def _cat(walk: Lowering, fx: torch.fx.Node) -> str:
    """Of [N, C], [N, R, C] or [N, C, H, W], along any dimension but the first."""
    parts, dim = arguments(fx, "tensors", dim=0)
    rank = len(fx.meta["val"].shape)
    axis = dim % rank
    if rank not in (2, 3, 4) or axis == 0:
        walk.refuse(
            fx,
            f"only [N, C], [N, R, C] and [N, C, H, W] can be concatenated, along any dimension but the first; found "
            f"dim={dim} of {rank}",
        )
    names = [name for part in parts if isinstance(name := walk.values[part], str)]
    if len(names) < len(parts):
        walk.refuse(fx, "concatenation with a constant is not supported")
    axis = (0, 3, 1, 2)[axis] if rank == 4 else axis
    return names[0] if len(names) == 1 else walk.emit(fx, "concat", names, axis=axis)


def _clamp(walk: Lowering, fx: torch.fx.Node) -> str:
    """Between any two numbers; 0 to 6 is ReLU6, 0 to infinity ReLU."""
    hardtanh = "hardtanh" in str(fx.target)
    low: Any
    x, low, high = arguments(fx, "input", low=-1.0 if hardtanh else None, high=1.0 if hardtanh else None)
    if "clamp_max" in str(fx.target):
        low, high = None, low
    ends = float("-inf") if low is None else float(low), float("inf") if high is None else float(high)
    if not ends[0] < ends[1]:
        walk.refuse(fx, f"the low end must be less than the high one, found [{low}, {high}]")
    op = {(0.0, 6.0): "relu6", (0.0, float("inf")): "relu"}.get(ends)
    if op is not None:
        return walk.emit(fx, op, (walk.operand(fx, x, "input"),))
    return walk.emit(fx, "clip", (walk.operand(fx, x, "input"),), low=ends[0], high=ends[1])


def _unary(op: str) -> Callable[[Lowering, torch.fx.Node], str]:
    def row(walk: Lowering, fx: torch.fx.Node) -> str:
        """Of any shape."""
        return walk.emit(fx, op, (walk.operand(fx, fx.args[0], "input"),))

    return row


def _leaky_relu(walk: Lowering, fx: torch.fx.Node) -> str:
    """Any slope."""
    x, slope = arguments(fx, "input", negative_slope=0.01)
    return walk.emit(fx, "leaky_relu", (walk.operand(fx, x, "input"),), slope=float(slope))


def _prelu(walk: Lowering, fx: torch.fx.Node) -> str:
    """With one slope, or one for each channel."""
    x, slope = arguments(fx, "input", "weight")
    shape = x.meta["val"].shape
    if len(shape) not in (2, 4):
        walk.refuse(fx, f"only [N, C] and [N, C, H, W] are supported, found {len(shape)} dimensions")
    slopes = np.broadcast_to(walk.array(fx, slope), shape[1]).reshape(*[1] * (len(shape) - 2), -1)
    name = walk.constant(f"{walk.layer_path(slope, 'prelu')}.slope", slopes)
    return walk.emit(fx, "prelu", (walk.operand(fx, x, "input"), name))


def _elu(walk: Lowering, fx: torch.fx.Node) -> str:
    """With alpha 1, as files have it."""
    x, *numbers = arguments(fx, "input", alpha=1.0, scale=1.0, input_scale=1.0)
    if any(number != 1 for number in numbers):
        walk.refuse(fx, f"only alpha 1 is supported, because TFLite has no other; found {numbers[0]}")
    return walk.emit(fx, "elu", (walk.operand(fx, x, "input"),))


def _gelu(walk: Lowering, fx: torch.fx.Node) -> str:
    """Exact, with erf."""
    x, approximate = arguments(fx, "input", approximate="none")
    if approximate != "none":
        walk.refuse(
            fx, f"approximate={approximate!r} is not supported; use approximate='none', which differs by 0.0005"
        )
    return walk.emit(fx, "gelu", (walk.operand(fx, x, "input"),))


def _silu(walk: Lowering, fx: torch.fx.Node) -> str:
    """As x * sigmoid(x), because no format has an op for it."""
    x = walk.operand(fx, fx.args[0], "input")
    gate = walk.emit(fx, "sigmoid", (x,), ".sigmoid")
    return walk.emit(fx, "mul", (x, gate), activation="")


def _binary(op: str) -> Callable[[Lowering, torch.fx.Node], str]:
    def row(walk: Lowering, fx: torch.fx.Node) -> str:
        """Of two tensors with the same number of dimensions, or a tensor and a constant."""
        a, b, alpha = arguments(fx, "input", "other", alpha=1)
        if alpha != 1:
            walk.refuse(fx, f"alpha={alpha} is not supported; multiply first")
        _check_ranks(walk, fx, a, b)
        return walk.emit(fx, op, (walk.operand(fx, a, "a"), walk.operand(fx, b, "b")), activation="")

    return row


def _check_ranks(walk: Lowering, fx: torch.fx.Node, *operands: Any) -> None:
    ranks = [len(arg.meta["val"].shape) for arg in operands if isinstance(walk.values.get(arg), str)]
    if any(rank != len(fx.meta["val"].shape) for rank in ranks):
        walk.refuse(fx, f"broadcasting {ranks} dimensions has no NHWC form; give both operands the same number")


def _div(walk: Lowering, fx: torch.fx.Node) -> str:
    """By a constant, as a multiplication."""
    x, by, rounding = arguments(fx, "input", "other", rounding_mode=None)
    divisor = _constant(walk, by)
    if divisor is None or rounding is not None:
        walk.refuse(fx, "only division by a constant, without rounding, is supported")
    reciprocal = walk.broadcast_constant(fx, 1 / divisor, f"{walk.name_of(fx, 'mul')}.reciprocal")
    return walk.emit(fx, "mul", (walk.operand(fx, x, "a"), reciprocal), activation="")


def _sub(walk: Lowering, fx: torch.fx.Node) -> str:
    """As the addition of a negative."""
    x, less, alpha = arguments(fx, "input", "other", alpha=1)
    if alpha != 1:
        walk.refuse(fx, f"alpha={alpha} is not supported; multiply first")
    return _difference(walk, fx, x, less)


def _rsub(walk: Lowering, fx: torch.fx.Node) -> str:
    """A constant minus a tensor, as the addition of its negative."""
    less, x, alpha = arguments(fx, "input", "other", alpha=1)
    if alpha != 1:
        walk.refuse(fx, f"alpha={alpha} is not supported; multiply first")
    return _difference(walk, fx, x, less)


def _difference(walk: Lowering, fx: torch.fx.Node, x: Any, less: Any) -> str:
    value = _constant(walk, less)
    if value is not None:
        negative = walk.broadcast_constant(fx, -value, f"{walk.name_of(fx, 'add')}.negative")
    else:
        _check_ranks(walk, fx, x, less)
        shape = tuple(less.meta["val"].shape)
        factor = walk.constant(f"{walk.name_of(fx, 'add')}.minus_one", np.array([-1.0]))
        negative = walk.emit_of(fx, "mul", (walk.operand(fx, less, "b"), factor), ".negative", shape, activation="")
    return walk.emit(fx, "add", (walk.operand(fx, x, "a"), negative), activation="")


def _negative(walk: Lowering, fx: torch.fx.Node) -> str:
    """As a product with -1."""
    factor = walk.constant(f"{walk.name_of(fx, 'mul')}.minus_one", np.array([-1.0]))
    return walk.emit(fx, "mul", (walk.operand(fx, fx.args[0], "input"), factor), activation="")


def _square(walk: Lowering, fx: torch.fx.Node) -> str:
    """As a product; of powers only the second."""
    x, exponent = arguments(fx, "input", exponent=2)
    if exponent != 2:
        walk.refuse(fx, f"only the power 2 is supported, found {exponent}")
    name = walk.operand(fx, x, "input")
    return walk.emit(fx, "mul", (name, name), activation="")


def _constant(walk: Lowering, arg: Any) -> np.ndarray | None:
    """A number or a constant tensor as f64; None for other tensors."""
    value = walk.values.get(arg, arg)
    return None if isinstance(value, str) else np.asarray(value, np.float64)


def _identity(walk: Lowering, fx: torch.fx.Node) -> str | np.ndarray:
    """Returns its input unchanged."""
    return walk.values[fx.args[0]]  # type: ignore[index]


def _dropout(walk: Lowering, fx: torch.fx.Node) -> str | np.ndarray:
    """Returns its input unchanged in eval mode."""
    _, p, train = arguments(fx, "input", "p", "train")
    if train and p:
        walk.refuse(
            fx, f"it drops values at random (p={p}, train=True); pass training=self.training to it, and call net.eval()"
        )
    return _identity(walk, fx)


LOWERINGS: dict[str, Callable[[Lowering, torch.fx.Node], str | np.ndarray]] = {
    "aten.conv2d.default": _conv2d,
    "aten.conv2d.padding": _conv2d,
    "aten.pad.default": _pad,
    "aten.constant_pad_nd.default": _pad,
    "aten.reflection_pad2d.default": _reflect_pad,
    "aten.batch_norm.default": _batch_norm,
    "aten.linear.default": _linear,
    "aten.relu.default": _unary("relu"),
    "aten.relu_.default": _unary("relu"),
    "aten.relu6.default": _unary("relu6"),
    "aten.relu6_.default": _unary("relu6"),
    "aten.hardtanh.default": _clamp,
    "aten.hardtanh_.default": _clamp,
    "aten.clamp.default": _clamp,
    "aten.clamp_.default": _clamp,
    "aten.clamp_min.default": _clamp,
    "aten.clamp_max.default": _clamp,
    "aten.hardswish.default": _unary("hardswish"),
    "aten.hardswish_.default": _unary("hardswish"),
    "aten.hardsigmoid.default": _unary("hardsigmoid"),
    "aten.hardsigmoid_.default": _unary("hardsigmoid"),
    "aten.sigmoid.default": _unary("sigmoid"),
    "aten.sigmoid_.default": _unary("sigmoid"),
    "aten.tanh.default": _unary("tanh"),
    "aten.tanh_.default": _unary("tanh"),
    "aten.leaky_relu.default": _leaky_relu,
    "aten.leaky_relu_.default": _leaky_relu,
    "aten.prelu.default": _prelu,
    "aten.elu.default": _elu,
    "aten.elu_.default": _elu,
    "aten.gelu.default": _gelu,
    "aten.silu.default": _silu,
    "aten.silu_.default": _silu,
    "aten.add.Tensor": _binary("add"),
    "aten.add_.Tensor": _binary("add"),
    "aten.mul.Tensor": _binary("mul"),
    "aten.mul_.Tensor": _binary("mul"),
    "aten.sub.Tensor": _sub,
    "aten.sub_.Tensor": _sub,
    "aten.rsub.Scalar": _rsub,
    "aten.rsub.Tensor": _rsub,
    "aten.neg.default": _negative,
    "aten.square.default": _square,
    "aten.pow.Tensor_Scalar": _square,
    "aten.div.Tensor": _div,
    "aten.div_.Tensor": _div,
    "aten.cat.default": _cat,
    "aten.slice.Tensor": channel_slice,
    "aten.flatten.using_ints": _flatten,
    "aten.view.default": _flatten,
    "aten.reshape.default": _flatten,
    "aten.unflatten.int": _flatten,
    "aten.squeeze.dim": _flatten,
    "aten.squeeze.dims": _flatten,
    "aten.unsqueeze.default": _flatten,
    "aten.dropout.default": _dropout,
    "aten.dropout_.default": _dropout,
    "aten.contiguous.default": _identity,
    "aten.clone.default": _identity,
    "aten.alias.default": _identity,
    **MOVES,
    **POOLS,
    **SUBPIXELS,
}
# These add no op to a file.
FOLDED = (_identity, _dropout, _batch_norm)
_IDENTITIES = tuple(op for op, lowering in LOWERINGS.items() if lowering in (_identity, _dropout, channel_slice))
# These return a view of their input: an in-place op on one changes the other.
SHARING = tuple(op for op, lowering in LOWERINGS.items() if lowering in (_identity, _dropout, channel_slice, _flatten))
