"""Which tensors cost the most: what quantizing each alone would do to the logits, and what keeping some in float buys.

The noise a tensor puts there is measured by a few backward passes (quant/noise.py), with the errors it really has.
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

__all__ = ["PROBES", "RANKED_IMAGES", "Cost", "Found", "moved", "rank", "search"]

RANKED_IMAGES = 16
PROBES = 4
# Nodes that a search keeps in float at most.
_MOST_FLOAT = 16


@dataclass(frozen=True)
class Cost:
    """What one tensor alone costs: the SQNR in dB of logits with only it in int8, and its share of all noise.

    `tensor` is the name of the node that makes it, or of the graph's input.
    """

    tensor: str
    sqnr_db: float
    share: float


@dataclass(frozen=True)
class Found:
    """What a search ended with: the recipe, what it gives, and what was paid: the nodes kept in float.

    On the images searched on: `agreement` is the share whose top-1 is that of float, `drop` what int8 loses of top-1 in
    points, None where the labels are not known.
    """

    recipe: Recipe
    quantized: Quantized
    kept_float: tuple[str, ...]
    sqnr_db: float
    agreement: float
    drop: float | None = None


def rank(calibration: Calibration, recipe: Recipe = DEFAULT) -> list[Cost]:
    """Every activation as the recipe would quantize it, the highest cost first.

    The noise is measured on the first 16 of the calibration's images.
    """
    form, qparams = qparams_of(calibration, recipe)
    backward = Backward(form, calibration.images[:RANKED_IMAGES])
    noise = dict.fromkeys(backward.values, 0.0)
    for name, _, error in moved(backward, qparams):
        noise[name] += float((error.flatten(1).sum(1).double() ** 2).sum()) / PROBES
    signal, total = float((backward.logits.detach().double() ** 2).sum()), sum(noise.values())
    return [
        Cost(name, 10 * math.log10(signal / power) if power and signal else math.inf, power / total if total else 0.0)
        for name, power in sorted(noise.items(), key=lambda item: -item[1])
    ]


def moved(backward: Backward, qparams: Mapping[str, QParams]) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """(name, value, the error of int8 times the gradient) of every activation, `PROBES` times.

    The sum of the last over an image is what the tensor alone adds to a random sum of the logits.
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
    """Keep the nodes of the highest cost in float, one more at a time, until int8 loses no more than `max_drop`.

    The loss is on `images` f32[N,H,W,C] that calibration has not seen, with `labels` i64[N], in points of top-1;
    without labels the images on which float and int8 differ count as lost, since no more can be. `evaluate` gives the
    logits f32[N,classes] of a graph: by default the reference arithmetic, which is slow. Raises EdgemobileError where
    16 nodes are not enough, with what they reach.
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
        f"with {len(found.kept_float)} nodes in float int8 loses {lost:.2f} points, more than {max_drop:g}; the logits "
        f"reach {found.sqnr_db:.1f} dB and agree on {found.agreement:.1%} of {len(images)} images. Raise --max-drop"
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
