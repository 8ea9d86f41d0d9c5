"""Tries changes of a recipe that help only some nets, one after the other, on held-out calibration images.

    chosen = choose(calibration, RECIPES["best"])
    quantize(calibration, chosen.recipe)                                # quant/ptq.py, on all images

Each trial changes the best recipe so far and quantizes with three of every four calibration images. The change is kept
if the logits of the other images are closer to float's. The result is a recipe without trials, which gives the same
integers again and does not depend on the time limit.

"together" tries several changes at once: few images say little about the gain of a single one. "float-stem" keeps the
first two layers in float, which make a third of the noise of a v3-small. It must gain more than the others, because
the two formats no longer have the same integers: their float layers add in another order, and a value between two
integers may be rounded up in one and down in the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgemobile.errors import EdgemobileError
from edgemobile.graph import Graph
from edgemobile.graph.interpreter import run_real
from edgemobile.metrics.measures import sqnr_db
from edgemobile.quant.calibration import Calibration, held_out
from edgemobile.quant.ptq import quantize
from edgemobile.quant.recipe import TRIALS, Recipe, Rule
from edgemobile.util.progress import Report, unheard

__all__ = ["MINUTES", "Chosen", "Trial", "choose", "with_float_stem"]

MINUTES = 10.0
# The least gain in dB of a trial that is kept. A smaller gain on a few dozen images may be a loss on others.
_WORTH_DB = 0.1
_FLOAT_WORTH_DB = 0.5
_FEWEST_IMAGES = 16
# The stem and the depthwise layer after it: both have large tensors and few multiplications.
_FLOAT_LAYERS = 2

# The fields that each trial changes. Its rules come before the recipe's own, which override them.
_MORE_IMAGES: Mapping[str, Any] = {"gradient_images": 64, "layer_images": 128, "refit_pooled": False}
_CHANGES: dict[str, Mapping[str, Any]] = {
    "together": _MORE_IMAGES,
    "gradient-images": {"gradient_images": 64},
    "mse": {"rules": (Rule(observer="mse"),)},
    "layer-images": {"layer_images": 128},
    "refit-pooled": {"refit_pooled": False},
    "adaround": {"adaround": True},
}
_FLOAT_STEM = "float-stem"
assert {*_CHANGES, _FLOAT_STEM} == set(TRIALS)


@dataclass(frozen=True)
class Trial:
    """One trial: the SQNR in dB of the held-out logits with its change, None if there was no time for it, and whether
    the change is kept."""

    name: str
    sqnr_db: float | None
    kept: bool

    def __str__(self) -> str:
        if self.sqnr_db is None:
            return f"{self.name} not tried (no time left)"
        return f"{self.name} {self.sqnr_db:.1f} dB{' kept' if self.kept else ''}"


@dataclass(frozen=True)
class Chosen:
    """The result: `recipe` without trials, and `first_db`, the SQNR in dB before the `trials`. All are measured on the
    logits of `images` held-out images."""

    recipe: Recipe
    images: int
    first_db: float
    trials: tuple[Trial, ...]

    def __str__(self) -> str:
        tried = ", ".join(map(str, self.trials))
        return f"recipe {self.recipe.name}, on {self.images} held-out images: {self.first_db:.1f} dB; {tried}"


def choose(
    calibration: Calibration,
    recipe: Recipe,
    *,
    minutes: float = MINUTES,
    evaluate: Callable[[Graph, np.ndarray], np.ndarray] = run_real,
    progress: Report = unheard,
) -> Chosen:
    """The recipe with those of its trials that raise the SQNR of held-out logits by at least 0.1 dB.

    Every fourth calibration image is held out. `evaluate` gives the logits f32[N,classes] of a graph for images
    f32[N,H,W,C]; the default is the reference arithmetic, which is slow. After `minutes` no further trial starts.
    A trial that would change nothing is left out, and "float-stem" must raise the SQNR by 0.5 dB.
    Raises EdgemobileError for fewer than 16 images.
    """
    if len(calibration.images) < _FEWEST_IMAGES:
        raise EdgemobileError(
            f"recipe {recipe.name!r} is chosen on held-out calibration images: at least {_FEWEST_IMAGES} are needed, "
            f"found {len(calibration.images)}. Give more, or another recipe"
        )
    deadline = time.monotonic() + 60 * minutes
    seen, images = held_out(calibration)
    reference = evaluate(calibration.graph, images)

    def reached(candidate: Recipe) -> float:
        return sqnr_db(reference, evaluate(quantize(seen, candidate).graph, images))

    best = replace(recipe, trials=())
    first_db = best_db = reached(best)
    trials: list[Trial] = []
    for name in recipe.trials:
        progress(len(trials), len(recipe.trials))
        if time.monotonic() >= deadline:
            trials.append(Trial(name, None, kept=False))
            continue
        candidate = _changed(best, name, calibration.graph)
        if candidate == best:
            continue
        found_db = reached(candidate)
        kept = found_db >= best_db + (_FLOAT_WORTH_DB if name == _FLOAT_STEM else _WORTH_DB)
        trials.append(Trial(name, found_db, kept))
        if kept:
            best, best_db = candidate, found_db
    return Chosen(best, len(images), first_db, tuple(trials))


def _changed(recipe: Recipe, trial: str, graph: Graph) -> Recipe:
    if trial == _FLOAT_STEM:
        # Other targets than CPUs, for which the recipe has no delegated hard-swish, may have no float arithmetic.
        return with_float_stem(recipe, graph) if recipe.hswish == "delegated" else recipe
    changes = dict(_CHANGES[trial])
    rules = tuple(rule for rule in changes.pop("rules", ()) if rule not in recipe.rules)
    return replace(recipe, rules=(*rules, *recipe.rules), **changes)


def with_float_stem(recipe: Recipe, graph: Graph) -> Recipe:
    """`recipe` with rules that keep the first two layers of the float `graph`, and the ops between them, in float."""
    layers = [index for index, node in enumerate(graph.nodes) if node.has_weights][:_FLOAT_LAYERS]
    first = graph.nodes[: layers[-1] + 1] if layers else ()
    return replace(recipe, rules=(*recipe.rules, *(Rule(node.output, precision="float") for node in first)))
