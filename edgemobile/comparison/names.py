"""Which tensor of a third-party file is which of the reference's, where names do not say: told by what reads what.

Files of other tools name tensors as they like, and write the same layer in other ops: a transpose in front of the
first convolution, a linear layer as a 1x1 convolution, the 1/6 of a hard-sigmoid in a multiplication of its own. So
both graphs are walked along together, from the input on:

    a layer      is the one that reads the same and has weights of the same shape; of several, the one whose weights are
                 most alike.
    another op   is the one of the same kind that reads the same.
    or both      are the k-th of their kind, where none reads the same and both nets have as many: so what a fault has
                 wired otherwise is still compared.
    no op        are transposes, reshapes, conversions and multiplications by a number: what they give is what they
                 read, in another form.

What is found goes by the reference's names from then on; where it is a multiple or a gate, its Origin says of what.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from edgemobile.comparison.spellings import SIXTH, as_lowered, real
from edgemobile.graph import Graph, Node, Origin
from edgemobile.graph.ir import unique_name
from edgemobile.graph.origin import path_of

__all__ = ["Match", "Own", "are_alike", "match"]

_LAYER = "layer"
_FORMS = ("quantize", "dequantize", "round", "reshape", "transpose")
# Ops that are one to a walk: the pool of a whole image, and activations, of which a file may have the wrong one.
_KINDS = {"avg_pool2d": "mean", **dict.fromkeys(("relu", "relu6", "relu1", "hardswish", "hardsigmoid"), "activation")}

# n times the input gives n times the output.
_HOMOGENEOUS = ("add", "concat", "mean", "relu", "max_pool2d", "avg_pool2d")
# Two multiples that differ by less are one.
_NEAR = 1e-3


@dataclass(frozen=True)
class Own:
    """A file's tensor, in the reference's shape; `times` it are the reference's numbers, but for what `origin` says."""

    name: str
    shape: tuple[int, ...]
    times: float = 1.0
    origin: Origin | None = None


@dataclass(frozen=True)
class Match:
    """What of a file is what of the reference.

    tensors: the reference's name, or one made of it where the file's tensor has an Origin -> the file's
    unknown: tensors of the reference that are none of the file's, with the reason
    inputs: (layer of the reference, what it reads) -> the form that the file's layer reads, where that is another
    rounding: layers of the reference that round what they read for each image (graph.affine.rounded)
    """

    tensors: Mapping[str, Own] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[tuple[str, str], Own] = field(default_factory=dict)
    rounding: Collection[str] = ()


def are_alike(reference: Graph, paths: Collection[str]) -> bool:
    """Whether most layers of the reference are among the module `paths` of a file's tensors."""
    ours = _layers(reference)
    return sum(path_of(node.output, reference[node.output].origin) in paths for node in ours) * 2 >= len(ours)


def match(reference: Graph, other: Graph, shown: Collection[str], unread: Mapping[str, str]) -> Match:
    """The tensors of `other` that are the reference's; of activations, those that are `shown`.

    `unread` are tensors that an op of the file makes which a Graph has no word for, with the reason.
    """
    return _Walk(reference, other, shown, unread).match()


@dataclass(frozen=True)
class _Form:
    """A tensor that is `factor` times another, its root, perhaps in another shape.

    `order` is that of its dimensions, () for the root's own, None where a reshape has mixed them. `is_real`: it was
    made of integers by giving their reals.
    """

    name: str
    factor: float = 1.0
    order: tuple[int, ...] | None = ()
    is_real: bool = False


class _Forms:
    """The roots of a graph's tensors, and the forms of each root in the graph's order. Constants are roots, too."""

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
        """(what a node gives in another form, that form); None where it computes something."""
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
        """The value of a constant that is one positive number."""
        values = real(self.graph[self.root.get(name, name)])
        if values is None or values.size != 1:
            return None
        value = float(values.item())
        return value if value > 0 and math.isfinite(value) else None

    def of(self, root: str) -> Iterator[_Form]:
        return (form for name, form in self.form.items() if self.root[name] == root)

    def reads(self, node: Node) -> tuple[str, ...]:
        """The roots of the activations a node reads; in no order where it has none."""
        roots = [self.root[name] for name in node.inputs if not self.graph[self.root[name]].is_constant]
        return tuple(sorted(roots) if node.op in ("add", "mul") else roots)


class _Walk:
    """Both graphs along together: what was found so far."""

    def __init__(self, reference: Graph, other: Graph, shown: Collection[str], unread: Mapping[str, str]) -> None:
        lowered = as_lowered(other)
        self.ours, self.theirs = _Forms(reference), _Forms(lowered)
        self.shown, self.unread = shown, unread
        self.other, self.written = other, {node.output: node for node in other.nodes}
        # Root of the reference -> (root of the file, how many times it that is).
        self.found: dict[str, tuple[str, float]] = {}
        self.tensors: dict[str, Own] = {}
        self.rounding: set[str] = set()
        self.inputs: dict[tuple[str, str], Own] = {}
        self.pairs: dict[str, Node] = {}
        self.free = [node for node in lowered.nodes if self.theirs.root[node.output] == node.output]
        self.in_order = self._in_order()

    def _in_order(self) -> dict[str, Node]:
        """Node of the reference -> the file's of the same place among its kind, for kinds of which both have as many.

        Layers have to agree in all their shapes, too.
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
        """Free nodes of the file of the same kind that read what `node` reads."""
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

    def _put(self, own: Own, ending: str, origin: Origin) -> None:
        """Write down a tensor of the file that is the reference's but for what `origin` says."""
        name = unique_name(f"{origin.of}{ending}", {*self.ours.graph.tensors, *self.tensors})
        self.tensors[name] = replace(own, origin=origin)

    def _gate(self, hardswish: Node) -> Own | None:
        """relu6(x + 3) of a hard-swish that the file writes as a product, or a sixth of it; None for one op."""
        product = self.written.get(hardswish.output.removesuffix(SIXTH))
        if hardswish.op != "hardswish" or product is None or product.op != "mul":
            return None
        x = self.theirs.root[hardswish.inputs[0]]
        others = [name for name in product.inputs if self.theirs.root.get(name, name) != x]
        if len(others) != 1 or others[0] not in self.written:
            return None
        (gate,) = others
        maker = self.written[gate]
        times = 6.0 if maker.op == "hardsigmoid" else self._apart(gate, x) if maker.has_weights else 1.0
        return Own(gate, self.theirs.graph[hardswish.output].shape, times)

    def _apart(self, gate: str, x: str) -> float:
        """How many steps of a gate its distance from relu6(x + 3) is rounded to, where it was not computed from x but
        beside it, so that both were rounded."""
        steps = [qparams.scale[0] for name in (gate, x) if (qparams := self.other[name].qparams) is not None]
        return math.hypot(*steps) / float(steps[0]) if len(steps) == 2 else 1.0

    def _times(self, node: Node, theirs: Node) -> float:
        """How many times the output of `node` a node of the file gives, as its inputs are multiples. A multiple that no
        exporter has a use for is a mistake, and 1: the comparison will show it."""
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
            # relu6(y + 3) is six times the hard-sigmoid of y, the 3 in the bias.
            added = 3.0
            self._take(gate.output, found, 6.0)
        elif gate is not None and clamp is not None:
            # The same with both divided by 6.
            times, added = 6.0, 3.0
            self.free.remove(found)
            self._take(gate.output, clamp)
            uncut = Own(found.output, self.ours.graph[gate.output].shape)
            self._put(uncut, ".gate", Origin(gate.output, gate=True))
        else:
            self._take(node.output, found)
        weight, bias = (
            Own(self.theirs.root[own], self.ours.graph[name].shape, times)
            for name, own in zip(node.inputs[1:], found.inputs[1:], strict=True)
        )
        self.tensors[node.inputs[1]] = weight
        if added:
            self._put(bias, ".plus3", Origin(node.inputs[2], added=added))
        else:
            self.tensors[node.inputs[2]] = bias

    @staticmethod
    def _only_reader(graph: Graph, node: Node, op: str) -> Node | None:
        """What alone reads the output of `node`, where it is of the kind `op`."""
        readers = graph.consumers(node.output)
        return readers[0] if len(readers) == 1 and readers[0].op == op else None

    def _most_alike(self, node: Node, candidates: list[Node]) -> Node:
        ours = _weights(self.ours, node)
        return max(candidates, key=lambda each: float(np.vdot(ours, _weights(self.theirs, each))))

    def _name(self, name: str) -> str:
        """Write down which tensor of the file `name` is; why there is none, or ""."""
        root = self.ours.root[name]
        if root not in self.found:
            return next(iter(self.unread.values()), "the file has no op that reads the same and computes this")
        theirs, times = self.found[root]
        shape, factor = self.ours.graph[name].shape, self.ours.form[name].factor
        forms = [
            (form, times * form.factor / factor)
            for form in self.theirs.of(theirs)
            if form.name in self.shown and self._fits(form, shape)
        ]
        whole = [(form, round(multiple)) for form, multiple in forms if _is_whole(multiple)]
        # A multiple that no exporter has a use for is a mistake: the comparison will show it.
        whole = whole or [(form, 1) for form, multiple in forms if not _is_whole(1 / multiple)]
        if not whole:
            return "the file holds it in no form that compares"
        # The last is what most layers behind it read.
        *_, (form, multiple) = sorted(whole, key=lambda each: (not each[0].is_real, each[1] == 1))
        if multiple == 1:
            self.tensors[name] = Own(form.name, shape)
        else:
            self._put(Own(form.name, shape), f".x{multiple}", Origin(name, factor=multiple))
        return ""

    def _name_inputs(self, node: Node) -> None:
        """Write down what the file's node reads of a tensor where that is another form than the one named."""
        theirs = self.pairs[node.output]
        for name in node.inputs:
            named = self.tensors.get(name)
            root = self.found.get(self.ours.root[name])
            if named is None or root is None:
                continue
            read = next((self._shown(each) for each in theirs.inputs if self.theirs.root[each] == root[0]), None)
            alike = read is not None and self.theirs.form[read].factor == self.theirs.form[named.name].factor
            if read is not None and alike and read != named.name and self._fits(self.theirs.form[read], named.shape):
                self.inputs[node.output, name] = Own(read, named.shape)

    def _shown(self, name: str) -> str | None:
        """The nearest form to `name`, up the graph, that is shown."""
        while name not in self.shown:
            maker = self.theirs.graph.producer(name)
            if maker is None or maker.op not in _FORMS:
                return None
            name = maker.inputs[0]
        return name

    def _fits(self, form: _Form, shape: tuple[int, ...]) -> bool:
        # Of an input the shape has to tell: a file may take NCHW and transpose it.
        ordered = form.order == () or self.theirs.root[form.name] in self.theirs.graph.inputs
        return ordered and _sides(self.theirs.graph[form.name].shape) == _sides(shape)


def _is_whole(multiple: float) -> bool:
    return round(multiple) >= 1 and math.isclose(multiple, round(multiple), rel_tol=_NEAR)


def _kind(node: Node) -> str:
    return _LAYER if node.has_weights else _KINDS.get(node.op, node.op)


def _by_kind(forms: _Forms) -> dict[str, list[Node]]:
    """The nodes that compute something."""
    found: dict[str, list[Node]] = {}
    for node in forms.graph.nodes:
        if forms.root[node.output] == node.output:
            found.setdefault(_kind(node), []).append(node)
    return found


def _layers(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.has_weights]


def _sides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without the batch, which a file may leave free, and without sides of one."""
    return tuple(side for side in shape[1:] if side != 1)


def _signature(forms: _Forms, node: Node) -> tuple[object, ...]:
    weight = forms.graph[forms.root[node.inputs[1]]].shape
    return weight[0], _sides(weight), _sides(forms.graph[node.output].shape)


def _weights(forms: _Forms, node: Node) -> np.ndarray:
    """The weights f32[n] of a layer, to length one."""
    tensor = forms.graph[forms.root[node.inputs[1]]]
    values = real(tensor)
    if values is None:
        return np.zeros(math.prod(tensor.shape), np.float32)
    return values.astype(np.float32).ravel() / max(float(np.linalg.norm(values)), 1e-30)
