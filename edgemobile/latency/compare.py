"""Compares two runs measured under the same conditions: ratios with their intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from edgemobile.devices.host.records import Case, Run, Settings
from edgemobile.errors import EdgemobileError
from edgemobile.latency.estimates import on_boards
from edgemobile.latency.statistics import Verdict, ratio_interval, verdict

__all__ = ["Compared", "Comparison", "Judgement", "check_alike", "compare", "conditions"]


class Judgement(Enum):
    """The result against a maximum ratio."""

    PASSED = "passed"
    REGRESSED = "regressed"
    # The ratio is beyond the limit but its interval includes the limit; more runs are needed.
    UNSURE = "unsure"


@dataclass(frozen=True)
class Compared:
    """A pair of cases: `ratio` is other over reference, of median times or of instructions; below 1 is faster.

    `low` to `high` is its 95 % interval; for instructions, the minimum and maximum of all inferences. The verdicts
    state whether each side can be trusted. `estimated_ratio` is of the estimated cycles, if both sides have them for
    the same core; it does not affect the verdict.
    """

    reference: Case
    other: Case
    unit: str
    ratio: float
    low: float
    high: float
    reference_verdict: Verdict
    other_verdict: Verdict
    estimated_ratio: float | None

    @property
    def stable(self) -> bool:
        return self.reference_verdict.stable and self.other_verdict.stable

    def judge(self, max_regress: float) -> Judgement:
        """`max_regress` is relative: 0.05 allows the other to be 5 % slower."""
        limit = 1 + max_regress
        if self.ratio <= limit:
            return Judgement.PASSED
        return Judgement.REGRESSED if self.low > limit else Judgement.UNSURE


@dataclass(frozen=True)
class Comparison:
    """All pairs. `unlike` lists what differs between the runs besides the files, `unpaired` the files without a
    partner.
    """

    pairs: tuple[Compared, ...]
    unlike: tuple[str, ...]
    unpaired: tuple[str, ...]

    @property
    def stable(self) -> bool:
        """Whether both sides of every pair can be trusted."""
        return all(pair.stable for pair in self.pairs)


def compare(reference: Run, other: Run, *, allow_unlike: bool = False) -> Comparison:
    """Pair cases by file name and threads; a single case on each side is a pair whatever the names.

    Raises EdgemobileError if the conditions differ, unless `allow_unlike`; if time would be compared with
    instructions; and if there are no pairs.
    """
    if reference.emulated != other.emulated:
        raise EdgemobileError(
            "one run is emulated and counts instructions, the other has times: they cannot be compared"
        )
    pairs, unpaired = _paired(reference, other)
    if not pairs:
        names = (", ".join(sorted({Path(case.file).name for case in run.cases})) for run in (reference, other))
        raise EdgemobileError(f"the runs have no file in common: {' against '.join(names)}")
    unlike = tuple(
        dict.fromkeys((*_unlike_runs(reference, other), *(text for a, b in pairs for text in _unlike(a, b))))
    )
    if unlike and not allow_unlike:
        raise EdgemobileError(
            f"the runs differ in their conditions: {'; '.join(unlike)}. To compare them anyway: --allow-unlike"
        )
    compared = tuple(_compared(a, b, (verdict(a, reference), verdict(b, other))) for a, b in pairs)
    return Comparison(compared, unlike, unpaired)


def _paired(reference: Run, other: Run) -> tuple[list[tuple[Case, Case]], tuple[str, ...]]:
    if len(reference.cases) == len(other.cases) == 1:
        return [(reference.cases[0], other.cases[0])], ()
    ours, theirs = _by_key(reference), _by_key(other)
    pairs = [(ours[key], theirs[key]) for key in ours if key in theirs]
    left = [
        f"{Path(name).name} (threads: {threads})"
        for name, threads in (*ours, *theirs)
        if ((name, threads) in ours) ^ ((name, threads) in theirs)
    ]
    return pairs, tuple(left)


def _by_key(run: Run) -> dict[tuple[str, int], Case]:
    """Cases by file name and threads; by the full path if names repeat."""
    names = {(Path(case.file).name, case.threads): case for case in run.cases}
    return names if len(names) == len(run.cases) else {(case.file, case.threads): case for case in run.cases}


def check_alike(reference: Run, device: str, settings: Settings) -> None:
    """Raises EdgemobileError before a measurement that `compare` would refuse."""
    asked: dict[str, Any] = {"device": device, "pinned to": settings.cores, "sustained for": settings.sustained_s}
    asked |= {"cooled to": settings.cooldown_c, "sizes": _sizes(settings)}
    was = conditions(reference)
    unlike = [
        f"{what} {_word(was[what])} against {_word(value)}" for what, value in asked.items() if was[what] != value
    ]
    if unlike:
        raise EdgemobileError(f"the baseline was measured under other conditions: {'; '.join(unlike)}")


def _unlike_runs(reference: Run, other: Run) -> Iterator[str]:
    for what, a, b in zip(_CONDITIONS, _conditions(reference), _conditions(other), strict=True):
        if a != b:
            yield f"{what} {_word(a)} against {_word(b)}"


_CONDITIONS = (
    "device",
    "board",
    "machine",
    "cores",
    "CPU features",
    "pinned to",
    "governor",
    "sustained for",
    "cooled to",
    "sizes",
)


def conditions(run: Run) -> dict[str, Any]:
    """What must be equal in two runs to compare them, besides runtime, threads and batch."""
    return dict(zip(_CONDITIONS, _conditions(run), strict=True))


def _conditions(run: Run) -> tuple[Any, ...]:
    governor = run.conditions[0].conditions.governor if run.conditions else None
    kinds = tuple(core.kind for core in run.facts.cores)
    settings = run.settings
    return (
        run.device,
        run.facts.model,
        run.facts.machine,
        kinds,
        run.facts.features,
        settings.cores,
        governor,
        settings.sustained_s,
        settings.cooldown_c,
        _sizes(settings),
    )


def _sizes(settings: Settings) -> tuple[str, ...] | None:
    """The shapes given for inputs with dynamic dimensions."""
    return tuple(f"{name}={'x'.join(map(str, shape))}" for name, shape in sorted(settings.shapes.items())) or None


def _unlike(a: Case, b: Case) -> Iterator[str]:
    facts = (
        ("runtime", f"{a.runtime} {a.version}", f"{b.runtime} {b.version}"),
        ("threads", a.threads, b.threads),
        ("batch", a.batch, b.batch),
    )
    for what, ours, theirs in facts:
        if ours != theirs:
            yield f"{what} {ours} against {theirs} ({Path(b.file).name})"


def _word(value: Any) -> str:
    return "nothing" if value is None else ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _compared(a: Case, b: Case, verdicts: tuple[Verdict, Verdict]) -> Compared:
    if a.instructions is not None and b.instructions is not None:
        ours, theirs = ([counts["total"] for counts in case.instructions or ()] for case in (a, b))
        ratio = b.instructions_median["total"] / a.instructions_median["total"]
        low, high = min(theirs) / max(ours), max(theirs) / min(ours)
        return Compared(a, b, "instructions", ratio, low, high, *verdicts, _estimated_ratio(a, b))
    return Compared(a, b, "time", *ratio_interval(a, b), *verdicts, None)


def _estimated_ratio(a: Case, b: Case) -> float | None:
    """At the clock of the first board with the core."""
    if a.estimate is None or b.estimate is None or a.estimate.core != b.estimate.core:
        return None
    return on_boards(b.estimate)[0].cycles / on_boards(a.estimate)[0].cycles
