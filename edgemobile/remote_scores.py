"""What a model on a device makes of images that are read here: the scores of `edgemobile eval --on`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgemobile.classifier import Classifier
from edgemobile.devices.profiles import Device
from edgemobile.devices.runner import infer
from edgemobile.devices.runtimes import RUNTIMES
from edgemobile.devices.setup import ready
from edgemobile.devices.transport import Transport
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.preprocess import Preprocess
from edgemobile.progress import Report

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
    runtime = classifier.session.runtime
    if runtime not in RUNTIMES:
        raise Unsupported(f"{classifier.file} is a checkpoint; a device runs .onnx and .tflite files. Export it first")
    result = RemoteScores([], [], [], 0.0, runtime)
    seconds: dict[str, float] = {}

    def on_progress(event: Mapping[str, Any]) -> None:
        if event["event"] == "opened":
            result.runtime = f"{event.get('runtime')} {event.get('version')}"
        elif event["event"] == "chunk" and isinstance(event.get("ns"), int):
            # By name: what was computed before an interruption is told once more.
            seconds[str(event.get("name"))] = event["ns"] / 1e9

    def images() -> Iterator[np.ndarray]:
        for kept, arrays, skipped in parts:
            result.kept.append(kept)
            result.skipped.append(skipped)
            if len(kept):
                yield arrays[classifier.preprocess]

    answers = []
    prepared = ready(device, transport, runtime)
    for logits in infer(device, transport, prepared, Path(classifier.file), images(), runtime, threads, on_progress):
        if logits.shape[1] != classifier.outputs:
            raise EdgemobileError(
                f"{device.name} gives {logits.shape[1]} outputs of {classifier.file}, which has {classifier.outputs}"
            )
        answers.append(logits)
        report(sum(map(len, answers)))
    nothing, waiting = np.zeros((0, classifier.outputs), np.float32), iter(answers)
    result.scores = [next(waiting) if len(kept) else nothing for kept in result.kept]
    result.inference_s = sum(seconds.values())
    return result
