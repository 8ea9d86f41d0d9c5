"""Predicts what a net costs on a device, from measured costs of other nets of its family.

The cost of whole files is measured, never that of single ops: a file of one op has costs that no op of a net has. The
model is a sum over kinds of work (adaptation.features) with factors that are at least 0, fitted by least squares of the
relative error. It is refused unless it predicts nets that it was not fitted to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgemobile.adaptation.features import TILES, Tile, features
from edgemobile.errors import EdgemobileError
from edgemobile.models.arch import Arch

__all__ = ["LARGEST_ERROR", "CostModel", "Unit", "fitted", "non_negative_least_squares"]

Unit = str
# The largest relative error on a net that the model was not fitted to, by what is measured.
LARGEST_ERROR = {"instructions": 0.01, "ms": 0.10}
_ENOUGH = 1e-9


@dataclass(frozen=True)
class CostModel:
    """The cost of a net on `device` in `unit`: the sum of its work by kind, times `factors`.

    `errors` are the relative errors on nets that it was not fitted to.
    """

    device: str
    unit: Unit
    tile: Tile
    factors: dict[str, float]
    errors: tuple[float, ...]

    def cost(self, arch: Arch) -> float:
        return sum(self.factors.get(kind, 0.0) * count for kind, count in features(arch, self.tile).items())

    @cached_property
    def largest_error(self) -> float:
        return max(self.errors)


def fitted(
    device: str,
    unit: Unit,
    nets: Sequence[Arch],
    costs: Sequence[float],
    others: Sequence[Arch],
    checks: Sequence[float],
) -> CostModel:
    """The model of `nets` with these `costs`, checked on the `others`, which cost `checks`.

    The tile is the one that the `nets` fit best. Raises EdgemobileError if one of the others is predicted worse than
    LARGEST_ERROR.
    """
    candidates = [(_fit(nets, costs, tile), tile) for tile in TILES]
    (_, factors), tile = min(candidates, key=lambda one: one[0][0])
    model = CostModel(device, unit, tile, factors, ())
    errors = tuple(model.cost(net) / cost - 1 for net, cost in zip(others, checks, strict=True))
    worst = max(map(abs, errors))
    if worst > LARGEST_ERROR[unit]:
        raise EdgemobileError(
            f"{device}: the cost model is wrong by up to {worst:.1%} of the {unit} of {len(errors)} nets that it was "
            f"not fitted to; at most {LARGEST_ERROR[unit]:.0%} is allowed. Measure a board again when it is idle and "
            "cool; on an emulated core, give the budget in instructions"
        )
    return CostModel(device, unit, tile, factors, tuple(map(abs, errors)))


def _fit(nets: Sequence[Arch], costs: Sequence[float], tile: Tile) -> tuple[float, dict[str, float]]:
    """(the largest relative error on the nets, the factor of each kind of work)."""
    rows = [features(net, tile) for net in nets]
    kinds = sorted(set().union(*rows))
    work = np.array([[row[kind] for kind in kinds] for row in rows], float)
    scale = work.max(0)
    relative = work / scale / np.array(costs)[:, None]
    factors = non_negative_least_squares(relative, np.ones(len(nets)))
    error = float(np.abs(relative @ factors - 1).max())
    return error, dict(zip(kinds, (factors / scale).tolist(), strict=True))


def non_negative_least_squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """x >= 0 f64[N] with the least |a x - b|, for a f64[M,N] and b f64[M].

    The active set method of Lawson and Hanson, Solving Least Squares Problems (1974), chapter 23.
    """
    x = np.zeros(a.shape[1])
    free = np.zeros(a.shape[1], bool)
    for _ in range(3 * a.shape[1]):
        gradient = np.where(free, -np.inf, a.T @ (b - a @ x))
        if free.all() or gradient.max() <= _ENOUGH * np.abs(a.T @ b).max():
            break
        free[gradient.argmax()] = True
        while True:
            wanted = np.zeros_like(x)
            wanted[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
            blocked = free & (wanted <= 0)
            if not blocked.any():
                break
            # As far as the first of them gets to 0, which is then no longer free.
            x = x + (x[blocked] / (x[blocked] - wanted[blocked])).min() * (wanted - x)
            free &= x > _ENOUGH
            x[~free] = 0
        x = wanted
    return x
