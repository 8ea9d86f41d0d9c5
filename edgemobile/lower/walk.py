"""The walk over a torch.export program: what each of its nodes becomes, and under which name.

The program is walked as exported, not decomposed: decomposition would break hard-swish into six ops. Batch norm folds
into the convolution before it on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from edgemobile.errors import Unsupported
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.padding import Pads
from edgemobile.lower.ops import LOWERINGS, SHARING

if TYPE_CHECKING:
    import torch

__all__ = ["ADVICE", "Lowering"]

_DECOMPOSED = "the program was decomposed, and hard-swish with it; save it before run_decompositions()"
_PROBABILITIES = "leave it out of forward(): `eval` and `predict` make probabilities of logits themselves"
# What to do about ops whose presence has one common reason.
ADVICE = {
    "convolution": _DECOMPOSED,
    "_native_batch_norm_legit_no_training": _DECOMPOSED,
    "addmm": _DECOMPOSED,
    "softmax": _PROBABILITIES,
    "log_softmax": _PROBABILITIES,
}


@dataclass
class Lowering:
    """The state of one walk: what each fx node became."""

    program: torch.export.ExportedProgram
    name: str
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[torch.fx.Node, str | np.ndarray] = field(default_factory=dict)
    sources: dict[torch.fx.Node, str] = field(default_factory=dict)
    pads: dict[torch.fx.Node, Pads] = field(default_factory=dict)
    owners: dict[torch.fx.Node, torch.fx.Node] = field(default_factory=dict)  # whose memory each shares
    paths: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.paths = {_module_path(fx)[0] for fx in self.program.graph.nodes}

    def graph(self) -> Graph:
        import torch

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
                outputs = [self._tensor_name(arg, "output") for arg in fx.args[0] if isinstance(arg, torch.fx.Node)]
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
        computed = self._computed(fx)
        self.values[fx] = self._lowered(fx) if computed is None else computed
        if op in SHARING:
            self._share(fx)
        elif op.split(".")[1].endswith("_"):
            self._share(fx)
            self._overwrite(fx)

    def _lowered(self, fx: torch.fx.Node) -> str | np.ndarray:
        op = str(fx.target)
        lowering = LOWERINGS.get(op)
        if lowering is None:
            known = ADVICE.get(op.split(".")[1])
            if known is not None:
                self.refuse(fx, known)
            self.refuse(fx, f"{op} has no lowering. Supported: {', '.join(sorted(LOWERINGS))}")
        return lowering(self, fx)

    def _computed(self, fx: torch.fx.Node) -> np.ndarray | None:
        """What torch makes of constants alone; None where an activation, or chance, has a part in it."""
        import torch

        constants = {node: self.values.get(node) for node in fx.all_input_nodes}
        if not all(isinstance(value, np.ndarray) for value in constants.values()):
            return None
        if not isinstance(fx.target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded in fx.target.tags:
            return None
        args, kwargs = torch.fx.node.map_arg((fx.args, fx.kwargs), lambda node: torch.tensor(constants[node]))
        value = fx.target(*args, **kwargs)
        return value.numpy() if isinstance(value, torch.Tensor) else None

    def _share(self, fx: torch.fx.Node) -> None:
        """Note that `fx` is the memory of its input; of a tensor that lay otherwise, contiguous() made a copy."""
        source = fx.all_input_nodes[0]
        before, after = source.meta["val"], fx.meta["val"]
        if before.shape != after.shape or before.stride() == after.stride():
            self.owners[fx] = self.owners.get(source, source)

    def _overwrite(self, fx: torch.fx.Node) -> None:
        """Let whatever is the memory that `fx` wrote to, and is read again, stand for its result.

        Given:  z = dropout(y), which in eval mode is y itself; relu_(z); z + y
        Result: relu(y) + relu(y)
        """
        for other in list(self.values):
            shares = other is not fx and self.owners.get(other, other) is self.owners.get(fx, fx)
            if not shares or all(user in self.values for user in other.users):
                continue
            shape = list(other.meta["val"].shape)
            if shape != list(fx.meta["val"].shape):
                self.refuse(
                    fx, f"it overwrites a tensor that is read again as {shape}; use the op that is not in-place"
                )
            self.values[other] = self.values[fx]

    def refuse(self, fx: torch.fx.Node, reason: str) -> NoReturn:
        where = _module_path(fx)[0] or "the top level"
        raise Unsupported(f"cannot lower {fx.target} (at {where}): {reason}")

    # ---- what the rows of LOWERINGS use

    def emit(self, fx: torch.fx.Node, op: str, inputs: Sequence[str], suffix: str = "", **attrs: Any) -> str:
        """Add a node for `fx`; returns its name, with `suffix` where it is not what the module returns."""
        name = self.unique(f"{self.name_of(fx, op)}{suffix}") if suffix else self.name_of(fx, op)
        self.tensors[name] = Tensor(name, _nhwc(tuple(fx.meta["val"].shape)))
        self.nodes.append(Node(op, tuple(inputs), name, attrs))
        return name

    def constant(self, name: str, data: np.ndarray) -> str:
        """Add a constant; a module called twice gets a second one, since batch norm may fold into each differently."""
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
        """The tensor name of an argument: an activation, or a parameter or number made a constant."""
        import torch

        value = self.values[arg] if isinstance(arg, torch.fx.Node) else np.asarray(arg, np.float32)
        if isinstance(value, str):
            return value
        name = self.sources.get(arg) if isinstance(arg, torch.fx.Node) else None
        return self.beside(fx, value, name or f"{self.name_of(fx, label)}.{label}")

    def beside(self, fx: torch.fx.Node, value: np.ndarray, name: str) -> str:
        """Add a constant that `fx` broadcasts against an activation, in that one's layout."""
        beside_image = len(fx.meta["val"].shape) == 4
        if beside_image and value.ndim >= 3:
            value = np.moveaxis(value, -3, -1)
        elif beside_image and value.size > 1:
            self.refuse(
                fx, f"a constant of shape {list(value.shape)} beside an image has no NHWC form; give it 4 dimensions"
            )
        return self.constant(name, value)

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

    def name_of(self, fx: torch.fx.Node, op: str) -> str:
        path, leaf = _module_path(fx)
        if leaf and path and path not in self.tensors:
            return path
        return self.unique(path if leaf and path else f"{path}.{op}" if path else op)

    def unique(self, name: str) -> str:
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
