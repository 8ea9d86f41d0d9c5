"""What a gate found: one row a check, and the exit code they add up to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

__all__ = ["Check", "GateReport", "Outcome", "worst"]


class Outcome(Enum):
    """How a check ended; the value is what a table says."""

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
        """What an error with this exit code means for a check."""
        return next((outcome for outcome in reversed(_CODES) if _CODES[outcome] == code), Outcome.WRONG)


# The most serious last. What was asked cannot be (2) stands above a finding (1), and a finding above what only kept the
# gate from looking (3, 4) or from being sure (5): those may be tried again, a finding stays.
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
    """`what` of `file` on `place`: what was `found` and what is `allowed`, as a table shows them.

    `words` say why it did not pass; of a check that passed, what a reader should know.

    `values` are the numbers behind `found`, unrounded: "bytes", "instructions", metrics of parity, "drop_points".

    `kept` is from the cache: nothing it depends on has changed. `wall_s` is the time it took; checks that are measured
    together share theirs evenly.
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
    """All checks in the order of edgemobile.toml. `wall_s` and `cpu_s` are of this process and what it started."""

    config: str
    checks: tuple[Check, ...]
    wall_s: float
    cpu_s: float

    @property
    def exit_code(self) -> int:
        """Of the most serious outcome: 2, else 1, else 3, else 4, else 5, else 0."""
        return worst(self.checks).exit_code

    @property
    def passed(self) -> bool:
        return self.exit_code == 0

    @property
    def counts(self) -> dict[str, int]:
        """Outcome -> how many checks, the most serious first, those there are."""
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
