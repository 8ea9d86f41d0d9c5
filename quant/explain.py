"""Where the noise of int8 is, why it is there, and what can be done about it: `rank`, in a few sentences.

The noise that an activation puts into the logits is measured to first order (quant/noise.py), in two parts: of values
inside its range, which are rounded, and of values outside, which are cut. Rounding hurts where one channel is much
wider than the others, because all share its step; cutting hurts where the calibration images reached less far.

The sum of these is a prediction for activations alone, on images that calibration saw. What int8 really has, with its
weights and on other images, is measured: every fourth image is held out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgemobile.graph import Graph, QParams
from edgemobile.graph.interpreter import run_real
from edgemobile.graph.origin import path_of
from edgemobile.metrics.measures import sqnr_db
from edgemobile.quant.calibration import Calibration, Prepared, held_out
from edgemobile.quant.noise import Backward
from edgemobile.quant.ptq import qparams_of, quantize
from edgemobile.quant.recipe import DEFAULT, Recipe
from edgemobile.quant.sensitivity import PROBES, RANKED_IMAGES, moved
from edgemobile.quant.torch_graph import to_nhwc
from edgemobile.util.progress import Progress

if TYPE_CHECKING:
    import torch

__all__ = ["Cause", "Explanation", "explain"]

_NAMED = 3
_HELD_OUT_FROM = 16
# What is said: a share of noise worth more images, a ratio of widths worth a word, and the SQNR in dB from which about
# one answer in a hundred changes.
_MUCH_CUT = 0.2
_WIDE = 2.0
_ENOUGH_DB = 30.0


@dataclass(frozen=True)
class Cause:
    """One activation and why it is noisy.

    `share` is its share of the noise of all activations, and `cut` the share of its own noise that comes from values
    outside its range. `channel` has the largest part of its noise; the widest channel spans `widest` times what the
    median one does. `equalized`: its channels could be rescaled, and were.
    """

    tensor: str
    path: str
    op: str
    share: float
    cut: float
    channel: int
    widest: float
    equalized: bool

    def __str__(self) -> str:
        scaled = "its channels are equalized" if self.equalized else "nothing rescales its channels"
        wide = f"; the widest channel spans {self.widest:.1f} times the median one" if self.widest >= _WIDE else ""
        cut = f"; {self.cut:.0%} of its noise is values outside the range" if self.cut >= _MUCH_CUT else ""
        return f"{self.path} ({self.op}, most in channel {self.channel}): {scaled}{wide}{cut}"


@dataclass(frozen=True)
class Explanation:
    """`causes` are all activations, the noisiest first. `sqnr_db` is what the logits have in int8, measured on `images`
    images, of which `held_out` says whether calibration did not see them. `activations_db` is predicted for int8
    activations with float weights; `cut` is the share of that noise which comes from values outside their range."""

    causes: tuple[Cause, ...]
    sqnr_db: float
    images: int
    held_out: bool
    activations_db: float
    cut: float
    done: str
    left: tuple[str, ...]

    def lines(self) -> list[str]:
        """About five lines of text."""
        named = self.causes[:_NAMED]
        parts = ", ".join(f"{cause.path} {cause.share:.0%}" for cause in named)
        count = _for_half(self.causes)
        return [
            f"Where: int8 has {self.sqnr_db:.1f} dB on {self.images} {'held-out' if self.held_out else 'calibration'} "
            f"images, its activations alone about {self.activations_db:.1f} dB; half of their noise is from {count} of "
            f"{len(self.causes)} tensors: {parts}",
            *(f"Why: {cause}" for cause in named[:2]),
            f"Done: {self.done}",
            f"Left: {'; '.join(self.left)}",
        ]


def explain(
    calibration: Calibration,
    recipe: Recipe = DEFAULT,
    *,
    evaluate: Callable[[Graph, np.ndarray], np.ndarray] = run_real,
    progress: Progress | None = None,
) -> Explanation:
    """Why int8 by `recipe` is noisy.

    Every fourth image of the calibration is held out and measured on; with fewer than 16, all are used for both. The
    causes are measured on the first 16 others. `evaluate` gives the logits f32[N,classes] of a graph for images
    f32[N,H,W,C]: by default the reference arithmetic, which is slow.
    """
    unseen = len(calibration.images) >= _HELD_OUT_FROM
    if unseen:
        calibration, images = held_out(calibration)
    else:
        images = calibration.images
    int8 = quantize(calibration, recipe, progress=progress).graph
    measured_db = sqnr_db(evaluate(calibration.graph, images), evaluate(int8, images))
    form, qparams = qparams_of(calibration, recipe)
    prepared = calibration.prepared(recipe)
    backward = Backward(form, calibration.images[:RANKED_IMAGES])
    noise = dict.fromkeys(backward.values, 0.0)
    outside = dict.fromkeys(backward.values, 0.0)
    by_channel: dict[str, np.ndarray] = {}
    for name, value, error in moved(backward, qparams):
        noise[name] += _power(error)
        outside[name] += _power(error * _is_outside(value, qparams[name]))
        rows = to_nhwc(error)
        of_channels = np.square(rows.reshape(len(rows), -1, rows.shape[-1]).sum(axis=1, dtype=np.float64)).sum(axis=0)
        by_channel[name] = by_channel.get(name, 0.0) + of_channels
    total = sum(noise.values())
    signal = PROBES * float(backward.logits.detach().double().square().sum())
    causes = tuple(
        Cause(
            name,
            path_of(name, form[name].origin),
            _op(form, name),
            noise[name] / total if total else 0.0,
            min(1.0, outside[name] / noise[name]) if noise[name] else 0.0,
            int(by_channel[name].argmax()),
            _widest(backward.values[name]),
            name in prepared.factors,
        )
        for name in sorted(noise, key=lambda name: -noise[name])
    )
    cut = sum(cause.share * cause.cut for cause in causes)
    activations_db = 10 * math.log10(signal / total) if total and signal else math.inf
    done = _done(recipe, prepared, len(noise))
    left = _left(recipe, form, causes, measured_db, activations_db, cut)
    return Explanation(causes, measured_db, len(images), unseen, activations_db, cut, done, left)


def _power(error: torch.Tensor) -> float:
    return float(error.flatten(1).sum(1).double().square().sum())


def _is_outside(value: torch.Tensor, qparams: QParams) -> torch.Tensor:
    """Where a value is more than half a step outside the range of int8."""
    scale, zero_point = float(qparams.scale[0]), int(qparams.zero_point[0])
    return (value < (-128.5 - zero_point) * scale) | (value > (127.5 - zero_point) * scale)


def _widest(value: torch.Tensor) -> float:
    """The width of the widest channel over that of the median one; 1 where there is one channel or all are zero."""
    rows = to_nhwc(value)
    rows = rows.reshape(-1, rows.shape[-1])
    width = rows.max(axis=0, initial=0) - rows.min(axis=0, initial=0)
    alive = width[width > 0]
    return float(alive.max() / np.median(alive)) if len(alive) else 1.0


def _op(graph: Graph, name: str) -> str:
    producer = graph.producer(name)
    return "input" if producer is None else producer.op


def _for_half(causes: tuple[Cause, ...]) -> int:
    """How many of the noisiest together make half of the noise."""
    reached = np.cumsum([cause.share for cause in causes])
    return int(np.searchsorted(reached, 0.5 * reached[-1])) + 1


def _done(recipe: Recipe, prepared: Prepared, tensors: int) -> str:
    """What the recipe does, with what came of it."""
    split = len(prepared.floors)
    methods: Mapping[str, object] = {
        f"{len(prepared.factors)} of {tensors} tensors equalized": prepared.factors,
        f"{split} hard-swish gate{'' if split == 1 else 's'} split": split,
        "weights refitted": recipe.refit,
        "weights rounded by AdaRound": recipe.adaround,
        "biases corrected": recipe.bias_correction,
    }
    return ", ".join(said for said, used in methods.items() if used) or "nothing"


def _left(
    recipe: Recipe, form: Graph, causes: tuple[Cause, ...], measured_db: float, activations_db: float, cut: float
) -> tuple[str, ...]:
    """What a user can still do, the cheapest first."""
    advice = []
    if cut >= _MUCH_CUT:
        advice.append(f"more calibration images or --observer minmax ({cut:.0%} of the noise is values outside ranges)")
    if measured_db >= _ENOUGH_DB:
        return (*advice, f"little: above {_ENOUGH_DB:.0f} dB about one answer in a hundred changes")
    gates = any(cause.op == "add" and not cause.equalized for cause in causes[:_NAMED])
    if recipe.hswish == "delegated" and recipe.split_gates != "all" and gates:
        advice.append("--split-gates all")
    if recipe.name != "best":
        advice.append("--recipe best, with real images")
    kept = [cause for cause in causes if cause.op != "input"][:_NAMED]
    if kept:
        options = " ".join(f"--keep-float '{cause.path}'" for cause in kept)
        without = _without(sum(cause.share for cause in kept), measured_db, activations_db)
        advice.append(f"{options} (about {without:.1f} dB), or --max-drop 1 --search")
    advice.append("edgemobile finetune --int8, which trains on the integers; or train with ReLU in place of hard-swish")
    return tuple(advice)


def _without(share: float, measured_db: float, activations_db: float) -> float:
    """The SQNR in dB without this share of the activations' noise; a refit leaves less of it than predicted."""
    measured, activations = (10 ** (-db / 10) for db in (measured_db, activations_db))
    rest = measured - share * min(measured, activations)
    return -10 * math.log10(rest) if rest > 0 else math.inf
