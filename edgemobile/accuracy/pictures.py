"""The request of an evaluation of boxes or masks: the files, and the images of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgemobile.accuracy.classifier import ClassifierOptions
from edgemobile.errors import EdgemobileError

__all__ = ["PicturesRequest"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class PicturesRequest:
    """The files to evaluate, on images in the folder `data`; `truth` is a COCO json or a folder of masks.

    `limit` images are drawn at random with `seed`; None takes all.
    """

    files: tuple[str, ...]
    data: Path
    truth: Path
    limit: int | None = None
    seed: int = 0
    options: ClassifierOptions = field(default_factory=ClassifierOptions)

    def __post_init__(self) -> None:
        if not self.files:
            raise EdgemobileError("nothing to evaluate: give at least one file")
        if self.limit is not None and self.limit < 1:
            raise EdgemobileError(f"limit must be at least 1, found {self.limit}")
        if self.seed < 0:
            raise EdgemobileError(f"seed must be at least 0, found {self.seed}")
        if not self.data.is_dir():
            raise EdgemobileError(
                f"{self.data} is not a folder: with --annotations or --masks, --data is the folder of the images"
            )

    def drawn(self, pictures: Sequence[_T]) -> list[_T]:
        """The pictures to evaluate, in order."""
        if self.limit is None or self.limit >= len(pictures):
            return list(pictures)
        places = np.random.default_rng(self.seed).choice(len(pictures), self.limit, replace=False)
        return [pictures[place] for place in np.sort(places)]

    def to_json(self) -> dict[str, Any]:
        return {
            "data": str(self.data),
            "truth": str(self.truth),
            "limit": self.limit,
            "seed": self.seed,
            "threads": self.options.threads,
        }
