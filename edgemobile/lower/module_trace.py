"""Traces a net of well-known modules without torch.export.

torch.export imports half of PyTorch and takes 4 of the 10 seconds of an export of v3-large. If a net consists of
torch.nn modules that call one aten op each, torch.fx can record the calls of the modules, and the same program can be
built from them. tests/lower/test_module_trace.py compares both for every reference model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import torch

__all__ = ["ModuleTrace", "Program", "trace_modules"]


@dataclass(frozen=True)
class ModuleTrace:
    """The attributes of a torch.export.ExportedProgram that `lower` reads."""

    graph: torch.fx.Graph
    graph_signature: torch.export.graph_signature.ExportGraphSignature
    state_dict: Mapping[str, torch.Tensor]
    call_spec: Any
    constants: Mapping[str, torch.Tensor] = field(default_factory=dict)


def trace_modules(net: torch.nn.Module, input_shape: Sequence[int]) -> ModuleTrace | None:
    """The program of `net` in eval mode for one f32 input (N, C, H, W) and one output tensor.

    None if a module, a function or an argument is not supported here; then use torch.export.
    """
    import torch

    net = net.eval()
    try:
        recorded = torch.fx.Tracer().trace(net)
        return _Writer(net, recorded, torch.zeros(tuple(input_shape))).trace()
    except (_Unknown, torch.fx.proxy.TraceError, TypeError, NameError, AttributeError):
        return None


# The argument of `lower`.
Program: TypeAlias = "torch.export.ExportedProgram | ModuleTrace"


class _Unknown(Exception):
    """A module, function or argument that is not supported here."""


class _Writer:
    """Writes the aten call of every recorded node in order, with its value for an input of zeros."""

    def __init__(self, net: torch.nn.Module, recorded: torch.fx.Graph, example: torch.Tensor) -> None:
        import torch

        self.net, self.recorded, self.example = net, recorded, example
        self.graph = torch.fx.Graph()
        self.state = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        self.placeholders = {key: self._placeholder(f"p_{key.replace('.', '_')}", value) for key, value in self._read()}
        self.written: dict[torch.fx.Node, torch.fx.Node] = {}

    def _read(self) -> list[tuple[str, torch.Tensor]]:
        """The parameters and buffers that an aten op reads, without the batch counters of batch norm."""
        return [(key, value) for key, value in self.state.items() if not key.endswith("num_batches_tracked")]

    def _placeholder(self, name: str, value: torch.Tensor) -> torch.fx.Node:
        node = self.graph.placeholder(name)
        node.meta["val"] = value.detach()
        return node

    def trace(self) -> ModuleTrace:
        from torch.export.graph_signature import (
            ExportGraphSignature,
            InputKind,
            InputSpec,
            OutputKind,
            OutputSpec,
            TensorArgument,
        )
        from torch.utils import _pytree as pytree

        (given,) = (node for node in self.recorded.nodes if node.op == "placeholder")
        self.written[given] = self._placeholder("x", self.example)
        for node in self.recorded.nodes:
            if node.op not in ("placeholder", "output"):
                self.written[node] = self._call(node)
        (end,) = (node.args[0] for node in self.recorded.nodes if node.op == "output")
        if end not in self.written:
            raise _Unknown
        self.graph.output((self.written[end],))
        parameters = dict(self.net.named_parameters())
        inputs = [
            InputSpec(
                InputKind.PARAMETER if key in parameters else InputKind.BUFFER,
                TensorArgument(node.name),
                key,
                None if key in parameters else True,
            )
            for key, node in self.placeholders.items()
        ]
        signature = ExportGraphSignature(
            [*inputs, InputSpec(InputKind.USER_INPUT, TensorArgument(self.written[given].name), None)],
            [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(self.written[end].name), None)],
        )
        return ModuleTrace(
            self.graph, signature, self.state, SimpleNamespace(out_spec=pytree.tree_structure(self.example))
        )

    def _call(self, node: torch.fx.Node) -> torch.fx.Node:
        import torch

        if node.op == "call_module":
            module = self.net.get_submodule(str(node.target))
            if type(module) not in _modules():
                raise _Unknown
            weights = {
                name: self.placeholders[f"{node.target}.{name}"]
                for name in ("weight", "bias", "running_mean", "running_var")
                if getattr(module, name, None) is not None
            }
            target, args = _modules()[type(module)](module, self._one(node.args), weights)
        elif node.op == "call_function" and node.target in _functions() and not node.kwargs:
            target = _functions()[node.target]
            args = torch.fx.node.map_arg(node.args, lambda arg: self.written[arg])
        else:
            raise _Unknown
        call = self.graph.call_function(target, tuple(args))
        call.meta["nn_module_stack"] = node.meta.get("nn_module_stack", {})
        with torch.no_grad():
            # Clones, because an in-place op must not change the input of another op.
            call.meta["val"] = target(*torch.fx.node.map_arg(call.args, lambda arg: arg.meta["val"].clone()))
        return call

    def _one(self, args: tuple[Any, ...]) -> torch.fx.Node:
        if len(args) != 1:
            raise _Unknown
        return self.written[args[0]]


_Call = tuple[Any, tuple[Any, ...]]


def _modules() -> Mapping[type, Callable[[Any, torch.fx.Node, Mapping[str, torch.fx.Node]], _Call]]:
    """Module -> the aten op that it calls, and its arguments, as torch.export records them."""
    from torch import nn, ops

    aten = ops.aten

    def conv(module: Any, x: Any, weights: Any) -> _Call:
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise _Unknown
        sizes = (list(module.stride), list(module.padding), list(module.dilation), module.groups)
        return aten.conv2d.default, (x, weights["weight"], weights.get("bias"), *sizes)

    def norm(module: Any, x: Any, weights: Any) -> _Call:
        if not module.track_running_stats or module.momentum is None:
            raise _Unknown
        read = [weights.get(name) for name in ("weight", "bias", "running_mean", "running_var")]
        return aten.batch_norm.default, (x, *read, False, module.momentum, module.eps, True)

    def unary(name: str) -> Callable[[Any, Any, Any], _Call]:
        def call(module: Any, x: Any, weights: Any) -> _Call:
            in_place = "_" if getattr(module, "inplace", False) else ""
            return getattr(aten, f"{name}{in_place}").default, (x,)

        return call

    def clamp(module: Any, x: Any, weights: Any) -> _Call:
        op = aten.hardtanh_ if module.inplace else aten.hardtanh
        return op.default, (x, 0.0, 6.0)

    def pool(module: Any, x: Any, weights: Any) -> _Call:
        size = module.output_size
        return aten.adaptive_avg_pool2d.default, (x, list(size) if isinstance(size, tuple) else [size, size])

    return {
        nn.Conv2d: conv,
        nn.BatchNorm2d: norm,
        nn.Linear: lambda module, x, weights: (aten.linear.default, (x, weights["weight"], weights.get("bias"))),
        nn.ReLU: unary("relu"),
        nn.ReLU6: clamp,
        nn.Hardswish: unary("hardswish"),
        nn.Hardsigmoid: unary("hardsigmoid"),
        nn.AdaptiveAvgPool2d: pool,
        nn.Dropout: lambda module, x, weights: (aten.dropout.default, (x, module.p, False)),
    }


def _functions() -> Mapping[Any, Any]:
    """Function -> the aten op that it calls, with the same arguments."""
    import operator

    import torch

    aten = torch.ops.aten
    return {
        operator.add: aten.add.Tensor,
        operator.mul: aten.mul.Tensor,
        torch.flatten: aten.flatten.using_ints,
    }
