"""Says in a few sentences which tensors make the noise of int8, why, and what can be done about it.

The noise that an activation puts into the logits is measured to first order (quant/noise.py), in two parts: values
inside its range are rounded, and values outside are clipped. Rounding hurts if one channel is much wider than the
others, because all channels share its step. Clipping hurts if the calibration images had smaller values.

The sum is a prediction for int8 activations with float weights, on images that calibration saw. The SQNR of the int8
graph itself is measured on held-out images, every fourth one.
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
from edgemobile.quant.sensitivity import PROBES, RANKED_IMAGES, weighted_errors
from edgemobile.quant.torch_graph import to_nhwc
from edgemobile.util.progress import Progress

if TYPE_CHECKING:
    import torch

__all__ = ["Cause", "Explanation", "explain"]

_LISTED = 3
_LEAST_IMAGES_TO_HOLD_OUT = 16
# The share of noise from clipping at which more images are advised, the ratio of channel widths that is mentioned, and
# the SQNR in dB at which about one answer in a hundred changes.
_MUCH_CLIPPED = 0.2
_WIDE = 2.0
_ENOUGH_DB = 30.0


@dataclass(frozen=True)
class Cause:
    """One activation, and why it is noisy.

    `share` is its share of the noise of all activations, and `cut` the share of its own noise that comes from values
    outside its range. `channel` is the channel with the most noise. `widest` is the width of the widest channel,
    divided by that of the median channel. `equalized`: whether its channels were rescaled.
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
        scaled = "its channels are equalized" if self.equalized else "its channels are not equalized"
        wide = f"; the widest channel spans {self.widest:.1f} times the median one" if self.widest >= _WIDE else ""
        cut = f"; {self.cut:.0%} of its noise is from values outside the range" if self.cut >= _MUCH_CLIPPED else ""
        return f"{self.path} ({self.op}, most in channel {self.channel}): {scaled}{wide}{cut}"


@dataclass(frozen=True)
class Explanation:
    """`causes` are all activations, the noisiest first. `sqnr_db` is the SQNR of the int8 logits, measured on `images`
    images; `held_out`: whether these were kept out of calibration. `activations_db` is the SQNR predicted for int8
    activations with float weights; `cut` is the share of that noise that comes from values outside the ranges. `done`
    and `left` say what the recipe did and what the user can still do."""

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
        named = self.causes[:_LISTED]
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
    """Why int8 is noisy with `recipe`.

    Every fourth calibration image is held out to measure on; with fewer than 16 images, all are used for calibration
    and for measuring. The causes are measured on the first 16 images that are not held out. `evaluate` gives the logits
    f32[N,classes] of a graph for images f32[N,H,W,C]; the default is the reference arithmetic, which is slow.
    """
    unseen = len(calibration.images) >= _LEAST_IMAGES_TO_HOLD_OUT
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
    for name, value, error in weighted_errors(backward, qparams):
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
    """Which values are more than half a step outside the range of int8."""
    scale, zero_point = float(qparams.scale[0]), int(qparams.zero_point[0])
    return (value < (-128.5 - zero_point) * scale) | (value > (127.5 - zero_point) * scale)


def _widest(value: torch.Tensor) -> float:
    """The width of the widest channel divided by that of the median one; 1 if all channels are zero."""
    rows = to_nhwc(value)
    rows = rows.reshape(-1, rows.shape[-1])
    width = rows.max(axis=0, initial=0) - rows.min(axis=0, initial=0)
    alive = width[width > 0]
    return float(alive.max() / np.median(alive)) if len(alive) else 1.0


def _op(graph: Graph, name: str) -> str:
    producer = graph.producer(name)
    return "input" if producer is None else producer.op


def _for_half(causes: tuple[Cause, ...]) -> int:
    """How many of the noisiest activations together make half of the noise."""
    reached = np.cumsum([cause.share for cause in causes])
    return int(np.searchsorted(reached, 0.5 * reached[-1])) + 1


def _done(recipe: Recipe, prepared: Prepared, tensors: int) -> str:
    """What the recipe did."""
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
    """What a user can still do; the advice that costs least comes first."""
    advice = []
    if cut >= _MUCH_CLIPPED:
        advice.append(
            f"more calibration images or --observer minmax ({cut:.0%} of the noise is from values outside the ranges)"
        )
    if measured_db >= _ENOUGH_DB:
        return (*advice, f"little: above {_ENOUGH_DB:.0f} dB about one answer in a hundred changes")
    gates = any(cause.op == "add" and not cause.equalized for cause in causes[:_LISTED])
    if recipe.hswish == "delegated" and recipe.split_gates != "all" and gates:
        advice.append("--split-gates all")
    if recipe.name not in ("best", "best-mixed"):
        advice.append("--recipe best, with real images")
    kept = [cause for cause in causes if cause.op != "input"][:_LISTED]
    if kept:
        options = " ".join(f"--keep-float '{cause.path}'" for cause in kept)
        without = _without(sum(cause.share for cause in kept), measured_db, activations_db)
        advice.append(f"{options} (about {without:.1f} dB), or --max-drop 1 --search")
    advice.append("edgemobile finetune --int8, which trains on the integers; or train with ReLU in place of hard-swish")
    return tuple(advice)


def _without(share: float, measured_db: float, activations_db: float) -> float:
    """The SQNR in dB without this share of the activations' noise. After a refit the real noise of the activations may
    be less than predicted, so it is taken as at most the measured noise."""
    measured, activations = (10 ** (-db / 10) for db in (measured_db, activations_db))
    rest = measured - share * min(measured, activations)
    return -10 * math.log10(rest) if rest > 0 else math.inf
