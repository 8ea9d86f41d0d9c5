"""Post-training quantization: Calibration (a float Graph and images) + Recipe -> int8 Graph.

The result follows the TFLite 8-bit specification: activations int8 asymmetric, weights int8 symmetric in [-127, 127],
bias int32 at scale_in * scale_weight. Every format is written from it, so the integers are the same in all formats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from edgemobile.errors import EdgemobileError
from edgemobile.graph import OPS, Graph, Node, Origin, QParams, Tensor
from edgemobile.graph.affine import FIXED_QPARAMS
from edgemobile.graph.affine import quantize as quantize_array
from edgemobile.graph.ir import unique_name, with_origins
from edgemobile.graph.origin import path_of
from edgemobile.graph.renaming import relabelled
from edgemobile.quant.adaround import adaround
from edgemobile.quant.bias_correction import correct_bias
from edgemobile.quant.calibration import Calibration, Ranges, calibrate
from edgemobile.quant.clip import clip
from edgemobile.quant.guards import dead_channels, silent_layers
from edgemobile.quant.hswish import is_gate
from edgemobile.quant.layerwise import LayerCorrection, correct_layers
from edgemobile.quant.qparams import (
    activation_qparams,
    at_least,
    bias_tensor,
    clamp_qparams,
    stepped_qparams,
    weight_qparams,
    weight_tensor,
)
from edgemobile.quant.recipe import DEFAULT, Recipe, Settings
from edgemobile.quant.refit import refit
from edgemobile.util.progress import Progress, Silent

__all__ = ["Quantized", "ptq", "qparams_of", "quantize"]

# A kernel multiplies its sum by less than 2^8 to get output integers, and LiteRT aborts if a file needs a larger
# multiplier. This limit leaves room for scales that change later. Only an output that hardly varies reaches it.
_MOST_STEPS = 2.0**6


@dataclass(frozen=True)
class Quantized:
    """An int8 graph, and `notes` for the user: what the guards found, and scales that had to be raised."""

    graph: Graph
    notes: tuple[str, ...]


def ptq(
    graph: Graph,
    batches: Iterable[np.ndarray],
    recipe: Recipe = DEFAULT,
    *,
    strict: bool = False,
    progress: Progress | None = None,
) -> Quantized:
    """Quantize `graph` to int8.

    `batches` are preprocessed images f32[N,H,W,C], in batches of any size. Raises EdgemobileError for an empty set, for
    values that are not finite and for a rule that matches no layer. Images that fail the checks of quant/guards.py
    raise it too if `strict`, and get a note if not.
    """
    return quantize(calibrate(graph, batches, strict=strict), recipe, progress=progress)


def quantize(calibration: Calibration, recipe: Recipe = DEFAULT, *, progress: Progress | None = None) -> Quantized:
    """Quantize the graph of `calibration` to int8 as the recipe says. Raises EdgemobileError for a rule that matches
    no layer, and for a recipe with trials: quant/trials.py chooses among them first."""
    if recipe.trials:
        raise EdgemobileError(
            f"recipe {recipe.name!r} has trials ({', '.join(recipe.trials)}): edgemobile.quant.trials.choose gives the "
            "recipe to quantize with"
        )
    progress = progress or Silent()
    batches = calibration.batches
    with progress.step("equalize channels"):
        prepared = calibration.prepared(recipe)
    form = prepared.graph
    with progress.step("calibrate", sum(map(len, batches))) as report:
        ranges = calibration.ranges(recipe, report)
    build = _Build(form, _activation_qparams(form, ranges), recipe)
    result = build.graph()
    notes = (*calibration.notes, *build.notes, *dead_channels(form), *silent_layers(form, ranges))
    if corrections := _layer_corrections(recipe):
        with progress.step("correct int8 layers") as report:
            result = correct_layers(form, result, batches, corrections, prepared.floors, report, recipe.layer_images)
    return Quantized(_equalized(result, prepared.factors), notes)


def qparams_of(calibration: Calibration, recipe: Recipe = DEFAULT) -> tuple[Graph, dict[str, QParams]]:
    """(the float graph that is rounded to int8, the QParams of each of its activations)."""
    form = calibration.prepared(recipe).graph
    return form, _activation_qparams(form, calibration.ranges(recipe))


def _layer_corrections(recipe: Recipe) -> list[LayerCorrection]:
    """The layer corrections of the recipe, in order."""
    corrections: list[LayerCorrection] = []
    if recipe.refit:
        corrections.append(partial(refit, strength=recipe.refit, pooled=recipe.refit_pooled))
    if recipe.clip_weights and any(rule.weights == "per_tensor" for rule in recipe.rules):
        corrections.append(clip)
    if recipe.adaround:
        corrections.append(adaround)
    if recipe.bias_correction:
        corrections.append(correct_bias)
    return corrections


# ---- scales ---------------------------------------------------------------------------------------------------------


def _activation_qparams(graph: Graph, ranges: Ranges) -> dict[str, QParams]:
    useful = {name: ranges[name] for name in graph.inputs}
    useful |= {node.output: _useful_range(graph, node, *ranges[node.output]) for node in graph.nodes}
    united = _united_qparams(graph, useful)
    qparams = {name: united.get(name) or activation_qparams(*useful[name]) for name in graph.inputs}
    for node in graph.nodes:
        if (shared := united.get(node.output)) is not None:
            wide = qparams[node.output] = at_least(shared, _unit(graph, node, qparams) / _MOST_STEPS)
            # All tensors that share these qparams get the wider step.
            for held in (united, qparams):
                held |= {name: wide for name, each in held.items() if each is shared}
        elif OPS[node.op].shares_qparams:
            qparams[node.output] = qparams[node.inputs[0]]
        elif node.op in FIXED_QPARAMS:
            # TFLite fixes these. onnxruntime accepts any qparams, including these.
            qparams[node.output] = FIXED_QPARAMS[node.op]
        elif is_gate(graph, node) and (clamped := clamp_qparams(qparams[node.inputs[0]], 3)):
            qparams[node.output] = clamped
        else:
            own = _own_qparams(graph, [node.output], *useful[node.output])
            qparams[node.output] = at_least(own, _unit(graph, node, qparams) / _MOST_STEPS)
    return qparams


def _own_qparams(graph: Graph, names: Iterable[str], low: float, high: float) -> QParams:
    """The qparams of tensors that share a range. If a gate reads one of them, 3 is a whole number of steps."""
    gated = any(is_gate(graph, reader) for name in names for reader in graph.consumers(name))
    return stepped_qparams(low, high, 3) if gated else activation_qparams(low, high)


def _united_qparams(graph: Graph, useful: Mapping[str, tuple[float, float]]) -> dict[str, QParams]:
    """Shared qparams for all tensors that a concatenation connects, wide enough for each of them. The outputs of
    sigmoid and tanh keep their own."""
    free = useful.keys() - {node.output for node in graph.nodes if node.op in FIXED_QPARAMS}
    groups: list[set[str]] = []
    for node in graph.nodes:
        if OPS[node.op].shares_qparams:
            tied = free & {*node.inputs, node.output}
            touched = [group for group in groups if group & tied]
            groups = [group for group in groups if not group & tied] + [tied.union(*touched)]
    united: dict[str, QParams] = {}
    concats = {node.output for node in graph.nodes if node.op == "concat"}
    for group in groups:
        if group & concats:
            lows, highs = zip(*(useful[name] for name in group), strict=True)
            united |= dict.fromkeys(group, _own_qparams(graph, group, min(lows), max(highs)))
    return united


def _unit(graph: Graph, node: Node, qparams: Mapping[str, QParams]) -> float:
    """The largest change of a node's output if an integer of its inputs changes by one."""
    if node.has_weights:
        step = float(qparams[node.inputs[0]].scale[0])
        weight, bias = (graph[name].data for name in node.inputs[1:])
        assert weight is not None
        assert bias is not None
        return step * float(weight_qparams(weight, bias, step).scale.max())
    steps = [float((qparams.get(name) or _constant_qparams(graph[name])).scale[0]) for name in node.inputs]
    return math.prod(steps) if node.op == "mul" else max(steps)


def _constant_qparams(constant: Tensor) -> QParams:
    """The qparams of a constant operand of an op such as add or mul."""
    assert constant.data is not None
    return activation_qparams(float(constant.data.min()), float(constant.data.max()))


def _useful_range(graph: Graph, node: Node, low: float, high: float) -> tuple[float, float]:
    """The part of a range that the following nodes can distinguish."""
    activation = node.attrs.get("activation", "")
    if is_gate(graph, node):
        return 0.0, 6.0
    if activation or node.op in ("relu", "relu6"):
        low = 0.0
    consumers = graph.consumers(node.output)
    clips = [np.clip((low, high), one.attrs["low"], one.attrs["high"]) for one in consumers if one.op == "clip"]
    if clips:
        # The output of a clip has the steps of its input, so its ends must be in the range.
        alone = len(clips) == len(consumers) and node.output not in graph.outputs
        bottom, top = float(min(ends[0] for ends in clips)), float(max(ends[1] for ends in clips))
        low, high = (bottom, top) if alone else (min(low, bottom), max(high, top))
    gates = [consumer for consumer in consumers if is_gate(graph, consumer)]
    if consumers and all(_gated(graph, node.output, consumer, gates) for consumer in consumers):
        # relu6(x + 3) is 0 below -3, exactly.
        low = max(low, -3.0)
        if len(gates) == len(consumers):
            high = min(high, 3.0)
    return low, high


def _gated(graph: Graph, name: str, consumer: Node, gates: list[Node]) -> bool:
    """Whether `consumer` reads `name` only through relu6(name + 3)."""
    if consumer in gates or consumer.op == "hardswish":
        return True
    return consumer.op == "mul" and any(gate.output in consumer.inputs for gate in gates)


def _equalized(graph: Graph, factors: Mapping[str, np.ndarray]) -> Graph:
    """`graph`, whose channels were multiplied by `factors` (tensor name -> f64[C]), with the factors in the origins and
    names of its tensors."""
    factors = {name: factor for name, factor in factors.items() if not np.allclose(factor, 1)}
    names = {name: unique_name(f"{name}.eq", graph.tensors) for name in factors}
    origins = {
        name: replace(graph[name].origin or Origin(name), channel_factors=tuple(factor.tolist()))
        for name, factor in factors.items()
    }
    return relabelled(replace(graph, tensors=with_origins(graph.tensors, origins)), names)


# ---- the int8 graph -------------------------------------------------------------------------------------------------


@dataclass
class _Build:
    """Builds the integer graph in one pass over the float graph. Adds quantize and dequantize nodes around the nodes
    that the recipe keeps in float."""

    form: Graph
    qparams: dict[str, QParams]
    recipe: Recipe
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def graph(self) -> Graph:
        for name in self.form.inputs:
            readers = self.form.consumers(name)
            self._put(name, quantized=not readers or not all(map(self._is_float, readers)))
        for node in self.form.nodes:
            if self._is_float(node):
                self._float_node(node)
            else:
                self._int8_node(node)
        outputs = tuple(self._as_int8(name) for name in self.form.outputs)
        tensors = with_origins(self.tensors, self.form.origins)
        return Graph(self.form.name, self.form.inputs, outputs, tuple(self.nodes), tensors)

    def _settings(self, node: Node) -> Settings:
        return self.recipe.settings(node.output, path_of(node.output, self.form[node.output].origin))

    def _is_float(self, node: Node) -> bool:
        return self._settings(node).precision == "float"

    def _put(self, name: str, *, quantized: bool, alias: str | None = None) -> str:
        shape, target = self.form[name].shape, alias or name
        self.tensors[target] = (
            Tensor(target, shape, "int8", qparams=self.qparams[name]) if quantized else Tensor(target, shape)
        )
        return target

    def _float_node(self, node: Node) -> None:
        inputs = tuple(self._as_float(name) for name in node.inputs)
        self._put(node.output, quantized=False)
        self.nodes.append(Node(node.op, inputs, node.output, node.attrs))

    def _int8_node(self, node: Node) -> None:
        inputs: tuple[str, ...]
        if node.has_weights:
            x = self._as_int8(node.inputs[0])
            inputs = (x, *self._weights(node, x))
        elif OPS[node.op].shares_qparams:
            inputs = tuple(self._in_steps_of(node.output, name) for name in node.inputs)
        else:
            inputs = tuple(self._as_int8(name) for name in node.inputs)
        self._put(node.output, quantized=True)
        self.nodes.append(Node(node.op, inputs, node.output, node.attrs))

    def _in_steps_of(self, output: str, name: str) -> str:
        """`name` in int8 with the qparams of `output`. They differ only if `name` is the output of a sigmoid or tanh
        that a concatenation reads; then it is requantized."""
        x, wanted = self._as_int8(name), self.qparams[output]
        if self.qparams[name].equals(wanted):
            return x
        alias = f"{name}.in.{output}"
        self.tensors[alias] = Tensor(alias, self.form[name].shape, "int8", qparams=wanted)
        self.nodes.append(Node("quantize", (x,), alias))
        return alias

    def _as_int8(self, name: str) -> str:
        data = self.form[name].data
        if data is not None:
            qparams = _constant_qparams(self.form[name])
            return self._constant(name, Tensor.constant(name, quantize_array(data, qparams, "int8"), qparams))
        if self.tensors[name].qparams is None:
            return self._cross(name, "quantize")
        return name

    def _as_float(self, name: str) -> str:
        data = self.form[name].data
        if data is not None:
            return self._constant(name, Tensor.constant(name, data))
        return name if self.tensors[name].qparams is None else self._cross(name, "dequantize")

    def _constant(self, name: str, tensor: Tensor) -> str:
        """Add a constant and return its name. A constant that is read in both precisions is added twice."""
        held = self.tensors.get(name)
        alias = name if held is None or held.dtype == tensor.dtype else f"{name}.{tensor.dtype}"
        self.tensors[alias] = replace(tensor, name=alias)
        return alias

    def _cross(self, name: str, op: str) -> str:
        alias = f"{name}.{op}d"
        if alias not in self.tensors:
            self._put(name, quantized=op == "quantize", alias=alias)
            self.nodes.append(Node(op, (name,), alias))
        return alias

    def _weights(self, node: Node, x: str) -> tuple[str, str]:
        weight_name, bias_name = node.inputs[1:]
        weight, bias = self.form[weight_name].data, self.form[bias_name].data
        assert weight is not None
        assert bias is not None
        input_qparams = self.tensors[x].qparams
        assert input_qparams is not None
        input_scale = float(input_qparams.scale[0])
        per_channel = self._settings(node).weights == "per_channel"
        qparams = weight_qparams(weight, bias, input_scale, per_channel=per_channel)
        if not per_channel and qparams.scale[0] > np.abs(weight).max() / 127 * 1.001:
            self.notes.append(
                f"{node.output}: the scale of the weights was raised, because a bias would have overflowed int32"
            )
        self.tensors[weight_name] = weight_tensor(weight_name, weight, qparams)
        self.tensors[bias_name] = bias_tensor(bias_name, bias, input_scale, qparams)
        return weight_name, bias_name
