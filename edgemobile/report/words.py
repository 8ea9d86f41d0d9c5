"""Formats numbers: a report rounds here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from edgemobile.devices.host.records import Run
from edgemobile.latency.estimates import caveat
from edgemobile.report.findings import Accuracy, Artifact, Findings, Line, Timing
from edgemobile.report.sources import Sources

__all__ = [
    "accuracy_words",
    "all_notes",
    "case_words",
    "dash",
    "db",
    "device_words",
    "line_words",
    "megabytes",
    "ms",
    "percent",
    "short_names",
    "value_words",
]

dash = "–"


def ms(value: float | None) -> str:
    """Milliseconds with three digits."""
    if value is None:
        return dash
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def percent(share: float | None) -> str:
    return dash if share is None else f"{100 * share:.2f} %"


def megabytes(count: int | None) -> str:
    return dash if count is None else f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def db(value: float | None) -> str:
    if value is None or math.isnan(value):
        return dash
    return "exact" if value == math.inf else f"{value:.1f} dB"


def value_words(timing: Timing) -> str:
    """ "1.29 ms (1.22 to 1.35)", "84.8 M instructions"."""
    low, high = timing.interval
    if timing.summary is None:
        return f"{timing.value:.3f} M instructions"
    return f"{ms(timing.value)} ms, 95 % {ms(low)} to {ms(high)}"


def accuracy_words(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return "accuracy not known"
    return f"top-1 {percent(accuracy.top1)}, 95 % {100 * accuracy.low:.1f} to {100 * accuracy.high:.1f}"


def case_words(artifact: Artifact, timing: Timing) -> str:
    """One case, as several lines."""
    case = timing.case
    threads = f"{case.threads} thread{'s' if case.threads > 1 else ''}"
    lines = [
        artifact.name,
        value_words(timing),
        accuracy_words(artifact.accuracy_on(timing.run.device)),
        f"{case.runtime} {case.version}, {threads}, {timing.run.facts.int8_isa}",
    ]
    return "\n".join([*lines, *(f"unstable: {reason}" for reason in timing.reasons)])


def short_names(names: Sequence[str]) -> list[str]:
    """Names without their common prefix, up to a dash: "v3-large-int8.onnx" -> "int8.onnx"."""
    first, last = min(names, default=""), max(names, default="")
    same = next((index for index, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), 0)
    cut = first.rfind("-", 0, same) + 1
    return [name[cut:] for name in names]


def device_words(line: Line) -> str:
    threads = f"{line.threads} thread{'s' if line.threads > 1 else ''}"
    return f"{line.device}, {threads}{f', batch {line.batch}' if line.batch > 1 else ''}"


def line_words(line: Line) -> str:
    """A name that is unique in the report."""
    return f"{device_words(line)}{f', {line.when}' if line.when else ''}"


def all_notes(found: Findings) -> list[str]:
    """All notes, each once: about joining, runs with their device, estimates, evaluations and parity reports."""
    sources = found.sources
    notes = [*found.notes, *_run_notes(sources), *_caveats(sources)]
    notes += [note for scores in sources.scores for note in scores.notes]
    notes += [note for report in sources.parities for note in report.notes]
    return list(dict.fromkeys(notes))


def _run_notes(sources: Sources) -> Iterator[str]:
    by_note: dict[str, list[Run]] = {}
    for run in sources.runs:
        for note in dict.fromkeys(run.notes):
            by_note.setdefault(note, []).append(run)
    for note, runs in by_note.items():
        yield f"{'; '.join(_whose(runs, sources))}: {note}"


def _caveats(sources: Sources) -> Iterator[str]:
    """Notes about the estimated times."""
    for run in sources.runs:
        for case in run.cases:
            if case.estimate is not None:
                yield f"{run.device}: {caveat(case.estimate)}"


def _whose(runs: Sequence[Run], sources: Sources) -> Iterator[str]:
    """Devices of `runs`, with the times if not all of a device's runs are meant."""
    for device in dict.fromkeys(run.device for run in runs):
        times = [sources.measured(run) for run in runs if run.device == device]
        all_of_it = len(times) == sum(run.device == device for run in sources.runs)
        yield device if all_of_it else f"{device}, {' and '.join(times)} UTC"
