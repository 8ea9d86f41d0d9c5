"""The walk over a torch.export program: lowers each of its nodes and names the result.

The program is not decomposed first, because decomposition would split hard-swish into six ops. Batch norm is folded
into the convolution before it during the walk.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemobile.errors import Unsupported
from edgemobile.graph import Graph, Tensor
from edgemobile.lower.lowering import Lowering, nhwc
from edgemobile.lower.ops import LOWERINGS, SHARING
from edgemobile.lower.output_names import named_outputs

if TYPE_CHECKING:
    import torch

__all__ = ["ADVICE", "Walk"]

_DECOMPOSED = "the program was decomposed, which splits hard-swish into six ops; save it before run_decompositions()"
_PROBABILITIES = "leave it out of forward(): `eval` and `predict` convert logits to probabilities themselves"
# What to do about ops that have one common cause.
ADVICE = {
    "convolution": _DECOMPOSED,
    "_native_batch_norm_legit_no_training": _DECOMPOSED,
    "addmm": _DECOMPOSED,
    "softmax": _PROBABILITIES,
    "log_softmax": _PROBABILITIES,
}


class Walk(Lowering):
    """Lowers every node of the program, in order."""

    def graph(self) -> Graph:
        inputs = []
        constants = self._constants()
        for fx in self.program.graph.nodes:
            if fx.op == "placeholder":
                if fx.name in constants:
                    self.sources[fx], self.values[fx] = constants[fx.name]
                else:
                    inputs.append(self._placeholder(fx))
            elif fx.op == "call_function":
                self._call(fx)
        outputs = self._outputs(inputs)
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
        shape = nhwc(tuple(fx.meta["val"].shape))
        # A single input is called "input" in every file, not by its name in forward().
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
        elif op.startswith("aten.") and op.split(".")[1].endswith("_"):
            self._share(fx)
            self._overwrite(fx)

    def _lowered(self, fx: torch.fx.Node) -> str | np.ndarray:
        op = str(fx.target)
        lowering = LOWERINGS.get(op)
        if lowering is None:
            known = ADVICE.get(op.partition(".")[2].partition(".")[0])
            if known is not None:
                self.refuse(fx, known)
            supported = ", ".join(sorted(name for name in LOWERINGS if name.startswith("aten.")))
            self.refuse(fx, f"{op} has no lowering. Supported: {supported}")
        return lowering(self, fx)

    def _computed(self, fx: torch.fx.Node) -> np.ndarray | None:
        """The value of an op on constants, computed by torch; None if it reads an activation or is random."""
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
        """Record that `fx` shares the memory of its input. If its strides differ, contiguous() made a copy."""
        source = fx.all_input_nodes[0]
        before, after = source.meta["val"], fx.meta["val"]
        if before.shape != after.shape or before.stride() == after.stride():
            self.owners[fx] = self.owners.get(source, source)

    def _overwrite(self, fx: torch.fx.Node) -> None:
        """Replace the values of all nodes that share the memory that `fx` wrote to, and that are read again.

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

    def _outputs(self, inputs: Collection[str]) -> list[str]:
        """The tensors that the program returns."""
        found: dict[str, str] = {}
        for label, fx in named_outputs(self.program):
            value, words = self.values[fx], f"the output {label}".rstrip()
            if not isinstance(value, str):
                raise Unsupported(f"{words} of the model is a constant; there is nothing to export")
            if value in found:
                raise Unsupported(f"{words} of the model is the same tensor as {found[value]}: return it once")
            if value in inputs:
                raise Unsupported(f"{words} of the model is its unchanged input: leave it out")
            found[value] = label
        return list(found)
