"""What to train, and the result."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import ClassVar

from edgemobile.errors import EdgemobileError
from edgemobile.loading.model_spec import is_model_file, is_program

__all__ = ["FinetuneRequest", "FinetuneResult", "Resumable", "Row"]

# The weight of the teacher's answers in the loss.
_SHARE = 0.7


@dataclass(frozen=True)
class Resumable:
    """Work on a `model` whose result is the folder `out`, and which goes on there after an interruption."""

    # A resumed run may have other values of these options.
    free: ClassVar[tuple[str, ...]] = ("out", "overwrite", "resume")

    model: str
    data: Path
    out: Path
    overwrite: bool = field(default=False, kw_only=True)
    resume: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise EdgemobileError("--resume continues what --overwrite would replace: omit one of them")

    def check_numbers(self, least: Mapping[str, int], above_zero: Sequence[str] = ()) -> None:
        """Raises EdgemobileError for a field below its least value, or not above 0 and finite."""
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise EdgemobileError(f"--{_option(name)} must be at least {minimum}, found {getattr(self, name)}")
        for name in above_zero:
            if not 0 < getattr(self, name) < math.inf:
                raise EdgemobileError(f"--{_option(name)} must be above 0, found {getattr(self, name):g}")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The models and weights of the request that may be files."""
        named = (getattr(self, name, None) for name in ("model", "weights", "teacher"))
        return tuple(filter(None, named))

    @property
    def decisive(self) -> str:
        """The options that decide the result, as JSON. A run is resumed only with the same values."""
        return json.dumps({key: value for key, value in asdict(self).items() if key not in self.free}, default=str)

    def differing(self, saved: str) -> list[str]:
        """The options in which this request differs from a saved `decisive`."""
        ours, theirs = json.loads(self.decisive), json.loads(saved)
        return [field.name for field in fields(self) if ours.get(field.name) != theirs.get(field.name)]


def _option(name: str) -> str:
    return name.replace("_", "-")


@dataclass(frozen=True)
class FinetuneRequest(Resumable):
    """What to train. `model`, `weights`, `width` and `res` are those of an export.

    `data` is an ImageFolder as a directory or a zip. `epochs` is the number of epochs of int8 training with `int8`,
    otherwise of float training; `float_epochs` is that of float training before int8. `lr` is the peak of float
    training's learning rate, `int8_lr` that of int8 training in integer steps per update.

    `teacher` is a model with the same classes; without one, int8 training learns from the float net. Its answers have
    the weight `teacher_share` in the loss, and the labels the rest. None means 0.7, or 1 if the float net teaches.
    """

    weights: str | None = None
    width: float | None = None
    res: int | None = None
    preprocess: str | None = None
    int8: bool = False
    epochs: int = 3
    float_epochs: int = 0
    batch: int = 64
    lr: float = 3e-4
    int8_lr: float = 0.004
    teacher: str | None = None
    teacher_share: float | None = None
    calib_images: int = 512
    check_images: int = 1000
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if is_model_file(self.model) or is_program(self.model):
            raise EdgemobileError(
                f"{self.model} cannot be trained: it has no PyTorch code. Allowed: a reference model, a checkpoint of "
                "one, or package.module:factory"
            )
        least = {"epochs": 1, "batch": 1, "calib_images": 1, "check_images": 1, "float_epochs": 0, "threads": 0}
        self.check_numbers(least, ("lr", "int8_lr"))
        if self.teacher_share is not None and not 0 <= self.teacher_share <= 1:
            raise EdgemobileError(f"--teacher-share must be from 0 to 1, found {self.teacher_share:g}")
        if self.float_epochs and not self.int8:
            raise EdgemobileError("--float-epochs is for --int8, where --epochs counts int8 training: use --epochs")

    @property
    def epochs_in_float(self) -> int:
        return self.float_epochs if self.int8 else self.epochs

    @property
    def share(self) -> float:
        """The weight of the teacher's answers in the loss."""
        if self.teacher_share is not None:
            return self.teacher_share
        return _SHARE if self.teacher else 1.0


@dataclass(frozen=True)
class Row:
    """One net on the images held out: its top-1, and the share of images with the same answer as the float net that is
    written (None for a net with other classes)."""

    net: str
    top1: float
    agreement: float | None


@dataclass(frozen=True)
class FinetuneResult:
    """`checkpoint` is the file written; `rows` compare the nets before and after on `held_out` images."""

    checkpoint: Path
    rows: tuple[Row, ...]
    held_out: str
    notes: tuple[str, ...] = ()
