"""One function per aten op: adds it to a Graph, or refuses it.

Add an op here: a function and its row in LOWERINGS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemobile.graph import Node, Tensor
from edgemobile.graph.padding import Pads, unpadded
from edgemobile.lower.lowering import Lowering, arguments
from edgemobile.lower.moves import MOVES, channel_slice, ends_rows, ends_shuffle, starts_rows, starts_shuffle

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
        padding = _string_padding(walk, fx, padding, kernel.shape[2:], _pair(dilation))
    pads = padding if isinstance(padding, tuple) and isinstance(padding[0], tuple) else _both_sides(padding)
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
        stride=_pair(stride),
        padding=_summed(pads, walk.pads.get(x, unpadded)),
        dilation=_pair(dilation),
        groups=groups,
        activation="",
    )


def _summed(a: Pads, b: Pads) -> Pads:
    height, width = ((before + more, after + extra) for (before, after), (more, extra) in zip(a, b, strict=True))
    return height, width


def _pad(walk: Lowering, fx: torch.fx.Node) -> str:
    """Zeros around an image, which become padding of the convolutions that read it.

    Given:  y = conv(pad(x, p), w, padding=q)
    Result: y = conv(x, w, padding=p + q)
    """
    x, pad, *rest = arguments(fx, "input", "pad", **_PAD_DEFAULTS[str(fx.target)])
    mode, value = rest if len(rest) == 2 else ("constant", *rest)
    if mode != "constant" or value not in (None, 0):
        walk.refuse(fx, f"only padding with zeros is supported, found mode={mode!r}, value={value}")
    if len(x.meta["val"].shape) != 4 or len(pad) > 4 or min(pad) < 0:
        walk.refuse(fx, f"only height and width of [N, C, H, W] can be padded, by 0 or more; found pad={list(pad)}")
    if not all("aten.conv2d" in str(user.target) and user.args[0] is fx for user in fx.users):
        walk.refuse(fx, "only convolutions may read a padded tensor; use their own padding instead")
    left, right, top, bottom = (*pad, 0, 0)[:4]
    walk.pads[fx] = ((top, bottom), (left, right))
    return walk.image(fx, x)


def _string_padding(
    walk: Lowering, fx: torch.fx.Node, padding: str, kernel: Sequence[int], dilation: tuple[int, int]
) -> Pads:
    """The pixels of padding='same' (stride 1 only in PyTorch), with the odd pixel at the end, or 'valid' (none)."""
    spans = [(k - 1) * d if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
    top, left = (span // 2 for span in spans)
    return (top, spans[0] - top), (left, spans[1] - left)


def _batch_norm(walk: Lowering, fx: torch.fx.Node) -> str:
    """Folded into the layer before it, in float64; otherwise it becomes a depthwise 1x1 convolution.

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
    conv = next((node for node in walk.nodes if node.output == name), None)
    if conv is None or not conv.has_weights or not walk.feeds_only(name, fx):
        if len(fx.meta["val"].shape) != 4:
            walk.refuse(fx, "batch norm of features is supported only after a linear layer that has no other consumer")
        return _depthwise(walk, fx, name, k, shift - walk.array(fx, mean) * k)
    weight, bias = (walk.tensors[constant].data for constant in conv.inputs[1:])
    assert weight is not None
    assert bias is not None
    walk.put_constant(conv.inputs[1], weight.astype(np.float64) * k.reshape(-1, *[1] * (weight.ndim - 1)))
    walk.put_constant(conv.inputs[2], (bias.astype(np.float64) - walk.array(fx, mean)) * k + shift)
    return _renamed(walk, fx, conv)


def _depthwise(walk: Lowering, fx: torch.fx.Node, image: str, scale: np.ndarray, shift: np.ndarray) -> str:
    """y = x * scale + shift, both f[C], as a 1x1 convolution with C groups."""
    path = walk.name_of(fx, "conv2d")
    constants = walk.constant(f"{path}.weight", scale.reshape(-1, 1, 1, 1)), walk.constant(f"{path}.bias", shift)
    attrs: dict[str, Any] = {
        "stride": (1, 1),
        "padding": unpadded,
        "dilation": (1, 1),
        "groups": len(scale),
        "activation": "",
    }
    return walk.emit(fx, "conv2d", (image, *constants), **attrs)


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
    flatten = next((node for node in walk.nodes if node.output == name), None)
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


def _mean(walk: Lowering, fx: torch.fx.Node) -> str:
    """Over height and width."""
    x, dims, keepdim = arguments(fx, "input", "dim", keepdim=False)
    rank = len(x.meta["val"].shape)
    if rank != 4 or sorted(dim % rank for dim in dims or ()) != [2, 3]:
        walk.refuse(fx, f"only the mean over height and width is supported, found dim={dims} of {rank} dimensions")
    name = walk.operand(fx, x, "input")
    if keepdim:
        return walk.emit(fx, "mean", (name,))
    # In every format the mean keeps height and width as dimensions of 1; a reshape drops them.
    n, c = fx.meta["val"].shape
    pooled = walk.unique(f"{walk.name_of(fx, 'mean')}.pool")
    walk.tensors[pooled] = Tensor(pooled, (n, 1, 1, c))
    walk.nodes.append(Node("mean", (name,), pooled))
    return walk.emit(fx, "reshape", (pooled,))


def _adaptive_avg_pool2d(walk: Lowering, fx: torch.fx.Node) -> str:
    """To a size that divides the size of the input."""
    image = walk.image(fx, fx.args[0])
    before, after = tuple(fx.args[0].meta["val"].shape[2:]), tuple(fx.meta["val"].shape[2:])  # type: ignore[union-attr]
    if after == (1, 1):
        return walk.emit(fx, "mean", (image,))
    if after == before:
        return image
    if any(size % pooled for size, pooled in zip(before, after, strict=True)):
        walk.refuse(fx, f"the output size must divide the input size, found {before} to {after}")
    kernel = tuple(size // pooled for size, pooled in zip(before, after, strict=True))
    return walk.emit(fx, "avg_pool2d", (image,), kernel=kernel, stride=kernel)


def _max_pool2d(walk: Lowering, fx: torch.fx.Node) -> str:
    """With or without padding and ceil_mode, without dilation."""
    x, kernel, stride, padding, dilation, ceil = arguments(
        fx, "input", "kernel_size", stride=None, padding=0, dilation=1, ceil_mode=False
    )
    if _pair(dilation) != (1, 1):
        walk.refuse(fx, "max pooling with dilation is not supported")
    kernel, stride, pads = _pair(kernel), _pair(stride or kernel), _both_sides(padding)
    if ceil:
        pads = _ceiled(fx, x, kernel, stride, pads)
    return walk.emit(fx, "max_pool2d", (walk.image(fx, x),), kernel=kernel, stride=stride, padding=pads)


def _ceiled(fx: torch.fx.Node, x: torch.fx.Node, kernel: Any, stride: Any, pads: Pads) -> Pads:
    """`pads`, increased at the end by what the last window of ceil_mode extends beyond the image."""
    before, after = x.meta["val"].shape[2:], fx.meta["val"].shape[2:]
    rows, columns = (
        (first, max(last, (pooled - 1) * step + span - size - first))
        for (first, last), size, pooled, span, step in zip(pads, before, after, kernel, stride, strict=True)
    )
    return rows, columns


def _avg_pool2d(walk: Lowering, fx: torch.fx.Node) -> str:
    """Without windows beyond the image."""
    x, kernel, stride, padding, ceil, _, divisor = arguments(
        fx,
        "input",
        "kernel_size",
        stride=None,
        padding=0,
        ceil_mode=False,
        count_include_pad=True,
        divisor_override=None,
    )
    kernel, stride = _pair(kernel), _pair(stride or kernel)
    beyond = _ceiled(fx, x, kernel, stride, unpadded) != unpadded
    if _pair(padding) != (0, 0) or (ceil and beyond) or divisor:
        walk.refuse(
            fx, "average pooling beyond the image (padding, ceil_mode) or with divisor_override is not supported"
        )
    return walk.emit(fx, "avg_pool2d", (walk.image(fx, x),), kernel=kernel, stride=stride)


def _clamp(walk: Lowering, fx: torch.fx.Node) -> str:
    """hardtanh(x, low, high) and clamp(x, low, high), if they are ReLU6 or ReLU."""
    hardtanh = "hardtanh" in str(fx.target)
    x, low, high = arguments(fx, "input", low=-1.0 if hardtanh else None, high=1.0 if hardtanh else None)
    op = {(0, 6): "relu6", (0, None): "relu"}.get((low, high))
    if op is None:
        walk.refuse(fx, f"only the ranges 0 to 6 (ReLU6) and 0 to infinity (ReLU) are supported, found [{low}, {high}]")
    return walk.emit(fx, op, (walk.operand(fx, x, "input"),))


def _unary(op: str) -> Callable[[Lowering, torch.fx.Node], str]:
    def row(walk: Lowering, fx: torch.fx.Node) -> str:
        """Of any shape."""
        return walk.emit(fx, op, (walk.operand(fx, fx.args[0], "input"),))

    return row


def _leaky_relu(walk: Lowering, fx: torch.fx.Node) -> str:
    """Any slope."""
    x, slope = arguments(fx, "input", negative_slope=0.01)
    return walk.emit(fx, "leaky_relu", (walk.operand(fx, x, "input"),), slope=float(slope))


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
        ranks = [len(arg.meta["val"].shape) for arg in (a, b) if isinstance(walk.values.get(arg), str)]
        if any(rank != len(fx.meta["val"].shape) for rank in ranks):
            walk.refuse(fx, f"broadcasting {ranks} dimensions has no NHWC form; give both operands the same number")
        return walk.emit(fx, op, (walk.operand(fx, a, "a"), walk.operand(fx, b, "b")), activation="")

    return row


def _div(walk: Lowering, fx: torch.fx.Node) -> str:
    """By a constant, as a multiplication."""
    x, by, rounding = arguments(fx, "input", "other", rounding_mode=None)
    divisor = _constant(walk, by)
    if divisor is None or rounding is not None:
        walk.refuse(fx, "only division by a constant, without rounding, is supported")
    reciprocal = walk.broadcast_constant(fx, 1 / divisor, f"{walk.name_of(fx, 'mul')}.reciprocal")
    return walk.emit(fx, "mul", (walk.operand(fx, x, "a"), reciprocal), activation="")


def _sub(walk: Lowering, fx: torch.fx.Node) -> str:
    """Of a constant, as an addition."""
    x, less, alpha = arguments(fx, "input", "other", alpha=1)
    value = _constant(walk, less)
    if value is None or alpha != 1:
        walk.refuse(fx, "only subtraction of a constant is supported")
    negative = walk.broadcast_constant(fx, -value, f"{walk.name_of(fx, 'add')}.negative")
    return walk.emit(fx, "add", (walk.operand(fx, x, "a"), negative), activation="")


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


def _pair(value: Any) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, list | tuple) else (value,)
    return pair * 2 if len(pair) == 1 else pair


def _both_sides(padding: Any) -> Pads:
    """PyTorch pads both sides equally. 'SAME' does not at stride 2, so padding stays explicit."""
    top, left = _pair(padding)
    return (top, top), (left, left)


LOWERINGS: dict[str, Callable[[Lowering, torch.fx.Node], str | np.ndarray]] = {
    "aten.conv2d.default": _conv2d,
    "aten.conv2d.padding": _conv2d,
    "aten.pad.default": _pad,
    "aten.constant_pad_nd.default": _pad,
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
    "aten.silu.default": _silu,
    "aten.silu_.default": _silu,
    "aten.add.Tensor": _binary("add"),
    "aten.add_.Tensor": _binary("add"),
    "aten.mul.Tensor": _binary("mul"),
    "aten.mul_.Tensor": _binary("mul"),
    "aten.sub.Tensor": _sub,
    "aten.sub_.Tensor": _sub,
    "aten.div.Tensor": _div,
    "aten.div_.Tensor": _div,
    "aten.cat.default": _cat,
    "aten.slice.Tensor": channel_slice,
    "aten.adaptive_avg_pool2d.default": _adaptive_avg_pool2d,
    "aten.mean.dim": _mean,
    "aten.max_pool2d.default": _max_pool2d,
    "aten.avg_pool2d.default": _avg_pool2d,
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
}
# These add no op to a file.
FOLDED = (_identity, _dropout, _batch_norm, _pad)
_IDENTITIES = tuple(op for op, lowering in LOWERINGS.items() if lowering in (_identity, _dropout, channel_slice))
# These return a view of their input: an in-place op on one changes the other.
SHARING = tuple(op for op, lowering in LOWERINGS.items() if lowering in (_identity, _dropout, channel_slice, _flatten))
