"""A report as markdown, and its cases as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from edgemobile.report.answer import answers, default_title
from edgemobile.report.findings import Artifact, Findings, Timing
from edgemobile.report.tables import (
    Table,
    artifact_table,
    case_table,
    class_tables,
    conditions_table,
    layer_table,
    parity_table,
)
from edgemobile.report.words import all_notes
from edgemobile.util.markdown import markdown_text

__all__ = ["COLUMNS", "as_csv", "as_markdown"]

_METRICS = ("sqnr_db", "max_abs", "cosine", "top1_agree", "kl_nats")
COLUMNS = (
    *("file", "sha256", "format", "precision", "bytes", "model", "weights_sha256"),
    *(
        "device",
        "emulated",
        "created",
        "board",
        "int8_isa",
        "governor",
        "runtime",
        "runtime_version",
        "threads",
        "batch",
    ),
    *("median_ns", "low_ns", "high_ns", "p90_ns", "p99_ns", "values", "load_ns", "first_ns", "instructions", "stable"),
    *("unstable_because", "peak_mib", "runtime_mib", "energy_mj", "partitions"),
    *("estimated_compute_cycles", "estimated_memory_cycles", "estimated_clock_mhz", "estimated_ms"),
    *("top1", "top1_low", "top1_high", "top5", "images", "data", "parity_passed", *_METRICS),
)


def as_csv(found: Findings) -> str:
    """One row per case, raw values in ns and fractions; a file without a case also has a row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for artifact in found.artifacts:
        for timing in (*artifact.timings, *(() if artifact.timings else (None,))):
            row = {**_file_cells(artifact, timing), **(_case_cells(timing) if timing else {})}
            writer.writerow({key: _cell(value) for key, value in row.items()})
    return text.getvalue()


def _cell(value: object) -> object:
    """Put a quote before text that a spreadsheet would read as a formula."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return "" if value is None else value


def _file_cells(one: Artifact, timing: Timing | None) -> dict[str, object]:
    accuracy = one.accuracy_on(timing.run.device if timing else "")
    compared = one.compared[0].file if one.compared else None
    metrics = compared.metrics if compared else one.exported.metrics if one.exported else {}
    return {
        "file": one.name,
        "sha256": one.sha256,
        "format": one.format,
        "precision": one.precision,
        "bytes": one.bytes,
        "model": one.export and one.export.name,
        "weights_sha256": one.export and one.export.weights_sha256,
        "top1": accuracy and accuracy.top1,
        "top1_low": accuracy and accuracy.low,
        "top1_high": accuracy and accuracy.high,
        "top5": accuracy and accuracy.top5,
        "images": accuracy and accuracy.count,
        "data": accuracy and accuracy.data,
        "parity_passed": compared and all(other.file.passed for other in one.compared),
        **{name: metrics.get(name) for name in _METRICS},
    }


def _case_cells(timing: Timing) -> dict[str, object]:
    run, case, summary = timing.run, timing.case, timing.summary
    before = run.conditions[0].conditions if run.conditions else None
    return {
        "device": run.device,
        "emulated": run.emulated,
        "created": run.created,
        "board": run.facts.model,
        "int8_isa": run.facts.int8_isa,
        "governor": before and before.governor,
        "runtime": case.runtime,
        "runtime_version": case.version,
        "threads": case.threads,
        "batch": case.batch,
        "median_ns": summary and summary.median_ns,
        "low_ns": summary and summary.low_ns,
        "high_ns": summary and summary.high_ns,
        "p90_ns": summary and summary.p90_ns,
        "p99_ns": summary and summary.p99_ns,
        "values": summary and summary.count,
        "load_ns": case.load_ns,
        "first_ns": case.first_ns,
        "instructions": case.instructions_median.get("total"),
        "stable": not timing.reasons,
        "unstable_because": "; ".join(timing.reasons),
        "peak_mib": case.peak_mib,
        "runtime_mib": case.runtime_mib,
        "energy_mj": case.energy_mj,
        "partitions": case.partitions,
        **_estimated_cells(timing),
    }


def _estimated_cells(timing: Timing) -> dict[str, object]:
    """The estimate at the given clock, else at that of the fastest board with the core."""
    if not timing.estimated:
        return {}
    one = max(timing.estimated, key=lambda other: other.board.clock_mhz)
    return {
        "estimated_compute_cycles": one.compute_cycles,
        "estimated_memory_cycles": one.memory_cycles,
        "estimated_clock_mhz": one.board.clock_mhz,
        "estimated_ms": one.ms,
    }


def as_markdown(found: Findings, title: str | None = None, over_time: Table | None = None) -> str:
    """The tables of the page, for a pull request or a wiki; the arguments are as for the page."""
    lines = [f"# {markdown_text(title or default_title(found))}", ""]
    for one in answers(found):
        ship = f"Ship **{markdown_text(one.file)}**: " if one.file else ""
        lines += [f"{ship}{markdown_text(one.words)}.", ""]
    tables = [
        artifact_table(found),
        *class_tables(found),
        case_table(found),
        *([over_time] if over_time else []),
        parity_table(found),
        layer_table(found),
        conditions_table(found),
    ]
    for table in (one for one in tables if one.rows):
        lines += [f"## {table.name}", "", *_markdown_table(table), ""]
    for export in found.sources.exports:
        lines += [f"## Manifest of {markdown_text(export.folder)}", ""]
        facts = {
            "weights": export.weights_source,
            "weights sha256": export.weights_sha256,
            "checked on": export.checked_on,
        }
        lines += [f"- {name}: {markdown_text(value)}" for name, value in facts.items()]
        lines.append("")
    notes = all_notes(found)
    if notes:
        lines += ["## Notes", "", *(f"- {markdown_text(note)}" for note in notes), ""]
    return "\n".join(lines)


def _markdown_table(table: Table) -> Iterator[str]:
    yield f"| {' | '.join(table.columns)} |"
    yield f"|{'|'.join('---:' if table.is_number(index) else '---' for index in range(len(table.columns)))}|"
    for row in table.rows:
        yield f"| {' | '.join(markdown_text(cell.shown) for cell in row)} |"
