"""The accuracy of model files on one folder of images per class: top-1, top-5, their intervals, loss to a baseline.

All files get the same images, in the same order, so that they can be compared image by image. The work is divided into
fixed parts for any number of processes, so the result does not depend on it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgemobile.accuracy.classifier import Classifier, open_classifier
from edgemobile.accuracy.doubts import guessing
from edgemobile.accuracy.evaluation import EvalRequest, Evaluation, FileResult
from edgemobile.accuracy.statistics import mcnemar, ranks
from edgemobile.errors import EdgemobileError, MissingExtra
from edgemobile.exporters import FILE_SUFFIXES
from edgemobile.images.class_labels import match_folders
from edgemobile.images.dataset import CHECK_SPLITS, BrokenImage, Dataset, open_dataset
from edgemobile.preprocess import Preprocess
from edgemobile.util.progress import Progress, Silent

if TYPE_CHECKING:
    from edgemobile.accuracy.remote import ReadPart

__all__ = ["evaluate"]

_PART = 32
# A process takes seconds to start; it pays off only with at least this many images.
_IMAGES_PER_WORKER = 1000


def evaluate(request: EvalRequest, progress: Progress | None = None) -> Evaluation:
    """Run every file on the images and count. Broken images and refused files are skipped and listed.

    Raises EdgemobileError for bad input: no class folders, no readable image, classes that cannot be matched, a
    baseline that is refused, or every file.
    """
    progress = progress or Silent()
    with progress.step("read the data set"):
        dataset = _open(request.data, request.split)
    with progress.step("open the files"):
        scorer = _Scorer(dataset, request)
    indices = np.arange(len(dataset))
    if request.limit is not None:
        indices = np.sort(dataset.sample(request.limit, request.seed))
    parts = [indices[start : start + _PART] for start in range(0, len(indices), _PART)]
    if request.on is not None:
        return _evaluate_on(request.on, request, scorer, parts, progress)
    workers = min(request.workers or _worthwhile_workers(len(indices)), len(parts))
    started, scored = time.perf_counter(), []
    with (
        progress.step(f"evaluate {len(indices)} images", len(indices)) as report,
        _mapped(scorer, request, workers) as mapped,
    ):
        for part in mapped(parts):
            scored.append(part)
            report(sum(len(done.kept) + len(done.skipped) for done in scored))
    return _counted(request, scorer, scored, workers, time.perf_counter() - started)


def _open(path: Path, split: str | None) -> Dataset:
    dataset = open_dataset(path, split)
    if split is None and dataset.splits:
        dataset = dataset.in_split(next(name for name in (*CHECK_SPLITS, "train") if name in dataset.splits))
    if dataset.labels is None:
        raise EdgemobileError(
            f"{path} has no class folders (photos/cat/1.jpg), which accuracy needs. "
            "To classify single images: edgemobile predict"
        )
    return dataset


# ---- the work -------------------------------------------------------------------------------------------------------


class _Scored(NamedTuple):
    """A finished part: `kept` i64[n] are the images read; predicted and rank i64[files,n]; inference_s f64[files]."""

    kept: np.ndarray
    skipped: list[tuple[str, str]]
    predicted: np.ndarray
    rank: np.ndarray
    inference_s: np.ndarray


def _opened(request: EvalRequest) -> tuple[list[Classifier], tuple[tuple[str, str], ...]]:
    """(all opened files, the refused ones with the reason).

    Preprocessing stated by one file also applies to models in PyTorch that do not state their own.
    """
    opened: dict[str, Classifier] = {}
    refused: dict[str, EdgemobileError] = {}
    # A device computes its own way; on this machine a file is evaluated as its target computes it.
    given = replace(request.options, on_target=request.on is None)
    # Files first: the other models use their preprocessing.
    for file in sorted(request.all_files, key=lambda name: Path(name).suffix not in FILE_SUFFIXES):
        beside = next((one.stated for one in opened.values() if one.stated), None)
        options = given if Path(file).suffix in FILE_SUFFIXES else replace(given, beside=beside)
        try:
            opened[file] = open_classifier(file, options, request.opened.get(file))
        except MissingExtra:
            raise
        except EdgemobileError as error:
            if file == request.baseline:
                raise
            refused[file] = error
    if len(refused) == len(set(request.all_files)):
        raise next(iter(refused.values()))
    taken = [opened[file] for file in request.all_files if file in opened]
    return taken, tuple((file, str(error).removeprefix(f"{file}: ")) for file, error in refused.items())


class _Scorer:
    """The data set and all opened files; every process has its own."""

    def __init__(self, dataset: Dataset, request: EvalRequest, sha256: Sequence[str | None] | None = None) -> None:
        """`sha256` are of the files as another process opened them. Raises EdgemobileError if one was replaced."""
        assert dataset.labels is not None
        self.dataset, self.folders = dataset, dataset.labels
        self.classifiers, self.refused = _opened(request)
        for one, expected in zip(self.classifiers, sha256 or (), strict=False):
            if one.sha256 != expected:
                raise EdgemobileError(
                    f"{one.file} was replaced while it was evaluated, so the result would mix two files. Run it again"
                )
        self.matches = [match_folders(dataset.classes, one.labels, one.outputs) for one in self.classifiers]

    def __call__(self, indices: np.ndarray) -> _Scored:
        kept, images, skipped = self.read(indices)
        scores, inference_s = [], []
        for classifier in self.classifiers if len(kept) else ():
            started = time.perf_counter()
            scores.append(classifier.scores(images[classifier.preprocess]))
            inference_s.append(time.perf_counter() - started)
        return self.ranked(kept, skipped, scores, inference_s)

    def ranked(
        self,
        kept: np.ndarray,
        skipped: list[tuple[str, str]],
        scores: Sequence[np.ndarray],
        inference_s: Sequence[float],
    ) -> _Scored:
        """The result from the scores f32[n,outputs] of each file for the images `kept`, if there are any."""
        shape = (len(self.classifiers), len(kept))
        predicted, rank, seconds = np.zeros(shape, int), np.zeros(shape, int), np.zeros(len(self.classifiers))
        if len(kept):
            seconds[:] = inference_s
            for row, (given, match) in enumerate(zip(scores, self.matches, strict=True)):
                predicted[row] = given.argmax(axis=1)
                rank[row] = ranks(given, match.indices[self.folders[kept]])
        return _Scored(kept, skipped, predicted, rank, seconds)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, dict[Preprocess, np.ndarray], list[tuple[str, str]]]:
        """(the readable indices, f32[n,px,px,3] for each preprocessing, the others): each image is decoded once."""
        rows: dict[Preprocess, list[np.ndarray]] = {one.preprocess: [] for one in self.classifiers}
        kept, skipped = [], []
        for index in indices:
            try:
                # Pillow warns about odd metadata on standard error, in the middle of a progress bar.
                with warnings.catch_warnings(action="ignore"):
                    image = self.dataset.load(index)
                arrays = [preprocess(image) for preprocess in rows]
            except BrokenImage as error:
                name = self.dataset.name(index)
                skipped.append((name, str(error).removeprefix(f"cannot read {name} of {self.dataset.path}: ")))
                continue
            kept.append(index)
            for images, array in zip(rows.values(), arrays, strict=True):
                images.append(array)
        stacked = {preprocess: np.stack(images) for preprocess, images in rows.items() if images}
        return np.array(kept, np.int64), stacked, skipped


_scorer: _Scorer | EdgemobileError | None = None


def _start_process(request: EvalRequest, split: str | None, sha256: Sequence[str | None]) -> None:
    global _scorer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _scorer = _Scorer(open_dataset(request.data, split), request, sha256)
    # Raised here, it would break the pool and its reason would be lost.
    except EdgemobileError as error:
        _scorer = error


def _end_with_parent() -> None:
    """Exit with the parent: otherwise a pool's processes would wait forever for a parent that was killed."""
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _score(indices: np.ndarray) -> _Scored:
    if isinstance(_scorer, EdgemobileError):
        raise _scorer
    assert _scorer is not None
    return _scorer(indices)


# ---- on a device ----------------------------------------------------------------------------------------------------


def _evaluate_on(
    on: str, request: EvalRequest, scorer: _Scorer, parts: Sequence[np.ndarray], progress: Progress
) -> Evaluation:
    """File by file: images are read on this machine, in the same parts, and their scores come from `on`."""
    from edgemobile.accuracy.remote import scoring_on
    from edgemobile.devices.host.selection import select_devices

    started, files = time.perf_counter(), []

    def read(number: int) -> ReadPart:
        return scorer.read(parts[number])

    with scoring_on(select_devices(on), request.scheduler) as score:
        for one in scorer.classifiers:
            with progress.step(f"evaluate {Path(one.file).name} on {on}", sum(map(len, parts))) as report:
                files.append(score(one, len(parts), read, request.options.threads, report))
    scored = [
        scorer.ranked(kept, skipped, [file.scores[index] for file in files], [0.0] * len(files))
        for index, (kept, skipped) in enumerate(zip(files[0].kept, files[0].skipped, strict=True))
    ]
    scored[0] = scored[0]._replace(inference_s=np.array([file.inference_s for file in files]))
    scorer.classifiers = [
        replace(one, found={**one.found, "runtime": f"{file.runtime} on {on}"}, notes=(*one.notes, *file.notes))
        for one, file in zip(scorer.classifiers, files, strict=True)
    ]
    result = _counted(request, scorer, scored, 1, time.perf_counter() - started)
    shares = tuple(replace(one, boards=file.boards) for one, file in zip(result.files, files, strict=True))
    return replace(result, files=shares)


# ---- in several processes -------------------------------------------------------------------------------------------


_Mapped = Callable[[Sequence[np.ndarray]], Iterable[_Scored]]


@contextmanager
def _mapped(scorer: _Scorer, request: EvalRequest, workers: int) -> Iterator[_Mapped]:
    """A map over parts, in this process or in `workers` new ones, with the results in order.

    Leaving it early cancels parts that have not begun; an interrupt also stops those that have.
    """
    if workers == 1:
        yield lambda parts: map(scorer, parts)
        return
    sha256 = [one.sha256 for one in scorer.classifiers]
    # Every process runs the bytes that were read here; it only reads checkpoints itself.
    opened = {one.file: one.model_file for one in scorer.classifiers if one.model_file is not None}
    initial = (replace(request, opened=opened), scorer.dataset.split, sha256)
    others = set(active_children())
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_process, initial)

    def submit(parts: Sequence[np.ndarray]) -> Iterable[_Scored]:
        with _interrupts_ignored():
            return pool.map(_score, parts)

    try:
        yield submit
    except BrokenProcessPool as error:
        raise EdgemobileError(
            f"one of {workers} processes died (most often out of memory). Try again with --workers 1"
        ) from error
    except KeyboardInterrupt:
        # A process that is still loading its model would take seconds to notice.
        for child in set(active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started here ignore Ctrl-C: the parent stops them, without a traceback from each."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _worthwhile_workers(images: int) -> int:
    # macOS does not report which cores a process may use.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, images // _IMAGES_PER_WORKER))


# ---- the count ------------------------------------------------------------------------------------------------------


def _counted(
    request: EvalRequest, scorer: _Scorer, scored: Sequence[_Scored], workers: int, wall_s: float
) -> Evaluation:
    dataset = scorer.dataset
    kept = np.concatenate([part.kept for part in scored])
    skipped = tuple(item for part in scored for item in part.skipped)
    if not len(kept):
        raise EdgemobileError(f"no image of {request.data} can be read; the first: {skipped[0][0]}: {skipped[0][1]}")
    predicted = np.concatenate([part.predicted for part in scored], axis=1)
    rank = np.concatenate([part.rank for part in scored], axis=1)
    inference_s = np.sum([part.inference_s for part in scored], axis=0)
    folders = scorer.folders[kept]
    files = []
    for row, (classifier, match) in enumerate(zip(scorer.classifiers, scorer.matches, strict=True)):
        against = request.baseline is not None and row > 0
        paired = mcnemar(rank[0] == 0, rank[row] == 0) if against else None
        truth = match.indices[folders]
        files.append(
            FileResult(classifier, match.rule, truth, predicted[row], rank[row], float(inference_s[row]), paired)
        )
    names = tuple(dataset.name(index) for index in kept)
    notes = _notes(dataset, files)
    return Evaluation(request, dataset, names, folders, skipped, tuple(files), workers, wall_s, notes, scorer.refused)


def _notes(dataset: Dataset, files: Sequence[FileResult]) -> tuple[str, ...]:
    """Notes that the user needs to judge the numbers."""
    notes = [note for file in files for note in file.classifier.notes]
    if dataset.skipped:
        name, reason = dataset.skipped[0]
        notes.append(f"{len(dataset.skipped)} files of the data set were skipped, the first {name}: {reason}")
    for file in files:
        if file.not_finite:
            notes.append(f"{file.classifier.file}: {file.not_finite} outputs are not finite; they count as wrong")
        if doubt := guessing(file.correct, file.truth):
            notes.append(f"{file.classifier.file}: {doubt}")
    return tuple(notes)
