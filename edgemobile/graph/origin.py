"""Which value of the PyTorch program a tensor holds, and what was done to that value on purpose.

A rewrite that changes a tensor says so in the tensor's Origin; its name only reads well. A comparison with PyTorch
undoes what an Origin says. In a file all of them are one entry of the metadata (graph/origins_entry.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Origin", "path_of"]

# A factor is a product of a few sixes.
_MOST = 1e12


@dataclass(frozen=True)
class Origin:
    """A tensor that is value * factor * channel_factors + added.

    of               the value: an activation's module path, or a constant's name
    factor           6 for 6 * hardswish(x), 1/6 for the weight that reads it
    added            3 for a bias with the 3 of a hard-sigmoid in it
    channel_factors  what equalization multiplied each channel by, one number a channel; None where it did nothing
    gate             the tensor is relu6(x + 3) of the hard-swish `of`, or what is cut to 0..1 for the hard-sigmoid `of`

    Raises ValueError for numbers that no tensor has.
    """

    of: str
    factor: float = 1.0
    added: float = 0.0
    channel_factors: tuple[float, ...] | None = None
    gate: bool = False

    def __post_init__(self) -> None:
        if not self.of:
            raise ValueError("`of` must name a value of the program, found an empty text")
        if not math.isfinite(self.added):
            raise ValueError(f"added must be finite, found {self.added}")
        if not 1 / _MOST <= self.factor <= _MOST:
            raise ValueError(f"factor must be from {1 / _MOST:g} to {_MOST:g}, found {self.factor:g}")
        factors = (1.0,) if self.channel_factors is None else self.channel_factors
        if not factors or not all(0 < factor < math.inf for factor in factors):
            raise ValueError("channel_factors must be positive and finite, one a channel")


def path_of(name: str, origin: Origin | None) -> str:
    """What PyTorch calls the value that the tensor `name` holds: `name` itself where no Origin says another."""
    return name if origin is None or origin.gate else origin.of
