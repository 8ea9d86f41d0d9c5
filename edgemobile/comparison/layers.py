"""Layer by layer: what each layer of a file adds, apart from what it was handed.

Noise adds up through a net, so a tensor far from the reference's says little of the layer that made it. Here each layer
of the reference is run again on what the file itself fed that layer:

    drift       the file's tensor against the reference's: what has added up so far
    own         the file's tensor against the reference layer on the file's inputs and the file's constants: arithmetic
    constants   the same on the reference's constants: arithmetic and weights

The first layer whose own or constants part misses the tolerance is where the two diverge; where a layer cannot be run
again, a sudden drop of the drift has to do.

A layer that the file computes in one op with the hard-sigmoid behind it is compared with that.

What int8 does to a tensor on purpose is undone first: its Origin says what (graph/origin.py). What relu6(x + 3) cannot
tell apart is not compared.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgemobile.graph import Graph, Node, Origin, QParams, Tensor
from edgemobile.graph.affine import dequantize, rounded
from edgemobile.graph.interpreter import run
from edgemobile.graph.origin import path_of
from edgemobile.metrics.measures import cosine, max_abs, sqnr_db
from edgemobile.metrics.tolerances import LayerTolerance
from edgemobile.util.strict_json import Real

__all__ = [
    "LayerParity",
    "RecordedActivations",
    "channel_db",
    "compare_layers",
    "first_diverging",
    "fused_to",
    "integers",
    "rerun",
    "sources",
]

# What a file may compute in one op with the layer before it; a hard-swish only by mistake.
_FUSED = ("hardsigmoid", "hardswish")
# What relu6(x + 3) and its product with x can tell apart.
_HSWISH_FLOOR = -3.0
# A drift that falls by more than this across one layer is that layer's doing.
_DROP_DB = 12.0
# Rounding and a recipe's refit move weights in company: the furthest is up to 2.5 times as far as the eighth. A flip of
# bit 5 is 32 steps away, of which rounding is half of one.
_MOST_OUTLIER_RATIO, _COMPANY = 6.0, 8
# A tensor is only written differently where as many layers behind it are so much nearer to the reference.
_SETTLED, _HEALED_DB = 3, 20.0


@dataclass(frozen=True)
class LayerParity:
    """One layer. `sqnr_db`, `max_abs` and `cosine` are of the drift; `arithmetic_sqnr_db` and `weights_sqnr_db` are of
    the worst channel, None where the layer cannot be run again.

    Of int8 only: `excess` is how often the noise exceeds that of rounding to the output's integers, `lsb` the largest
    difference in steps, `cut_db` the SQNR that saturating at the ends of their range alone leaves. `outlier_ratio` is
    how far one weight stands out (RecordedActivations.outlier_ratio). `diverges_in` says which part missed:
    "arithmetic", "constants" or "drift"; "" for none.

    `macs` are the reference layer's multiply-accumulates for one image, and `inputs` the reference's activations that
    it reads.
    """

    name: str
    op: str
    sqnr_db: Real
    max_abs: Real
    cosine: Real
    arithmetic_sqnr_db: Real | None = None
    weights_sqnr_db: Real | None = None
    excess: Real | None = None
    lsb: int | None = None
    cut_db: Real | None = None
    outlier_ratio: Real | None = None
    diverges_in: str = ""
    macs: int = 0
    inputs: tuple[str, ...] = ()

    @property
    def is_damaged(self) -> bool:
        """Whether one weight stands out from all others, as none does in a healthy file."""
        return self.outlier_ratio is not None and self.outlier_ratio > _MOST_OUTLIER_RATIO


@dataclass(frozen=True)
class RecordedActivations:
    """A file as it ran, by the Graph's tensor names.

    `values` are its activations in NHWC: f32, or int8 whatever the file stores. `tensors` has its constants and the
    QParams of its activations. `origins`: tensor name -> which of the reference's it is, and what was done to it; of
    the others the name says which. `renamed`: the name here -> the file's own, for files that have other names.
    `unknown`: reference tensor -> why none of the file's is it. `inputs`: (reference layer, what it reads) -> the
    values of that in the form this file's layer reads, where it is not that of `values`. `rounding`: reference layers
    that round what they read for each image. `unsigned` are the constants stored as uint8.
    """

    values: Mapping[str, np.ndarray]
    tensors: Mapping[str, Tensor]
    origins: Mapping[str, Origin] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict)
    rounding: Collection[str] = ()
    unsigned: Collection[str] = ()

    def __post_init__(self) -> None:
        for key, names in (("_activations", self.values), ("_constants", self.tensors)):
            # What is a multiple stands for what it is divided to, which may be an output: layers read the multiple.
            # Of others the first does.
            ordered = sorted(names, key=self._is_multiple, reverse=True)
            paths = {path_of(name, self.origins.get(name)): name for name in reversed(ordered)}
            object.__setattr__(self, key, paths)
        object.__setattr__(self, "_gates", {origin.of: name for name, origin in self.origins.items() if origin.gate})

    def _is_multiple(self, name: str) -> bool:
        origin = self.origins.get(name)
        return origin is not None and origin.factor != 1

    def name_of(self, path: str) -> str | None:
        """This file's name of a reference's tensor."""
        names: Mapping[str, str] = self._activations  # type: ignore[attr-defined]
        return names.get(path)

    def gate_of(self, path: str) -> str | None:
        """This file's name of relu6(x + 3) of a reference's hard-swish, or of what its hard-sigmoid is cut from."""
        names: Mapping[str, str] = self._gates  # type: ignore[attr-defined]
        return names.get(path)

    def problem(self, path: str) -> str:
        """Why a reference's tensor cannot be compared here; "" where it can."""
        name = self.name_of(path)
        if name is None or name not in self.values:
            return self.unknown.get(path, "the file has no tensor of this name")
        factors, shape = self.multiple(path), self.values[name].shape
        if len(factors) not in (1, *shape[-1:]):
            return f"the file's metadata has {len(factors)} channel factors for {name} {list(shape)}; export it again"
        return ""

    def qparams(self, name: str) -> QParams | None:
        return self.tensors[name].qparams if name in self.tensors else None

    def multiple(self, path: str) -> np.ndarray:
        """What this file's tensor is a multiple of the reference's by: f64[C] or f64[1]."""
        origin = self.origins.get(self.name_of(path) or "")
        return np.ones(1) if origin is None else np.atleast_1d(origin.channel_factors or 1.0) * origin.factor

    def real(self, path: str) -> np.ndarray:
        """The values f32 of a reference's tensor, in the reference's units."""
        name = self.name_of(path)
        assert name is not None
        return (self._real(name) / self.multiple(path)).astype(np.float32)

    def read_by(self, node: Node, path: str) -> np.ndarray:
        """The values f32 of a reference's tensor as this file's layer for `node` computes with them."""
        values = self.inputs.get((node.output, path))
        values = self.real(path) if values is None else values
        return rounded(values) if node.output in self.rounding else values

    def _real(self, name: str) -> np.ndarray:
        array, qparams = self.values[name], self.qparams(name)
        return array if qparams is None or array.dtype.kind == "f" else dequantize(array, qparams)

    def steps(self, path: str) -> np.ndarray | None:
        """The step f64[C or 1] of a tensor's integers, in the reference's units; None for float."""
        name = self.name_of(path)
        qparams = None if name is None else self.qparams(name)
        return None if qparams is None else float(qparams.scale[0]) / self.multiple(path)

    def representable(self, path: str, values: np.ndarray) -> np.ndarray:
        """`values`, saturated as this tensor's integers saturate."""
        name = self.name_of(path)
        qparams = None if name is None else self.qparams(name)
        if qparams is None or name is None:
            return values
        info = np.iinfo(self.tensors[name].dtype)
        ends = (np.array([info.min, info.max]) - qparams.zero_point[0]) * float(qparams.scale[0])
        multiple = self.multiple(path)
        return np.clip(values, ends[0] / multiple, ends[1] / multiple).astype(np.float32)

    def constants(self, graph: Graph, node: Node) -> dict[str, np.ndarray]:
        """The weight and bias f32 this file has for a reference's layer, in the reference's units."""
        found = {}
        for position, name in enumerate(node.inputs[1:] if node.has_weights else ()):
            stored = self._constant(name, graph[name].shape)
            if stored is not None and stored.data is not None:
                real = dequantize(stored.data, stored.qparams) if stored.qparams else stored.data
                units = self._units(node, stored, is_bias=position == 1)
                found[name] = ((real - self.added(stored.name)) * units).astype(np.float32)
        return found

    def outlier_ratio(self, graph: Graph, node: Node) -> float | None:
        """How much further the furthest weight is from the reference's than the eighth furthest, rounding counted as
        one step: a number that was damaged stands alone, what a recipe moves has company. inf where all others are
        the same; None without weights.
        """
        weight = self.weight(graph, node)
        if weight is None or weight[1].size < 2:
            return None
        stored, right, _ = weight
        assert stored.data is not None
        apart = np.abs(stored.data.astype(np.float64) - right).ravel()
        if not np.isfinite(apart).all():
            return math.inf
        furthest, second, *others = np.sort(apart)[: -_COMPANY - 1 : -1].tolist()
        if stored.qparams is not None:
            return furthest / max((second, *others)[-1], 1.0)
        return math.inf if furthest and not second else 0.0

    def weight(self, graph: Graph, node: Node) -> tuple[Tensor, np.ndarray, np.ndarray] | None:
        """(a layer's weight as the file stores it, the reference's f64 in the file's steps, what 1 step is in the
        reference's units, to broadcast); None for other nodes, and where the file has none of its shape."""
        name = node.inputs[1] if node.has_weights else ""
        stored = self._constant(name, graph[name].shape) if name else None
        right = graph[name].data if name else None
        if stored is None or stored.data is None or right is None:
            return None
        units = self._units(node, stored, is_bias=False)
        if stored.qparams is not None:
            units = units * stored.qparams.along(stored.data.ndim)[0]
        return stored, right / units, units

    def bias(self, graph: Graph, node: Node) -> Tensor | None:
        """A layer's bias as the file stores it."""
        return self._constant(node.inputs[2], graph[node.inputs[2]].shape) if node.has_weights else None

    def _units(self, node: Node, stored: Tensor, *, is_bias: bool) -> np.ndarray:
        """What a constant of a layer is multiplied by for the reference's units: the file has weight * written / read
        and bias * written, where `read` and `written` are the multiples of the layer's input and output."""
        read, written = self.multiple(node.inputs[0]), self.multiple(node.output)
        if is_bias:
            return 1 / written
        outputs, *middle, inputs = stored.shape
        flat = (1,) * len(middle)
        reads = read[_columns(node, outputs, inputs)].reshape(outputs, *flat, inputs) if read.size > 1 else read
        return reads / written.reshape(-1, *flat, 1)

    def constant_name(self, name: str) -> str | None:
        """This file's name of a reference's constant."""
        names: Mapping[str, str] = self._constants  # type: ignore[attr-defined]
        return names.get(name)

    def added(self, stored: str) -> float:
        """What a constant of the file holds beyond the reference's: the 3 of a hard-sigmoid in a bias, or 0."""
        origin = self.origins.get(stored)
        return 0.0 if origin is None else origin.added

    def _constant(self, name: str, shape: tuple[int, ...]) -> Tensor | None:
        """A constant as the file has it; None where it has none of this shape."""
        stored = self.constant_name(name)
        tensor = None if stored is None else self.tensors.get(stored)
        return tensor if tensor is not None and tensor.is_constant and tensor.shape == shape else None


def _columns(node: Node, outputs: int, inputs: int) -> np.ndarray:
    """The input channel i64[O,I] that weight column i of output channel o reads: those of its group."""
    groups = node.attrs.get("groups", 1)
    return (np.arange(outputs) // (outputs // groups) * inputs)[:, None] + np.arange(inputs)


def sources(graph: Graph, node: Node) -> list[str]:
    """The activations a node reads."""
    return [name for name in dict.fromkeys(node.inputs) if not graph[name].is_constant]


def is_fused(graph: Graph, node: Node, observed: RecordedActivations) -> bool:
    """Whether a file computes a layer in one op with what alone reads it: a hard-sigmoid (quant/hswish.py)."""
    readers = graph.consumers(node.output)
    alone = len(readers) == 1 and readers[0].op in _FUSED and node.output not in graph.outputs
    return (
        node.has_weights
        and alone
        and observed.name_of(node.output) is None
        and observed.name_of(readers[0].output) is not None
    )


def fused_to(graph: Graph, node: Node, observed: RecordedActivations) -> Node | None:
    """The layer that a file computes in one op with `node`, which reads it."""
    source = graph.producer(node.inputs[0])
    return source if source is not None and is_fused(graph, source, observed) else None


def rerun(
    graph: Graph, node: Node, inputs: Mapping[str, np.ndarray], constants: Mapping[str, np.ndarray]
) -> np.ndarray:
    """The output of one node on other inputs f32[N,...], with `constants` in place of the graph's."""
    tensors = {
        name: Tensor.constant(name, constants[name]) if name in constants else graph[name] for name in node.inputs
    }
    tensors |= {name: replace(graph[name], shape=array.shape, data=None) for name, array in inputs.items()}
    names = tuple(dict.fromkeys(name for name in node.inputs if not tensors[name].is_constant))
    alone = Graph("one", names, (node.output,), (node,), {**tensors, node.output: graph[node.output]})
    return run(alone, {name: inputs[name] for name in names})[node.output]


def channel_db(reference: np.ndarray, other: np.ndarray) -> float:
    """The SQNR in dB of the worst channel [..., C]; a channel quieter than the average is held to the average.

    inf for identical or empty inputs, nan where either is not finite.
    """
    if not reference.size:
        return math.inf
    reference, other = (array.astype(np.float64).reshape(-1, array.shape[-1]) for array in (reference, other))
    noise, signal = np.mean((reference - other) ** 2, axis=0), np.mean(reference**2, axis=0)
    if not np.isfinite(noise).all():
        return math.nan
    loud = np.maximum(signal, signal.mean())
    worst = [sound / hiss if hiss else math.inf for sound, hiss in zip(loud, noise, strict=True)]
    least = float(min(worst))
    return 10 * math.log10(least) if 0 < least < math.inf else -math.inf if least == 0 else math.inf


def compare_layers(
    graph: Graph, reference: Mapping[str, np.ndarray], observed: RecordedActivations, tolerance: LayerTolerance
) -> tuple[list[LayerParity], list[tuple[str, str]]]:
    """(the input and the layers of the reference that the file has, the others with the reason).

    `reference` has every value of `graph` in NHWC for the same images the file was shown.
    """
    layers = [_shown(graph.inputs[0], reference[graph.inputs[0]], observed)]
    sqnr, unmatched = {layers[0].name: layers[0].sqnr_db}, []
    fused: dict[str, Node] = {}
    for node in graph.nodes:
        if is_fused(graph, node, observed):
            fused[node.output] = node
            continue
        if problem := observed.problem(node.output):
            unmatched.append((node.output, problem))
            continue
        expected, found = _comparable(graph, node, reference[node.output], observed)
        if expected.shape != found.shape:
            unmatched.append((node.output, f"{list(found.shape[1:])} is not the {list(expected.shape[1:])} expected"))
            continue
        layer = LayerParity(
            node.output, node.op, sqnr_db(expected, found), max_abs(expected, found), cosine(expected, found)
        )
        layer = _alone(graph, node, observed, layer)
        # Of a layer whose inputs are not known, the one before it has to stand for them.
        before = min((sqnr[name] for name in node.inputs if name in sqnr), default=layers[-1].sqnr_db)
        sqnr[node.output] = layer.sqnr_db
        macs, inputs = _work(graph, node, fused)
        layers.append(replace(layer, diverges_in=_divergence(layer, before, tolerance), macs=macs, inputs=inputs))
    if observed.renamed:
        layers, others = _without_other_forms(layers)
        unmatched += others
    return layers, unmatched


def _work(graph: Graph, node: Node, fused: Mapping[str, Node]) -> tuple[int, tuple[str, ...]]:
    """(MACs of a layer, the activations it reads), with those of the layers that it is compared together with."""
    macs, inputs = graph.macs(node), list[str]()
    for name in node.inputs:
        if name in fused:
            more, names = _work(graph, fused[name], fused)
            macs, inputs = macs + more, [*inputs, *names]
        elif not graph[name].is_constant:
            inputs.append(name)
    return macs, tuple(inputs)


def _shown(name: str, images: np.ndarray, observed: RecordedActivations) -> LayerParity:
    """What the file was shown, as a layer of its own: in int8 it has a range like any other."""
    if observed.problem(name) or observed.real(name).shape != images.shape:
        return LayerParity(name, "input", math.inf, 0.0, 1.0)
    seen = observed.real(name)
    quantized = observed.steps(name) is not None
    cut_db = sqnr_db(images, observed.representable(name, images)) if quantized else None
    return LayerParity(name, "input", sqnr_db(images, seen), max_abs(images, seen), cosine(images, seen), cut_db=cut_db)


def _without_other_forms(layers: list[LayerParity]) -> tuple[list[LayerParity], list[tuple[str, str]]]:
    """(the layers, those of them that do not diverge but are another way to compute the same).

    A third-party converter may put an addition of 3 into a bias: that tensor is another, and the next ones agree again.
    What is really wrong stays wrong.
    """
    kept, others = [], []
    for index, layer in enumerate(layers):
        after = [later.sqnr_db for later in layers[index + 1 : index + 1 + _SETTLED]]
        if layer.diverges_in and after and min(after) > layer.sqnr_db + _HEALED_DB:
            others.append((layer.name, "the file computes it in another form: the layers behind it agree again"))
        else:
            kept.append(layer)
    return kept, others


def first_diverging(layers: Sequence[LayerParity]) -> LayerParity | None:
    """The first layer of a walk that diverges."""
    return next((layer for layer in layers if layer.diverges_in), None)


def _comparable(
    graph: Graph, node: Node, expected: np.ndarray, observed: RecordedActivations
) -> tuple[np.ndarray, np.ndarray]:
    """Both values of a tensor, without what its readers cannot tell apart in int8."""
    found = observed.real(node.output)
    if observed.steps(node.output) is None:
        return expected, found
    low, high = _useful(graph, node)
    return np.clip(expected, low, high), np.clip(found, low, high)


def _useful(graph: Graph, node: Node) -> tuple[float, float]:
    kinds = {reader.op for reader in graph.consumers(node.output)}
    low = _HSWISH_FLOOR if kinds and kinds <= {"hardswish", "hardsigmoid"} else -math.inf
    return low, 3.0 if kinds == {"hardsigmoid"} else math.inf


def _alone(graph: Graph, node: Node, observed: RecordedActivations, layer: LayerParity) -> LayerParity:
    """`layer` with what it adds by itself, where all its inputs were observed."""
    source = fused_to(graph, node, observed)
    if any(map(observed.problem, sources(graph, source or node))) or graph[node.output].qparams is not None:
        return layer
    found, weighted = observed.real(node.output), source or node
    constants = observed.constants(graph, weighted)
    trained, inputs = _again(graph, node, source, observed, {})
    other = any(not np.array_equal(data, np.asarray(graph[name].data)) for name, data in constants.items())
    own = _again(graph, node, source, observed, constants)[0] if other else trained
    if own.shape != found.shape:
        return layer
    useful = np.clip(own, *_useful(graph, node))
    cut = np.clip(observed.representable(node.output, own), *_useful(graph, node))
    cut_db = None if observed.steps(node.output) is None else sqnr_db(useful, cut)
    own, trained = (observed.representable(node.output, output) for output in (own, trained))
    excess, lsb = _in_steps(node, inputs, own, found, observed)
    arithmetic_sqnr_db, weights_sqnr_db = channel_db(own, found), channel_db(trained, found)
    outlier_ratio = observed.outlier_ratio(graph, weighted)
    return replace(
        layer,
        arithmetic_sqnr_db=arithmetic_sqnr_db,
        weights_sqnr_db=weights_sqnr_db,
        cut_db=cut_db,
        excess=excess,
        lsb=lsb,
        outlier_ratio=outlier_ratio,
    )


def _again(
    graph: Graph, node: Node, source: Node | None, observed: RecordedActivations, constants: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(what a layer gives on what the file fed it, that): through the layer it is fused to, if it is."""
    inputs = {name: observed.read_by(source or node, name) for name in sources(graph, source or node)}
    if source is not None:
        inputs = {source.output: rerun(graph, source, inputs, constants)}
    return rerun(graph, node, inputs, constants), inputs


def _in_steps(
    node: Node, inputs: Mapping[str, np.ndarray], own: np.ndarray, found: np.ndarray, observed: RecordedActivations
) -> tuple[float | None, int | None]:
    """(the worst channel's noise as a multiple of rounding's, the largest difference in steps)."""
    steps = observed.steps(node.output)
    if steps is None or not own.size:
        return None, None
    apart = (found.astype(np.float64) - own) / steps
    if not np.isfinite(apart).all():
        return math.nan, None
    rows = apart.reshape(-1, apart.shape[-1])
    usual = np.full(rows.shape[1], 1 / 12) + _gate_noise(node, inputs, steps, observed)
    return float(np.sqrt(np.max(np.mean(rows**2, axis=0) / usual))), int(np.rint(np.abs(apart).max()))


def _gate_noise(
    node: Node, inputs: Mapping[str, np.ndarray], steps: np.ndarray, observed: RecordedActivations
) -> np.ndarray | float:
    """What rounding the gate of x * gate / 6 adds, or what a hard-sigmoid is cut from, as a variance f64[C] in the
    output's steps."""
    gate = observed.qparams(observed.gate_of(node.output) or "")
    if gate is None or node.op not in _FUSED:
        return 0.0
    if node.op == "hardsigmoid":
        return (float(gate.scale[0]) / steps) ** 2 / 12
    ((name, x),) = inputs.items()
    source = observed.qparams(name)
    if source is not None and gate.scale[0] == source.scale[0]:
        # It only clamps the integers.
        return 0.0
    power = np.mean(x.reshape(-1, x.shape[-1]).astype(np.float64) ** 2, axis=0)
    return power * (float(gate.scale[0]) / 6 / steps) ** 2 / 12


def _divergence(layer: LayerParity, before: float, tolerance: LayerTolerance) -> str:
    """Which part of a layer missed its tolerance; nan misses all."""
    if layer.arithmetic_sqnr_db is None or layer.weights_sqnr_db is None:
        dropped = not layer.sqnr_db >= before - _DROP_DB and not layer.sqnr_db >= tolerance.weights_sqnr_db
        return "drift" if dropped else ""
    if tolerance.excess is not None and layer.excess is not None:
        if not layer.excess <= tolerance.excess:
            return "arithmetic"
    elif not layer.arithmetic_sqnr_db >= tolerance.arithmetic_sqnr_db:
        return "arithmetic"
    return "" if layer.weights_sqnr_db >= tolerance.weights_sqnr_db and not layer.is_damaged else "constants"


def integers(values: np.ndarray, tensor: Tensor | None) -> np.ndarray:
    """What a file computed, as the Graph has it: uint8 that stands for int8 shifted back."""
    if values.dtype == np.uint8 and tensor is not None and tensor.dtype == "int8":
        return (values.astype(np.int16) - 128).astype(np.int8)
    return values
