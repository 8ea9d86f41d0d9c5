"""The scores of a model on one or several devices for images read on this machine: `edgemobile eval --on`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgemobile.accuracy.classifier import Classifier
from edgemobile.devices.fleet.board import Work
from edgemobile.devices.fleet.cluster import dask_client
from edgemobile.devices.fleet.spread import BoardShare, spread
from edgemobile.devices.host import profiles
from edgemobile.devices.host.profiles import Device
from edgemobile.devices.host.remote_inference import InferenceStats, remote_inference
from edgemobile.devices.host.transport import Transport
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.model_file.model_file import ModelFile
from edgemobile.preprocess import Preprocess
from edgemobile.util.progress import Report

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["ReadPart", "RemoteScores", "score_on", "scoring_on"]

# (the images read, i64[n]; f32[n,px,px,3] for each preprocessing; (name, reason) of the others)
ReadPart = tuple[np.ndarray, Mapping[Preprocess, np.ndarray], list[tuple[str, str]]]


@dataclass
class RemoteScores:
    """`kept` i64[n], `skipped` and `scores` f32[n,outputs] have one entry per part.

    `inference_s` is the time on the device, 0 under emulation; `runtime` is the runtime there. With several boards,
    `boards` are their contributions. `notes` are for the user.
    """

    kept: list[np.ndarray]
    skipped: list[list[tuple[str, str]]]
    scores: list[np.ndarray]
    inference_s: float
    runtime: str
    boards: tuple[BoardShare, ...] = ()
    notes: list[str] = field(default_factory=list)


# (classifier, number of parts, number of a part -> the part, threads, report)
Score = Callable[[Classifier, int, Callable[[int], ReadPart], int, Report], RemoteScores]


@contextmanager
def scoring_on(devices: Sequence[str], scheduler: str | None = None) -> Iterator[Score]:
    """A function that scores a model on the devices: a single one directly, several as workers of a Dask scheduler."""
    if len(devices) == 1 and scheduler is None:
        device, transport = profiles.open_device(devices[0])
        with closing(transport):
            yield lambda classifier, parts, read, threads, report: score_on(
                device, transport, classifier, map(read, range(parts)), threads, report
            )
        return
    with dask_client(devices, scheduler) as client:
        boards = _Boards(client, list(devices))
        yield boards.score


@dataclass
class _Boards:
    """The boards of one call. A board that was set aside is not used for the next file."""

    client: Client
    names: list[str]

    def score(
        self, classifier: Classifier, parts: int, read: Callable[[int], ReadPart], threads: int, report: Report
    ) -> RemoteScores:
        file = _sent_file(classifier)
        parts_read: dict[int, tuple[np.ndarray, list[tuple[str, str]]]] = {}
        px = classifier.preprocess.input_px

        def images(number: int) -> np.ndarray:
            kept, arrays, skipped = read(number)
            parts_read[number] = kept, skipped
            return arrays[classifier.preprocess] if len(kept) else np.zeros((0, px, px, 3), np.float32)

        work = Work(file, classifier.outputs, classifier.session.runtime, threads)
        found = spread(self.client, self.names, work, parts, images, report)
        self.names = [share.board for share in found.boards if share.board in self.names and not share.set_aside]
        kept, skipped = zip(*(parts_read[number] for number in range(parts)), strict=True)
        seconds = sum(share.inference_s for share in found.boards)
        resumed = f"{file.name}: {found.resumed} images were answered by an earlier call, which was interrupted"
        return RemoteScores(
            list(kept),
            list(skipped),
            found.scores,
            seconds,
            found.runtime,
            found.boards,
            [resumed] if found.resumed else [],
        )


def _sent_file(classifier: Classifier) -> ModelFile:
    if classifier.model_file is None:
        raise Unsupported(f"{classifier.file} is a checkpoint; a device runs .onnx and .tflite files. Export it first")
    return classifier.model_file


def score_on(
    device: Device,
    transport: Transport,
    classifier: Classifier,
    parts: Iterable[ReadPart],
    threads: int,
    report: Report,
) -> RemoteScores:
    """Stream the images of all parts through the device. `report` gets the number of images scored.

    Raises Unsupported for files that no device runs, EdgemobileError if the device returns another number of
    outputs than the file has.
    """
    runtime, file = classifier.session.runtime, _sent_file(classifier)
    result, stats = RemoteScores([], [], [], 0.0, runtime), InferenceStats(runtime)

    def images() -> Iterator[np.ndarray]:
        for kept, arrays, skipped in parts:
            result.kept.append(kept)
            result.skipped.append(skipped)
            if len(kept):
                yield arrays[classifier.preprocess]

    scores: list[np.ndarray] = []
    for logits in remote_inference(device, transport, file, images(), runtime, threads, stats):
        if logits.shape[1] != classifier.outputs:
            raise EdgemobileError(
                f"{device.name} returned {logits.shape[1]} outputs for {classifier.file}, which has "
                f"{classifier.outputs}"
            )
        scores.append(logits)
        report(sum(map(len, scores)))
    empty, remaining = np.zeros((0, classifier.outputs), np.float32), iter(scores)
    result.scores = [next(remaining) if len(kept) else empty for kept in result.kept]
    result.runtime, result.inference_s = stats.runtime, stats.inference_s
    return result
