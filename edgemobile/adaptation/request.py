"""What to adapt, to which budget, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgemobile.adaptation.limits import Budget, read_budget
from edgemobile.errors import EdgemobileError
from edgemobile.loading.model_spec import is_model_file, is_own
from edgemobile.training.request import Resumable

__all__ = ["AdaptRequest", "AdaptResult", "Net", "Step", "Tried"]


@dataclass(frozen=True)
class AdaptRequest(Resumable):
    """What to adapt. `model` and `weights` are those of an export, of a reference model.

    `on` are the devices, and `budget` what int8 files may cost on each, as `read_budget` takes it. `unit` is what a
    share is of: "instructions" or "ms"; None is instructions on emulated cores, and ms on boards.

    `images` are those of the training split that candidates are compared on, and as many others show saliency and
    repair them. `steps` is how many steps the second half of the way has, `candidates` how many are tried in each.
    `epochs` of training follow, with the full net as the teacher. `compare`: the family's own width multiplier at the
    same cost is cut, repaired and trained the same way.
    """

    on: tuple[str, ...] = ("emulated:cortex-a72",)
    budget: str = "0.6"
    unit: str | None = None
    weights: str | None = None
    res: int | None = None
    images: int = 512
    steps: int = 8
    candidates: int = 8
    epochs: int = 0
    batch: int = 64
    lr: float = 3e-4
    compare: bool = True
    check_images: int = 1000
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if is_own(self.model) or is_model_file(self.model):
            raise EdgemobileError(
                f"{self.model} cannot be adapted: which of its channels belong together is not known. Allowed: a "
                "reference model or a checkpoint of one"
            )
        if not self.on:
            raise EdgemobileError("--on is empty. To list the devices: edgemobile devices list")
        least = {"images": 8, "steps": 1, "candidates": 1, "epochs": 0, "batch": 1, "check_images": 1, "threads": 0}
        self.check_numbers(least)
        if self.unit is not None and self.unit != (self.allowed.unit or self.unit):
            raise EdgemobileError(f"--budget {self.budget} is in {self.allowed.unit}: omit --unit {self.unit}")

    @cached_property
    def allowed(self) -> Budget:
        return read_budget(self.budget)


@dataclass(frozen=True)
class Tried:
    """A change that was tried: its net on the images to choose by. `saved` is of the budget, on the device where it is
    used most."""

    change: str
    saved: float
    saliency: float
    loss: float
    top1: float


@dataclass(frozen=True)
class Step:
    """A step of the search: the `change`, and the net after it.

    `costs` are predicted, for each device. `loss` and `top1` are on the images to choose by. `tried` are the
    candidates.
    """

    change: str
    costs: tuple[float, ...]
    loss: float
    top1: float
    tried: tuple[Tried, ...] = ()


@dataclass(frozen=True)
class Net:
    """A net of the result. `costs` are measured, for each device; `top1` is on images held out, before and after
    training (None without)."""

    name: str
    costs: tuple[float, ...]
    parameters: int
    top1: float
    trained_top1: float | None


@dataclass(frozen=True)
class AdaptResult:
    """`checkpoint` is the net written. `units` are those of the costs, by device; `errors` the largest relative error
    of the cost model on `checked` nets that it was not fitted to; `budgets` what an int8 file may cost."""

    checkpoint: Path
    units: Mapping[str, str]
    errors: Mapping[str, float]
    checked: int
    budgets: Mapping[str, float]
    steps: tuple[Step, ...]
    nets: tuple[Net, ...]
    held_out: str
    notes: tuple[str, ...] = ()
