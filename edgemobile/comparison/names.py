"""Matches the tensors of a third-party file with those of the reference, by the connections of the ops.

Other tools use their own tensor names and write the same layer in other ops: with a transpose before the first
convolution, with a 1x1 convolution as the linear layer, or with a separate multiplication by the 1/6 of a hard-sigmoid.
Therefore both graphs are traversed together, starting at the input:

    a layer      matches the one with the same inputs and with weights of the same shape; if several do, the one with
                 the most similar weights.
    another op   matches the one of the same kind with the same inputs.
    by order     if no op has the same inputs, and both nets have equally many of a kind, the k-th matches the k-th, so
                 that wrongly connected ops are still compared.
    not matched  are transposes, reshapes, conversions and multiplications by a number: their output is another form of
                 their input.

Matched tensors have the reference's names from then on. For a multiple or a gate, the Origin states its tensor.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from edgemobile.comparison.equivalent_ops import SIXTH, as_lowered, real
from edgemobile.graph import Graph, Node, Origin
from edgemobile.graph.ir import unique_name
from edgemobile.graph.origin import path_of

__all__ = ["FileTensor", "Match", "are_alike", "match"]

_LAYER = "layer"
_FORMS = ("quantize", "dequantize", "round", "reshape", "transpose")
# Ops that match each other: pooling over the whole image, and activations, because a file may have the wrong one.
_KINDS = {"avg_pool2d": "mean", **dict.fromkeys(("relu", "relu6", "relu1", "hardswish", "hardsigmoid"), "activation")}

# n times the input gives n times the output.
_HOMOGENEOUS = ("add", "concat", "mean", "relu", "max_pool2d", "avg_pool2d")
# Multiples that differ by less than this are equal.
_NEAR = 1e-3


@dataclass(frozen=True)
class FileTensor:
    """A tensor of the file, in the reference's shape. Multiplied by `times`, it is the reference's tensor, apart from
    the changes that `origin` states."""

    name: str
    shape: tuple[int, ...]
    times: float = 1.0
    origin: Origin | None = None


@dataclass(frozen=True)
class Match:
    """The tensors of a file that match those of the reference.

    tensors: the reference's name, or one derived from it if the file's tensor has an Origin -> the file's tensor
    unknown: tensors of the reference without a match, with the reason
    inputs: (layer of the reference, its input) -> the form that the file's layer reads, if it is another one
    rounding: layers of the reference that round their inputs for each image (graph.affine.rounded)
    """

    tensors: Mapping[str, FileTensor] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[tuple[str, str], FileTensor] = field(default_factory=dict)
    rounding: Collection[str] = ()


def are_alike(reference: Graph, paths: Collection[str]) -> bool:
    """Whether at least half of the reference's layers are among the module `paths` of a file's tensors."""
    ours = _layers(reference)
    return sum(path_of(node.output, reference[node.output].origin) in paths for node in ours) * 2 >= len(ours)


def match(reference: Graph, other: Graph, recorded: Collection[str], unread: Mapping[str, str]) -> Match:
    """The tensors of `other` that match the reference's; of its activations, only those in `recorded`.

    `unread` are the outputs of the file's ops that a Graph cannot represent, with the reason.
    """
    return _Matching(reference, other, recorded, unread).match()


@dataclass(frozen=True)
class _Form:
    """A tensor that is `factor` times another, its root, perhaps in another shape.

    `order` is the order of its dimensions, () for the root's own, None if a reshape has mixed them. `is_real`: it is
    dequantized.
    """

    name: str
    factor: float = 1.0
    order: tuple[int, ...] | None = ()
    is_real: bool = False


class _Forms:
    """The root of each tensor of a graph, and the forms of each root in the graph's order. Constants are also roots."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.root: dict[str, str] = {}
        self.form: dict[str, _Form] = {}
        for name in (*graph.inputs, *graph.constants):
            self._add(name, _Form(name))
        for node in graph.nodes:
            source, form = self._source(node)
            self._add(source or node.output, form)

    def _add(self, source: str, form: _Form) -> None:
        self.root[form.name] = self.root.get(source, source)
        self.form[form.name] = form

    def _source(self, node: Node) -> tuple[str | None, _Form]:
        """(the tensor of which a node's output is another form, that form); None if the node computes a new tensor."""
        if node.op == "mul":
            for x, number in (node.inputs, node.inputs[::-1]):
                factor = self._number(number)
                if factor is not None and not self.graph[x].is_constant:
                    return x, replace(self.form[x], name=node.output, factor=self.form[x].factor * factor)
        if node.op not in _FORMS:
            return None, _Form(node.output)
        x = node.inputs[0]
        order = self._order(node, self.form[x].order)
        return x, replace(self.form[x], name=node.output, order=order, is_real=node.op == "dequantize")

    def _order(self, node: Node, before: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if node.op == "reshape":
            return () if before == () else None
        if node.op != "transpose" or before is None:
            return before
        shape, perm = self.graph[node.inputs[0]].shape, node.attrs["perm"]
        moved = [axis for axis in perm if shape[axis] != 1]
        if not before and moved == sorted(moved):
            return ()
        order = tuple(before[axis] if before else axis for axis in perm)
        return () if order == tuple(range(len(order))) else order

    def _number(self, name: str) -> float | None:
        """The value of a constant that is one positive number, else None."""
        values = real(self.graph[self.root.get(name, name)])
        if values is None or values.size != 1:
            return None
        value = float(values.item())
        return value if value > 0 and math.isfinite(value) else None

    def of(self, root: str) -> Iterator[_Form]:
        return (form for name, form in self.form.items() if self.root[name] == root)

    def reads(self, node: Node) -> tuple[str, ...]:
        """The roots of the activations that a node reads; sorted if their order does not matter."""
        roots = [self.root[name] for name in node.inputs if not self.graph[self.root[name]].is_constant]
        return tuple(sorted(roots) if node.op in ("add", "mul") else roots)


class _Matching:
    """Traverses both graphs together; has the matches found so far."""

    def __init__(self, reference: Graph, other: Graph, recorded: Collection[str], unread: Mapping[str, str]) -> None:
        lowered = as_lowered(other)
        self.ours, self.theirs = _Forms(reference), _Forms(lowered)
        self.recorded, self.unread = recorded, unread
        self.other, self.written = other, {node.output: node for node in other.nodes}
        # Root of the reference -> (root of the file, by which factor it is a multiple).
        self.found: dict[str, tuple[str, float]] = {}
        self.tensors: dict[str, FileTensor] = {}
        self.rounding: set[str] = set()
        self.inputs: dict[tuple[str, str], FileTensor] = {}
        self.pairs: dict[str, Node] = {}
        self.free = [node for node in lowered.nodes if self.theirs.root[node.output] == node.output]
        self.in_order = self._in_order()

    def _in_order(self) -> dict[str, Node]:
        """Node of the reference -> the file's node at the same position of its kind, if both have equally many.

        The shapes of all layers must also match.
        """
        ours, theirs = (_by_kind(forms) for forms in (self.ours, self.theirs))
        pairs: dict[str, Node] = {}
        for kind, nodes in ours.items():
            others = theirs.get(kind, [])
            shapes = [
                [_signature(forms, node) for node in each] if kind == _LAYER else len(each)
                for forms, each in ((self.ours, nodes), (self.theirs, others))
            ]
            if shapes[0] == shapes[1]:
                pairs |= {node.output: other for node, other in zip(nodes, others, strict=True)}
        return pairs

    def match(self) -> Match:
        graph = self.ours.graph
        self.found.update(
            (ours, (theirs, 1.0)) for ours, theirs in zip(graph.inputs, self.theirs.graph.inputs, strict=False)
        )
        for node in graph.nodes:
            if self.ours.root[node.output] == node.output and node.output not in self.found:
                (self._find_layer if node.has_weights else self._find)(node)
        unknown = {}
        for name in (*graph.inputs, *(node.output for node in graph.nodes)):
            if reason := self._name(name):
                unknown[name] = reason
        for node in graph.nodes:
            if node.output in self.pairs:
                self._name_inputs(node)
        return Match(self.tensors, unknown, self.inputs, frozenset(self.rounding))

    def _take(self, ours: str, theirs: Node, times: float = 1.0) -> None:
        self.free.remove(theirs)
        self.found[ours] = theirs.output, times

    def _readers(self, node: Node) -> list[Node]:
        """The file's unmatched nodes of the same kind with the same inputs as `node`."""
        given = [self.found.get(root) for root in self.ours.reads(node)]
        roots = [found[0] for found in given if found is not None]
        if len(roots) < len(given):
            return []
        wanted = tuple(sorted(roots) if node.op in ("add", "mul") else roots)
        return [each for each in self.free if _kind(each) == _kind(node) and self.theirs.reads(each) == wanted]

    def _find(self, node: Node) -> None:
        readers, in_order = self._readers(node), self.in_order.get(node.output)
        candidates = [each for each in readers if each.op == node.op] or readers
        if not candidates and in_order in self.free:
            candidates = [in_order]
        if not candidates:
            return
        taken = candidates[0]
        self.pairs[node.output] = taken
        self._take(node.output, taken, self._times(node, taken))
        if (gate := self._gate(taken)) is not None:
            self._put(gate, ".gate", Origin(node.output, gate=True))

    def _put(self, own: FileTensor, ending: str, origin: Origin) -> None:
        """Record a tensor of the file that is the reference's, apart from the changes that `origin` states."""
        name = unique_name(f"{origin.of}{ending}", {*self.ours.graph.tensors, *self.tensors})
        self.tensors[name] = replace(own, origin=origin)

    def _gate(self, hardswish: Node) -> FileTensor | None:
        """relu6(x + 3), or a sixth of it, of a hard-swish that the file computes as a product; None if it is one op."""
        product = self.written.get(hardswish.output.removesuffix(SIXTH))
        if hardswish.op != "hardswish" or product is None or product.op != "mul":
            return None
        x = self.theirs.root[hardswish.inputs[0]]
        others = [name for name in product.inputs if self.theirs.root.get(name, name) != x]
        if len(others) != 1 or others[0] not in self.written:
            return None
        (gate,) = others
        maker = self.written[gate]
        times = 6.0 if maker.op == "hardsigmoid" else self._gate_step(gate, x) if maker.has_weights else 1.0
        return FileTensor(gate, self.theirs.graph[hardswish.output].shape, times)

    def _gate_step(self, gate: str, x: str) -> float:
        """The rounding step of the difference between a gate and relu6(x + 3), in steps of the gate, if the gate was
        not computed from x but in parallel, so that both were rounded."""
        steps = [qparams.scale[0] for name in (gate, x) if (qparams := self.other[name].qparams) is not None]
        return math.hypot(*steps) / float(steps[0]) if len(steps) == 2 else 1.0

    def _times(self, node: Node, theirs: Node) -> float:
        """The factor by which the output of the file's node is a multiple of the output of `node`, from its inputs.

        A multiple that no exporter produces is a mistake. It counts as 1, so that the comparison shows it.
        """
        factors = {self.theirs.root[name]: self.theirs.form[name].factor for name in theirs.inputs}
        times = []
        for name in node.inputs:
            if (root := self.ours.root[name]) in self.found:
                own, multiple = self.found[root]
                times.append(multiple * factors.get(own, 1.0) / self.ours.form[name].factor)
        if node.op == "mul":
            product = math.prod(times)
            return product if _is_whole(product) or _is_whole(1 / product) else 1.0
        alike = node.op in _HOMOGENEOUS and all(math.isclose(each, times[0], rel_tol=_NEAR) for each in times)
        return times[0] if alike and times else 1.0

    def _find_layer(self, node: Node) -> None:
        wanted = _signature(self.ours, node)
        candidates = [each for each in self._readers(node) if _signature(self.theirs, each) == wanted]
        in_order = self.in_order.get(node.output)
        if not candidates and in_order in self.free:
            candidates = [in_order]
        if not candidates:
            return
        found = candidates[0] if len(candidates) == 1 else self._most_alike(node, candidates)
        self.pairs[node.output] = found
        times, added = 1.0, 0.0
        maker = self.theirs.graph.producer(found.inputs[0])
        if maker is not None and maker.op == "round":
            self.rounding.add(node.output)
        gate = self._only_reader(self.ours.graph, node, "hardsigmoid")
        clamp = self._only_reader(self.theirs.graph, found, "relu1")
        if gate is not None and not node.attrs["activation"] and found.attrs["activation"] == "relu6":
            # relu6(y + 3) is six times the hard-sigmoid of y, with the 3 in the bias.
            added = 3.0
            self._take(gate.output, found, 6.0)
        elif gate is not None and clamp is not None:
            # The same, both divided by 6.
            times, added = 6.0, 3.0
            self.free.remove(found)
            self._take(gate.output, clamp)
            unclamped = FileTensor(found.output, self.ours.graph[gate.output].shape)
            self._put(unclamped, ".gate", Origin(gate.output, gate=True))
        else:
            self._take(node.output, found)
        weight, bias = (
            FileTensor(self.theirs.root[own], self.ours.graph[name].shape, times)
            for name, own in zip(node.inputs[1:], found.inputs[1:], strict=True)
        )
        self.tensors[node.inputs[1]] = weight
        if added:
            self._put(bias, ".plus3", Origin(node.inputs[2], added=added))
        else:
            self.tensors[node.inputs[2]] = bias

    @staticmethod
    def _only_reader(graph: Graph, node: Node, op: str) -> Node | None:
        """The only reader of the output of `node`, if it is an `op`; else None."""
        readers = graph.consumers(node.output)
        return readers[0] if len(readers) == 1 and readers[0].op == op else None

    def _most_alike(self, node: Node, candidates: list[Node]) -> Node:
        ours = _weights(self.ours, node)
        return max(candidates, key=lambda each: float(np.vdot(ours, _weights(self.theirs, each))))

    def _name(self, name: str) -> str:
        """Record the file's tensor for `name`. Returns why there is none, or ""."""
        root = self.ours.root[name]
        if root not in self.found:
            return next(iter(self.unread.values()), "the file has no op with the same inputs that computes this")
        theirs, times = self.found[root]
        shape, factor = self.ours.graph[name].shape, self.ours.form[name].factor
        forms = [
            (form, times * form.factor / factor)
            for form in self.theirs.of(theirs)
            if form.name in self.recorded and self._fits(form, shape)
        ]
        whole = [(form, round(multiple)) for form, multiple in forms if _is_whole(multiple)]
        # A multiple that no exporter produces is a mistake, which the comparison shows.
        whole = whole or [(form, 1) for form, multiple in forms if not _is_whole(1 / multiple)]
        if not whole:
            return "the file has it only in a form that cannot be compared"
        # The last is the form that most of the layers after it read.
        *_, (form, multiple) = sorted(whole, key=lambda each: (not each[0].is_real, each[1] == 1))
        if multiple == 1:
            self.tensors[name] = FileTensor(form.name, shape)
        else:
            self._put(FileTensor(form.name, shape), f".x{multiple}", Origin(name, factor=multiple))
        return ""

    def _name_inputs(self, node: Node) -> None:
        """Record the form in which the file's node reads each input, if it differs from the form that was matched."""
        theirs = self.pairs[node.output]
        for name in node.inputs:
            named = self.tensors.get(name)
            root = self.found.get(self.ours.root[name])
            if named is None or root is None:
                continue
            read = next(
                (self._nearest_recorded(each) for each in theirs.inputs if self.theirs.root[each] == root[0]), None
            )
            alike = read is not None and self.theirs.form[read].factor == self.theirs.form[named.name].factor
            if read is not None and alike and read != named.name and self._fits(self.theirs.form[read], named.shape):
                self.inputs[node.output, name] = FileTensor(read, named.shape)

    def _nearest_recorded(self, name: str) -> str | None:
        """The nearest form before `name` in the graph that was recorded."""
        while name not in self.recorded:
            maker = self.theirs.graph.producer(name)
            if maker is None or maker.op not in _FORMS:
                return None
            name = maker.inputs[0]
        return name

    def _fits(self, form: _Form, shape: tuple[int, ...]) -> bool:
        # An input is compared by its shape only, because a file may transpose an NCHW input.
        ordered = form.order == () or self.theirs.root[form.name] in self.theirs.graph.inputs
        return ordered and _sides(self.theirs.graph[form.name].shape) == _sides(shape)


def _is_whole(multiple: float) -> bool:
    return round(multiple) >= 1 and math.isclose(multiple, round(multiple), rel_tol=_NEAR)


def _kind(node: Node) -> str:
    return _LAYER if node.has_weights else _KINDS.get(node.op, node.op)


def _by_kind(forms: _Forms) -> dict[str, list[Node]]:
    """The nodes that compute a new tensor, by their kind."""
    found: dict[str, list[Node]] = {}
    for node in forms.graph.nodes:
        if forms.root[node.output] == node.output:
            found.setdefault(_kind(node), []).append(node)
    return found


def _layers(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.has_weights]


def _sides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The dimensions without the batch, which may be dynamic in a file, and without those of size 1."""
    return tuple(side for side in shape[1:] if side != 1)


def _signature(forms: _Forms, node: Node) -> tuple[object, ...]:
    weight = forms.graph[forms.root[node.inputs[1]]].shape
    return weight[0], _sides(weight), _sides(forms.graph[node.output].shape)


def _weights(forms: _Forms, node: Node) -> np.ndarray:
    """The weights f32[n] of a layer, normalized to length 1."""
    tensor = forms.graph[forms.root[node.inputs[1]]]
    values = real(tensor)
    if values is None:
        return np.zeros(math.prod(tensor.shape), np.float32)
    return values.astype(np.float32).ravel() / max(float(np.linalg.norm(values)), 1e-30)
