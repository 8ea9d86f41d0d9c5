"""Joins sources: one Artifact per sha256, with the results of each source. Different conditions stay separate.

Records of older versions have a file's name but not its sha256; they are joined by name, with a note, if only one
artifact has that name. Accuracy and speed are combined only for the same artifact, and a line joins only cases measured
alike: one device under the same conditions, with the same threads, batch and version of each runtime.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, combinations
from pathlib import PurePath

from edgemobile.accuracy.statistics import wilson
from edgemobile.comparison.report import FileParity, ParityReport
from edgemobile.devices.host.records import Case, Run
from edgemobile.exporters import FILE_SUFFIXES
from edgemobile.latency.compare import conditions
from edgemobile.latency.estimates import Estimated, on_boards
from edgemobile.latency.statistics import Summary, summarize, verdict
from edgemobile.report.sources import Evaluated, Export, ExportedFile, Scores, Sources

__all__ = ["Accuracy", "Artifact", "Compared", "Findings", "Line", "Timing", "join", "timing_of"]


@dataclass(frozen=True)
class Accuracy:
    """Top-1 as a fraction, its 95 % interval and data set: `on` is the device that ran it, None for this machine."""

    top1: float
    low: float
    high: float
    count: int
    top5: float | None
    data: str
    on: str | None


@dataclass(frozen=True)
class Timing:
    """A case of a run, with either `summary` (time) or `instructions` (emulated: of one inference).

    `reasons` are why it cannot be trusted; () for a stable one.
    """

    run: Run
    case: Case
    summary: Summary | None
    reasons: tuple[str, ...]

    @property
    def instructions(self) -> Mapping[str, float] | None:
        return self.case.instructions_median or None

    @property
    def estimated(self) -> list[Estimated]:
        """Estimates for the boards with the emulated core; [] for a real board, and without estimates."""
        estimate = self.case.estimate
        return [] if estimate is None else on_boards(estimate, self.run.settings.clock_mhz)

    @property
    def value(self) -> float:
        """ms, or millions of instructions."""
        if self.summary is not None:
            return self.summary.median_ns / 1e6
        return self.case.instructions_median["total"] / 1e6

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the median in ms; the minimum and maximum in millions of instructions."""
        if self.summary is not None:
            return self.summary.low_ns / 1e6, self.summary.high_ns / 1e6
        totals = [counts["total"] / 1e6 for counts in self.case.instructions or ()]
        return min(totals), max(totals)


@dataclass(frozen=True)
class Compared:
    """A file of a parity report, with its report."""

    report: ParityReport
    file: FileParity


@dataclass
class Artifact:
    """A file, by its sha256. `name` is unique in the report; `export` and `exported` exist if there is a manifest."""

    name: str
    sha256: str | None
    format: str = ""
    precision: str = ""
    bytes: int | None = None
    export: Export | None = None
    exported: ExportedFile | None = None
    timings: list[Timing] = field(default_factory=list)
    accuracies: list[Accuracy] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)

    def accuracy_on(self, device: str) -> Accuracy | None:
        """The evaluation on that device, else the one with most images."""
        best = sorted(self.accuracies, key=lambda one: (one.on == device, one.count))
        return best[-1] if best else None


@dataclass(frozen=True)
class Line:
    """Cases measured alike, with their artifacts. `when` separates lines with the same device, threads and batch."""

    device: str
    emulated: bool
    threads: int
    batch: int
    conditions: Mapping[str, object]
    points: tuple[tuple[Artifact, Timing], ...]
    when: str = ""

    @property
    def unit(self) -> str:
        return "M instructions" if self.emulated else "ms"


@dataclass(frozen=True)
class Findings:
    """All findings of a report, artifacts in order of appearance. `references` are scores of models without a file, by
    name.
    """

    artifacts: tuple[Artifact, ...]
    references: tuple[tuple[str, Accuracy], ...]
    lines: tuple[Line, ...]
    sources: Sources
    notes: tuple[str, ...]


def join(sources: Sources) -> Findings:
    """Raises EdgemobileError if there are none; what could not be joined is in `notes`."""
    book, notes = _Book(), []
    for export in sources.exports:
        for exported in export.files:
            artifact = book.known(exported.sha256, exported.file, exported.format, exported.precision)
            artifact.bytes, artifact.export, artifact.exported = exported.bytes, export, exported
    for run in sources.runs:
        for case in run.cases:
            artifact = book.known(case.sha256, case.file, case.format, case.precision)
            artifact.bytes = case.bytes
            artifact.timings.append(timing_of(run, case))
    for report in sources.parities:
        for file in report.files:
            artifact = book.found(file.sha256 or None, file.file, file.format, file.precision)
            artifact.compared.append(Compared(report, file))
    references = []
    for scores in sources.scores:
        for scored in scores.files:
            accuracy = _accuracy(scored, scores)
            if scored.sha256 is None and not _is_file(scored.file):
                references.append((scored.file, accuracy))
            else:
                book.found(scored.sha256, scored.file).accuracies.append(accuracy)
    for artifact in book.artifacts:
        _accuracy_at_export(artifact)
    notes += book.notes
    artifacts = tuple(_named_apart(book.artifacts))
    lines = tuple(_with_times(list(_lines(artifacts)), sources))
    return Findings(artifacts, tuple(references), lines, sources, (*notes, *_separate_notes(lines)))


class _Book:
    """Artifacts by sha256; records without sha256 by name."""

    def __init__(self) -> None:
        self.by_sha256: dict[str, Artifact] = {}
        self.by_name: dict[str, Artifact] = {}
        self.notes: list[str] = []

    @property
    def artifacts(self) -> list[Artifact]:
        return [*self.by_sha256.values(), *self.by_name.values()]

    def known(self, sha256: str, file: str, format: str = "", precision: str = "") -> Artifact:
        artifact = self.by_sha256.setdefault(sha256, Artifact(PurePath(file).name, sha256))
        artifact.format, artifact.precision = artifact.format or format, artifact.precision or precision
        return artifact

    def found(self, sha256: str | None, file: str, format: str = "", precision: str = "") -> Artifact:
        if sha256 is not None:
            return self.known(sha256, file, format or _format(file), precision)
        name = PurePath(file).name
        same = [one for one in self.by_sha256.values() if one.name == name]
        if len(same) == 1:
            self._note(f"{name} is joined by its name: its record has no sha256")
            return same[0]
        if same:
            self._note(
                f"{len(same)} artifacts are called {name}, and a record without sha256 cannot be joined with "
                "one of them"
            )
        return self.by_name.setdefault(file, Artifact(name, None, format or _format(file), precision))

    def _note(self, words: str) -> None:
        if words not in self.notes:
            self.notes.append(words)


def _is_file(file: str) -> bool:
    return _format(file) != ""


def _format(file: str) -> str:
    suffix = PurePath(file).suffix.lower()
    return suffix.removeprefix(".") if suffix in FILE_SUFFIXES else ""


def timing_of(run: Run, case: Case) -> Timing:
    """The summary of a case of `run`, with its verdict."""
    summary = summarize(case.rounds_ns, case.rounds_per_process) if case.rounds_ns else None
    return Timing(run, case, summary, verdict(case, run).reasons)


def _accuracy(scored: Evaluated, scores: Scores) -> Accuracy:
    low, high = scored.top1_interval95
    split = f" ({scores.split})" if scores.split else ""
    drawn = f", drawn with seed {scores.seed}" if scores.limit else ""
    data = f"{scored.count} images of {PurePath(scores.data).name}{split}{drawn}"
    return Accuracy(scored.top1, low, high, scored.count, scored.top5, data, scores.on)


def _accuracy_at_export(artifact: Artifact) -> None:
    """If there is no other source, the measurement of the export: "300 images of cifar10.zip (test)"."""
    exported, export = artifact.exported, artifact.export
    if artifact.accuracies or exported is None or export is None or exported.top1 is None:
        return
    count = export.checked_on.partition(" ")[0]
    if count.isdecimal() and int(count) and 0 <= exported.top1 <= 1:
        low, high = wilson(round(exported.top1 * int(count)), int(count))
        words = f"{export.checked_on}, at export"
        artifact.accuracies.append(Accuracy(exported.top1, low, high, int(count), None, words, None))


def _named_apart(artifacts: Sequence[Artifact]) -> Iterator[Artifact]:
    names = [artifact.name for artifact in artifacts]
    for artifact in artifacts:
        if names.count(artifact.name) > 1:
            artifact.name += f" [{(artifact.sha256 or 'no sha256')[:8]}]"
        yield artifact


def _lines(artifacts: Iterable[Artifact]) -> Iterator[Line]:
    """Groups of comparable cases; a file measured twice under the same conditions starts a new line."""
    groups: list[tuple[tuple[object, ...], dict[str, object], dict[str, str], list[tuple[Artifact, Timing]]]] = []
    for artifact in artifacts:
        for timing in artifact.timings:
            run, case = timing.run, timing.case
            alike = conditions(run)
            key = (*alike.values(), run.emulated, case.threads, case.batch)
            fitting = [one for one in groups if one[0] == key and _fits(case, artifact, one[2], one[3])]
            # Files of one run were interleaved, so they stay together before they are joined with another run.
            group = max(fitting, key=lambda one: any(other.run is run for _, other in one[3]), default=None)
            if group is None:
                group = (key, alike, {}, [])
                groups.append(group)
            group[2][case.runtime] = case.version
            group[3].append((artifact, timing))
    for _, alike, _, points in groups:
        run, case = points[0][1].run, points[0][1].case
        yield Line(run.device, run.emulated, case.threads, case.batch, alike, tuple(points))


def _fits(
    case: Case, artifact: Artifact, versions: Mapping[str, str], points: Sequence[tuple[Artifact, Timing]]
) -> bool:
    taken = {(one.sha256, timing.case.runtime) for one, timing in points}
    return versions.get(case.runtime, case.version) == case.version and (artifact.sha256, case.runtime) not in taken


def _with_times(lines: Sequence[Line], sources: Sources) -> Iterator[Line]:
    """Set `when` if lines have the same device, threads and batch; with a number if the time is the same too."""
    names = [_name(line) for line in lines]
    seen: Counter[tuple[object, ...]] = Counter()
    for line, name in zip(lines, names, strict=True):
        if names.count(name) == 1:
            yield line
            continue
        times = sorted({sources.measured(timing.run) for _, timing in line.points})
        when = f"{' to '.join(dict.fromkeys((times[0], times[-1])))} UTC"
        seen[name, when] += 1
        yield replace(line, when=f"{when} ({seen[name, when]})" if seen[name, when] > 1 else when)


def _name(line: Line) -> tuple[object, ...]:
    return line.device, line.threads, line.batch


def _separate_notes(lines: Sequence[Line]) -> Iterator[str]:
    """Why lines of one device are separate, one note per device."""
    differences: dict[str, list[list[str]]] = {}
    for line, other in combinations(lines, 2):
        if _name(line) == _name(other):
            differences.setdefault(line.device, []).append(_differences(line, other))
    for device, found in differences.items():
        names = ", ".join(dict.fromkeys(chain(*found)))
        why = [f"different {names}"] if names else []
        why += ["a file was measured again"] if [] in found else []
        yield f"runs on {device} are separate: {'; '.join(why)}"


def _differences(line: Line, other: Line) -> list[str]:
    """The names of the conditions and versions that differ; [] if only a common file keeps them separate."""
    names = [name for name in line.conditions if line.conditions[name] != other.conditions[name]]
    names += ["emulation"] if line.emulated != other.emulated else []
    versions, others = ({timing.case.runtime: timing.case.version for _, timing in one.points} for one in (line, other))
    return names + [f"{name} version" for name in versions if others.get(name, versions[name]) != versions[name]]
