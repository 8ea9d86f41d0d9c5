"""The budget: what a net may cost on each of the devices, and how far a net is from it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgemobile.adaptation.cost_model import CostModel, Unit
from edgemobile.errors import EdgemobileError
from edgemobile.models.arch import Arch

__all__ = ["Budget", "Limits", "read_budget"]

_SUFFIXES = {"ms": ("ms", 1.0), "K-instructions": ("instructions", 1e3), "M-instructions": ("instructions", 1e6)}
_FORM = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(ms|[KM]-instructions)?")


@dataclass(frozen=True)
class Budget:
    """`amount` is in `unit`, or a share of the full net's cost where `unit` is None."""

    amount: float
    unit: Unit | None


def read_budget(text: str) -> Budget:
    """0.6, 12ms or 20M-instructions. Raises EdgemobileError for anything else."""
    found = _FORM.fullmatch(text.strip())
    if not found:
        raise EdgemobileError(
            f"--budget {text!r} is not known. Allowed: a share of the cost such as 0.6, a time such as 12ms, or "
            "instructions such as 20M-instructions"
        )
    amount, suffix = float(found[1]), found[2]
    unit, factor = _SUFFIXES[suffix] if suffix else (None, 1.0)
    if not amount or (unit is None and amount >= 1):
        allowed = "a share must be above 0 and below 1" if unit is None else "it must be above 0"
        raise EdgemobileError(f"--budget {text}: {allowed}")
    return Budget(amount * factor, unit)


@dataclass(frozen=True)
class Limits:
    """`costs` are the most that a net may cost by each of the `models`."""

    models: tuple[CostModel, ...]
    costs: tuple[float, ...]

    def load(self, arch: Arch) -> float:
        """The predicted cost over the budget on the device where that is largest: at most 1 is within the budget."""
        return max(model.cost(arch) / limit for model, limit in zip(self.models, self.costs, strict=True))

    def tightened(self, factors: Sequence[float]) -> Limits:
        return replace(self, costs=tuple(cost * factor for cost, factor in zip(self.costs, factors, strict=True)))
