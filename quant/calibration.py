"""The statistics of a graph on calibration images, stored so that a second recipe need not run the images again.

    calibration = calibrate(graph, batches)
    quantize(calibration, recipe), quantize(calibration, another)      # quant/ptq.py

Most statistics depend on the form of the graph that a recipe makes: the gates that it splits and the factors of the
channels decide which values the activations have. So statistics are stored under the fields of the recipe that they
depend on. Recipes that differ only in their float layers, granularity, corrections or headroom share all of them.
Another observer needs one more forward pass. Layer correction compares whole activations of float and int8, so it runs
the images each time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgemobile.errors import EdgemobileError, require
from edgemobile.graph import Graph
from edgemobile.graph.origin import path_of
from edgemobile.quant.equalize import equalizable, equalize, rescaled
from edgemobile.quant.guards import check_images
from edgemobile.quant.hardswish_gates import GATES, highest_cost, split_gates
from edgemobile.quant.hswish import integer_form
from edgemobile.quant.noise import Channels, above, observe_channels
from edgemobile.quant.observers import OBSERVERS, Observer
from edgemobile.quant.recipe import DEFAULT, Recipe
from edgemobile.quant.torch_graph import TorchGraph, to_nhwc
from edgemobile.util.progress import Report, unheard
from edgemobile.util.torch_threads import torch_threads

__all__ = [
    "Calibration",
    "Prepared",
    "Ranges",
    "Statistics",
    "calibrate",
    "held_out",
    "is_held_out",
    "refuse_unmatched",
]

# Activation name -> (low, high) of its range.
Ranges = Mapping[str, tuple[float, float]]
# Fields of the recipe, and then the names of the hard-swishes that stay whole.
_FormKey = tuple[str | float, ...]


@dataclass(frozen=True)
class Prepared:
    """A float graph that is ready for int8: the same function, in a form that suits integers.

    `gates`: the convolutions whose gates were split. `factors`: tensor name -> f64[C], the factors that its channels
    were multiplied by. `floors`: tensor name -> f64[C]; every reader of the tensor treats lower values as this one.
    """

    graph: Graph
    gates: tuple[str, ...]
    factors: Mapping[str, np.ndarray]
    floors: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, whole: Graph, gates: Iterable[str], factors: Mapping[str, np.ndarray]) -> Prepared:
        """`whole`, the integer form of a graph, with these `gates` split and its channels multiplied by `factors`."""
        wanted = set(gates)
        form, split = split_gates(whole, lambda node: node.output in wanted)
        floors = {name: floor * factors.get(name, 1.0) for name, floor in _floors(form, split).items()}
        return cls(rescaled(form, factors), tuple(split), factors, floors)


@dataclass(frozen=True)
class Statistics:
    """The statistics computed so far, by the recipe fields that they depend on.

    `channels`: (form of hard-swish, split gates, number of images for gradients, the hard-swishes that stay whole) ->
    (the channels of every activation, the sum of an image's squared logits). `prepared`: the fields that decide the
    prepared graph -> that graph. `ranges`: (those fields, the observer of every activation) -> the ranges.
    """

    channels: dict[tuple[str | int, ...], tuple[Mapping[str, Channels], float]] = field(default_factory=dict)
    prepared: dict[_FormKey, Prepared] = field(default_factory=dict)
    ranges: dict[tuple[_FormKey, tuple[tuple[str, str], ...]], Ranges] = field(default_factory=dict)


@dataclass(frozen=True)
class Calibration:
    """A float `graph`, the preprocessed calibration images f32[N,H,W,C] in `batches`, and their statistics.

    `calibrate` makes one and checks the images; `notes` says what is wrong with them. `statistics` grows with each
    recipe that needs new ones. quant/calibration_file.py writes and reads a calibration.
    """

    graph: Graph
    batches: tuple[np.ndarray, ...]
    notes: tuple[str, ...] = ()
    statistics: Statistics = field(default_factory=Statistics, repr=False)

    @property
    def images(self) -> np.ndarray:
        """All of them, f32[N,H,W,C]."""
        return np.concatenate(self.batches)

    def prepared(self, recipe: Recipe = DEFAULT) -> Prepared:
        """The integer form of the graph, with gates split and channels equalized as the recipe says."""
        refuse_unmatched(recipe, self.graph)
        key = _form_key(recipe, self.graph)
        if key not in self.statistics.prepared:
            self.statistics.prepared[key] = self._prepare(recipe)
        return self.statistics.prepared[key]

    def ranges(self, recipe: Recipe = DEFAULT, report: Report = unheard) -> Ranges:
        """The range of every activation of the prepared graph, with the recipe's headroom.

        `report` is called with the number of images done.
        """
        prepared = self.prepared(recipe)
        observers = _observers(prepared.graph, recipe)
        key = (_form_key(recipe, self.graph), tuple(observers.items()))
        if key not in self.statistics.ranges:
            self.statistics.ranges[key] = _observe(prepared, observers, self.batches, report)
        return _with_headroom(prepared.graph, self.statistics.ranges[key], recipe)

    @torch_threads(1)
    def _prepare(self, recipe: Recipe) -> Prepared:
        kept = _whole_hardswishes(recipe, self.graph)
        whole = integer_form(self.graph, recipe.hswish, kept)
        by_cost = recipe.split_gates == "highest_cost" and recipe.equalize > 0
        gates = "all" if by_cost else recipe.split_gates
        form, split = split_gates(whole, lambda node: GATES[gates](whole, node))
        if not recipe.equalize:
            return Prepared.of(whole, split, {})
        seen = (recipe.hswish, gates, recipe.gradient_images, *kept)
        if seen not in self.statistics.channels:
            floors = _floors(form, split)
            self.statistics.channels[seen] = observe_channels(form, self.images, floors, recipe.gradient_images)
        observed, signal = self.statistics.channels[seen]
        channels = {**observed, **{name: observed[name].unrounded() for name in _around(self.graph, kept)}}
        factors = equalize(form, channels, recipe.equalize, by_noise=recipe.noise_optimal_scaling)
        if not by_cost:
            return Prepared.of(whole, split, factors)
        worth = highest_cost(form, split, equalizable(form), channels, factors, signal)
        form, split = split_gates(whole, lambda node: node.output in worth)
        return Prepared.of(whole, split, {name: factors[name] for group in equalizable(form) for name in group})


def calibrate(graph: Graph, batches: Iterable[np.ndarray], *, strict: bool = False, largest: float = 0) -> Calibration:
    """A Calibration of `graph` on preprocessed images f32[N,H,W,C], in batches of any size. `largest` is the largest
    value that the preprocessing can give; 0 means that images are normalized as usual.

    Nothing is computed until a recipe needs it. Raises EdgemobileError for an empty set and for values that are not
    finite. Images that fail the checks of quant/guards.py raise it too if `strict`, and get a note if not.
    """
    batches = tuple(batches)
    return Calibration(graph, batches, tuple(check_images(batches, strict=strict, largest=largest)))


def held_out(calibration: Calibration) -> tuple[Calibration, np.ndarray]:
    """(a calibration on three of every four images, the other images f32[N,H,W,C]), to evaluate on unseen images."""
    images = calibration.images
    held = is_held_out(len(images))
    rest, size = images[~held], max(map(len, calibration.batches))
    batches = tuple(rest[start : start + size] for start in range(0, len(rest), size))
    return Calibration(calibration.graph, batches, calibration.notes), images[held]


def is_held_out(count: int) -> np.ndarray:
    """bool[count]: which of `count` images are held out, every fourth one."""
    return np.arange(count) % 4 == 3


def refuse_unmatched(recipe: Recipe, graph: Graph) -> None:
    """Raises EdgemobileError for a rule that matches no layer of the float `graph`."""
    form = integer_form(graph, recipe.hswish)
    names = [name for node in form.nodes for name in (node.output, path_of(node.output, form[node.output].origin))]
    unmatched = recipe.unmatched(names)
    if unmatched:
        example = next(node.output for node in graph.nodes if node.op == "conv2d")
        raise EdgemobileError(
            f"recipe {recipe.name!r} has a rule for {unmatched[0]!r}, which matches no layer. "
            f"A layer's name looks like {example}"
        )


def _form_key(recipe: Recipe, graph: Graph) -> _FormKey:
    """What decides the prepared graph."""
    scaled = recipe.hswish, recipe.split_gates, float(recipe.equalize), recipe.noise_optimal_scaling
    return *scaled, recipe.gradient_images, *_whole_hardswishes(recipe, graph)


def _whole_hardswishes(recipe: Recipe, graph: Graph) -> tuple[str, ...]:
    """The hard-swishes that the recipe keeps in float: one op is faster there than the integer form."""
    if recipe.hswish != "delegated":
        return ()
    names = (node.output for node in graph.nodes if node.op == "hardswish")
    return tuple(
        name for name in names if recipe.settings(name, path_of(name, graph[name].origin)).precision == "float"
    )


def _around(graph: Graph, hardswishes: Iterable[str]) -> set[str]:
    """The inputs and outputs of these hard-swishes, which are float."""
    makers = (graph.producer(name) for name in hardswishes)
    return {name for node in makers if node is not None for name in (*node.inputs, node.output)}


def _floors(graph: Graph, split: Sequence[str]) -> dict[str, np.ndarray]:
    """hardswish(x) is 0 below -3, exactly."""
    return {name: np.full(graph[name].shape[-1], -3.0) for name in split}


# ---- ranges ---------------------------------------------------------------------------------------------------------


def _observers(graph: Graph, recipe: Recipe) -> dict[str, str]:
    """The name of the observer of every activation."""
    found = {}
    for name in (*graph.inputs, *(node.output for node in graph.nodes)):
        path = path_of(name, graph[name].origin)
        found[name] = recipe.settings(name, path, is_output=name in graph.outputs).observer
    return found


@torch_threads(1)
def _observe(
    prepared: Prepared, chosen: Mapping[str, str], batches: Sequence[np.ndarray], report: Report
) -> dict[str, tuple[float, float]]:
    """The range of every activation over the batches; `chosen` has the observer of each."""
    observers: dict[str, Observer] = {name: OBSERVERS[observer]() for name, observer in chosen.items()}

    def watch(name: str, value: Any) -> Any:
        observers[name].update(above(to_nhwc(value), prepared.floors.get(name)))
        return value

    torch = require("torch", "export")
    network, images = TorchGraph(prepared.graph), 0
    with torch.no_grad():
        for batch in batches:
            network(batch, watch)
            images += len(batch)
            report(images)
    return {name: observer.range() for name, observer in observers.items()}


def _with_headroom(graph: Graph, seen: Ranges, recipe: Recipe) -> Ranges:
    ranges = dict(seen)
    for wide, headroom in ((set(graph.outputs), recipe.output_headroom), (_squeezed(graph), recipe.squeeze_headroom)):
        for name in wide:
            low, high = ranges[name]
            ranges[name] = low * headroom, high * headroom
    return ranges


def _squeezed(graph: Graph) -> set[str]:
    """The activations inside squeeze-and-excites, from the mean of each channel to the factor that multiplies it."""
    found = set()
    for node in graph.nodes:
        if node.op == "mul" and math.prod(graph[node.output].shape[1:-1]) > 1:
            for name in node.inputs:
                producer = graph.producer(name)
                while producer is not None and math.prod(graph[producer.output].shape[1:-1]) == 1:
                    found.add(producer.output)
                    producer = graph.producer(producer.inputs[0])
    return found
