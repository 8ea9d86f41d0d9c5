"""Brings the Graph of a model file from any exporter into the form of a lowered PyTorch program."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgemobile.errors import Unsupported
from edgemobile.graph import OPS, Graph, GraphError, Node, Tensor
from edgemobile.graph.ir import unique_name
from edgemobile.graph.renaming import relabelled
from edgemobile.lower.affine_folding import fold_affine
from edgemobile.lower.dead_code import without_dead_code
from edgemobile.lower.decomposed_activations import is_number, recognise_activations
from edgemobile.lower.dequantization import dequantized_graph
from edgemobile.lower.fusion import fuse_activations
from edgemobile.lower.input_scaling import InputScaling, without_input_scaling
from edgemobile.lower.transposes import without_transposes

__all__ = ["FileGraph", "lower_file"]

_INPUT = "input"


@dataclass(frozen=True)
class FileGraph:
    """A file's computation up to its logits: float32, one input f32[N,H,W,3], one output f32[N,classes].

    `softmax` is the name of the output of the softmax after them; None if the file has none. The Graph takes images to
    which `input_scaling` was applied; the file applies it itself.
    """

    graph: Graph
    softmax: str | None
    input_scaling: InputScaling


def lower_file(graph: Graph, batch: int = 1) -> FileGraph:
    """The Graph that a reader made of a file, in the form that `lower` returns, for a batch of `batch` images.

    Integers are dequantized, transposes between NCHW and NHWC are removed, scales and offsets after a layer are folded
    into it, and hard-swish computed from several ops becomes one. A softmax at the end and a scaling of the input are
    left out. Raises Unsupported, naming the op, for a file that has no such form.
    """
    try:
        graph = dequantized_graph(graph)
        graph, softmax = _until_logits(graph)
        graph = without_dead_code(graph)
        _check_ends(graph)
        for step in _STEPS:
            graph = step(graph)
        graph, scaling = without_input_scaling(graph)
        graph = _of_batch(graph, batch)
        graph.check_shapes()
    except GraphError as error:
        raise Unsupported(f"{graph.name} is inconsistent: {error}; export it again") from error
    _check_ops(graph)
    return FileGraph(graph, softmax, scaling)


def _check_ends(graph: Graph) -> None:
    inputs = [f"{name} {list(graph[name].shape)}" for name in graph.inputs]
    if len(inputs) != 1 or len(graph[graph.inputs[0]].shape) != 4:
        raise Unsupported(f"{graph.name} takes {', '.join(inputs) or 'nothing'}. Supported: one image [N, H, W, 3]")
    for node in graph.nodes:
        computed = [name for name in node.inputs[1:] if not graph[name].is_constant] if node.has_weights else []
        if computed:
            raise Unsupported(f"the weights {computed[0]} of {node.op} (at {node.output}) are computed, not stored")
    shapes = [list(graph[name].shape) for name in graph.outputs]
    if len(shapes) != 1 or max(shapes[0], default=0) != math.prod(shapes[0][1:]):
        raise Unsupported(f"{graph.name} has outputs of shapes {shapes}. Supported: one, [N, classes]")


def _check_ops(graph: Graph) -> None:
    source = graph[graph.inputs[0]]
    if source.shape[3] != 3:
        raise Unsupported(f"{graph.name} takes images {list(source.shape)}. Supported: RGB, [N, H, W, 3]")
    for node in graph.nodes:
        if OPS[node.op].read_only:
            raise Unsupported(f"{node.op} (at {node.output}) is supported only at the end of the model")


# ---- the end --------------------------------------------------------------------------------------------------------


def _until_logits(graph: Graph) -> tuple[Graph, str | None]:
    """(`graph` without its last softmax, the name of the softmax's output); logits are [N, classes]."""
    if len(graph.outputs) != 1:
        return graph, None
    node = graph.producer(graph.outputs[0])
    while node is not None and node.op == "reshape":
        node = graph.producer(node.inputs[0])
    if node is None or node.op != "softmax":
        return graph, None
    return Graph(graph.name, graph.inputs, node.inputs[:1], graph.nodes, graph.tensors), node.output


# ---- normal form of each op -----------------------------------------------------------------------------------------


@dataclass
class _NormalForm:
    """Rewrites `graph` node by node into the forms that `lower` uses. `same`: tensor -> an equal one."""

    graph: Graph
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)

    def result(self) -> Graph:
        for node in self.graph.nodes:
            inputs = tuple(self.same.get(name, name) for name in node.inputs)
            _FORMS.get(node.op, _unchanged)(self, Node(node.op, inputs, node.output, node.attrs))
        outputs = tuple(self.same.get(name, name) for name in self.graph.outputs)
        return Graph(
            self.graph.name, self.graph.inputs, outputs, tuple(self.nodes), {**self.graph.tensors, **self.tensors}
        )

    def shape(self, name: str) -> tuple[int, ...]:
        return (self.tensors.get(name) or self.graph[name]).shape

    def insert(
        self, node: Node, ending: str, shape: tuple[int, ...], op: str, inputs: tuple[str, ...], **attrs: Any
    ) -> str:
        """Add a node that the file does not have, before `node`; returns its name."""
        name = unique_name(f"{node.output}.{ending}", {*self.graph.tensors, *self.tensors})
        self.tensors[name] = Tensor(name, shape)
        self.nodes.append(Node(op, inputs, name, attrs))
        return name


def _unchanged(form: _NormalForm, node: Node) -> None:
    form.nodes.append(node)


def _reshape(form: _NormalForm, node: Node) -> None:
    (source,) = node.inputs
    before = next((each for each in form.nodes if each.output == source), None)
    if before is not None and before.op == "reshape":
        source = before.inputs[0]
    if form.shape(source) == form.shape(node.output):
        form.same[node.output] = source
    else:
        form.nodes.append(Node("reshape", (source,), node.output))


def _pool(form: _NormalForm, node: Node) -> None:
    """An average of the whole image is a mean, whose output may have its own range."""
    shape = form.shape(node.inputs[0])
    whole = node.attrs["kernel"] == shape[1:3]
    form.nodes.append(Node("mean", node.inputs, node.output) if whole else node)


def _mean(form: _NormalForm, node: Node) -> None:
    shape = form.shape(node.output)
    if len(shape) == 4:
        form.nodes.append(node)
        return
    pooled = form.insert(node, "pool", (shape[0], 1, 1, shape[-1]), "mean", node.inputs)
    form.nodes.append(Node("reshape", (pooled,), node.output))


def _linear(form: _NormalForm, node: Node) -> None:
    """A layer on [N,1,1,in] gets a reshape to [N,in] before it."""
    x, *constants = node.inputs
    shape = form.shape(x)
    if len(shape) != 2:
        x = form.insert(node, "flat", (shape[0], math.prod(shape[1:])), "reshape", (x,))
    form.nodes.append(Node("linear", (x, *constants), node.output, node.attrs))


def _product(form: _NormalForm, node: Node) -> None:
    """A constant is the second operand, and a product has no fused activation."""
    a, b = node.inputs
    inputs = (b, a) if form.graph[a].is_constant else (a, b)
    activation = node.attrs["activation"]
    if node.op == "mul" and activation:
        product = form.insert(node, "product", form.shape(node.output), "mul", inputs, activation="")
        form.nodes.append(Node(activation, (product,), node.output))
    else:
        form.nodes.append(Node(node.op, inputs, node.output, node.attrs))


def _relu1(form: _NormalForm, node: Node) -> None:
    """max(0, min(1, u)) is the hard-sigmoid of 6 u - 3; the factor and the offset fold into the layer before it."""
    (x,) = node.inputs
    for ending, op, value in (("times6", "mul", 6.0), ("less3", "add", -3.0)):
        constant = Tensor.constant(f"{node.output}.{ending}.constant", np.array([value], np.float32))
        form.tensors[constant.name] = constant
        x = form.insert(node, ending, form.shape(x), op, (x, constant.name), activation="")
    form.nodes.append(Node("hardsigmoid", (x,), node.output))


_FORMS: dict[str, Callable[[_NormalForm, Node], None]] = {
    "reshape": _reshape,
    "avg_pool2d": _pool,
    "mean": _mean,
    "linear": _linear,
    "relu1": _relu1,
    "add": _product,
    "mul": _product,
}


def _with_own_constants(graph: Graph) -> Graph:
    """A copy of a constant for each node that reads it: converters store equal constants once, and quantization gives
    each reader its own scale."""
    read: set[str] = set()
    nodes: list[Node] = []
    copies: dict[str, Tensor] = {}
    for node in graph.nodes:
        inputs = []
        for name in node.inputs:
            if name in read and graph[name].is_constant:
                copy = unique_name(name, {*graph.tensors, *copies})
                copies[copy] = replace(graph[name], name=copy)
                name = copy
            read.add(name)
            inputs.append(name)
        nodes.append(Node(node.op, tuple(inputs), node.output, node.attrs))
    return graph.replaced(nodes, copies.values())


def _flat_output(graph: Graph) -> Graph:
    """Logits [N,1,1,classes] as [N,classes]."""
    (output,) = graph.outputs
    shape = graph[output].shape
    if len(shape) == 2:
        return graph
    flat = Tensor(unique_name(f"{output}.flat", graph.tensors), (shape[0], math.prod(shape[1:])))
    nodes = (*graph.nodes, Node("reshape", (output,), flat.name))
    return Graph(graph.name, graph.inputs, (flat.name,), nodes, {**graph.tensors, flat.name: flat})


def _named_input(graph: Graph) -> Graph:
    """Call the input "input", as in every file."""
    (source,) = graph.inputs
    if source == _INPUT:
        return graph
    taken = {_INPUT: unique_name(f"{_INPUT}_1", graph.tensors)} if _INPUT in graph.tensors else {}
    return relabelled(graph, {**taken, source: _INPUT})


def _of_batch(graph: Graph, batch: int) -> Graph:
    """`graph` for another batch size."""
    activations = [*graph.inputs, *(node.output for node in graph.nodes)]
    return graph.replaced(tensors=[Tensor(name, (batch, *graph[name].shape[1:])) for name in activations])


def _with_hard_sigmoids(graph: Graph) -> Graph:
    """Hard-sigmoid instead of relu6(layer(x)) / 6; converters fuse the + 3 into the layer's bias.

    Given:  relu6(w x + b) / 6       Result: hardsigmoid(w x + (b - 3))
    """
    layers = {node.output: node for node in graph.nodes if node.has_weights}
    replaced, tensors = {}, []
    for node in graph.nodes:
        layer = layers.get(node.inputs[0]) if node.op == "mul" and is_number(graph, node.inputs[1], 1 / 6) else None
        if layer is None or layer.attrs["activation"] != "relu6" or len(graph.consumers(layer.output)) > 1:
            continue
        bias = graph[layer.inputs[2]]
        assert bias.data is not None
        less = Tensor.constant(unique_name(f"{bias.name}.less3", graph.tensors), bias.data - np.float32(3))
        tensors.append(less)
        inputs = (*layer.inputs[:2], less.name)
        replaced[layer.output] = Node(layer.op, inputs, layer.output, {**layer.attrs, "activation": ""})
        replaced[node.output] = Node("hardsigmoid", (layer.output,), node.output)
    return graph.replaced([replaced.get(node.output, node) for node in graph.nodes], tensors)


def _normalized(graph: Graph) -> Graph:
    return _NormalForm(graph).result()


_STEPS: tuple[Callable[[Graph], Graph], ...] = (
    _with_own_constants,
    without_transposes,
    _normalized,
    _with_hard_sigmoids,
    recognise_activations,
    without_dead_code,
    fold_affine,
    fuse_activations,
    without_dead_code,
    _flat_output,
    _named_input,
)
