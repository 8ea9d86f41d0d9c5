"""Sensitivity: how much noise each tensor adds to the logits if it alone is quantized, and a search for the tensors to
keep in float.

The noise of a tensor is measured by a few backward passes (quant/noise.py), with its actual rounding errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgemobile.errors import EdgemobileError
from edgemobile.graph import Graph, QParams
from edgemobile.graph.interpreter import run_real
from edgemobile.metrics.measures import sqnr_db, top1_agree
from edgemobile.quant.calibration import Calibration
from edgemobile.quant.layerwise import fake_quantized
from edgemobile.quant.noise import Backward
from edgemobile.quant.ptq import Quantized, qparams_of, quantize
from edgemobile.quant.recipe import DEFAULT, Recipe, Rule
from edgemobile.util.progress import Report, unheard

if TYPE_CHECKING:
    import torch

__all__ = ["PROBES", "RANKED_IMAGES", "Cost", "Found", "rank", "search", "weighted_errors"]

RANKED_IMAGES = 16
PROBES = 4
# The most nodes that a search keeps in float.
_MOST_FLOAT = 16


@dataclass(frozen=True)
class Cost:
    """The sensitivity of one tensor: `sqnr_db` of the logits with only this tensor in int8, and its share of all noise.

    `tensor` is the name of the node that makes it, or of the graph's input.
    """

    tensor: str
    sqnr_db: float
    share: float


@dataclass(frozen=True)
class Found:
    """The result of a search: the recipe, the int8 graph, and the names of the nodes that stay in float.

    Measured on the images of the search: `sqnr_db`; `agreement`, the share of images with the same top-1 as float; and
    `drop`, the loss of top-1 in points, None if there are no labels.
    """

    recipe: Recipe
    quantized: Quantized
    kept_float: tuple[str, ...]
    sqnr_db: float
    agreement: float
    drop: float | None = None


def rank(calibration: Calibration, recipe: Recipe = DEFAULT) -> list[Cost]:
    """The cost of every activation, quantized as the recipe says; the highest cost is first.

    The noise is measured on the first 16 calibration images.
    """
    form, qparams = qparams_of(calibration, recipe)
    backward = Backward(form, calibration.images[:RANKED_IMAGES])
    noise = dict.fromkeys(backward.values, 0.0)
    for name, _, error in weighted_errors(backward, qparams):
        noise[name] += float((error.flatten(1).sum(1).double() ** 2).sum()) / PROBES
    signal, total = float((backward.logits.detach().double() ** 2).sum()), sum(noise.values())
    return [
        Cost(name, 10 * math.log10(signal / power) if power and signal else math.inf, power / total if total else 0.0)
        for name, power in sorted(noise.items(), key=lambda item: -item[1])
    ]


def weighted_errors(
    backward: Backward, qparams: Mapping[str, QParams]
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """(name, value, the error of int8 times the gradient) of every activation, `PROBES` times.

    The sum of the last over an image is the change of a sum of the logits with random signs, if only this tensor is in
    int8.
    """
    for name, value, gradient in backward.gradients(PROBES):
        yield name, value, gradient * (fake_quantized(value, qparams[name]) - value)


def search(
    calibration: Calibration,
    recipe: Recipe = DEFAULT,
    *,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    max_drop: float,
    evaluate: Callable[[Graph, np.ndarray], np.ndarray] = run_real,
    progress: Report = unheard,
) -> Found:
    """Keep the nodes with the highest cost in float, one more at a time, until int8 loses at most `max_drop`.

    The loss is in points of top-1, on `images` f32[N,H,W,C] that calibration has not seen, with `labels` i64[N].
    Without labels, every image on which float and int8 differ counts as lost, which is an upper bound. `evaluate` gives
    the logits f32[N,classes] of a graph; the default is the reference arithmetic, which is slow. Raises EdgemobileError
    if 16 nodes are not enough, with the loss that they reach.
    """
    graph = calibration.graph
    reference = evaluate(graph, images)
    highest_cost = [cost.tensor for cost in rank(calibration, recipe) if cost.tensor not in graph.inputs]
    for count in range(min(_MOST_FLOAT, len(highest_cost)) + 1):
        found = _with_float(calibration, recipe, highest_cost[:count], evaluate, images, reference, labels)
        lost = 100 * (1 - found.agreement) if found.drop is None else found.drop
        if lost <= max_drop:
            return found
        progress(count + 1)
    raise EdgemobileError(
        f"with {len(found.kept_float)} nodes in float, int8 loses {lost:.2f} points, more than {max_drop:g}. The "
        f"logits reach {found.sqnr_db:.1f} dB, and {found.agreement:.1%} of {len(images)} images get the same answer "
        "as in float. Raise --max-drop"
    )


def _with_float(
    calibration: Calibration,
    recipe: Recipe,
    kept: Sequence[str],
    evaluate: Callable[[Graph, np.ndarray], np.ndarray],
    images: np.ndarray,
    reference: np.ndarray,
    labels: np.ndarray | None,
) -> Found:
    mixed = replace(recipe, rules=(*recipe.rules, *(Rule(name, precision="float") for name in kept)))
    quantized = quantize(calibration, mixed)
    logits = evaluate(quantized.graph, images)
    drop = None
    if labels is not None:
        drop = 100 * float(np.mean(reference.argmax(1) == labels) - np.mean(logits.argmax(1) == labels))
    return Found(mixed, quantized, tuple(kept), sqnr_db(reference, logits), top1_agree(reference, logits), drop)
