"""The rows of a sweep as findings of a report, so that its page, markdown and CSV serve both."""

from __future__ import annotations

from dataclasses import replace

from edgemobile.accuracy.statistics import wilson
from edgemobile.devices.host.records import Run
from edgemobile.report.findings import Findings, Timing, join
from edgemobile.report.sources import Evaluated, Export, Scores, Sources, read_sources
from edgemobile.sweep.table import Row, Sweep

__all__ = ["sweep_findings"]


def sweep_findings(sweep: Sweep) -> Findings:
    """Files are named by their points, since files of one net and precision have the same name at every width.

    Raises EdgemobileError if an export can no longer be read, or if no row has a file.
    """
    rows = [row for row in sweep.rows if row.path is not None]
    runs = tuple(_run(row, timing) for row in rows for timing in row.timings.values())
    return join(Sources(runs, _scores(rows, sweep), (), _exports(rows)))


def _run(row: Row, timing: Timing) -> Run:
    return replace(timing.run, cases=(replace(timing.case, file=row.name),))


def _scores(rows: list[Row], sweep: Sweep) -> tuple[Scores, ...]:
    files = tuple(_evaluated(row) for row in rows if row.scored is not None)
    if sweep.data is None or not files:
        return ()
    data = sweep.data
    return (Scores(str(data.data), data.split, data.limit, sweep.seed, None, (), files, ()),)


def _evaluated(row: Row) -> Evaluated:
    assert row.scored is not None
    count, correct = row.scored.count, row.scored.correct
    return Evaluated(row.name, count, correct / count, wilson(correct, count), None, "", "", row.sha256)


def _exports(rows: list[Row]) -> tuple[Export, ...]:
    """One for each folder, with its files under the names of their rows."""
    names = {row.sha256: row.name for row in rows}
    folders = dict.fromkeys(row.path.parent for row in rows if row.path is not None)
    found = read_sources(folders).exports
    return tuple(
        replace(export, files=tuple(replace(file, file=names.get(file.sha256, file.file)) for file in export.files))
        for export in found
    )
