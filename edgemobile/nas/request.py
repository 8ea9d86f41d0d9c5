"""What to search, and the result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgemobile.errors import EdgemobileError
from edgemobile.loading.model_spec import is_model_file, is_own
from edgemobile.training.request import Resumable

if TYPE_CHECKING:
    from edgemobile.nas.space import Choice

__all__ = ["Found", "SearchRequest", "SearchResult"]


@dataclass(frozen=True)
class SearchRequest(Resumable):
    """What to search. `model` and `weights` are those of an export, of a reference model: the full net, which all
    others inherit their weights from.

    `on` is the device, `unit` what is measured there: "instructions" or "ms"; None is instructions on an emulated
    core, and ms on a board. `res` are the resolutions, the model's own if empty. `trials` nets are tried, in
    generations of `population`. Each is trained for `epochs` on `train_images`, and judged on `images` others of the
    training split.
    """

    free: ClassVar[tuple[str, ...]] = (*Resumable.free, "trials", "threads")

    on: str = "emulated:cortex-a72"
    unit: str | None = None
    weights: str | None = None
    res: tuple[int, ...] = ()
    trials: int = 40
    population: int = 10
    epochs: int = 1
    train_images: int = 2000
    images: int = 1000
    check_images: int = 2000
    batch: int = 32
    lr: float = 1e-3
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if is_own(self.model) or is_model_file(self.model):
            raise EdgemobileError(
                f"{self.model} cannot be searched: it has no table of blocks. Allowed: a reference model or a "
                "checkpoint of one"
            )
        least = {"trials": 1, "population": 2, "epochs": 1, "images": 8, "check_images": 1, "batch": 1, "threads": 0}
        self.check_numbers({**least, "train_images": self.batch}, ("lr",))


@dataclass(frozen=True)
class Found:
    """A net of a search. `cost` is measured, of its int8 file. `top1` is on the images to choose by; `held_out_top1` on
    others, None for nets that are not on the front. `multiplier` is set for a width multiplier. `file` is its
    checkpoint in the folder, "" if it was not kept."""

    number: int
    choice: Choice
    cost: float
    top1: float
    parameters: int
    macs: int
    multiplier: float | None = None
    held_out_top1: float | None = None
    file: str = ""

    def dominates(self, other: Found) -> bool:
        """Whether it costs no more and is right no less often than `other`, on the images held out, and is not
        equal."""
        assert self.held_out_top1 is not None
        assert other.held_out_top1 is not None
        no_worse = self.cost <= other.cost and self.held_out_top1 >= other.held_out_top1
        return no_worse and (self.cost, self.held_out_top1) != (other.cost, other.held_out_top1)


@dataclass(frozen=True)
class SearchResult:
    """`nets` are all that were tried, `front` those that none of them beats in cost and top-1 on the images to choose
    by,
    cheapest first; `multipliers` are the width multipliers of the full net, trained in the same way. `unused` counts
    choices that are no net."""

    out: Path
    device: str
    unit: str
    nets: tuple[Found, ...]
    front: tuple[Found, ...]
    multipliers: tuple[Found, ...]
    unused: int
    held_out: str
    notes: tuple[str, ...] = ()

    @property
    def beaten(self) -> tuple[Found, ...]:
        """The width multipliers that a net of the front, which is none, dominates on the images held out."""
        searched = [net for net in self.front if net.multiplier is None]
        return tuple(one for one in self.multipliers if any(net.dominates(one) for net in searched))
