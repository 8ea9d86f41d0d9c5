"""The tables of a report: rows of cells, each with its text and its sort key."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from edgemobile.report.findings import Accuracy, Artifact, Findings, Timing
from edgemobile.report.words import dash, db, megabytes, ms, percent, short_names

__all__ = [
    "Cell",
    "Table",
    "artifact_table",
    "case_table",
    "class_tables",
    "conditions_table",
    "facts_rows",
    "layer_table",
    "parity_table",
]

_MAX_FACT = 400
_MOST_CLASSES = 40
_ESTIMATED = "estimated, not measured"


@dataclass(frozen=True)
class Cell:
    """`key` is the sort key: a number or text; None sorts last. `kind` is "", "number" or "bad"."""

    shown: str
    key: float | str | None
    kind: str = ""


@dataclass(frozen=True)
class Table:
    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def is_number(self, column: int) -> bool:
        return any(row[column].kind == "number" for row in self.rows)


def _text(value: object) -> Cell:
    shown = dash if value in (None, "") else str(value)
    return Cell(shown, shown.lower())


def _number(shown: str, key: float | None) -> Cell:
    return Cell(shown, key, "number")


def artifact_table(found: Findings) -> Table:
    """One row per file and per reference: what it is, its size, its accuracy."""
    columns = ("file", "format", "precision", "size", "top-1", "95 % interval", "SQNR", "agree", "sha256")
    rows = [_artifact_row(one) for one in found.artifacts]
    for name, accuracy in found.references:
        cells = (_text(name), _text("reference"), _text(""), _number(dash, None))
        more = (_number(percent(accuracy.top1), accuracy.top1), _number(_range(accuracy), accuracy.low))
        rows.append((*cells, *more, _number(dash, None), _number(dash, None), _text("")))
    return Table("Files", columns, tuple(rows))


def _artifact_row(one: Artifact) -> tuple[Cell, ...]:
    accuracy, metrics = one.accuracy_on(""), _metrics(one)
    top1 = accuracy.top1 if accuracy else None
    sqnr, agree = metrics.get("sqnr_db"), metrics.get("top1_agree")
    return (
        _text(one.name),
        _text(one.format),
        _text(one.precision),
        _number(megabytes(one.bytes), one.bytes),
        _number(percent(top1), top1),
        _number(_range(accuracy), accuracy.low if accuracy else None),
        _number(db(sqnr), sqnr),
        _number(_agree(agree), agree),
        _text((one.sha256 or "")[:12]),
    )


def _range(accuracy: Accuracy | None) -> str:
    return dash if accuracy is None else f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f}"


def _metrics(one: Artifact) -> Mapping[str, float | None]:
    """Metrics against the reference: from a parity report, else from the export."""
    if one.compared:
        return one.compared[0].file.metrics
    return one.exported.metrics if one.exported else {}


def case_table(found: Findings) -> Table:
    """One row per case: time on boards, instructions and estimated time on emulated cores, each in its own column."""
    columns = (
        *("file", "verdict", "median ms", "95 % interval", "p90 ms", "first ms", "M instr.", _ESTIMATED, "peak MiB"),
        *("device", "threads", "runtime", "measured, UTC"),
    )
    rows = []
    for artifact in found.artifacts:
        for timing in artifact.timings:
            case, summary = timing.case, timing.summary
            low, high = timing.interval
            counted, p90 = (None, summary.p90_ns / 1e6) if summary else (timing.value, None)
            rows.append(
                (
                    _text(artifact.name),
                    _verdict(timing.reasons, emulated=timing.run.emulated),
                    _number(ms(timing.value if summary else None), timing.value if summary else None),
                    _number(f"{ms(low)} to {ms(high)}" if summary else dash, low if summary else None),
                    _number(ms(p90), p90),
                    _number(ms(None if case.first_ns is None else case.first_ns / 1e6), case.first_ns),
                    _number(dash if counted is None else f"{counted:.3f}", counted),
                    _estimated(timing),
                    _number(dash if case.peak_mib is None else f"{case.peak_mib:.1f}", case.peak_mib),
                    _text(timing.run.device),
                    _number(str(case.threads), case.threads),
                    _text(f"{case.runtime} {case.version}"),
                    _text(found.sources.measured(timing.run)),
                )
            )
    return _without_empty(Table("Cases", columns, tuple(rows)), ("M instr.", _ESTIMATED, "peak MiB"))


def _without_empty(table: Table, columns: tuple[str, ...]) -> Table:
    """Without those of `columns` in which no row has a value."""
    empty = [name for name in columns if all(row[table.columns.index(name)].key is None for row in table.rows)]
    kept = [index for index, name in enumerate(table.columns) if name not in empty]
    return Table(
        table.name,
        tuple(table.columns[index] for index in kept),
        tuple(tuple(row[index] for index in kept) for row in table.rows),
    )


def class_tables(found: Findings) -> Iterator[Table]:
    """One per evaluation: a row per class, a column per file, top-1 in percent; the largest differences first.

    Of more than 40 classes, those with the largest differences.
    """
    for scores in found.sources.scores:
        files = [one for one in scores.files if one.per_class]
        if not files:
            continue
        names = short_names([PurePath(one.file).name for one in files])
        by_class = {row.folder: row for row in files[0].per_class}
        shares = {
            folder: [row.correct / row.count for one in files for row in one.per_class if row.folder == folder]
            for folder in by_class
        }
        ranked = sorted(shares, key=lambda folder: (min(shares[folder]) - max(shares[folder]), folder))
        rows = [
            (
                _text(by_class[folder].label or folder),
                _number(str(by_class[folder].count), by_class[folder].count),
                *(_number(percent(share), share) for share in shares[folder]),
            )
            for folder in ranked[:_MOST_CLASSES]
            if len(shares[folder]) == len(files)
        ]
        cut = f", {_MOST_CLASSES} of {len(ranked)} classes" if len(ranked) > _MOST_CLASSES else ""
        yield Table(f"Top-1 by class{cut}", ("class", "images", *names), tuple(rows))


def _estimated(timing: Timing) -> Cell:
    """Estimated time on the boards with the core: "22.4 ms (Raspberry Pi 4, 1.5 GHz)"."""
    found = timing.estimated
    words = [f"{ms(one.ms)} ms ({one.board.words})" for one in found]
    # Several boards are long: as text the cell may break.
    return Cell(", ".join(words) or dash, found[0].ms if found else None)


def _verdict(reasons: tuple[str, ...], *, emulated: bool) -> Cell:
    if reasons:
        return Cell("unstable", "unstable", "bad")
    return _text("emulated" if emulated else "stable")


def conditions_table(found: Findings) -> Table:
    columns = (
        "device",
        "board",
        "CPU",
        "int8 with",
        "system",
        "governor",
        "MHz",
        "°C",
        "load",
        "measured, UTC",
        "edgemobile",
    )
    rows = []
    for run in found.sources.runs:
        facts, before = run.facts, run.conditions[0].conditions if run.conditions else None
        kinds = [core.kind for core in facts.cores]
        cpu = ", ".join(f"{kinds.count(kind)}x {kind}" for kind in dict.fromkeys(kinds))
        temp, load = (before.temp_c, before.load1) if before else (None, None)
        mhz = max(before.freq_mhz) if before and before.freq_mhz else None
        rows.append(
            (
                _text(f"{run.device}{' (emulated)' if run.emulated and 'emulated' not in run.device else ''}"),
                _text(facts.model),
                _text(cpu),
                _text(facts.int8_isa),
                _text(facts.os),
                _text(before and before.governor),
                _number(dash if mhz is None else f"{mhz:.0f}", mhz),
                _number(dash if temp is None else f"{temp:.0f}", temp),
                _number(dash if load is None else f"{load:.1f}", load),
                _text(found.sources.measured(run)),
                _text(run.edgemobile),
            )
        )
    return Table("Conditions", columns, tuple(rows))


def parity_table(found: Findings) -> Table:
    columns = ("file", "on", "verdict", "SQNR", "max abs", "agree", "KL nats", "layers", "missed bounds")
    rows = []
    for artifact in found.artifacts:
        for one in artifact.compared:
            file, metrics = one.file, one.file.metrics
            held = f"{file.agreeing} of {len(file.layers)}" if file.layers else dash
            rows.append(
                (
                    _text(artifact.name),
                    _text(file.place),
                    Cell(file.verdict, file.verdict.lower(), "" if file.passed else "bad"),
                    _number(db(metrics.get("sqnr_db")), metrics.get("sqnr_db")),
                    _general(metrics.get("max_abs")),
                    _number(_agree(metrics.get("top1_agree")), metrics.get("top1_agree")),
                    _general(metrics.get("kl_nats")),
                    _number(held, file.agreeing),
                    _text("; ".join(file.reasons)),
                )
            )
    return Table("Parity", columns, tuple(rows))


def _agree(share: float | None) -> str:
    return dash if share is None else f"{100 * share:.1f} %"


def _general(value: float | None) -> Cell:
    return _number(dash if value is None else f"{value:.3g}", value)


def layer_table(found: Findings) -> Table:
    """For each file, layers that diverge, then those that drift the most; values that are not finite come first."""
    columns = ("file", "layer", "op", "drift", "by itself", "steps", "diverges in")
    rows = []
    for artifact in found.artifacts:
        for one in artifact.compared:
            worst = sorted(
                one.file.layers, key=lambda layer: (not layer.diverges_in, not math.isnan(layer.sqnr_db), layer.sqnr_db)
            )[:8]
            rows += [
                (
                    _text(artifact.name),
                    _text(layer.name),
                    _text(layer.op),
                    _number(db(layer.sqnr_db), layer.sqnr_db),
                    _number(db(layer.arithmetic_sqnr_db), layer.arithmetic_sqnr_db),
                    _number(dash if layer.lsb is None else str(layer.lsb), layer.lsb),
                    Cell(layer.diverges_in, layer.diverges_in, "bad") if layer.diverges_in else _text(""),
                )
                for layer in worst
            ]
    return Table("Layers that drift the most", columns, tuple(rows))


def facts_rows(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """A manifest's facts as (dotted name, value), long values truncated."""
    for key, value in facts.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and len(prefix) < 200:
            yield from facts_rows(value, f"{name}.")
        elif value not in (None, [], {}):
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield name, shown if len(shown) <= _MAX_FACT else shown[:_MAX_FACT] + " …"
