"""torch.export program -> Graph.

The program is walked as exported, not decomposed: decomposition would break hard-swish into six ops. One row of
_LOWERINGS takes one aten op to one node; batch norm folds into the convolution before it on the way, and a last pass
fuses ReLU and ReLU6 into the op before them.

Add an op here: a row in graph.OPS, a row in _LOWERINGS, a row in the interpreter and one in each emitter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from edgemobile.errors import Unsupported
from edgemobile.graph import Graph, Node, Tensor

__all__ = ["export_program", "fuse_activations", "lower", "supported_ops"]


def export_program(net: torch.nn.Module, input_shape: Sequence[int]) -> torch.export.ExportedProgram:
    """Trace `net` in eval mode for one f32 input of `input_shape` (N, C, H, W).

    Raises Unsupported with torch's own reason where the model cannot be traced.
    """
    net = net.eval()
    example = torch.zeros(tuple(input_shape))
    try:
        return torch.export.export(net, (example,))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Unsupported(
            f"torch.export cannot trace {type(net).__name__} on input {list(input_shape)}: {reason}"
        ) from error


def lower(program: torch.export.ExportedProgram, name: str = "model") -> Graph:
    """The Graph of `program`: batch norm folded in float64, activations fused, NHWC, tensors named by module path.

    Raises Unsupported for an aten op without a lowering, naming the op, its module path and what is supported.
    """
    return fuse_activations(_Lowering(program, name).graph())


def supported_ops() -> list[str]:
    """The aten ops that have a lowering."""
    return sorted(_LOWERINGS)


Pads = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right)) in pixels


@dataclass
class _Lowering:
    """The state of one walk: what each fx node became."""

    program: torch.export.ExportedProgram
    name: str
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[torch.fx.Node, str | np.ndarray] = field(default_factory=dict)
    sources: dict[torch.fx.Node, str] = field(default_factory=dict)
    pads: dict[torch.fx.Node, Pads] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.paths = {_module_path(fx)[0] for fx in self.program.graph.nodes}

    def graph(self) -> Graph:
        inputs, outputs = [], []
        constants = self._constants()
        for fx in self.program.graph.nodes:
            if fx.op == "placeholder":
                if fx.name in constants:
                    self.sources[fx], self.values[fx] = constants[fx.name]
                else:
                    inputs.append(self._placeholder(fx))
            elif fx.op == "call_function":
                self._call(fx)
            elif fx.op == "output":
                outputs = [self._tensor_name(arg, "output") for arg in fx.args[0]]
        return Graph(self.name, tuple(inputs), tuple(outputs), tuple(self.nodes), self.tensors)

    def _constants(self) -> dict[str, tuple[str, np.ndarray]]:
        signature = self.program.graph_signature
        found = {}
        state: dict[str, Any] = {**self.program.state_dict, **self.program.constants}
        for mapping in (
            signature.inputs_to_parameters,
            signature.inputs_to_buffers,
            signature.inputs_to_lifted_tensor_constants,
        ):
            for placeholder, key in mapping.items():
                found[placeholder] = (key, state[key].detach().cpu().numpy())
        return found

    def _placeholder(self, fx: torch.fx.Node) -> str:
        shape = _nhwc(tuple(fx.meta["val"].shape))
        # "input" in every file, whatever the forward method calls it.
        name = "input" if len(self.program.graph_signature.user_inputs) == 1 else fx.name
        self.tensors[name] = Tensor(name, shape)
        self.values[fx] = name
        return name

    def _call(self, fx: torch.fx.Node) -> None:
        op = str(fx.target)
        lowering = _LOWERINGS.get(op)
        if lowering is None:
            self.refuse(fx, f"{op} has no lowering. Supported: {', '.join(supported_ops())}")
        else:
            self.values[fx] = lowering(self, fx)

    def refuse(self, fx: torch.fx.Node, reason: str) -> None:
        where = _module_path(fx)[0] or "the top level"
        raise Unsupported(f"cannot lower {fx.target} (at {where}): {reason}")

    # ---- what the rows of _LOWERINGS use

    def emit(self, fx: torch.fx.Node, op: str, inputs: Sequence[str], suffix: str = "", **attrs: Any) -> str:
        """Add a node for `fx`; returns its name, with `suffix` where it is not what the module returns."""
        name = self._unique(f"{self._name(fx, op)}{suffix}") if suffix else self._name(fx, op)
        self.tensors[name] = Tensor(name, _nhwc(tuple(fx.meta["val"].shape)))
        self.nodes.append(Node(op, tuple(inputs), name, attrs))
        return name

    def constant(self, name: str, data: np.ndarray) -> str:
        """Add a constant; a module called twice gets a second one, since batch norm may fold into each differently."""
        name = self._unique(name)
        self.put_constant(name, data)
        return name

    def put_constant(self, name: str, data: np.ndarray) -> None:
        self.tensors[name] = Tensor.constant(name, np.ascontiguousarray(data, dtype=np.float32))

    def array(self, fx: torch.fx.Node, arg: Any) -> np.ndarray:
        """The value of an argument that must be a weight or a buffer."""
        value = self.values.get(arg)
        if not isinstance(value, np.ndarray):
            self.refuse(fx, "its weights must be parameters or buffers, found a computed tensor")
        assert isinstance(value, np.ndarray)
        return value

    def operand(self, fx: torch.fx.Node, arg: Any, label: str) -> str:
        """The tensor name of an argument: an activation, or a parameter or number made a constant."""
        value = self.values[arg] if isinstance(arg, torch.fx.Node) else np.asarray(arg, np.float32)
        if isinstance(value, str):
            return value
        name = self.sources.get(arg) if isinstance(arg, torch.fx.Node) else None
        beside_image = len(fx.meta["val"].shape) == 4
        if beside_image and value.ndim >= 3:
            value = np.moveaxis(value, -3, -1)
        elif beside_image and value.size > 1:
            self.refuse(
                fx, f"a constant of shape {list(value.shape)} beside an image has no NHWC form; give it 4 dimensions"
            )
        return self.constant(name or f"{self._name(fx, label)}.{label}", value)

    def layer_path(self, weight: Any, fallback: str) -> str:
        """The path of the module that owns `weight`; `fallback` where it is the root or the weight has no name."""
        path = self.sources.get(weight, "weight")
        return fallback if path == "weight" else path.removesuffix(".weight")

    def image(self, fx: torch.fx.Node, arg: Any) -> str:
        """The tensor name of an argument that must be a batch of images, [N,C,H,W] in PyTorch."""
        shape = list(arg.meta["val"].shape)
        if len(shape) != 4:
            self.refuse(fx, f"its input must have 4 dimensions [N, C, H, W], found {shape}")
        return self.operand(fx, arg, "input")

    @staticmethod
    def is_name(value: str | np.ndarray, name: str) -> bool:
        return isinstance(value, str) and value == name

    def feeds_only(self, name: str, fx: torch.fx.Node) -> bool:
        """Whether `fx` is all that reads the tensor `name`, also through ops that change nothing (dropout)."""
        aliases = {node for node, value in self.values.items() if self.is_name(value, name)}
        return {user for node in aliases for user in node.users} - aliases == {fx}

    def replace_last(self, name: str, node: Node) -> None:
        index = next(i for i, old in enumerate(self.nodes) if old.output == name)
        self.nodes[index] = node

    def _tensor_name(self, arg: Any, what: str) -> str:
        value = self.values[arg]
        if not isinstance(value, str):
            raise Unsupported(f"the {what} of the model is a constant; there is nothing to export")
        return value

    def _name(self, fx: torch.fx.Node, op: str) -> str:
        path, leaf = _module_path(fx)
        if leaf and path and path not in self.tensors:
            return path
        return self._unique(path if leaf and path else f"{path}.{op}" if path else op)

    def _unique(self, name: str) -> str:
        """`name`, numbered where it is taken: by a tensor, or by a module whose output must keep it."""
        unique, count = name, 1
        while unique in self.tensors or unique in self.paths:
            unique, count = f"{name}_{count}", count + 1
        return unique


def _module_path(fx: torch.fx.Node) -> tuple[str, bool]:
    """(module path, whether it is one of torch's own leaf modules)."""
    stack = list(fx.meta.get("nn_module_stack", {}).values())
    if not stack:
        return "", False
    path, kind = stack[-1]
    return path, "torch.nn.modules" in str(kind) and "container" not in str(kind)


def _nhwc(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape


def _args(fx: torch.fx.Node, *names: str, **defaults: Any) -> list[Any]:
    """Positional and keyword arguments of an aten call, in the order of `names` then `defaults`."""
    order = [*names, *defaults]
    given = {**defaults, **dict(zip(order, fx.args, strict=False)), **fx.kwargs}
    return [given[name] for name in order]


def _pair(value: Any) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, list | tuple) else (value,)
    return pair * 2 if len(pair) == 1 else pair


def _both_sides(padding: Any) -> Pads:
    """PyTorch pads both sides alike. 'SAME' does not at stride 2, so padding stays explicit."""
    top, left = _pair(padding)
    return (top, top), (left, left)


# ---- one aten op a function -----------------------------------------------------------------------------------------


# pad is written for the last dimension first: left, right, top, bottom.
_PAD_DEFAULTS: dict[str, dict[str, Any]] = {
    "aten.pad.default": {"mode": "constant", "value": None},
    "aten.constant_pad_nd.default": {"value": 0},
}
_UNPADDED: Pads = ((0, 0), (0, 0))


def _conv2d(walk: _Lowering, fx: torch.fx.Node) -> str:
    x, weight, bias, stride, padding, dilation, groups = _args(
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
        padding=_summed(pads, walk.pads.get(x, _UNPADDED)),
        dilation=_pair(dilation),
        groups=groups,
        activation="",
    )


def _summed(a: Pads, b: Pads) -> Pads:
    height, width = ((before + more, after + extra) for (before, after), (more, extra) in zip(a, b, strict=True))
    return height, width


def _pad(walk: _Lowering, fx: torch.fx.Node) -> str:
    """Zeros around a picture become part of the convolutions that read it.

    Given:  y = conv(pad(x, p), w, padding=q)
    Result: y = conv(x, w, padding=p + q)
    """
    x, pad, *rest = _args(fx, "input", "pad", **_PAD_DEFAULTS[str(fx.target)])
    mode, value = rest if len(rest) == 2 else ("constant", *rest)
    if mode != "constant" or value not in (None, 0):
        walk.refuse(fx, f"only padding with zeros is supported, found mode={mode!r}, value={value}")
    if len(x.meta["val"].shape) != 4 or len(pad) > 4 or min(pad) < 0:
        walk.refuse(fx, f"only height and width of [N, C, H, W] can be padded, by 0 or more; found pad={list(pad)}")
    if not all("aten.conv2d" in str(user.target) and user.args[0] is fx for user in fx.users):
        walk.refuse(fx, "padding may feed only convolutions, which take it over; move it there")
    left, right, top, bottom = (*pad, 0, 0)[:4]
    walk.pads[fx] = ((top, bottom), (left, right))
    return walk.image(fx, x)


def _string_padding(
    walk: _Lowering, fx: torch.fx.Node, padding: str, kernel: Sequence[int], dilation: tuple[int, int]
) -> Pads:
    """padding='same' (stride 1 only in PyTorch) puts the odd pixel at the end; 'valid' is none."""
    spans = [(k - 1) * d if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
    top, left = (span // 2 for span in spans)
    return (top, spans[0] - top), (left, spans[1] - left)


def _batch_norm(walk: _Lowering, fx: torch.fx.Node) -> str:
    """Fold batch norm into the convolution before it, in float64.

    Given:  y = BN(conv(x, w) + b)
    Result: y = conv(x, w') + b', w' = w * k, b' = (b - mean) * k + beta, k = gamma / sqrt(var + eps)
    """
    x, gamma, beta, mean, var, training, _, eps = _args(
        fx, "input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"
    )
    if training or mean is None:
        walk.refuse(fx, "batch norm is in training mode or keeps no running statistics; call net.eval() first")
    name = walk.operand(fx, x, "input")
    conv = next((node for node in walk.nodes if node.output == name), None)
    if conv is None or conv.op not in ("conv2d", "linear") or not walk.feeds_only(name, fx):
        walk.refuse(fx, "batch norm is folded only right behind a convolution or linear layer that feeds nothing else")
    assert conv is not None
    variance = walk.array(fx, var).astype(np.float64)
    k = 1 / np.sqrt(variance + eps)
    if gamma is not None:
        k = k * walk.array(fx, gamma)
    shift = 0.0 if beta is None else walk.array(fx, beta).astype(np.float64)
    weight, bias = (walk.tensors[constant].data for constant in conv.inputs[1:])
    assert weight is not None
    assert bias is not None
    walk.put_constant(conv.inputs[1], weight.astype(np.float64) * k.reshape(-1, *[1] * (weight.ndim - 1)))
    walk.put_constant(conv.inputs[2], (bias.astype(np.float64) - walk.array(fx, mean)) * k + shift)
    return _renamed(walk, fx, conv)


def _renamed(walk: _Lowering, fx: torch.fx.Node, node: Node) -> str:
    """Let the node stand for `fx` too: its tensor takes the later module's name."""
    name = walk._name(fx, node.op)
    walk.tensors[name] = Tensor(name, walk.tensors.pop(node.output).shape)
    walk.replace_last(node.output, Node(node.op, node.inputs, name, node.attrs))
    walk.values.update({old: name for old, value in walk.values.items() if walk.is_name(value, node.output)})
    return name


def _linear(walk: _Lowering, fx: torch.fx.Node) -> str:
    x, weight, bias = _args(fx, "input", "weight", bias=None)
    matrix = walk.array(fx, weight)
    if len(fx.meta["val"].shape) != 2:
        walk.refuse(fx, f"linear takes a flat input [N, features], found {len(fx.meta['val'].shape)} dimensions")
    path = walk.layer_path(weight, "linear")
    name = walk.operand(fx, x, "input")
    flatten = next((node for node in walk.nodes if node.output == name), None)
    if flatten is not None and flatten.op == "reshape":
        matrix = _channels_last_columns(matrix, walk.tensors[flatten.inputs[0]].shape)
    offset = np.zeros(len(matrix), np.float32) if bias is None else walk.array(fx, bias)
    constants = walk.constant(f"{path}.weight", matrix), walk.constant(f"{path}.bias", offset)
    return walk.emit(fx, "linear", (name, *constants), activation="")


def _channels_last_columns(matrix: np.ndarray, nhwc: tuple[int, ...]) -> np.ndarray:
    """A layer trained on flattened NCHW, its columns put in the order of flattened NHWC."""
    if len(nhwc) != 4:
        return matrix
    _, height, width, channels = nhwc
    return matrix.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(len(matrix), -1)


def _flatten(walk: _Lowering, fx: torch.fx.Node) -> str:
    source = fx.args[0]
    before, after = tuple(source.meta["val"].shape), tuple(fx.meta["val"].shape)  # type: ignore[union-attr]
    if after == before:
        return walk.operand(fx, source, "input")
    if len(after) != 2 or after[0] != before[0]:
        walk.refuse(fx, f"only flattening to [N, features] is supported, found {list(before)} -> {list(after)}")
    permuted = before[2:] != (1, 1)
    if permuted and not _feeds_only_linear(fx):
        walk.refuse(fx, f"flattening {list(before)} may feed only a linear layer: the order of NHWC and NCHW differs")
    return walk.emit(fx, "reshape", (walk.operand(fx, source, "input"),), ".nhwc" if permuted else "")


def _feeds_only_linear(fx: torch.fx.Node) -> bool:
    return all(
        _feeds_only_linear(user) if _LOWERINGS.get(str(user.target)) is _identity else "aten.linear" in str(user.target)
        for user in fx.users
    )


def _mean(walk: _Lowering, fx: torch.fx.Node) -> str:
    x, dims, keepdim = _args(fx, "input", "dim", keepdim=False)
    rank = len(x.meta["val"].shape)
    if rank != 4 or sorted(dim % rank for dim in dims or ()) != [2, 3]:
        walk.refuse(fx, f"only the mean over height and width is supported, found dim={dims} of {rank} dimensions")
    name = walk.operand(fx, x, "input")
    if keepdim:
        return walk.emit(fx, "mean", (name,))
    # The pool keeps its two dimensions in every format; a reshape drops them.
    n, c = fx.meta["val"].shape
    pooled = f"{walk._name(fx, 'mean')}.pool"
    walk.tensors[pooled] = Tensor(pooled, (n, 1, 1, c))
    walk.nodes.append(Node("mean", (name,), pooled))
    return walk.emit(fx, "reshape", (pooled,))


def _adaptive_avg_pool2d(walk: _Lowering, fx: torch.fx.Node) -> str:
    if tuple(fx.meta["val"].shape[2:]) != (1, 1):
        walk.refuse(fx, f"only a pool to 1x1 is supported, found {list(fx.meta['val'].shape[2:])}")
    return walk.emit(fx, "mean", (walk.image(fx, fx.args[0]),))


def _max_pool2d(walk: _Lowering, fx: torch.fx.Node) -> str:
    x, kernel, stride, padding, dilation, ceil = _args(
        fx, "input", "kernel_size", stride=None, padding=0, dilation=1, ceil_mode=False
    )
    if _pair(dilation) != (1, 1) or ceil:
        walk.refuse(fx, "max pooling with dilation or ceil_mode is not supported")
    return walk.emit(
        fx,
        "max_pool2d",
        (walk.image(fx, x),),
        kernel=_pair(kernel),
        stride=_pair(stride or kernel),
        padding=_both_sides(padding),
    )


def _avg_pool2d(walk: _Lowering, fx: torch.fx.Node) -> str:
    x, kernel, stride, padding, ceil, _, divisor = _args(
        fx,
        "input",
        "kernel_size",
        stride=None,
        padding=0,
        ceil_mode=False,
        count_include_pad=True,
        divisor_override=None,
    )
    if _pair(padding) != (0, 0) or ceil or divisor:
        walk.refuse(fx, "average pooling with padding, ceil_mode or divisor_override is not supported")
    return walk.emit(fx, "avg_pool2d", (walk.image(fx, x),), kernel=_pair(kernel), stride=_pair(stride or kernel))


def _hardtanh(walk: _Lowering, fx: torch.fx.Node) -> str:
    x, low, high = _args(fx, "input", min_val=-1.0, max_val=1.0)
    if (low, high) != (0, 6):
        walk.refuse(fx, f"only the range [0, 6] (ReLU6) is supported, found [{low}, {high}]")
    return walk.emit(fx, "relu6", (walk.operand(fx, x, "input"),))


def _unary(op: str) -> Callable[[_Lowering, torch.fx.Node], str]:
    return lambda walk, fx: walk.emit(fx, op, (walk.operand(fx, fx.args[0], "input"),))


def _binary(op: str) -> Callable[[_Lowering, torch.fx.Node], str]:
    def row(walk: _Lowering, fx: torch.fx.Node) -> str:
        a, b, alpha = _args(fx, "input", "other", alpha=1)
        if alpha != 1:
            walk.refuse(fx, f"alpha={alpha} is not supported; multiply first")
        ranks = [len(arg.meta["val"].shape) for arg in (a, b) if isinstance(walk.values.get(arg), str)]
        if any(rank != len(fx.meta["val"].shape) for rank in ranks):
            walk.refuse(fx, f"broadcasting {ranks} dimensions has no NHWC form; give both the same number")
        return walk.emit(fx, op, (walk.operand(fx, a, "a"), walk.operand(fx, b, "b")), activation="")

    return row


def _identity(walk: _Lowering, fx: torch.fx.Node) -> str:
    return walk.operand(fx, fx.args[0], "input")


_LOWERINGS: dict[str, Callable[[_Lowering, torch.fx.Node], str]] = {
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
    "aten.hardtanh.default": _hardtanh,
    "aten.hardtanh_.default": _hardtanh,
    "aten.hardswish.default": _unary("hardswish"),
    "aten.hardswish_.default": _unary("hardswish"),
    "aten.hardsigmoid.default": _unary("hardsigmoid"),
    "aten.hardsigmoid_.default": _unary("hardsigmoid"),
    "aten.add.Tensor": _binary("add"),
    "aten.add_.Tensor": _binary("add"),
    "aten.mul.Tensor": _binary("mul"),
    "aten.mul_.Tensor": _binary("mul"),
    "aten.adaptive_avg_pool2d.default": _adaptive_avg_pool2d,
    "aten.mean.dim": _mean,
    "aten.max_pool2d.default": _max_pool2d,
    "aten.avg_pool2d.default": _avg_pool2d,
    "aten.flatten.using_ints": _flatten,
    "aten.view.default": _flatten,
    "aten.reshape.default": _flatten,
    "aten.dropout.default": _identity,
    "aten.dropout_.default": _identity,
    "aten.contiguous.default": _identity,
}


# ---- fusion ---------------------------------------------------------------------------------------------------------


def fuse_activations(graph: Graph) -> Graph:
    """relu and relu6 behind a conv2d, linear or add that feeds nothing else become its `activation`."""
    nodes: list[Node] = []
    index_of: dict[str, int] = {}
    for node in graph.nodes:
        before = index_of.get(node.inputs[0])
        if node.op in ("relu", "relu6") and before is not None and _takes_activation(graph, nodes[before]):
            host = nodes[before]
            nodes[before] = Node(host.op, host.inputs, node.output, {**host.attrs, "activation": node.op})
            index_of[node.output] = before
        else:
            index_of[node.output] = len(nodes)
            nodes.append(node)
    return graph.replaced(nodes)


def _takes_activation(graph: Graph, node: Node) -> bool:
    return (
        node.op in ("conv2d", "linear", "add")
        and not node.attrs["activation"]
        and len(graph.consumers(node.output)) == 1
        and node.output not in graph.outputs
    )
