"""Hard-swish and hard-sigmoid in a form that integer runtimes run whole.

    hardswish(x)   = x * relu6(x + 3) / 6   ->   gate = relu6(x + 3);  y = x * gate   is 6 * hardswish(x)
    hardsigmoid(x) = relu6(x + 3) / 6       ->   gate = relu6(x + 3)                  is 6 * hardsigmoid(x)

Where only a hard-sigmoid reads a layer, the 3 goes into that layer's bias and the clamp is fused to it. The 1/6 is
not computed: it travels down through everything linear (means, products, reshapes) until a convolution or linear
layer takes it into its weights. Where it meets a sum or a concatenation, a layer on the other side that nothing else
reads takes the 6 into its weights instead. In int8 both change a scale and no integer. A tensor that is n times what
its module gives in PyTorch says so in its name (graph/tensor_names.py), and a comparison divides it out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgemobile.graph import OPS, Graph, Node, Tensor
from edgemobile.graph.tensor_names import divided, gate_of, multiplied, raised
from edgemobile.quant.recipe import Hswish

__all__ = ["integer_form", "is_gate"]


def integer_form(graph: Graph, hswish: Hswish = "delegated") -> Graph:
    """A float graph of the same function without hard-sigmoid and, if "delegated", without hard-swish.

    With "relu" each hard-swish becomes a ReLU, which is another function: equal from 3 up, at most 0.375 away below.
    """
    return _Rewrite(_with_relu(graph) if hswish == "relu" else graph, hswish).result()


def _with_relu(graph: Graph) -> Graph:
    # It loads torch, which the other forms do without.
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
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # old name -> new name
    factors: dict[str, int] = field(default_factory=dict)  # old name -> n

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
        elif node.op == "hardswish" and self.hswish == "delegated":
            gate = self._gate(node, gate_of(node.output), 1)
            product = Node("mul", (self._plain(node.inputs[0]), gate), node.output, {"activation": ""})
            self._add(product, self.graph[node.output].shape, 6)
        elif node.has_weights:
            self._absorb(node, factors[0])
        elif OPS[node.op].homogeneous:
            self._pass_on(node, factors[0])
        elif node.op == "mul" and scale_free:
            self._pass_on(node, factors[0] * factors[1])
        elif node.op in ("add", "concat") and scale_free and self._alike(node, max(factors)):
            self._pass_on(node, max(factors))
        else:
            inputs = tuple(self._plain(name) for name in node.inputs)
            self._add(Node(node.op, inputs, node.output, node.attrs), self.graph[node.output].shape, 1)

    def _pass_on(self, node: Node, factor: int) -> None:
        inputs = tuple(self.names.get(name, name) for name in node.inputs)
        self._add(Node(node.op, inputs, node.output, node.attrs), self.graph[node.output].shape, factor)

    def _alike(self, node: Node, factor: int) -> bool:
        """Whether all parts of a sum or concatenation are `factor` times what they mean; layers are made so."""
        return all(self.factors.get(name, 1) == factor or self._raised(name, factor) for name in node.inputs)

    def _raised(self, name: str, factor: int) -> bool:
        """Multiply the layer that makes `name`, which one node reads; False where it cannot be."""
        index = next((i for i, made in enumerate(self.nodes) if made.output == self.names.get(name)), None)
        alone = len(self.graph.consumers(name)) == 1 and name not in self.graph.outputs
        if index is None or not alone or self.factors[name] != 1 or not _is_plain_layer(self.nodes[index]):
            return False
        layer, new = self.nodes[index], multiplied(name, factor)
        constants = [self._multiplied(constant, factor) for constant in layer.inputs[1:]]
        self.nodes[index] = Node(layer.op, (layer.inputs[0], *constants), new, layer.attrs)
        self.names[name], self.factors[name] = new, factor
        self.tensors[new] = Tensor(new, self.graph[name].shape)
        return True

    def _multiplied(self, name: str, factor: int) -> str:
        new = multiplied(name, factor)
        self.tensors[new] = Tensor.constant(new, self._data(name) * np.float32(factor))
        return new

    def _data(self, name: str) -> np.ndarray:
        """A constant of the graph, or one made on the way."""
        data = (self.tensors.get(name) or self.graph[name]).data
        assert data is not None
        return data

    def _add(self, node: Node, shape: tuple[int, ...], factor: int) -> str:
        """Append `node`, whose output is `factor` times what its name means."""
        old = node.output
        new = multiplied(old, factor)
        self.names[old], self.factors[old] = new, factor
        self.tensors[new] = Tensor(new, shape)
        self.nodes.append(Node(node.op, node.inputs, new, node.attrs))
        return new

    def _gate(self, node: Node, name: str, factor: int) -> str:
        inputs = (self._plain(node.inputs[0]), self._constant("hswish.three", 3.0))
        return self._add(Node("add", inputs, name, {"activation": "relu6"}), self.graph[node.output].shape, factor)

    def _hardsigmoid(self, node: Node) -> None:
        """relu6(x + 3): fused to the layer before, with the 3 in its bias, where nothing else reads that layer."""
        source = self.nodes[-1] if self.nodes else None
        alone = len(self.graph.consumers(node.inputs[0])) == 1 and node.inputs[0] not in self.graph.outputs
        if source is None or source.output != node.inputs[0] or not alone or not _is_plain_layer(source):
            self._gate(node, node.output, 6)
            return
        bias = raised(source.inputs[2])
        self.tensors[bias] = Tensor.constant(bias, self._data(source.inputs[2]) + np.float32(3))
        self.nodes.pop()
        inputs = (*source.inputs[:2], bias)
        attrs = {**source.attrs, "activation": "relu6"}
        self._add(Node(source.op, inputs, node.output, attrs), self.graph[node.output].shape, 6)

    def _constant(self, name: str, value: float) -> str:
        self.tensors[name] = Tensor.constant(name, np.array([value], np.float32))
        return name

    def _absorb(self, node: Node, factor: int) -> None:
        x, weight, bias = node.inputs
        if factor != 1:
            data = (self._data(weight).astype(np.float64) / factor).astype(np.float32)
            weight = divided(weight, factor)
            self.tensors[weight] = Tensor.constant(weight, data)
        inputs = (self.names.get(x, x), weight, bias)
        self._add(Node(node.op, inputs, node.output, node.attrs), self.graph[node.output].shape, 1)

    def _plain(self, name: str) -> str:
        """The tensor `name` stands for without a factor, dividing where nothing downstream could."""
        factor, current = self.factors.get(name, 1), self.names.get(name, name)
        if factor == 1:
            return current
        if name not in self.tensors:
            share = self._constant(f"hswish.one_over_{factor}", 1 / factor)
            self.tensors[name] = Tensor(name, self.graph[name].shape)
            self.nodes.append(Node("mul", (current, share), name, {"activation": ""}))
        return name
