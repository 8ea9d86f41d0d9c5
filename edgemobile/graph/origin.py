"""Which value of the PyTorch program a tensor holds, and how a rewrite changed that value.

A rewrite that changes a tensor records the change in the tensor's Origin; the name of a tensor is only for people. A
comparison with PyTorch undoes the changes. In a file, all Origins are one entry of the metadata
(graph/origins_entry.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Origin", "path_of"]

# A factor is a product of a few factors 6 or 1/6.
_MOST = 1e12


@dataclass(frozen=True)
class Origin:
    """A tensor that is value * factor * channel_factors + added.

    of               the value: an activation's module path, or a constant's name
    factor           6 for 6 * hardswish(x), 1/6 for the weight that reads it
    added            3 for a bias with the 3 of a hard-sigmoid in it
    channel_factors  the factor of each channel from equalization; None if it was not equalized
    gate             the tensor is relu6(x + 3) of the hard-swish `of`, or the input of the clamp to 0..1 of the
                     hard-sigmoid `of`

    Raises ValueError for numbers that no tensor has.
    """

    of: str
    factor: float = 1.0
    added: float = 0.0
    channel_factors: tuple[float, ...] | None = None
    gate: bool = False

    def __post_init__(self) -> None:
        if not self.of:
            raise ValueError("`of` must be the name of a value of the program, found an empty string")
        if not math.isfinite(self.added):
            raise ValueError(f"added must be finite, found {self.added}")
        if not 1 / _MOST <= self.factor <= _MOST:
            raise ValueError(f"factor must be from {1 / _MOST:g} to {_MOST:g}, found {self.factor:g}")
        factors = (1.0,) if self.channel_factors is None else self.channel_factors
        if not factors or not all(0 < factor < math.inf for factor in factors):
            raise ValueError("channel_factors must be positive and finite, one per channel")


def path_of(name: str, origin: Origin | None) -> str:
    """The name in PyTorch of the value of the tensor `name`: that of its Origin, or `name` itself."""
    return name if origin is None or origin.gate else origin.of
