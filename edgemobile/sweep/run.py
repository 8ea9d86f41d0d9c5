"""Measures every point of a grid: first all exports, then accuracy, then devices.

Each result is stored in the gate's cache as soon as it exists, so a sweep may be stopped and started again at any time.
A problem belongs to its row and does not stop the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from edgemobile.devices.host.records import Run
from edgemobile.devices.host.transport import DeviceUnreachable
from edgemobile.gate.cache import Cache, WouldRun
from edgemobile.gate.checks import Outcome
from edgemobile.gate.config import DeviceEntry, ModelEntry
from edgemobile.gate.measured import Measured, measure_accuracy, measure_devices, written_files
from edgemobile.gate.run import problem_of
from edgemobile.model_file.model_file import ModelFile
from edgemobile.report.findings import timing_of
from edgemobile.sweep.config import SweepConfig
from edgemobile.sweep.table import Row, Sweep
from edgemobile.util.progress import Progress, Silent

__all__ = ["run_sweep"]


def run_sweep(config: SweepConfig, *, dry_run: bool = False, progress: Progress | None = None) -> Sweep:
    """With `dry_run` nothing runs and nothing is written: rows have what is cached, and what would run as problems.

    Another run with the same cache waits. Raises EdgemobileError for a cache that cannot be written.
    """
    cache, progress = Cache(config.gate.settings.cache, dry_run=dry_run), progress or Silent()
    with cache.held(progress):
        work = _Work(config, cache, progress)
        cells = [cell for point in config.points for cell in work.exported(point)]
        if config.data is not None:
            cells = [work.evaluated(cell) for cell in cells]
        rows = tuple(work.measured(cell) for cell in cells)
    devices = tuple(device.name for device in config.devices)
    return Sweep(str(config.path), rows, devices, config.data, config.gate.settings.seed, dry_run)


@dataclass(frozen=True)
class _Cell:
    """A row, with its file as a model of a single file; None if there is no file."""

    row: Row
    model: Measured | None = None

    def failed(self, what: str, place: str, error: Exception, *, required: bool = True) -> _Cell:
        check = replace(problem_of(self.row.point, what, place, error), file=self.row.name)
        if not required and check.outcome in (Outcome.MISSING, Outcome.UNREACHABLE):
            check = replace(check, outcome=Outcome.SKIPPED)
        return replace(self, row=replace(self.row, problems=(*self.row.problems, check)))


@dataclass(frozen=True)
class _Work:
    """`away` are the devices that did not answer, with their errors: the sweep does not try them again."""

    config: SweepConfig
    cache: Cache
    progress: Progress
    away: dict[str, DeviceUnreachable] = field(default_factory=dict)

    def exported(self, point: ModelEntry) -> Iterator[_Cell]:
        """A cell for each file; without the files, in a dry run, those that there would be."""
        try:
            model = written_files(point, self.config.gate, self.cache, self.progress)
            precisions = [model.precision(file) for file in model.files]
        except Exception as error:
            pairs = [(one, kind) for kind in point.precisions for one in point.formats]
            for format, precision in pairs if isinstance(error, WouldRun) else [("", "")]:
                yield _Cell(Row(point, format, precision)).failed("export", "here", error)
            return
        for file, precision in zip(model.files, precisions, strict=True):
            row = Row(point, file.format, precision, file.path, file.sha256, file.bytes)
            yield _Cell(row, replace(model, files=(file,)))

    def evaluated(self, cell: _Cell) -> _Cell:
        if self.config.data is None:
            return cell
        if cell.model is None:
            return self._would_run(cell, "accuracy", "here")
        try:
            (scored,), _ = measure_accuracy(cell.model, self.config.data, self.progress)
        except Exception as error:
            return cell.failed("accuracy", "here", error)
        return replace(cell, row=replace(cell.row, scored=scored))

    def measured(self, cell: _Cell) -> Row:
        """The row with its time or instructions on every device that takes such a file."""
        wanted = [one for one in self.config.devices if one.takes(cell.row.format, cell.row.precision)]
        if cell.model is None:
            for device in wanted:
                cell = self._would_run(cell, "device", device.name)
            return cell.row
        files = cell.model.files
        for device in (one for one in wanted if one.name in self.away):
            cell = cell.failed("device", device.name, self.away[device.name], required=device.required)
        there = [device for device in wanted if device.name not in self.away]
        found: dict[str, Run] = {}
        for device, outcome in self._outcomes(files, there):
            if isinstance(outcome, Run):
                found[device.name] = outcome
                continue
            if isinstance(outcome, DeviceUnreachable):
                self.away[device.name] = outcome
            cell = cell.failed("device", device.name, outcome, required=device.required)
        timings = {one.name: timing_of(found[one.name], found[one.name].cases[0]) for one in there if one.name in found}
        return replace(cell.row, timings=timings)

    def _would_run(self, cell: _Cell, what: str, place: str) -> _Cell:
        """For a file that does not exist yet; after a failed export, the cell as it is."""
        waiting = any(check.outcome is Outcome.WOULD_RUN for check in cell.row.problems)
        return cell.failed(what, place, WouldRun(what)) if waiting else cell

    def _outcomes(
        self, files: Sequence[ModelFile], devices: Sequence[DeviceEntry]
    ) -> Iterator[tuple[DeviceEntry, Run | Exception]]:
        """Also after a bug in one measurement, an outcome for every device."""
        left = list(devices)
        try:
            for device, outcome, _ in measure_devices(self.cache, files, devices, self.progress):
                left.remove(device)
                yield device, outcome
        except Exception as error:
            yield from ((device, error) for device in left)
