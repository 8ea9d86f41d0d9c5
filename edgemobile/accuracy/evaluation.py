"""The request and the result of an evaluation: records, and their JSON with the raw result of every image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemobile.accuracy.classifier import Classifier, ClassifierOptions
from edgemobile.accuracy.statistics import Paired, confusion, wilson
from edgemobile.errors import EdgemobileError
from edgemobile.images.dataset import Dataset
from edgemobile.metrics.measures import checked_max_drop
from edgemobile.model_file.model_file import ModelFile

if TYPE_CHECKING:
    from edgemobile.devices.fleet.spread import BoardShare

__all__ = ["EVALUATION_VERSION", "EvalRequest", "Evaluation", "FileResult"]

EVALUATION_VERSION = 1


@dataclass(frozen=True)
class EvalRequest:
    """The files to evaluate, and the images.

    `split` None is the first that exists of test, val, validation, valid, eval and train; `limit` None is all images;
    `workers` None is a number that suits this machine and the number of images. `on` are the devices that run the
    files, in the syntax of select_devices; None runs them on this machine, in this process or in `workers`. `scheduler`
    is the address of a Dask scheduler that has the devices as workers. `opened` are files that were read already, by
    name.
    """

    files: tuple[str, ...]
    data: Path
    split: str | None = None
    limit: int | None = None
    seed: int = 0
    baseline: str | None = None
    options: ClassifierOptions = field(default_factory=ClassifierOptions)
    workers: int | None = None
    on: str | None = None
    scheduler: str | None = None
    opened: Mapping[str, ModelFile] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.files:
            raise EdgemobileError("nothing to evaluate: give at least one file")
        if self.seed < 0:
            raise EdgemobileError(f"seed must be at least 0, found {self.seed}")
        if self.on is not None and self.workers is not None:
            raise EdgemobileError("workers are processes on this machine; a device uses one: omit --workers")
        if self.scheduler is not None and self.on is None:
            raise EdgemobileError("a scheduler has devices as workers: name them with --on")
        for name, value in (("limit", self.limit), ("workers", self.workers), ("threads", self.options.threads)):
            if value is not None and value < 1:
                raise EdgemobileError(f"{name} must be at least 1, found {value}")

    @property
    def all_files(self) -> tuple[str, ...]:
        """The baseline, then the files; each once."""
        first = () if self.baseline is None else (self.baseline,)
        return tuple(dict.fromkeys((*first, *self.files)))


@dataclass(frozen=True)
class FileResult:
    """One file. `truth`, `predicted` and `rank` are i64[N] in outputs of the model; rank 0 is top-1.

    `rule` is how the folders were matched to outputs, `paired` compares with the baseline, `inference_s` is the sum
    of all processes. `boards` are the contributions of several boards.
    """

    classifier: Classifier
    rule: str
    truth: np.ndarray
    predicted: np.ndarray
    rank: np.ndarray
    inference_s: float
    paired: Paired | None = None
    boards: tuple[BoardShare, ...] = ()

    @property
    def count(self) -> int:
        return len(self.rank)

    @cached_property
    def correct(self) -> int:
        return int(np.sum(self.rank == 0))

    @cached_property
    def top5_correct(self) -> int | None:
        """None for models with too few classes for top-5."""
        return int(np.sum(self.rank < 5)) if self.classifier.outputs > 5 else None

    @property
    def not_finite(self) -> int:
        """Images for which the outputs are nan or inf; they count as wrong."""
        return int(np.sum(self.rank == self.classifier.outputs))

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.correct, self.count)

    @property
    def images_per_s(self) -> float:
        """Of one process, inference only; 0 if no time was measured, as under emulation."""
        return self.count / self.inference_s if self.inference_s else 0.0


@dataclass(frozen=True)
class Evaluation:
    """The result. `images` and `folders` i64[N] are those that could be read; `skipped` is (name, reason).

    `refused` is (file, reason) of those that cannot be opened or are not image classifiers; the others were run.
    """

    request: EvalRequest
    dataset: Dataset
    images: tuple[str, ...]
    folders: np.ndarray
    skipped: tuple[tuple[str, str], ...]
    files: tuple[FileResult, ...]
    workers: int
    wall_s: float
    notes: tuple[str, ...]
    refused: tuple[tuple[str, str], ...] = ()

    def exceeding(self, max_drop: float) -> tuple[FileResult, ...]:
        """The files that are more than `max_drop` percentage points of top-1 below the baseline, or have outputs that
        are not finite: compared with an equally bad baseline these would lose nothing.

        Raises EdgemobileError as `checked_max_drop` does, and for a baseline that is not finite for any image.
        """
        max_drop = checked_max_drop(max_drop)
        if self.request.baseline is not None and self.files[0].not_finite == self.files[0].count:
            raise EdgemobileError(f"{self.request.baseline}: the baseline has no finite output for any image")
        # The counts are integers; the bound may be a float slightly below the step it means.
        return tuple(
            file
            for file in self.files
            if file.paired and (file.not_finite or file.paired.drop_points > max_drop + 1e-9)
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, with the raw result of every image."""
        request = self.request
        return {
            "version": EVALUATION_VERSION,
            "data": str(request.data),
            "split": self.dataset.split,
            "limit": request.limit,
            "seed": request.seed,
            "baseline": request.baseline,
            "workers": self.workers,
            "on": request.on,
            "threads": request.options.threads,
            "wall_s": self.wall_s,
            "classes": list(self.dataset.classes),
            "files": [_file_json(file, self) for file in self.files],
            "refused": [{"file": file, "reason": reason} for file, reason in self.refused],
            "skipped": [{"name": name, "reason": reason} for name, reason in self.skipped],
            "notes": list(self.notes),
            "images": list(self.images),
        }


def _file_json(file: FileResult, evaluation: Evaluation) -> dict[str, Any]:
    classifier, low_high = file.classifier, file.interval
    return {
        "file": classifier.file,
        "sha256": classifier.sha256,
        **classifier.found,
        "classes": file.rule,
        "preprocess_record": classifier.preprocess.to_json(),
        "preprocess_assumed": classifier.is_assumed,
        "count": file.count,
        "correct": file.correct,
        "incorrect": file.count - file.correct,
        "top5_correct": file.top5_correct,
        "not_finite": file.not_finite,
        "top1": file.correct / file.count,
        "top1_interval95": list(low_high),
        "top5": None if file.top5_correct is None else file.top5_correct / file.count,
        "inference_s": file.inference_s,
        "images_per_s": file.images_per_s,
        "boards": [asdict(share) for share in file.boards],
        "against_baseline": _paired_json(file.paired),
        "per_class": list(_per_class(file, evaluation)),
        "confusion": [
            {"true": true, "predicted": predicted, "count": count}
            for true, predicted, count in confusion(file.truth, file.predicted)
        ],
        "true": file.truth.tolist(),
        "predicted": file.predicted.tolist(),
        "rank": file.rank.tolist(),
    }


def _paired_json(paired: Paired | None) -> dict[str, Any] | None:
    if paired is None:
        return None
    return {
        "drop_points": paired.drop_points,
        "only_baseline_correct": paired.only_baseline,
        "only_this_correct": paired.only_other,
        "mcnemar_exact_p": paired.p_exact,
        "mcnemar_mid_p": paired.p_mid,
    }


def _per_class(file: FileResult, evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    for folder in np.unique(evaluation.folders):
        inside = evaluation.folders == folder
        output = int(file.truth[inside][0])
        yield {
            "folder": evaluation.dataset.classes[folder],
            "output": output,
            "label": file.classifier.label(output),
            "count": int(inside.sum()),
            "correct": int(np.sum(file.rank[inside] == 0)),
            "top5_correct": None if file.top5_correct is None else int(np.sum(file.rank[inside] < 5)),
        }
