"""Runs the gate for every model of edgemobile.toml. Any problem becomes a row of the report and does not stop the
others.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from edgemobile.errors import EdgemobileError, in_a_line
from edgemobile.gate import judge
from edgemobile.gate.cache import Cache, WouldRun
from edgemobile.gate.checks import Check, GateReport, Outcome
from edgemobile.gate.config import DeviceEntry, GateConfig, ModelEntry
from edgemobile.gate.measured import Measured, measure_accuracy, measure_device, measure_parity, written_files
from edgemobile.util.progress import Progress, Silent

__all__ = ["problem_of", "run_gate"]


def run_gate(
    config: GateConfig,
    *,
    only: Sequence[str] = (),
    force: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> GateReport:
    """Check all models, or `only` some; with `force` also what has not changed.

    With `dry_run` nothing runs and nothing is written: cached results are checked, and what would run is a row.

    Another run with the same cache waits. Raises EdgemobileError for an unknown model, and for a cache that cannot be
    written.
    """
    entries = {entry.name: entry for entry in config.models}
    for name in only:
        if name not in entries:
            raise EdgemobileError(f"{config.path} has no [models.{name}]. Models: {', '.join(entries)}")
    cache, progress = Cache(config.settings.cache, force=force, dry_run=dry_run), progress or Silent()
    checks: list[Check] = []
    with cache.held(progress):
        started, cpu = time.perf_counter(), _cpu_s()
        for name in dict.fromkeys(only or entries):
            checks += _check_model(entries[name], config, cache, progress)
    return GateReport(str(config.path), tuple(checks), time.perf_counter() - started, _cpu_s() - cpu)


def _cpu_s() -> float:
    return sum(os.times()[:4])


def _check_model(entry: ModelEntry, config: GateConfig, cache: Cache, progress: Progress) -> Iterator[Check]:
    started = time.perf_counter()
    try:
        model = written_files(entry, config, cache, progress)
    except Exception as error:
        problem = problem_of(entry, "files" if entry.files else "export", "here", error)
        yield replace(problem, wall_s=time.perf_counter() - started)
        return
    # The export has no row of its own: its time is in the rows of the sizes, which it determines.
    yield from _tried(model, "size", "here", lambda: judge.sizes(model), started)
    yield from _tried(model, "parity", "here", lambda: judge.parities(model, *measure_parity(model, progress)))
    asked = entry.accuracy
    if asked is not None:
        yield from _tried(
            model, "accuracy", "here", lambda: judge.accuracies(asked, model, *measure_accuracy(model, asked, progress))
        )
    for device in config.devices:
        if entry.runs_on(device.name):
            yield from _on_device(model, device)


def _on_device(model: Measured, device: DeviceEntry) -> Iterator[Check]:
    files = [file for file in model.files if device.takes(file.format, model.precision(file))]
    if not files:
        yield from judge.on_no_file(device, model)
        return
    found = _tried(
        model,
        "device",
        device.name,
        lambda: judge.on_device(device, model, files, *measure_device(model, device, files)),
    )
    for check in found:
        absent = check.outcome in (Outcome.MISSING, Outcome.UNREACHABLE) and not device.required
        yield (check if not absent else replace(check, outcome=Outcome.SKIPPED))


def _tried(
    model: Measured, what: str, place: str, run: Callable[[], Sequence[Check]], started: float | None = None
) -> Sequence[Check]:
    """The checks from `run`, or its problem, with the time since `started` shared evenly."""
    started = time.perf_counter() if started is None else started
    try:
        checks = run()
    except Exception as error:
        checks = [problem_of(model.entry, what, place, error)]
    wall_s = time.perf_counter() - started
    return [replace(check, wall_s=wall_s / len(checks)) for check in checks]


def problem_of(entry: ModelEntry, what: str, place: str, error: Exception) -> Check:
    """The outcome of an error: by its exit code if the user can fix it; others fail the check, with their location.

    What a dry run does not run is not an error.
    """
    if isinstance(error, WouldRun):
        after = ", and so would every check of its files" if str(error) == "export" else ""
        return Check(entry.name, "", what, place, Outcome.WOULD_RUN, words=(f"its result is not cached{after}",))
    if isinstance(error, EdgemobileError):
        return Check(entry.name, "", what, place, Outcome.of_code(error.exit_code), words=(str(error),))
    frame = traceback.extract_tb(error.__traceback__)[-1]
    words = f"{type(error).__name__}: {in_a_line(error)} (at {Path(frame.filename).name}:{frame.lineno})"
    return Check(entry.name, "", what, place, Outcome.FAILED, words=(words,))
