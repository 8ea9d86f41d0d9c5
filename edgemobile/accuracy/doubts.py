"""Finds the likely cause of an accuracy that is too low: the option to check.

A resolution or a normalization cannot be found from the weights alone. If one of them is assumed, others are tried on
a few labelled images, and a significantly better one is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np

from edgemobile.accuracy.statistics import mcnemar, wilson
from edgemobile.devices.runtimes.sessions import Port
from edgemobile.errors import EdgemobileError
from edgemobile.loading.model import Model
from edgemobile.loading.presets import chosen_preprocess
from edgemobile.preprocess import Preprocess, at_resolution

__all__ = ["TRIED_IMAGES", "better_tried", "guessing"]

# This many images distinguish 20 % from 90 %, and take seconds.
TRIED_IMAGES = 64
_RESOLUTIONS_PX = (32, 64, 96, 128, 160, 224, 288)
_NORMALISATIONS = ("imagenet", "inception", "unit")
# Several are tried, so one must be better by more than chance; with fewer images, none can be.
_P, _LEAST_WRONG = 0.001, 11
# Similar resolutions are about equally good; the user knows which one was used.
_NAMED = 3

Labelled = tuple[np.ndarray, np.ndarray]  # images f32[N,px,px,3], labels i64[N]


def guessing(correct: int, truth: np.ndarray) -> str | None:
    """What to check if the answers are no better than guessing among the classes of `truth` i64[N]."""
    classes = len(np.unique(truth))
    if classes < 2 or wilson(correct, len(truth))[0] > 1 / classes:
        return None
    return (
        "no better than guessing; is the preprocessing right (--preprocess), the resolution (--res), and the order of "
        "the classes (--labels)?"
    )


def better_tried(model: Model, load: Callable[[Preprocess], Labelled]) -> str | None:
    """The assumptions about `model`, and options with which it is far better; None if no assumption is in doubt.

    `load` returns the same labelled images for any preprocessing.
    """
    tried = dict(_tried(model))
    if not tried:
        return None
    before = _correct(model, *load(model.preprocess))
    if np.sum(~before) < _LEAST_WRONG:
        return None
    better = {}
    for option, preprocess in tried.items():
        # A net may accept only one resolution.
        with suppress(EdgemobileError):
            correct = _correct(model, *load(preprocess))
            if correct.mean() > before.mean() and mcnemar(before, correct).p_exact < _P:
                better[option] = correct.mean()
    if not better:
        return None
    best = sorted(better, key=lambda option: -better[option])[:_NAMED]
    listed = ", ".join(f"{better[option]:.1%} with {option}" for option in best)
    return (
        f"{model.reference} classifies {before.mean():.1%} of {len(before)} check images correctly with the assumed "
        f"values, and {listed}: "
        "set the values that it was trained with"
    )


def _tried(model: Model) -> Iterator[tuple[str, Preprocess]]:
    """(an option, the preprocessing with it) for alternatives to all assumptions."""
    assumed, px = model.preprocess, model.preprocess.input_px
    if model.px_assumed:
        yield from ((f"--res {other}", at_resolution(assumed, other)) for other in _RESOLUTIONS_PX if other != px)
    if model.assumption is not None:
        port = Port("image", (1, 3, px, px), "float32", "NCHW")
        named = ((f"--preprocess {name}", chosen_preprocess(name, port, px, px)[0]) for name in _NORMALISATIONS)
        yield from ((option, other) for option, other in named if other != assumed)


def _correct(model: Model, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which images the model classifies correctly, bool[N]."""
    return model.rows(images).argmax(axis=1) == labels
