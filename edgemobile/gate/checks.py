"""Results of a gate: one row per check, and the resulting exit code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

__all__ = ["Check", "GateReport", "Outcome", "worst"]


class Outcome(Enum):
    """The outcome of a check; the value is the word in a table."""

    PASSED = "pass"
    WOULD_RUN = "would run"
    SKIPPED = "skipped"
    UNSTABLE = "unstable"
    UNREACHABLE = "no device"
    MISSING = "missing"
    FAILED = "FAIL"
    WRONG = "error"

    @property
    def exit_code(self) -> int:
        return _CODES[self]

    @classmethod
    def of_code(cls, code: int) -> Outcome:
        """The outcome of a check that raised an error with this exit code."""
        return next((outcome for outcome in reversed(_CODES) if _CODES[outcome] == code), Outcome.WRONG)


# The most serious last. An impossible request (2) is above a failed check (1), and a failed check is above problems
# that prevented a check (3, 4) or a reliable result (5): a retry may solve those.
_CODES: dict[Outcome, int] = {
    Outcome.PASSED: 0,
    Outcome.WOULD_RUN: 0,
    Outcome.SKIPPED: 0,
    Outcome.UNSTABLE: 5,
    Outcome.UNREACHABLE: 4,
    Outcome.MISSING: 3,
    Outcome.FAILED: 1,
    Outcome.WRONG: 2,
}


@dataclass(frozen=True)
class Check:
    """The check `what` of `file` on `place`: what was `found` and what is `allowed`, as shown in a table.

    `words` are why it did not pass; for a check that passed, notes for the user.

    `values` are the numbers behind `found`, unrounded: "bytes", "instructions", metrics of parity, "drop_points".

    `kept`: the result is from the cache, because nothing that it depends on has changed. `wall_s` is its duration;
    checks that are measured together share theirs evenly.
    """

    model: str
    file: str
    what: str
    place: str
    outcome: Outcome
    found: str = ""
    allowed: str = ""
    words: tuple[str, ...] = ()
    kept: bool = False
    values: Mapping[str, float] = field(default_factory=dict)
    wall_s: float = 0.0


def worst(checks: Iterable[Check]) -> Outcome:
    """The most serious outcome of `checks`."""
    order = list(_CODES)
    return max((check.outcome for check in checks), key=order.index, default=Outcome.PASSED)


@dataclass(frozen=True)
class GateReport:
    """All checks in the order of edgemobile.toml. `wall_s` and `cpu_s` include the processes it started."""

    config: str
    checks: tuple[Check, ...]
    wall_s: float
    cpu_s: float

    @property
    def exit_code(self) -> int:
        """The code of the most serious outcome: 2, else 1, else 3, else 4, else 5, else 0."""
        return worst(self.checks).exit_code

    @property
    def passed(self) -> bool:
        return self.exit_code == 0

    @property
    def counts(self) -> dict[str, int]:
        """Outcome -> number of checks, the most serious first, only those that occur."""
        counted = {outcome: sum(check.outcome is outcome for check in self.checks) for outcome in reversed(_CODES)}
        return {outcome.value: count for outcome, count in counted.items() if count}

    def to_json(self) -> dict[str, Any]:
        """JSON's own types."""
        return {
            "version": 1,
            "config": self.config,
            "passed": self.passed,
            "exit_code": self.exit_code,
            "checks": [{**asdict(check), "outcome": check.outcome.name.lower()} for check in self.checks],
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
        }
