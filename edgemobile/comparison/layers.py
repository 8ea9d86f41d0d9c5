"""Measures the error that each layer of a file adds by itself.

Noise accumulates through a net, so a tensor that differs from the reference's does not show which layer is wrong.
Therefore each layer of the reference is run again on the inputs that it has in the file:

    drift       the file's tensor against the reference's: the accumulated error
    own         the file's tensor against the reference layer with the file's inputs and constants: arithmetic
    constants   the same with the reference's constants: arithmetic and weights

The file diverges at the first layer whose own or constants part misses the tolerance. If a layer cannot be run again, a
sudden drop of the drift's SQNR counts instead.

A layer that the file computes in one op with the hard-sigmoid after it is compared together with the hard-sigmoid.

Intended changes of a tensor in int8 are undone first: its Origin states them (graph/origin.py). Differences that
relu6(x + 3) removes are not compared.
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

# Ops that a file may compute in one op with the layer before it; a hard-swish only by mistake.
_FUSED = ("hardsigmoid", "hardswish")
# Below this, relu6(x + 3) and its product with x are 0.
_HSWISH_FLOOR = -3.0
# If the drift's SQNR drops by more than this across one layer, that layer is the cause.
_DROP_DB = 12.0
# Rounding and a recipe's refit change many weights: the largest difference is up to 2.5 times the eighth largest. A
# flip of bit 5 is 32 steps, and rounding at most half a step.
_MOST_OUTLIER_RATIO, _OUTLIER_RANK = 6.0, 8
# A tensor counts as another form of the same computation if this many layers after it match this much better.
_LAYERS_AFTER, _RECOVERED_DB = 3, 20.0


@dataclass(frozen=True)
class LayerParity:
    """The comparison of one layer. `sqnr_db`, `max_abs` and `cosine` are of the drift; `arithmetic_sqnr_db` and
    `weights_sqnr_db` are of the worst channel, None if the layer cannot be run again.

    Only for int8: `excess` is the noise as a multiple of the noise of rounding to the output's integers, `lsb` is the
    largest difference in steps, and `cut_db` is the SQNR with saturation as the only error. `outlier_ratio` compares
    the largest difference of a weight with others (RecordedActivations.outlier_ratio). `diverges_in` is the part that
    missed its tolerance: "arithmetic", "constants" or "drift"; "" if none did.

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
        """Whether one weight is an outlier; a correct file has none."""
        return self.outlier_ratio is not None and self.outlier_ratio > _MOST_OUTLIER_RATIO


@dataclass(frozen=True)
class RecordedActivations:
    """The tensors of a file after a run, by the Graph's tensor names.

    `values` are its activations in NHWC: f32 or int8 (uint8 is converted). `tensors` has its constants and the QParams
    of its activations. `origins`: tensor name -> its tensor in the reference, and what was done to it; tensors without
    an entry have the reference's name. `renamed`: the name here -> the file's own, if the file has other names.
    `unknown`: reference tensor -> why the file has no matching one. `inputs`: (reference layer, its input) -> that
    input's values as the file's layer reads them, if they differ from `values`. `rounding`: the reference layers that
    round their inputs for each image. `unsigned` are the constants stored as uint8.
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
            # A multiple takes precedence over the tensor it is divided to, because layers read the multiple; else the
            # first tensor does.
            ordered = sorted(names, key=self._is_multiple, reverse=True)
            paths = {path_of(name, self.origins.get(name)): name for name in reversed(ordered)}
            object.__setattr__(self, key, paths)
        object.__setattr__(self, "_gates", {origin.of: name for name, origin in self.origins.items() if origin.gate})

    def _is_multiple(self, name: str) -> bool:
        origin = self.origins.get(name)
        return origin is not None and origin.factor != 1

    def name_of(self, path: str) -> str | None:
        """The name in this file of a reference tensor."""
        names: Mapping[str, str] = self._activations  # type: ignore[attr-defined]
        return names.get(path)

    def gate_of(self, path: str) -> str | None:
        """The name in this file of relu6(x + 3) of a reference hard-swish, or of the tensor that its hard-sigmoid
        clamps."""
        names: Mapping[str, str] = self._gates  # type: ignore[attr-defined]
        return names.get(path)

    def problem(self, path: str) -> str:
        """Why a reference tensor cannot be compared; "" if it can."""
        name = self.name_of(path)
        if name is None or name not in self.values:
            return self.unknown.get(path, "the file has no tensor of this name")
        factors, shape = self.multiple(path), self.values[name].shape
        if len(factors) not in (1, *shape[-1:]):
            factors_of = f"{len(factors)} channel factors for {name}, whose shape is {list(shape)}"
            return f"the file's metadata has {factors_of}; export it again"
        return ""

    def qparams(self, name: str) -> QParams | None:
        return self.tensors[name].qparams if name in self.tensors else None

    def multiple(self, path: str) -> np.ndarray:
        """The factors f64[C] or f64[1] by which this file's tensor is a multiple of the reference's."""
        origin = self.origins.get(self.name_of(path) or "")
        return np.ones(1) if origin is None else np.atleast_1d(origin.channel_factors or 1.0) * origin.factor

    def real(self, path: str) -> np.ndarray:
        """The file's values f32 of a reference tensor, in the reference's units."""
        name = self.name_of(path)
        assert name is not None
        return (self._real(name) / self.multiple(path)).astype(np.float32)

    def read_by(self, node: Node, path: str) -> np.ndarray:
        """The file's values f32 of a reference tensor, as the file's layer for `node` reads them."""
        values = self.inputs.get((node.output, path))
        values = self.real(path) if values is None else values
        return rounded(values) if node.output in self.rounding else values

    def _real(self, name: str) -> np.ndarray:
        array, qparams = self.values[name], self.qparams(name)
        return array if qparams is None or array.dtype.kind == "f" else dequantize(array, qparams)

    def steps(self, path: str) -> np.ndarray | None:
        """The step f64[C or 1] of a tensor's integers, in the reference's units; None for a float tensor."""
        name = self.name_of(path)
        qparams = None if name is None else self.qparams(name)
        return None if qparams is None else float(qparams.scale[0]) / self.multiple(path)

    def representable(self, path: str, values: np.ndarray) -> np.ndarray:
        """`values`, clipped to the range of this tensor's integers."""
        name = self.name_of(path)
        qparams = None if name is None else self.qparams(name)
        if qparams is None or name is None:
            return values
        info = np.iinfo(self.tensors[name].dtype)
        low, high = (np.array([info.min, info.max]) - qparams.zero_point[0]) * float(qparams.scale[0])
        multiple = self.multiple(path)
        return np.clip(values, low / multiple, high / multiple).astype(np.float32)

    def constants(self, graph: Graph, node: Node) -> dict[str, np.ndarray]:
        """The file's weight and bias f32 for a reference layer, in the reference's units."""
        found = {}
        for position, name in enumerate(node.inputs[1:] if node.has_weights else ()):
            stored = self._constant(name, graph[name].shape)
            if stored is not None and stored.data is not None:
                real = dequantize(stored.data, stored.qparams) if stored.qparams else stored.data
                units = self._units(node, stored, is_bias=position == 1)
                found[name] = ((real - self.added(stored.name)) * units).astype(np.float32)
        return found

    def outlier_ratio(self, graph: Graph, node: Node) -> float | None:
        """The largest difference between a weight and the reference's, divided by the eighth largest (at least one
        step, for rounding). The difference of a damaged number is far larger than all others; a recipe changes many
        weights by similar amounts.

        inf if all other weights are equal; None without weights.
        """
        weight = self.weight(graph, node)
        if weight is None or weight[1].size < 2:
            return None
        stored, right, _ = weight
        assert stored.data is not None
        differences = np.abs(stored.data.astype(np.float64) - right).ravel()
        if not np.isfinite(differences).all():
            return math.inf
        largest, second, *others = np.sort(differences)[: -_OUTLIER_RANK - 1 : -1].tolist()
        if stored.qparams is not None:
            return largest / max((second, *others)[-1], 1.0)
        return math.inf if largest and not second else 0.0

    def weight(self, graph: Graph, node: Node) -> tuple[Tensor, np.ndarray, np.ndarray] | None:
        """(the layer's weight as stored in the file, the reference's weight f64 in the file's steps, the size of a step
        in the reference's units, to broadcast); None for other nodes, or if the file has no weight of this shape."""
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
        """A layer's bias as stored in the file."""
        return self._constant(node.inputs[2], graph[node.inputs[2]].shape) if node.has_weights else None

    def _units(self, node: Node, stored: Tensor, *, is_bias: bool) -> np.ndarray:
        """The factors that convert a layer's constant to the reference's units. The file has weight * of_output /
        of_input and bias * of_output, with the multiples of the layer's input and output."""
        of_input, of_output = self.multiple(node.inputs[0]), self.multiple(node.output)
        if is_bias:
            return 1 / of_output
        outputs, *middle, inputs = stored.shape
        flat = (1,) * len(middle)
        if of_input.size > 1:
            of_input = of_input[_columns(node, outputs, inputs)].reshape(outputs, *flat, inputs)
        return of_input / of_output.reshape(-1, *flat, 1)

    def constant_name(self, name: str) -> str | None:
        """The name in this file of a reference constant."""
        names: Mapping[str, str] = self._constants  # type: ignore[attr-defined]
        return names.get(name)

    def added(self, stored: str) -> float:
        """The number added to a constant of the file: 3 for a bias that includes the 3 of a hard-sigmoid, else 0."""
        origin = self.origins.get(stored)
        return 0.0 if origin is None else origin.added

    def _constant(self, name: str, shape: tuple[int, ...]) -> Tensor | None:
        """The file's constant; None if it has none of this shape."""
        stored = self.constant_name(name)
        tensor = None if stored is None else self.tensors.get(stored)
        return tensor if tensor is not None and tensor.is_constant and tensor.shape == shape else None


def _columns(node: Node, outputs: int, inputs: int) -> np.ndarray:
    """The input channel i64[O,I] that weight column i of output channel o reads: those of its group."""
    groups = node.attrs.get("groups", 1)
    return (np.arange(outputs) // (outputs // groups) * inputs)[:, None] + np.arange(inputs)


def sources(graph: Graph, node: Node) -> list[str]:
    """The activations that a node reads."""
    return [name for name in dict.fromkeys(node.inputs) if not graph[name].is_constant]


def is_fused(graph: Graph, node: Node, observed: RecordedActivations) -> bool:
    """Whether a file computes a layer in one op with its only reader, a hard-sigmoid (quant/hswish.py)."""
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
    """The SQNR in dB of the worst channel [..., C]. The signal power of a channel counts as at least the average.

    inf for identical or empty inputs, nan if either is not finite.
    """
    if not reference.size:
        return math.inf
    reference, other = (array.astype(np.float64).reshape(-1, array.shape[-1]) for array in (reference, other))
    noise, signal = np.mean((reference - other) ** 2, axis=0), np.mean(reference**2, axis=0)
    if not np.isfinite(noise).all():
        return math.nan
    at_least_mean = np.maximum(signal, signal.mean())
    ratios = [power / error if error else math.inf for power, error in zip(at_least_mean, noise, strict=True)]
    worst = float(min(ratios))
    return 10 * math.log10(worst) if 0 < worst < math.inf else -math.inf if worst == 0 else math.inf


def compare_layers(
    graph: Graph, reference: Mapping[str, np.ndarray], observed: RecordedActivations, tolerance: LayerTolerance
) -> tuple[list[LayerParity], list[tuple[str, str]]]:
    """(the input and the layers of the reference that are in the file, the others with the reason).

    `reference` has every value of `graph` in NHWC for the images that the file ran on.
    """
    layers = [_compare_input(graph.inputs[0], reference[graph.inputs[0]], observed)]
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
            shapes = f"its shape is {list(found.shape[1:])}, expected {list(expected.shape[1:])}"
            unmatched.append((node.output, shapes))
            continue
        layer = LayerParity(
            node.output, node.op, sqnr_db(expected, found), max_abs(expected, found), cosine(expected, found)
        )
        layer = _with_own_error(graph, node, observed, layer)
        # If the inputs of a layer are not known, use the layer before it.
        before = min((sqnr[name] for name in node.inputs if name in sqnr), default=layers[-1].sqnr_db)
        sqnr[node.output] = layer.sqnr_db
        macs, inputs = _work(graph, node, fused)
        layers.append(replace(layer, diverges_in=_divergence(layer, before, tolerance), macs=macs, inputs=inputs))
    if observed.renamed:
        layers, others = _without_equivalent_forms(layers)
        unmatched += others
    return layers, unmatched


def _work(graph: Graph, node: Node, fused: Mapping[str, Node]) -> tuple[int, tuple[str, ...]]:
    """(MACs of a layer, the activations it reads), including those of the layers that are compared together with it."""
    macs, inputs = graph.macs(node), list[str]()
    for name in node.inputs:
        if name in fused:
            more, names = _work(graph, fused[name], fused)
            macs, inputs = macs + more, [*inputs, *names]
        elif not graph[name].is_constant:
            inputs.append(name)
    return macs, tuple(inputs)


def _compare_input(name: str, images: np.ndarray, observed: RecordedActivations) -> LayerParity:
    """The input, compared like a layer: in int8 it also has a range."""
    if observed.problem(name) or observed.real(name).shape != images.shape:
        return LayerParity(name, "input", math.inf, 0.0, 1.0)
    seen = observed.real(name)
    quantized = observed.steps(name) is not None
    cut_db = sqnr_db(images, observed.representable(name, images)) if quantized else None
    return LayerParity(name, "input", sqnr_db(images, seen), max_abs(images, seen), cosine(images, seen), cut_db=cut_db)


def _without_equivalent_forms(layers: list[LayerParity]) -> tuple[list[LayerParity], list[tuple[str, str]]]:
    """(the layers without those that only seem to diverge because the file computes them in another form, those).

    For example, a third-party converter may move an addition of 3 into a bias: that tensor differs, but the next ones
    match again. After a real error the next ones do not match.
    """
    kept, others = [], []
    for index, layer in enumerate(layers):
        after = [later.sqnr_db for later in layers[index + 1 : index + 1 + _LAYERS_AFTER]]
        if layer.diverges_in and after and min(after) > layer.sqnr_db + _RECOVERED_DB:
            others.append((layer.name, "the file computes it in another form: the layers after it match again"))
        else:
            kept.append(layer)
    return kept, others


def first_diverging(layers: Sequence[LayerParity]) -> LayerParity | None:
    """The first layer that diverges; None if none does."""
    return next((layer for layer in layers if layer.diverges_in), None)


def _comparable(
    graph: Graph, node: Node, expected: np.ndarray, observed: RecordedActivations
) -> tuple[np.ndarray, np.ndarray]:
    """(the reference's values, the file's values) of a tensor; in int8 clipped to the range that its readers use."""
    found = observed.real(node.output)
    if observed.steps(node.output) is None:
        return expected, found
    low, high = _range_in_use(graph, node)
    return np.clip(expected, low, high), np.clip(found, low, high)


def _range_in_use(graph: Graph, node: Node) -> tuple[float, float]:
    """The limits beyond which the readers of a tensor ignore its values."""
    kinds = {reader.op for reader in graph.consumers(node.output)}
    low = _HSWISH_FLOOR if kinds and kinds <= {"hardswish", "hardsigmoid"} else -math.inf
    return low, 3.0 if kinds == {"hardsigmoid"} else math.inf


def _with_own_error(graph: Graph, node: Node, observed: RecordedActivations, layer: LayerParity) -> LayerParity:
    """`layer` with the error that it adds by itself, if all its inputs were observed."""
    source = fused_to(graph, node, observed)
    if any(map(observed.problem, sources(graph, source or node))) or graph[node.output].qparams is not None:
        return layer
    found, weighted = observed.real(node.output), source or node
    constants = observed.constants(graph, weighted)
    trained, inputs = _rerun_layer(graph, node, source, observed, {})
    differ = any(not np.array_equal(data, np.asarray(graph[name].data)) for name, data in constants.items())
    own = _rerun_layer(graph, node, source, observed, constants)[0] if differ else trained
    if own.shape != found.shape:
        return layer
    useful = np.clip(own, *_range_in_use(graph, node))
    cut = np.clip(observed.representable(node.output, own), *_range_in_use(graph, node))
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


def _rerun_layer(
    graph: Graph, node: Node, source: Node | None, observed: RecordedActivations, constants: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(the output of the reference layer on the file's inputs, those inputs), through the layer it is fused to, if
    any."""
    inputs = {name: observed.read_by(source or node, name) for name in sources(graph, source or node)}
    if source is not None:
        inputs = {source.output: rerun(graph, source, inputs, constants)}
    return rerun(graph, node, inputs, constants), inputs


def _in_steps(
    node: Node, inputs: Mapping[str, np.ndarray], own: np.ndarray, found: np.ndarray, observed: RecordedActivations
) -> tuple[float | None, int | None]:
    """(the worst channel's noise as a multiple of rounding noise, the largest difference in steps)."""
    steps = observed.steps(node.output)
    if steps is None or not own.size:
        return None, None
    differences = (found.astype(np.float64) - own) / steps
    if not np.isfinite(differences).all():
        return math.nan, None
    rows = differences.reshape(-1, differences.shape[-1])
    usual = np.full(rows.shape[1], 1 / 12) + _gate_noise(node, inputs, steps, observed)
    return float(np.sqrt(np.max(np.mean(rows**2, axis=0) / usual))), int(np.rint(np.abs(differences).max()))


def _gate_noise(
    node: Node, inputs: Mapping[str, np.ndarray], steps: np.ndarray, observed: RecordedActivations
) -> np.ndarray | float:
    """The noise from rounding the gate of x * gate / 6, or the tensor that a hard-sigmoid clamps: its variance f64[C]
    in the output's steps."""
    gate = observed.qparams(observed.gate_of(node.output) or "")
    if gate is None or node.op not in _FUSED:
        return 0.0
    if node.op == "hardsigmoid":
        return (float(gate.scale[0]) / steps) ** 2 / 12
    ((name, x),) = inputs.items()
    source = observed.qparams(name)
    if source is not None and gate.scale[0] == source.scale[0]:
        # The gate is the clamped integers of x, so nothing was rounded.
        return 0.0
    power = np.mean(x.reshape(-1, x.shape[-1]).astype(np.float64) ** 2, axis=0)
    return power * (float(gate.scale[0]) / 6 / steps) ** 2 / 12


def _divergence(layer: LayerParity, before: float, tolerance: LayerTolerance) -> str:
    """Which part of a layer missed its tolerance; "" if none did. nan misses every tolerance."""
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
    """A file's values in the Graph's dtype: uint8 that represents int8 is shifted back."""
    if values.dtype == np.uint8 and tensor is not None and tensor.dtype == "int8":
        return (values.astype(np.int16) - 128).astype(np.int8)
    return values
