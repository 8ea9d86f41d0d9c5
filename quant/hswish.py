"""Hard-swish and hard-sigmoid in a form that integer runtimes run in one partition.

    hardswish(x)   = x * relu6(x + 3) / 6   ->   gate = relu6(x + 3);  y = x * gate   is 6 * hardswish(x)
    hardsigmoid(x) = relu6(x + 3) / 6       ->   gate = relu6(x + 3)                  is 6 * hardsigmoid(x)

If a hard-sigmoid is the only reader of a layer, the 3 is added to that layer's bias and the clamp is fused to it. The
1/6 is not computed: it passes through all linear ops (means, products, reshapes) to the next convolution or linear
layer, whose weights are divided by 6. At a sum or a concatenation, the layer that makes the other input is multiplied
by 6 instead, if nothing else reads it. In int8 both change a scale and no integer. A tensor that is n times the output
of its module in PyTorch has the factor in its origin (graph/origin.py), so that a comparison can divide by it; its name
ends in .x6 for people who read it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np

from edgemobile.graph import OPS, Graph, Node, Origin, Tensor
from edgemobile.graph.ir import unique_name
from edgemobile.quant.recipe import Hswish

__all__ = ["integer_form", "is_gate"]


def integer_form(graph: Graph, hswish: Hswish = "delegated", whole: Collection[str] = ()) -> Graph:
    """A float graph of the same function without hard-sigmoid and, if `hswish` is "delegated", without hard-swish,
    except those named in `whole`, which stay one op because they are computed in float.

    With "relu" each hard-swish becomes a ReLU. That is another function: equal from 3 upwards, and different by at most
    0.375 below.
    """
    return _Rewrite(_with_relu(graph) if hswish == "relu" else graph, hswish, whole).result()


def _with_relu(graph: Graph) -> Graph:
    # This imports torch, which the other forms do not need.
    from edgemobile.lower import fuse_activations

    nodes = [Node("relu", node.inputs, node.output) if node.op == "hardswish" else node for node in graph.nodes]
    return fuse_activations(graph.replaced(nodes))


def is_gate(graph: Graph, node: Node) -> bool:
    """add(x, 3) with a fused relu6: the gate of hard-swish and hard-sigmoid."""
    if node.op != "add" or node.attrs["activation"] != "relu6":
        return False
    other = graph[node.inputs[1]].data
    return other is not None and other.size == 1 and other.item() == 3.0


def _is_plain_layer(node: Node) -> bool:
    return node.has_weights and not node.attrs["activation"]


@dataclass
class _Rewrite:
    graph: Graph
    hswish: Hswish
    whole: Collection[str] = ()
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # old name -> new name
    factors: dict[str, int] = field(default_factory=dict)  # old name -> n
    new_names: dict[tuple[str, str], str] = field(default_factory=dict)  # (old name, ending) -> a unique name

    def result(self) -> Graph:
        for node in self.graph.nodes:
            self._take(node)
        outputs = [self._plain(name) for name in self.graph.outputs]
        return Graph(
            self.graph.name,
            self.graph.inputs,
            tuple(outputs),
            tuple(self.nodes),
            {**self.graph.tensors, **self.tensors},
        )

    def _take(self, node: Node) -> None:
        factors = [self.factors.get(name, 1) for name in node.inputs]
        scale_free = node.attrs.get("activation") != "relu6"
        if node.op == "hardsigmoid":
            self._hardsigmoid(node)
        elif node.op == "hardswish" and self.hswish == "delegated" and node.output not in self.whole:
            gate = self._gate(node)
            self._add(Node("mul", (self._plain(node.inputs[0]), gate), node.output, {"activation": ""}), 6)
        elif node.has_weights:
            self._absorb(node, factors[0])
        elif OPS[node.op].homogeneous:
            self._pass_on(node, factors[0])
        elif node.op == "mul" and scale_free:
            self._pass_on(node, factors[0] * factors[1])
        elif node.op in ("add", "concat") and scale_free and self._equal_factors(node, max(factors)):
            self._pass_on(node, max(factors))
        else:
            inputs = tuple(self._plain(name) for name in node.inputs)
            self._add(Node(node.op, inputs, node.output, node.attrs), 1)

    def _pass_on(self, node: Node, factor: int) -> None:
        inputs = tuple(self.names.get(name, name) for name in node.inputs)
        self._add(Node(node.op, inputs, node.output, node.attrs), factor)

    def _equal_factors(self, node: Node, factor: int) -> bool:
        """Give all inputs of a sum or concatenation the same `factor`, multiplying layers; False if that cannot be."""
        return all(self.factors.get(name, 1) == factor or self._multiply_layer(name, factor) for name in node.inputs)

    def _multiply_layer(self, name: str, factor: int) -> bool:
        """Multiply the weights and bias of the layer that makes `name`. False if that cannot be: `name` must have one
        reader, and the layer no activation."""
        index = next((i for i, made in enumerate(self.nodes) if made.output == self.names.get(name)), None)
        alone = len(self.graph.consumers(name)) == 1 and name not in self.graph.outputs
        if index is None or not alone or self.factors[name] != 1 or not _is_plain_layer(self.nodes[index]):
            return False
        layer = self.nodes[index]
        constants = [
            self._changed(constant, f".x{factor}", self._data(constant) * np.float32(factor), factor=factor)
            for constant in layer.inputs[1:]
        ]
        new = self._multiple(name, factor)
        self.nodes[index] = Node(layer.op, (layer.inputs[0], *constants), new, layer.attrs)
        return True

    def _tensor(self, name: str) -> Tensor:
        """A tensor of the graph, or one that this rewrite added."""
        return self.tensors.get(name) or self.graph[name]

    def _data(self, name: str) -> np.ndarray:
        data = self._tensor(name).data
        assert data is not None
        return data

    def _named(self, name: str, ending: str) -> str:
        """A name that no other tensor has. The same tensor and `ending` give the same name again."""
        if (name, ending) not in self.new_names:
            self.new_names[name, ending] = unique_name(f"{name}{ending}", {*self.graph.tensors, *self.tensors})
        return self.new_names[name, ending]

    def _changed(
        self, name: str, ending: str, data: np.ndarray | None = None, *, factor: float = 1.0, added: float = 0.0
    ) -> str:
        """The name of a new tensor, which is `factor` times the tensor `name`, plus `added`."""
        old, new = self._tensor(name), self._named(name, ending)
        origin = old.origin or Origin(name)
        origin = replace(origin, factor=origin.factor * factor, added=origin.added * factor + added)
        self.tensors[new] = replace(old, name=new, data=data, origin=origin)
        return new

    def _multiple(self, name: str, factor: int) -> str:
        """The activation that is `factor` times `name` and replaces it in all later nodes."""
        new = self._changed(name, f".x{factor}", factor=factor) if factor != 1 else name
        self.tensors.setdefault(new, self.graph[name])
        self.names[name], self.factors[name] = new, factor
        return new

    def _add(self, node: Node, factor: int) -> None:
        """Append `node`, whose output is `factor` times the tensor of that name in the original graph."""
        self.nodes.append(Node(node.op, node.inputs, self._multiple(node.output, factor), node.attrs))

    def _gate(self, node: Node) -> str:
        output, gate = self.graph[node.output], self._named(node.output, ".gate")
        origin = replace(output.origin or Origin(node.output), gate=True)
        self.tensors[gate] = replace(output, name=gate, origin=origin)
        self.nodes.append(Node("add", self._gate_inputs(node), gate, {"activation": "relu6"}))
        return gate

    def _gate_inputs(self, node: Node) -> tuple[str, str]:
        return self._plain(node.inputs[0]), self._constant("hswish.three", 3.0)

    def _hardsigmoid(self, node: Node) -> None:
        """relu6(x + 3): fused to the layer before, with the 3 in its bias, if nothing else reads that layer."""
        source = self.nodes[-1] if self.nodes else None
        alone = len(self.graph.consumers(node.inputs[0])) == 1 and node.inputs[0] not in self.graph.outputs
        if source is None or source.output != node.inputs[0] or not alone or not _is_plain_layer(source):
            self._add(Node("add", self._gate_inputs(node), node.output, {"activation": "relu6"}), 6)
            return
        bias = self._changed(source.inputs[2], ".plus3", self._data(source.inputs[2]) + np.float32(3), added=3)
        self.nodes.pop()
        inputs = (*source.inputs[:2], bias)
        attrs = {**source.attrs, "activation": "relu6"}
        self._add(Node(source.op, inputs, node.output, attrs), 6)

    def _constant(self, name: str, value: float) -> str:
        name = self._named(name, "")
        self.tensors[name] = Tensor.constant(name, np.array([value], np.float32))
        return name

    def _absorb(self, node: Node, factor: int) -> None:
        x, weight, bias = node.inputs
        if factor != 1:
            data = (self._data(weight).astype(np.float64) / factor).astype(np.float32)
            weight = self._changed(weight, f".d{factor}", data, factor=1 / factor)
        inputs = (self.names.get(x, x), weight, bias)
        self._add(Node(node.op, inputs, node.output, node.attrs), 1)

    def _plain(self, name: str) -> str:
        """The tensor `name` without a factor. Adds a division if it has one."""
        factor, current = self.factors.get(name, 1), self.names.get(name, name)
        if factor == 1:
            return current
        if name not in self.tensors:
            share = self._constant(f"hswish.one_over_{factor}", 1 / factor)
            self.tensors[name] = self.graph[name]
            self.nodes.append(Node("mul", (current, share), name, {"activation": ""}))
        return name
