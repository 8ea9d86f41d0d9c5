"""Sends images to a board in chunks and returns their outputs in order; an interrupted call can be resumed."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import platform
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from edgemobile.devices.host.folders import cache_folder
from edgemobile.devices.host.job_client import (
    PATIENCE_S,
    Chunk,
    Event,
    JobClient,
    Named,
    OnProgress,
    Prepared,
    job_file,
)
from edgemobile.devices.host.transport import Transport
from edgemobile.devices.runtimes.job import JOB_VERSION, InferJob
from edgemobile.errors import EdgemobileError
from edgemobile.model_file.model_file import ModelFile
from edgemobile.util.locking import try_lock

__all__ = ["RemoteSession", "infer"]

_MAX_CLASSES = 100_000
_WINDOW = 2


def infer(
    device: Named,
    transport: Transport,
    prepared: Prepared,
    file: ModelFile,
    batches: Iterable[np.ndarray],
    runtime: str | None = None,
    threads: int = 1,
    on_progress: OnProgress | None = None,
    *,
    layers_width: int | None = None,
    patience_s: float = PATIENCE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[np.ndarray]:
    """Preprocessed images f32[N,H,W,C] in chunks -> logits f32[N,classes], a chunk at a time, in order.

    With `layers_width`, a row contains all outputs of the file, flattened: f32[N,layers_width].

    The next chunk is sent while the board computes. If a call is interrupted, the next call with the same images uses
    the outputs that are already on the board: the names of chunks contain the hash of their content. Raises as run_job
    does.
    """
    job = _job(file, runtime, threads, emulated=transport.emulated, layers=layers_width is not None)
    chunks = (_chunk(number, images) for number, images in enumerate(batches))
    first = list(itertools.islice(chunks, 1))
    progress = _CurrentChunks(on_progress or (lambda event: None))
    with _folder(_resume_id(job, [chunk.name for chunk in first])) as folder:
        client = JobClient(device.name, transport, prepared, folder, progress, patience_s, sleep)
        try:
            resumed = client.recover()
            client.begin(job, [file])
            for chunk, logits in _answers(client, itertools.chain(first, chunks), resumed, layers_width):
                progress.answered(chunk)
                yield logits
        except BaseException:
            client.stop()
            raise
        client.end()


class RemoteSession:
    """A file that stays open on a board for several calls of `rows`. Not safe for use by several threads.

    Each session has a new folder on the board, so it does not resume an earlier one.
    """

    def __init__(
        self,
        device: Named,
        transport: Transport,
        prepared: Prepared,
        file: ModelFile,
        runtime: str,
        threads: int,
        on_progress: OnProgress,
        *,
        patience_s: float,
        sleep: Callable[[float], None],
    ) -> None:
        """Open `file` on the board. Raises as run_job does."""
        self._progress = _CurrentChunks(on_progress)
        folder = f"jobs/infer-{uuid.uuid4().hex[:16]}"
        self._client = JobClient(device.name, transport, prepared, folder, self._progress, patience_s, sleep)
        self._sent = 0
        self._classes: int | None = None
        try:
            self._client.begin(_job(file, runtime, threads, emulated=transport.emulated), [file])
        except BaseException:
            self.close()
            raise

    def rows(self, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Preprocessed images f32[N,H,W,C] in parts -> f32[N,outputs] of each. Raises as infer does."""
        chunks = [_chunk(self._sent + number, images) for number, images in enumerate(parts)]
        self._sent += len(chunks)
        found = []
        for chunk, logits in _answers(self._client, iter(chunks), False, self._classes):
            self._progress.answered(chunk)
            self._classes = logits.shape[1]
            found.append(logits)
        return found

    def close(self) -> None:
        """Ask the worker to end and to remove its folder, once it has answered the images that it has.

        This is tried once: the worker of a board that cannot be reached ends by itself after a while.
        """
        self._client.stop(discard=True)


class _CurrentChunks:
    """Forwards the events of the worker. The event of a chunk is forwarded once its answer was read, so that chunks of
    an earlier call that this call does not need are not counted.
    """

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._chunks: dict[str, Event] = {}

    def __call__(self, event: Event) -> None:
        if event["event"] == "chunk":
            self._chunks[str(event.get("name"))] = event
        else:
            self._on_progress(event)

    def answered(self, chunk: Chunk) -> None:
        event = self._chunks.pop(chunk.name, None)
        if event is not None:
            self._on_progress(event)


@contextmanager
def _folder(resume_id: str) -> Iterator[str]:
    """The folder of the job on the board: the one to resume, or a new one if another call is using that."""
    # At most 256 lock files. Jobs that share a lock file by chance have different folders anyway.
    try:
        lock = try_lock(cache_folder("locks") / f"infer-{resume_id[:2]}.lock")
    # Without a cache on this machine, there is no way to know whether another call uses the folder.
    except (OSError, EdgemobileError):
        lock = None
    if lock is None:
        yield f"jobs/infer-{uuid.uuid4().hex[:16]}"
        return
    try:
        yield f"jobs/infer-{resume_id}"
    finally:
        lock.release()


def _answers(
    client: JobClient, chunks: Iterator[Chunk], resumed: bool, classes: int | None = None
) -> Iterator[tuple[Chunk, np.ndarray]]:
    for chunk in _ahead(client, chunks, resumed):
        data = client.answer(chunk, max_bytes=128 + 4 * chunk.images * (classes or _MAX_CLASSES))
        logits = _logits(data, chunk.images, classes, client.named)
        classes = logits.shape[1]
        yield chunk, logits


def _ahead(client: JobClient, chunks: Iterator[Chunk], resumed: bool) -> Iterator[Chunk]:
    """Yields each chunk after sending the following ones, up to _WINDOW chunks in total.

    A chunk stays in `client.waiting` until the caller asks for the next one, since its answer is read before that.
    """
    waiting: deque[Chunk] = deque()
    client.waiting = waiting
    for chunk in chunks:
        if not resumed or client.read(client.output(chunk), 1) is None:
            client.send(chunk)
        waiting.append(chunk)
        if len(waiting) == _WINDOW:
            yield waiting[0]
            waiting.popleft()
    while waiting:
        yield waiting[0]
        waiting.popleft()


def _chunk(number: int, images: np.ndarray) -> Chunk:
    if images.ndim != 4 or not len(images):
        raise EdgemobileError(f"a chunk of images is f32[N,H,W,C] with N >= 1, found {list(images.shape)}")
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(images, np.float32))
    data = buffer.getvalue()
    return Chunk(f"{number:06d}-{hashlib.sha256(data).hexdigest()[:16]}", len(images), data)


def _logits(data: bytes, images: int, classes: int | None, named: str) -> np.ndarray:
    """f32[images,classes] from the .npy of a board, which is not trusted: any other shape or dtype is refused.

    numpy.load is not used: it allocates whatever size the header states.
    """
    wanted = f"float32[{images}, {'classes' if classes is None else classes}]"
    try:
        file = io.BytesIO(data)
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("not version 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:
        raise EdgemobileError(
            f"{named} returned something other than an array for a chunk; expected {wanted}"
        ) from error
    fits = (
        len(shape) == 2
        and shape[0] == images
        and 1 <= shape[1] <= (classes or _MAX_CLASSES)
        and shape[1] == (classes or shape[1])
    )
    body = data[file.tell() :]
    if not fits or fortran or dtype != np.float32 or len(body) != 4 * shape[0] * shape[1]:
        raise EdgemobileError(
            f"{named} returned {dtype}{list(shape)} of {len(body)} bytes for a chunk; expected {wanted}"
        )
    return np.frombuffer(body, np.float32).reshape(shape)


def _job(file: ModelFile, runtime: str | None, threads: int, *, emulated: bool, layers: bool = False) -> InferJob:
    return {
        "version": JOB_VERSION,
        "kind": "infer",
        "emulated": emulated,
        "files": [job_file(file)],
        "runtime": runtime,
        "threads": threads,
        "layers": layers,
    }


def _resume_id(job: InferJob, first: Sequence[str]) -> str:
    """An id that is equal for the same job of the same user on the same machine, so that the job can be resumed.

    `first` is the name of the first chunk, with which jobs of other images get another id: later chunks are not read
    yet.
    """
    work = json.dumps([{**job, "files": [row["sha256"] for row in job["files"]]}, first], sort_keys=True)
    return hashlib.sha256(f"{work} {os.getuid()}@{platform.node()}".encode()).hexdigest()[:16]
