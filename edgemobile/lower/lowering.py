"""The state of a walk over a torch.export program, with the methods that the functions of ops.LOWERINGS use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from edgemobile.errors import Unsupported
from edgemobile.graph import Node, Tensor
from edgemobile.graph.ir import unique_name
from edgemobile.graph.padding import Pads, unpadded

if TYPE_CHECKING:
    import torch

    from edgemobile.lower.module_trace import Program

__all__ = ["Lowering", "arguments", "both_sides", "conv_attrs", "nhwc", "pair"]


@dataclass
class Lowering:
    """The state of one walk. `values`: fx node -> the name of its tensor, or its value if it is constant."""

    program: Program
    name: str
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[torch.fx.Node, str | np.ndarray] = field(default_factory=dict)
    sources: dict[torch.fx.Node, str] = field(default_factory=dict)
    pads: dict[torch.fx.Node, Pads] = field(default_factory=dict)
    owners: dict[torch.fx.Node, torch.fx.Node] = field(default_factory=dict)  # the node whose memory it shares
    paths: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.paths = {_module_path(fx)[0] for fx in self.program.graph.nodes}

    def refuse(self, fx: torch.fx.Node, reason: str) -> NoReturn:
        where = _module_path(fx)[0] or "the top level"
        raise Unsupported(f"cannot lower {fx.target} (at {where}): {reason}")

    def emit(self, fx: torch.fx.Node, op: str, inputs: Sequence[str], suffix: str = "", **attrs: Any) -> str:
        """Add a node for `fx`; returns its name, with `suffix` if its output is not the output of the module."""
        name = self.unique(f"{self.name_of(fx, op)}{suffix}") if suffix else self.name_of(fx, op)
        self.tensors[name] = Tensor(name, nhwc(tuple(fx.meta["val"].shape)))
        self.nodes.append(Node(op, tuple(inputs), name, attrs))
        return name

    def emit_of(
        self, fx: torch.fx.Node, op: str, inputs: Sequence[str], suffix: str, shape: tuple[int, ...], **attrs: Any
    ) -> str:
        """Add a node for a part of `fx`, of `shape` in PyTorch; returns its name, which ends in `suffix`."""
        name = self.unique(f"{self.name_of(fx, op)}{suffix}")
        self.tensors[name] = Tensor(name, nhwc(shape))
        self.nodes.append(Node(op, tuple(inputs), name, attrs))
        return name

    def depthwise(
        self, fx: torch.fx.Node, image: str, scale: np.ndarray, shift: np.ndarray, *, padding: Pads = unpadded
    ) -> str:
        """Add y = x * scale + shift, both f[C], as a 1x1 convolution with C groups. x has `padding` pixels of zeros."""
        path = self.name_of(fx, "conv2d")
        constants = (
            self.constant(f"{path}.weight", scale.reshape(-1, 1, 1, 1)),
            self.constant(f"{path}.bias", shift),
        )
        return self.emit(fx, "conv2d", (image, *constants), **conv_attrs(groups=len(scale), padding=padding))

    def producer(self, name: str) -> Node | None:
        """The node that produces the tensor `name`."""
        return next((node for node in reversed(self.nodes) if node.output == name), None)

    def constant(self, name: str, data: np.ndarray) -> str:
        """Add a constant. A module called twice gets a second one, because different batch norms may fold into each."""
        name = self.unique(name)
        self.put_constant(name, data)
        return name

    def put_constant(self, name: str, data: np.ndarray) -> None:
        self.tensors[name] = Tensor.constant(name, np.ascontiguousarray(data, dtype=np.float32))

    def array(self, fx: torch.fx.Node, arg: Any) -> np.ndarray:
        """The value of an argument that must be a weight or a buffer."""
        value = self.values.get(arg)
        if not isinstance(value, np.ndarray):
            self.refuse(fx, "its weights must be parameters or buffers, found a computed tensor")
        return value

    def operand(self, fx: torch.fx.Node, arg: Any, label: str) -> str:
        """The tensor name of an argument; a parameter or a number is added as a constant."""
        import torch

        value = self.values[arg] if isinstance(arg, torch.fx.Node) else np.asarray(arg, np.float32)
        if isinstance(value, str):
            return value
        name = self.sources.get(arg) if isinstance(arg, torch.fx.Node) else None
        return self.broadcast_constant(fx, value, name or f"{self.name_of(fx, label)}.{label}")

    def broadcast_constant(self, fx: torch.fx.Node, value: np.ndarray, name: str) -> str:
        """Add a constant that `fx` broadcasts against an activation, in the layout of the activation."""
        is_image = len(fx.meta["val"].shape) == 4
        if is_image and value.ndim >= 3:
            value = np.moveaxis(value, -3, -1)
        elif is_image and value.size > 1:
            self.refuse(
                fx,
                f"a constant operand of shape {list(value.shape)} of an image has no NHWC form; give it 4 dimensions",
            )
        return self.constant(name, value)

    def layer_path(self, weight: Any, fallback: str) -> str:
        """The path of the module that owns `weight`; `fallback` if it is the root or the weight has no name."""
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
        """Whether `fx` is the only consumer of the tensor `name`, also through ops that change nothing (dropout)."""
        aliases = {node for node, value in self.values.items() if self.is_name(value, name)}
        return {user for node in aliases for user in node.users} - aliases == {fx}

    def replace_last(self, name: str, node: Node) -> None:
        index = next(i for i, old in enumerate(self.nodes) if old.output == name)
        self.nodes[index] = node

    def name_of(self, fx: torch.fx.Node, op: str) -> str:
        path, leaf = _module_path(fx)
        if leaf and path and path not in self.tensors:
            return path
        return self.unique(path if leaf and path else f"{path}.{op}" if path else op)

    def unique(self, name: str) -> str:
        """`name`, with a number if a tensor or a module has it already."""
        return unique_name(name, {*self.tensors, *self.paths})


def _module_path(fx: torch.fx.Node) -> tuple[str, bool]:
    """(module path, whether it is one of torch's own leaf modules)."""
    stack = list(fx.meta.get("nn_module_stack", {}).values())
    if not stack:
        return "", False
    path, kind = stack[-1]
    return path, "torch.nn.modules" in str(kind) and "container" not in str(kind)


def arguments(fx: torch.fx.Node, *names: str, **defaults: Any) -> list[Any]:
    """Positional and keyword arguments of an aten call, in the order of `names` then `defaults`."""
    order = [*names, *defaults]
    given = {**defaults, **dict(zip(order, fx.args, strict=False)), **fx.kwargs}
    return [given[name] for name in order]


def nhwc(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape


def conv_attrs(
    *, groups: int = 1, stride: tuple[int, int] = (1, 1), padding: Pads = unpadded, dilation: tuple[int, int] = (1, 1)
) -> dict[str, Any]:
    """The attributes of a conv2d node without an activation."""
    return {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "activation": ""}


def pair(value: Any) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * 2 if len(values) == 1 else values


def both_sides(padding: Any) -> Pads:
    """PyTorch pads both sides equally. 'SAME' does not at stride 2, so padding stays explicit."""
    top, left = pair(padding)
    return (top, top), (left, left)
