"""The conclusion of a report: its title, and the file to ship of each model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgemobile.report.findings import Accuracy, Artifact, Findings, Line, Timing
from edgemobile.report.sources import Export
from edgemobile.report.words import device_words

__all__ = ["Answer", "answers", "default_title"]


@dataclass(frozen=True)
class Answer:
    """`file` is the file to ship of a model, "" if there is none; `words` are its gains, or why there is none."""

    model: str
    file: str
    words: str


def default_title(found: Findings) -> str:
    """ "v3-large at 96 px, 2026-11-30"; without an export, the name of the only file, else "edgemobile report"."""
    by_size: dict[int, dict[str, None]] = {}
    for export in found.sources.exports:
        by_size.setdefault(export.input_px, {})[export.name] = None
    models = [f"{', '.join(names)} at {input_px} px" for input_px, names in by_size.items()]
    if not models and len(found.artifacts) == 1:
        models = [found.artifacts[0].name]
    if not models:
        return "edgemobile report"
    days = sorted({run.created[:10] for run in found.sources.runs})
    return ", ".join([*models, *([" to ".join(dict.fromkeys((days[0], days[-1])))] if days else [])])


def answers(found: Findings) -> Iterator[Answer]:
    """One answer per model whose float32 file and another were measured in one line."""
    for export in found.sources.exports:
        line = _line_of(export, found.lines)
        if line is not None:
            yield _answer(export, line)


def _line_of(export: Export, lines: Sequence[Line]) -> Line | None:
    """The line to compare: it has a float32 file and others of the export. Stable lines are preferred, then time over
    instructions, then the line with the most files."""
    fitting = [line for line in lines if len(_of(export, line)) > 1 and any(map(_is_float32, _of(export, line)))]
    return max(
        fitting, key=lambda line: (_steady(export, line), not line.emulated, len(_of(export, line))), default=None
    )


def _steady(export: Export, line: Line) -> bool:
    return any(not timing.reasons for _, timing in _of(export, line))


def _of(export: Export, line: Line) -> list[tuple[Artifact, Timing]]:
    return [point for point in line.points if point[0].export is export]


def _is_float32(point: tuple[Artifact, Timing]) -> bool:
    return point[0].precision == "float32"


def _answer(export: Export, line: Line) -> Answer:
    points = _of(export, line)
    floats = [point for point in points if _is_float32(point)]
    passed = [point for point in points if not _failed(point[0]) and not _is_worse(point[0], floats, line.device)]
    steady = [point for point in passed if not point[1].reasons]
    where = device_words(line)
    if not passed:
        return Answer(export.name, "", f"no file of {export.name} both passed and kept its accuracy")
    if not steady:
        return Answer(export.name, "", f"{export.name}: every measurement on {where} is unstable; measure again")
    artifact, timing = min(steady, key=lambda point: _cost(point[1]))
    reference, reference_timing = _twin(artifact, floats)
    if artifact is reference:
        return Answer(export.name, artifact.name, f"no file is faster on {where}")
    words = [_gain(timing, reference_timing, where), _smaller(artifact, reference), _kept(artifact, reference, line)]
    return Answer(export.name, artifact.name, ", ".join(filter(None, words)))


def _cost(timing: Timing) -> float:
    """Milliseconds, measured or estimated, or millions of instructions."""
    return timing.estimated[0].ms if timing.estimated else timing.value


def _failed(artifact: Artifact) -> bool:
    missed = artifact.exported is not None and artifact.exported.missed
    return bool(missed) or any(not one.file.passed for one in artifact.compared)


def _is_worse(artifact: Artifact, floats: Sequence[tuple[Artifact, Timing]], device: str) -> bool:
    """Whether it is less accurate than a float32 file, with intervals that do not overlap."""
    own = artifact.accuracy_on(device)
    others = [one.accuracy_on(device) for one, _ in floats]
    return own is not None and any(_alike(own, one) and own.high < one.low for one in others if one is not None)


def _alike(one: Accuracy, other: Accuracy) -> bool:
    return one.data == other.data


def _twin(artifact: Artifact, floats: Sequence[tuple[Artifact, Timing]]) -> tuple[Artifact, Timing]:
    """The float32 file with its format, else the fastest one."""
    return min(floats, key=lambda point: (point[0].format != artifact.format, _cost(point[1])))


def _gain(timing: Timing, reference: Timing, where: str) -> str:
    """How much faster, if the intervals do not overlap; emulated: by estimate, or fewer instructions."""
    estimates = list(zip(timing.estimated, reference.estimated, strict=False))
    if estimates:
        own, other = estimates[0]
        return f"{other.ms / own.ms:.1f}x faster than float32 on a {own.board.words}, as estimated from {where}"
    if timing.interval[1] >= reference.interval[0]:
        return f"not clearly faster than float32 on {where}"
    ratio = reference.value / timing.value
    return f"{ratio:.1f}x {'faster' if timing.summary else 'fewer instructions'} than float32 on {where}"


def _smaller(artifact: Artifact, reference: Artifact) -> str:
    if not artifact.bytes or not reference.bytes:
        return ""
    return f"{reference.bytes / artifact.bytes:.1f}x smaller"


def _kept(artifact: Artifact, reference: Artifact, line: Line) -> str:
    """Points of top-1 against float32 on the same images, else how often it agrees with PyTorch."""
    own, other = artifact.accuracy_on(line.device), reference.accuracy_on(line.device)
    if own is not None and other is not None and _alike(own, other):
        return f"top-1 {100 * (own.top1 - other.top1):+.2f} points on {own.count} images"
    agree = artifact.exported.metrics.get("top1_agree") if artifact.exported else None
    return "" if agree is None else f"the same answer as PyTorch for {agree:.1%} of the check images"
