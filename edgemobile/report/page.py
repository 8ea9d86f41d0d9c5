"""One self-contained HTML file: style, script, figures and tables are in it, and its policy blocks other requests."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgemobile import __version__
from edgemobile.errors import require
from edgemobile.report.answer import answers, default_title
from edgemobile.report.drawing import COLOURS, Drawing, svg
from edgemobile.report.findings import Compared, Findings, Line
from edgemobile.report.graph_view import graph_view
from edgemobile.report.plots import (
    confusion_plot,
    cost_groups,
    latency_plot,
    layer_plot,
    op_groups,
    op_plot,
    pareto_plot,
    scored_points,
    size_plot,
)
from edgemobile.report.sources import Export
from edgemobile.report.tables import (
    Cell,
    Table,
    artifact_table,
    case_table,
    class_tables,
    conditions_table,
    facts_rows,
    layer_table,
    parity_table,
)
from edgemobile.report.words import all_notes, device_words, line_words, megabytes, ms, percent, short_names

__all__ = ["page"]

_WIDE_PX, _HALF_PX, _NARROW_PX = 960, 464, 344
_MOST_CONFUSED, _CONFUSIONS = 30, 6
_GRAPHS = 4
_CROWD = 8  # points that need the whole width
# Classes of instructions as `edgemobile bench` shows them.
_WORK = {
    "dot products": ("dot", "mmla"),
    "multiply-adds": ("fmla", "mlal_mull"),
    "loads and stores": ("ldst_gpr", "ldst_simd"),
}


@dataclass(frozen=True)
class Figure:
    """`wide` and `narrow` are SVG of the same figure; a page shows one of them."""

    title: str
    words: str
    wide: str
    narrow: str


@dataclass(frozen=True)
class Tile:
    """`what` is the subject of the figure, and `words` the text below it."""

    what: str
    figure: str
    words: str
    failed: bool = False


def page(found: Findings, title: str | None = None, over_time: Table | None = None) -> str:
    """`title` None is made of the models, their resolution and the date. `over_time` is a section of its own.

    Raises MissingExtra if matplotlib or jinja2 is not installed.
    """
    jinja2 = require("jinja2", "report")
    markup = require("markupsafe", "report").Markup
    style, script = _colours() + _own("page.css"), _own("page.js")
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        _own("page.html.jinja")
    )
    drawn = _Drawn(markup)
    return template.render(
        title=title or default_title(found),
        answers=list(answers(found)),
        version=__version__,
        style=markup(style),
        script=markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        summary=list(_summary(found)),
        legend=_legend(found),
        pareto=[
            drawn(line_words(line), _pareto_words(line), pareto_plot, line, _pareto_px(line)) for line in _scored(found)
        ],
        pareto_wide=any(_pareto_px(line) == _WIDE_PX for line in _scored(found)),
        unscored=_unscored(found),
        by_class=list(class_tables(found)),
        confusions=list(_confusions(found, drawn)),
        latency=[drawn(line_words(line), "", latency_plot, line, _HALF_PX) for line in found.lines],
        layers=[drawn("Layer by layer", words, layer_plot, files, _WIDE_PX) for words, files in _layered(found)],
        graphs=[_graph(one, markup) for one in _worst_first(found)[:_GRAPHS]],
        graphs_left=[one.file.file for one in _worst_first(found)[_GRAPHS:]],
        doubts=_doubts(found),
        work=list(_work(found, drawn)),
        partitions=list(_partitions(found)),
        sizes=[drawn("", "", size_plot, found.artifacts, _HALF_PX)]
        if any(one.bytes for one in found.artifacts)
        else [],
        files=artifact_table(found),
        cases=case_table(found),
        over_time=over_time,
        parity=parity_table(found),
        worst=layer_table(found),
        conditions=conditions_table(found),
        exports=[(one, list(facts_rows(one.facts)), _preprocess(one)) for one in found.sources.exports],
        notes=all_notes(found),
        sort_key=_sort_key,
    )


class _Drawn:
    """Draws figures for a wide screen and for a phone, each with a unique name."""

    def __init__(self, markup: type[str]) -> None:
        self.markup, self.count = markup, 0

    def __call__(self, title: str, words: str, draw: Callable[[Any, int], Drawing], of: Any, wide_px: int) -> Figure:
        self.count += 1
        wide, narrow = (self.markup(svg(draw(of, px), f"figure {self.count} {px}")) for px in (wide_px, _NARROW_PX))
        return Figure(title, words, wide, narrow)


def _own(name: str) -> str:
    return files("edgemobile.report").joinpath(name).read_text(encoding="utf-8")


def _colours() -> str:
    light, dark = (";".join(f"--{name}:{pair[index]}" for name, pair in COLOURS.items()) for index in (0, 1))
    return (
        f":root{{{light};color-scheme:light dark}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
    )


def _sort_key(cell: Cell) -> str:
    """The sort key for the script: a number as text, "" to sort last."""
    if isinstance(cell.key, float) and math.isinf(cell.key):
        return "Infinity" if cell.key > 0 else "-Infinity"
    return "" if cell.key is None or cell.key != cell.key else str(cell.key)


# ---- the parts of the page ------------------------------------------------------------------------------------------


def _summary(found: Findings) -> list[Tile]:
    """The key facts that a reader needs first; failures come before them."""
    return sorted(_tiles(found), key=lambda tile: not tile.failed)


def _tiles(found: Findings) -> Iterator[Tile]:
    for line in found.lines:
        steady = [(artifact, timing) for artifact, timing in line.points if not timing.reasons] or list(line.points)
        artifact, timing = min(steady, key=lambda point: point[1].value)
        figure = f"{timing.value:.2f} M instr." if line.emulated else f"{ms(timing.value)} ms"
        near = [one.name for one, other in steady if other is not timing and other.interval[0] <= timing.interval[1]]
        what = "least work" if line.emulated else "lowest median, within the intervals of others" if near else "fastest"
        where = line_words(line).replace("-", "\u2011")  # so that dates do not wrap
        doubt = "; unstable" if timing.reasons else ""
        yield Tile(f"{what}, {where}", figure, f"{artifact.name}{doubt}{_meeting(near)}")
    for line in found.lines:
        points = [(one, timing.estimated[0]) for one, timing in line.points if timing.estimated]
        if points:
            file, shortest = min(points, key=lambda pair: pair[1].ms)
            words = f"{file.name}; {device_words(line)}"
            yield Tile(f"estimated, {shortest.board.words}", f"{ms(shortest.ms)} ms", words)
    known = [(one, accuracy) for one in found.artifacts if (accuracy := one.accuracy_on(""))]
    if known:
        best, accuracy = max(known, key=lambda pair: pair[1].top1)
        near = [one.name for one, other in known if one is not best and other.high >= accuracy.low]
        words = f"{best.name}; {accuracy.data}{_meeting(near)}"
        yield Tile(
            "highest accuracy, within the intervals of others" if near else "most accurate",
            percent(accuracy.top1),
            words,
        )
    sized = [one for one in found.artifacts if one.bytes]
    if sized:
        least = min(sized, key=lambda one: one.bytes or 0)
        yield Tile("smallest", megabytes(least.bytes), least.name)
    weighed = [(one, peak) for one in found.artifacts for timing in one.timings if (peak := timing.case.peak_mib)]
    if weighed:
        artifact, peak = min(weighed, key=lambda pair: pair[1])
        yield Tile("least memory", f"{peak:.1f} MiB", artifact.name)
    compared = [one for artifact in found.artifacts for one in artifact.compared]
    if compared:
        failed = [one for one in compared if not one.file.passed]
        words = ", ".join(Path(one.file.file).name for one in failed) or f"with {compared[0].report.reference}"
        figure = f"{len(failed)} of {len(compared)} fail" if failed else f"{len(compared)} pass"
        yield Tile("parity", figure, words, failed=bool(failed))


def _meeting(near: Sequence[str]) -> str:
    """The cases whose intervals overlap that of the best, so that it may not be the best."""
    if not near:
        return ""
    return f"; its interval overlaps {f'that of {near[0]}' if len(near) == 1 else f'those of {len(near)} more'}"


def _legend(found: Findings) -> list[tuple[str, str]]:
    """(precision, name of its colour)."""
    precisions = dict.fromkeys(one.precision for one in found.artifacts if one.precision)
    return [(one, one if one in COLOURS else "other") for one in precisions]


def _scored(found: Findings) -> list[Line]:
    return [line for line in found.lines if scored_points(line)]


def _pareto_px(line: Line) -> int:
    return _WIDE_PX if len(scored_points(line)) > _CROWD else _HALF_PX


def _pareto_words(line: Line) -> str:
    points = scored_points(line)
    names = short_names([artifact.name for artifact, _, _ in points])
    shaky = [name for name, (_, timing, _) in zip(names, points, strict=True) if timing.reasons]
    doubt = "all of it" if len(shaky) == len(points) else ", ".join(shaky)
    return points[0][2].data + (f"; unstable: {doubt}" if shaky else "")


def _unscored(found: Findings) -> list[str]:
    """Cases that are missing from a plot of accuracy, and why."""
    other: dict[str, list[str]] = {}
    for line in found.lines:
        drawn = {id(timing) for _, timing, _ in scored_points(line)}
        left = [one.name for one, timing in line.points if one.accuracies and id(timing) not in drawn]
        if left:
            other.setdefault(", ".join(left), []).append(line_words(line))
    notes = [
        f"{'; '.join(lines)}: the accuracy of {names} was measured on other images" for names, lines in other.items()
    ]
    unknown = [one.name for one in found.artifacts if one.timings and not one.accuracies]
    if unknown:
        notes.append(f"the accuracy of {', '.join(unknown)} is not known: add `edgemobile eval --json`")
    return notes


def _layered(found: Findings) -> Iterator[tuple[str, list[Compared]]]:
    """Files of one report share a plot, because they had the same reference and images."""
    for report in found.sources.parities:
        compared = [
            one for artifact in found.artifacts for one in artifact.compared if one.report is report and one.file.layers
        ]
        if compared:
            yield f"against {report.reference}, on {report.images}", compared


def _worst_first(found: Findings) -> list[Compared]:
    """The compared files with layers: those with a layer that diverges first, then the lowest SQNR."""
    compared = [one for _, files in _layered(found) for one in files]
    return sorted(compared, key=lambda one: (one.file.first_diverging is None, one.file.metrics.get("sqnr_db", 0.0)))


def _graph(one: Compared, markup: type[str]) -> Figure:
    wide, narrow = (markup(graph_view(one.file.layers, px)) for px in (_WIDE_PX, _NARROW_PX))
    return Figure(f"{Path(one.file.file).name} on {one.file.place}", f"against {one.report.reference}", wide, narrow)


def _confusions(found: Findings, drawn: _Drawn) -> Iterator[Figure]:
    """Confusion matrices of the first files with few enough classes."""
    files = [one for scores in found.sources.scores for one in scores.files if 1 < len(one.per_class) <= _MOST_CONFUSED]
    for one in files[:_CONFUSIONS]:
        yield drawn(Path(one.file).name, f"{one.count} images", confusion_plot, one, _HALF_PX)


def _doubts(found: Findings) -> list[str]:
    return [
        f"{artifact.name}, {line_words(line)}: {'; '.join(timing.reasons)}"
        for line in found.lines
        for artifact, timing in line.points
        if timing.reasons
    ]


def _work(found: Findings, drawn: _Drawn) -> Iterator[Figure]:
    for line in found.lines:
        for artifact, timing in line.points:
            case = timing.case
            if case.profile:
                groups, unit = op_groups(case), "µs"
                words = f"{line_words(line)}; median by op, by the runtime's profiler"
            elif case.prefixes and timing.estimated:
                groups, unit = cost_groups(timing), "M cycles"
                board = timing.estimated[-1].board.words
                words = f"{line_words(line)}; estimated for a {board}, not measured, by kind of op"
            elif timing.instructions:
                counts = timing.instructions
                parts = {name: sum(counts[one] for one in ones) / 1e6 for name, ones in _WORK.items()}
                parts["all other"] = counts["total"] / 1e6 - sum(parts.values())
                ranked = sorted(parts.items(), key=lambda item: -item[1])
                groups, unit = [(name, amount, "") for name, amount in ranked], "M instructions"
                words = f"{line_words(line)}; instructions by class, not time"
            else:
                continue
            yield drawn(artifact.name, words, partial(op_plot, groups, unit), case.precision, _HALF_PX)


def _partitions(found: Findings) -> Iterator[str]:
    """LiteRT does not report time per op, only how its delegate splits the file."""
    seen = set()
    for artifact in found.artifacts:
        for case in (timing.case for timing in artifact.timings if timing.case.partitions is not None):
            outside = ", ".join(f"{count} {op}" for op, count in (case.outside or {}).items()) or "nothing"
            partitions = f"{case.partitions} partition{'s' if case.partitions != 1 else ''}"
            words = (
                f"{artifact.name} on {case.runtime}: the delegate splits it into {partitions}, with {outside} outside"
            )
            if words not in seen:
                seen.add(words)
                yield words


def _preprocess(export: Export) -> list[tuple[str, str]]:
    facts = export.preprocess.to_json()
    return [(f"preprocess.{key}", str(value)) for key, value in facts.items() if value is not None]
