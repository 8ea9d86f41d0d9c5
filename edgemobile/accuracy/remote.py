"""What a model on a device makes of images that are read here: the scores of `edgemobile eval --on`."""

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
    """`kept` i64[n], `skipped` and `scores` f32[n,outputs] have an entry a part.

    `inference_s` is what the device took, 0 where time means nothing; `runtime` is what ran there.
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
    """Stream the images of all parts through the device. `report` is told how many were scored.

    Raises Unsupported for what no device runs, EdgemobileError where its outputs are not those of the file.
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
                f"{device.name} gives {logits.shape[1]} outputs of {classifier.file}, which has {classifier.outputs}"
            )
        scores.append(logits)
        report(sum(map(len, scores)))
    nothing, waiting = np.zeros((0, classifier.outputs), np.float32), iter(scores)
    result.scores = [next(waiting) if len(kept) else nothing for kept in result.kept]
    result.runtime, result.inference_s = told.runtime, told.inference_s
    return result
