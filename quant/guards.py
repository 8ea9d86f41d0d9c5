"""Guards: what is wrong with calibration images or a graph, said before it costs accuracy in silence.

Calibration on the wrong images still gives a file that runs. What the arrays alone show is refused here; a set that is
merely unlike the model's own is not, since only accuracy can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from edgemobile.errors import EdgemobileError
from edgemobile.graph import Graph, QParams

__all__ = ["check_images", "dead_channels", "note_on_channels", "raised_scales"]

# Preprocessing brings pixels to a few deviations around zero; 0..255 left as they are do not fit.
_LARGEST_MEAN_SQUARE = 100.0
# Correlation of neighbouring pixels: white noise 0, photographs above 0.8, synthesised images in between.
_LEAST_CORRELATION = 0.02
_LEAST_SIDE_PX = 16
_LOOKED_AT = 64
# Layers that a note names; a trained net can have weak channels in twenty.
_NAMED = 3


def check_images(batches: Sequence[np.ndarray], *, strict: bool = True) -> list[str]:
    """What is wrong with preprocessed images f32[N,H,W,C] as a calibration set, as notes.

    Raises EdgemobileError for an empty set and for values that are not finite; with `strict` also in place of a note:
    for images that are constant, all the same, not normalised, or noise.
    """
    if not sum(len(batch) for batch in batches):
        raise EdgemobileError("the calibration set is empty: give at least one image, or none to synthesise them")
    if not all(np.isfinite(batch).all() for batch in batches):
        raise EdgemobileError("the calibration images hold values that are not finite; check the preprocessing")
    reason = _unusable(np.concatenate(batches)[:_LOOKED_AT])
    if reason and strict:
        raise EdgemobileError(
            f"the calibration images cannot calibrate: {reason}. Give images of what the model is for, "
            "or --unchecked-calib to use these all the same"
        )
    return [f"calibration images: {reason}"] if reason else []


def _unusable(images: np.ndarray) -> str | None:
    deviations = images.reshape(len(images), -1).std(axis=1)
    if not (deviations > 1e-6).any():
        return "every one is a single colour"
    if len(images) > 1 and (images == images[0]).all():
        return "all are the same image"
    power = float(np.mean(np.square(images, dtype=np.float64)))
    if power > _LARGEST_MEAN_SQUARE:
        return f"their mean square is {power:.3g}, so they are not normalised (about 1 is usual; pixels 0..255?)"
    if min(images.shape[1:3]) >= _LEAST_SIDE_PX and _correlation(images) < _LEAST_CORRELATION:
        return "neighbouring pixels have nothing in common, so they are noise"
    return None


def _correlation(images: np.ndarray) -> float:
    """The correlation of horizontal neighbours, over all images."""
    left, right = images[:, :, :-1].ravel(), images[:, :, 1:].ravel()
    return float(np.corrcoef(left, right)[0, 1])


def dead_channels(graph: Graph) -> list[str]:
    """A note on layers with output channels whose weights are all zero: they are constant."""
    found = []
    for node in graph.nodes:
        if node.op in ("conv2d", "linear"):
            weight = graph[node.inputs[1]].data
            assert weight is not None
            dead = int(np.count_nonzero(~weight.reshape(len(weight), -1).any(axis=1)))
            found.append((node.output, dead, len(weight)))
    return note_on_channels("all weights zero, which makes a channel constant", found)


def raised_scales(weight: np.ndarray, qparams: QParams) -> int:
    """How many channels of f32[C,...] have a larger scale than their weights need: int32 holds the bias only so."""
    peaks = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    own = np.maximum(peaks, peaks.max() if qparams.axis is None else 0) / 127
    return int(np.count_nonzero(qparams.scale > own * 1.001))


def note_on_channels(what: str, layers: Iterable[tuple[str, int, int]]) -> list[str]:
    """One note on (layer, channels concerned, channels), the largest shares by name; none where none is concerned."""
    concerned = sorted((layer for layer in layers if layer[1]), key=lambda layer: -layer[1] / layer[2])
    if not concerned:
        return []
    named = ", ".join(f"{count} of {channels} channels of {name}" for name, count, channels in concerned[:_NAMED])
    rest = len(concerned) - _NAMED
    return [f"{what}: {named}" + (f", and fewer of {rest} more layer{'s' * (rest > 1)}" if rest > 0 else "")]
