"""The scores of a model on a device for images read on this machine: `edgemobile eval --on`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgemobile.accuracy.classifier import Classifier
from edgemobile.devices.host.profiles import Device
from edgemobile.devices.host.remote_inference import InferenceStats, remote_inference
from edgemobile.devices.host.transport import Transport
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.preprocess import Preprocess
from edgemobile.util.progress import Report

__all__ = ["ReadPart", "RemoteScores", "score_on"]

# (the images read, i64[n]; f32[n,px,px,3] for each preprocessing; (name, reason) of the others)
ReadPart = tuple[np.ndarray, Mapping[Preprocess, np.ndarray], list[tuple[str, str]]]


@dataclass
class RemoteScores:
    """`kept` i64[n], `skipped` and `scores` f32[n,outputs] have one entry per part.

    `inference_s` is the time on the device, 0 under emulation; `runtime` is the runtime there.
    """

    kept: list[np.ndarray]
    skipped: list[list[tuple[str, str]]]
    scores: list[np.ndarray]
    inference_s: float
    runtime: str


def score_on(
    device: Device,
    transport: Transport,
    classifier: Classifier,
    parts: Iterable[ReadPart],
    threads: int,
    report: Report,
) -> RemoteScores:
    """Stream the images of all parts through the device. `report` gets the number of images scored.

    Raises Unsupported for files that no device runs, EdgemobileError if its outputs are not those of the file.
    """
    runtime, file = classifier.session.runtime, classifier.model_file
    if file is None:
        raise Unsupported(f"{classifier.file} is a checkpoint; a device runs .onnx and .tflite files. Export it first")
    result, told = RemoteScores([], [], [], 0.0, runtime), InferenceStats(runtime)

    def images() -> Iterator[np.ndarray]:
        for kept, arrays, skipped in parts:
            result.kept.append(kept)
            result.skipped.append(skipped)
            if len(kept):
                yield arrays[classifier.preprocess]

    scores: list[np.ndarray] = []
    for logits in remote_inference(device, transport, file, images(), runtime, threads, told):
        if logits.shape[1] != classifier.outputs:
            raise EdgemobileError(
                f"{device.name} returned {logits.shape[1]} outputs for {classifier.file}, which has "
                f"{classifier.outputs}"
            )
        scores.append(logits)
        report(sum(map(len, scores)))
    nothing, waiting = np.zeros((0, classifier.outputs), np.float32), iter(scores)
    result.scores = [next(waiting) if len(kept) else nothing for kept in result.kept]
    result.runtime, result.inference_s = told.runtime, told.inference_s
    return result
