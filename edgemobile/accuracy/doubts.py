"""What an accuracy that is too low may come from: the option to look at.

Nothing tells a resolution or a normalisation from the weights alone. Where one of them is assumed, others are tried on
a few labelled images, and one that is better beyond doubt is named.
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

# So many images tell 20 % from 90 %, and cost seconds.
TRIED_IMAGES = 64
_RESOLUTIONS_PX = (32, 64, 96, 128, 160, 224, 288)
_NORMALISATIONS = ("imagenet", "inception", "unit")
# Several are tried, so that one must be better by more than luck; with fewer images to win, none can be.
_P, _LEAST_WRONG = 0.001, 11
# Neighbouring resolutions are about as good; the user knows which of them it was.
_NAMED = 3

Labelled = tuple[np.ndarray, np.ndarray]  # images f32[N,px,px,3], labels i64[N]


def guessing(correct: int, truth: np.ndarray) -> str | None:
    """What to look at where answers are no better than guessing among the classes of `truth` i64[N]."""
    classes = len(np.unique(truth))
    if classes < 2 or wilson(correct, len(truth))[0] > 1 / classes:
        return None
    return (
        "no better than guessing; is the preprocessing right (--preprocess), the resolution (--res), and the order of "
        "the classes (--labels)?"
    )


def better_tried(model: Model, load: Callable[[Preprocess], Labelled]) -> str | None:
    """What is assumed of `model` and what it does far better with; None where nothing assumed is in doubt.

    `load` gives the same labelled images for any preprocessing.
    """
    tried = dict(_tried(model))
    if not tried:
        return None
    before = _right(model, *load(model.preprocess))
    if np.sum(~before) < _LEAST_WRONG:
        return None
    better = {}
    for option, preprocess in tried.items():
        # A net may take one resolution only.
        with suppress(EdgemobileError):
            right = _right(model, *load(preprocess))
            if right.mean() > before.mean() and mcnemar(before, right).p_exact < _P:
                better[option] = right.mean()
    if not better:
        return None
    best = sorted(better, key=lambda option: -better[option])[:_NAMED]
    said = ", ".join(f"{better[option]:.1%} with {option}" for option in best)
    return (
        f"PyTorch has {before.mean():.1%} of {len(before)} check images right as is assumed here, and {said}: "
        "give what it was trained with"
    )


def _tried(model: Model) -> Iterator[tuple[str, Preprocess]]:
    """(an option, what it would make of the preprocessing) in place of all that is assumed."""
    assumed, px = model.preprocess, model.preprocess.input_px
    if model.px_assumed:
        yield from ((f"--res {other}", at_resolution(assumed, other)) for other in _RESOLUTIONS_PX if other != px)
    if model.assumption is not None:
        port = Port("image", (1, 3, px, px), "float32", "NCHW")
        named = ((f"--preprocess {name}", chosen_preprocess(name, port, px, px)[0]) for name in _NORMALISATIONS)
        yield from ((option, other) for option, other in named if other != assumed)


def _right(model: Model, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which images PyTorch has right, bool[N]."""
    return model.logits(images).argmax(axis=1) == labels
