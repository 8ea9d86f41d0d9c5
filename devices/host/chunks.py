"""Images to a board in chunks, and its answers back: in order, each once, and not twice after an interruption."""

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

    With `layers_width` the file has several outputs, and the answer is all of them flat in a row: f32[N,layers_width].

    The next chunk is on its way while the board computes. What an interrupted call left on the board is not computed
    again by the next call for the same images: chunks are known by their content. Raises as run_job does.
    """
    job = _job(file, runtime, threads, emulated=transport.emulated, layers=layers_width is not None)
    chunks = (_chunk(number, images) for number, images in enumerate(batches))
    first = list(itertools.islice(chunks, 1))
    told = _ChunksOfOurs(on_progress or (lambda event: None))
    with _folder(_resume_id(job, [chunk.name for chunk in first])) as folder:
        client = JobClient(device.name, transport, prepared, folder, told, patience_s, sleep)
        try:
            resumed = client.recover()
            client.begin(job, [file])
            for chunk, logits in _answers(client, itertools.chain(first, chunks), resumed, layers_width):
                told.answered(chunk)
                yield logits
        except BaseException:
            client.stop()
            raise
        client.end()


class RemoteSession:
    """One file open on a board, which answers images until it is closed. Not for several threads at once.

    Its folder on the board is its own: nothing is resumed from an earlier call.
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
        """Start it on the board. Raises as run_job does."""
        self._told = _ChunksOfOurs(on_progress)
        folder = f"jobs/infer-{uuid.uuid4().hex[:16]}"
        self._client = JobClient(device.name, transport, prepared, folder, self._told, patience_s, sleep)
        self._asked = 0
        self._classes: int | None = None
        try:
            self._client.begin(_job(file, runtime, threads, emulated=transport.emulated), [file])
        except BaseException:
            self.close()
            raise

    def rows(self, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Preprocessed images f32[N,H,W,C] in parts -> f32[N,outputs] of each. Raises as infer does."""
        chunks = [_chunk(self._asked + number, images) for number, images in enumerate(parts)]
        self._asked += len(chunks)
        found = []
        for chunk, logits in _answers(self._client, iter(chunks), False, self._classes):
            self._told.answered(chunk)
            self._classes = logits.shape[1]
            found.append(logits)
        return found

    def close(self) -> None:
        """Ask the worker to leave, with its folder, once it has answered the images at hand.

        A board that cannot be asked at once is left alone: its worker leaves by itself after a while.
        """
        self._client.stop(discard=True)


class _ChunksOfOurs:
    """Passes on what the worker tells; of a chunk once it is answered, so that one that an earlier call left on the
    board is not counted.
    """

    def __init__(self, tell: OnProgress) -> None:
        self._tell = tell
        self._chunks: dict[str, Event] = {}

    def __call__(self, event: Event) -> None:
        if event["event"] == "chunk":
            self._chunks[str(event.get("name"))] = event
        else:
            self._tell(event)

    def answered(self, chunk: Chunk) -> None:
        event = self._chunks.pop(chunk.name, None)
        if event is not None:
            self._tell(event)


@contextmanager
def _folder(resume_id: str) -> Iterator[str]:
    """The folder of the job on the board; another one while a call of the same work is still in it."""
    # 256 files at most. Calls of other work that share one have a folder of their own all the same.
    try:
        lock = try_lock(cache_folder("locks") / f"infer-{resume_id[:2]}.lock")
    # Without a cache here nothing tells whether a call is in the folder.
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
    """Each chunk, once those after it, as many as fit the window, are on the board.

    A chunk stays in `client.waiting` until the next one is asked for, as it is answered only then.
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
    """f32[images,classes] from a third party's .npy: only what was asked for is taken.

    numpy.load would make room for whatever the header claims.
    """
    wanted = f"float32[{images}, {'classes' if classes is None else classes}]"
    try:
        file = io.BytesIO(data)
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("not version 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:
        raise EdgemobileError(f"{named} answered a chunk with no array; expected {wanted}") from error
    fits = (
        len(shape) == 2
        and shape[0] == images
        and 1 <= shape[1] <= (classes or _MAX_CLASSES)
        and shape[1] == (classes or shape[1])
    )
    body = data[file.tell() :]
    if not fits or fortran or dtype != np.float32 or len(body) != 4 * shape[0] * shape[1]:
        raise EdgemobileError(f"{named} answered a chunk with {dtype}{list(shape)} of {len(body)} bytes, not {wanted}")
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
    """The same for the same work of the same user of the same machine, so that it is found again.

    `first` is the name of the first chunk: it tells the images apart, and the others are not read yet.
    """
    work = json.dumps([{**job, "files": [row["sha256"] for row in job["files"]]}, first], sort_keys=True)
    return hashlib.sha256(f"{work} {os.getuid()}@{platform.node()}".encode()).hexdigest()[:16]
