"""Guards: find what is wrong with calibration images or a graph, which would otherwise cost accuracy in silence.

Calibration on the wrong images still gives a file that runs. These checks see what the arrays alone show. They cannot
see that images differ from those that the model is used on; only accuracy can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgemobile.errors import EdgemobileError
from edgemobile.graph import Graph

__all__ = ["check_images", "dead_channels", "silent_layers"]

# Preprocessing brings pixels to a few deviations around zero. Raw pixels 0..255 are far above this.
_LARGEST_MEAN_SQUARE = 100.0
# Correlation of neighbouring pixels: 0 in white noise, above 0.8 in photographs, in between in synthetic images.
_LEAST_CORRELATION = 0.02
_LEAST_SIDE_PX = 16
_CHECKED_IMAGES = 64
# The number of layers that a note lists.
_LISTED = 3


def check_images(batches: Sequence[np.ndarray], *, strict: bool = True, largest: float = 0) -> list[str]:
    """Notes on what is wrong with preprocessed images f32[N,H,W,C] as a calibration set. `largest` is the largest value
    that the model's preprocessing can give, which may be that of raw pixels.

    Raises EdgemobileError for an empty set and for values that are not finite. Images that are of a single colour, all
    the same, not normalized, or noise get a note, or with `strict` an EdgemobileError.
    """
    if not sum(len(batch) for batch in batches):
        raise EdgemobileError(
            "the calibration set is empty: give at least one image, or leave the set out to synthesize images"
        )
    if not all(np.isfinite(batch).all() for batch in batches):
        raise EdgemobileError("the calibration images have values that are not finite; check the preprocessing")
    reason = _unusable(np.concatenate(batches)[:_CHECKED_IMAGES], max(_LARGEST_MEAN_SQUARE, largest**2))
    if reason and strict:
        raise EdgemobileError(
            f"the calibration images cannot be used: {reason}. Give images like those that the model will see, "
            "or --unchecked-calib to use these anyway"
        )
    return [f"calibration images: {reason}"] if reason else []


def _unusable(images: np.ndarray, most_power: float) -> str | None:
    deviations = images.reshape(len(images), -1).std(axis=1)
    if not (deviations > 1e-6).any():
        return "every one is a single colour"
    if len(images) > 1 and (images == images[0]).all():
        return "all are the same image"
    power = float(np.mean(np.square(images, dtype=np.float64)))
    if power > most_power:
        return f"their mean square is {power:.3g}, so they are not normalized (about 1 is usual; pixels 0..255?)"
    if min(images.shape[1:3]) >= _LEAST_SIDE_PX and _correlation(images) < _LEAST_CORRELATION:
        return "neighbouring pixels are not correlated, so they are noise"
    return None


def _correlation(images: np.ndarray) -> float:
    """The correlation of horizontal neighbours, over all images."""
    left, right = images[:, :, :-1].ravel(), images[:, :, 1:].ravel()
    return float(np.corrcoef(left, right)[0, 1])


def dead_channels(graph: Graph) -> list[str]:
    """One note on output channels whose weights are all zero, naming the layer with the largest share; or none."""
    dead: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        if node.has_weights:
            weight = graph[node.inputs[1]].data
            assert weight is not None
            dead[node.output] = np.all(weight.reshape(len(weight), -1) == 0, axis=1)
    total = sum(int(layer.sum()) for layer in dead.values())
    if not total:
        return []
    worst = max(dead, key=lambda layer: float(dead[layer].mean()))
    count, channels = dead[worst].sum(), len(dead[worst])
    return [
        f"dead channels, weights all zero: {total}, up to {count} of {channels} in a layer ({worst}); "
        "they cost size, not accuracy"
    ]


def silent_layers(graph: Graph, ranges: Mapping[str, tuple[float, float]]) -> list[str]:
    """One note on layers whose output was always zero by `ranges`; or none."""
    layers = [node.output for node in graph.nodes if node.has_weights]
    found = [name for name in layers if ranges[name] == (0.0, 0.0)]
    return [f"zero on every calibration image, so their scale is a guess: {_first_few(found)}"] if found else []


def _first_few(names: Sequence[str]) -> str:
    rest = f", and {len(names) - _LISTED} more layers" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + rest
