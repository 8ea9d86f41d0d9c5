"""Compares measurements with the bounds of edgemobile.toml: one row per check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgemobile.comparison.report import FileParity, ParityReport
from edgemobile.devices.host.records import Case, Run
from edgemobile.gate.checks import Check, Outcome
from edgemobile.gate.config import Accuracy, DeviceEntry
from edgemobile.gate.measured import Measured, Scored
from edgemobile.gate.selectors import selects
from edgemobile.metrics.measures import METRICS
from edgemobile.model_file.model_file import ModelFile

__all__ = ["accuracies", "on_device", "on_no_file", "parities", "sizes"]


def sizes(model: Measured) -> list[Check]:
    """One row per file: its bytes and its budget, if any."""
    checks = []
    for file in model.files:
        selector, most = _least_budget(model, model.entry.size, file)
        over = most is not None and file.bytes > most
        words: tuple[str, ...] = ()
        if over and most is not None:
            words = (
                f"{file.bytes:,} bytes, {file.bytes - most:,} over its budget ({_place(model, 'size', selector)})",
            )
        checks.append(
            Check(
                model.entry.name,
                file.name,
                "size",
                "here",
                Outcome.FAILED if over else Outcome.PASSED,
                _bytes(file.bytes),
                "" if most is None else _bytes(most),
                words,
                model.kept,
                {"bytes": file.bytes},
            )
        )
    return [*checks, *_of_nothing(model, "size", "here", model.entry.size, model.files)]


def parities(model: Measured, report: ParityReport, kept: bool) -> list[Check]:
    """Two rows per file: its outputs, and its layers if they were compared. A refused file is an error."""
    return [check for file in report.files for check in _parity(model, file, kept)]


def _parity(model: Measured, file: FileParity, kept: bool) -> Iterator[Check]:
    inner, outer = file.missed_layers, file.missed_outputs
    # If only the outputs missed, the cause is added to the words of the outputs.
    if file.cause is not None and file.first_diverging is None:
        outer += (f"likely cause: {file.cause.kind} ({file.cause.words})",) if outer else ()
    name, base = Path(file.file).name, model.entry.name
    if file.refused:
        yield Check(base, name, "outputs", file.place or "here", Outcome.WRONG, words=(file.refused,), kept=kept)
        return
    shown = ("sqnr_db", "top1_agree")
    found = ", ".join(f"{_metric(metric, file.metrics[metric])}" for metric in shown)
    allowed = ", ".join(_metric(metric, bound) for metric, bound in file.bounds.items())
    outer += tuple(f"the bound is set in {place}" for place in _places_of_bounds(model, file)) if outer else ()
    values = {metric: float(value) for metric, value in file.metrics.items()}
    yield Check(
        base, name, "outputs", file.place, _judged(not outer), found, allowed, outer or file.notes, kept, values
    )
    if inner or (file.layers and not file.not_compared):
        found = f"{file.agreeing} of {len(file.layers)}"
        words = inner or tuple(f"{tensor} is not compared: {reason}" for tensor, reason in file.unmatched)
        yield Check(base, name, "layers", file.place, _judged(not inner), found, "all", words, kept)
    elif file.not_compared:
        yield Check(
            base, name, "layers", file.place, Outcome.SKIPPED, "not compared", "all", (file.not_compared,), kept
        )


def _places_of_bounds(model: Measured, file: FileParity) -> Iterator[str]:
    """The location of the missed bounds in edgemobile.toml: FILE:LINE: table.key. Built-in bounds have none."""
    own = model.entry.tolerances.get(file.precision, {})
    for metric, bound in file.bounds.items():
        if METRICS[metric].passes(file.metrics[metric], bound):
            continue
        if metric in own:
            yield _place(model, "tolerances", file.precision, metric)
        elif metric in model.config.tolerances.get(file.precision, {}):
            yield model.config.file.place(("tolerances", file.precision, metric))


def _lost(file: Scored, max_drop: float) -> Iterator[str]:
    if file.not_finite:
        yield f"its outputs are not finite for {file.not_finite} of {file.count} images"
    # Counts are integers; the bound may be a float slightly below the step it means.
    if file.drop_points is not None and file.drop_points > max_drop + 1e-9:
        yield f"it lost {file.drop_points:.2f} points of top-1; {max_drop:g} are allowed"


def accuracies(asked: Accuracy, model: Measured, scored: Sequence[Scored], kept: bool) -> list[Check]:
    """One row per file: top-1, and the points it lost to the float32 file."""
    checks = []
    for file in scored:
        lost = "" if file.drop_points is None else f" ({0 - file.drop_points:+.2f})"
        words = tuple(_lost(file, asked.max_drop))
        checks.append(
            Check(
                model.entry.name,
                Path(file.file).name,
                "top-1",
                "here",
                _judged(not words),
                f"{file.correct / file.count:.2%}{lost}",
                f"-{asked.max_drop:g}",
                words,
                kept,
                {"top1": file.correct / file.count}
                | ({} if file.drop_points is None else {"drop_points": file.drop_points}),
            )
        )
    return checks


# ---- devices --------------------------------------------------------------------------------------------------------


def on_device(device: DeviceEntry, model: Measured, files: Sequence[ModelFile], run: Run, kept: bool) -> list[Check]:
    """One row per file: its cost on the device, against its budget and against the baseline."""
    budgets = model.entry.instructions.get(device.name, {})
    if budgets and not run.emulated:
        words = (
            f"{device.name} is not emulated; instructions are counted on emulated devices, such as emulated:cortex-a72",
        )
        return [Check(model.entry.name, "", "instructions", device.name, Outcome.WRONG, words=words)]
    by_name = {file.name: file for file in files}
    checks = [_case(model, device, case, run, by_name[Path(case.file).name], kept) for case in run.cases]
    what = "instructions" if run.emulated else "latency"
    checks += [
        Check(model.entry.name, Path(one.file).name, what, device.name, Outcome.WRONG, words=(one.reason,), kept=kept)
        for one in run.refused
    ]
    checks += _of_nothing(model, "instructions", device.name, budgets, files)
    return [*checks, *_against_baseline(model, device, run, kept)]


def on_no_file(device: DeviceEntry, model: Measured) -> list[Check]:
    """If none of the model's files has the device's formats and precisions: a budget is not skipped."""
    if budgets := model.entry.instructions.get(device.name, {}):
        return list(_of_nothing(model, "instructions", device.name, budgets, ()))
    words = ("none of its files has the device's formats and precisions",)
    return [Check(model.entry.name, "", "device", device.name, Outcome.SKIPPED, words=words)]


def _case(model: Measured, device: DeviceEntry, case: Case, run: Run, file: ModelFile, kept: bool) -> Check:
    from edgemobile.latency.statistics import verdict

    row = Check(model.entry.name, Path(case.file).name, "latency", device.name, Outcome.PASSED, kept=kept)
    if not run.emulated:
        reasons = verdict(case, run).reasons
        outcome = Outcome.UNSTABLE if reasons else Outcome.PASSED
        found, values = f"{case.median_ns / 1e6:.2f} ms", {"median_ns": case.median_ns}
        return replace(row, outcome=outcome, found=found, words=reasons, values=values)
    counted = case.instructions_median["total"]
    selector, most = _least_budget(model, model.entry.instructions.get(device.name, {}), file)
    over = most is not None and counted > most
    words: tuple[str, ...] = ()
    if over and most is not None:
        place = _place(model, "instructions", device.name, selector)
        words = (f"{counted:,.0f} instructions per inference, {counted / most - 1:.2%} over its budget ({place})",)
    return replace(
        row,
        what="instructions",
        outcome=_judged(not over),
        found=_millions(counted),
        allowed="" if most is None else _millions(most),
        words=words,
        values={"instructions": counted},
    )


def _against_baseline(model: Measured, device: DeviceEntry, run: Run, kept: bool) -> Iterator[Check]:
    from edgemobile.devices.host.records import load_run
    from edgemobile.latency.compare import Judgement, compare

    if device.baseline is None or device.max_regress is None:
        return
    outcomes = {
        Judgement.PASSED: Outcome.PASSED,
        Judgement.REGRESSED: Outcome.FAILED,
        Judgement.UNSURE: Outcome.UNSTABLE,
    }
    reference, names = load_run(device.baseline), {Path(case.file).name for case in run.cases}
    # A single case on each side would be paired whatever their names.
    known = tuple(case for case in reference.cases if Path(case.file).name in names)
    for name in sorted(names - {Path(case.file).name for case in known}):
        words = (f"{device.baseline} has no {name}: measure it with `edgemobile bench ... --on {device.name} --out`",)
        yield Check(model.entry.name, name, "baseline", device.name, Outcome.WRONG, words=words)
    for pair in compare(replace(reference, cases=known), run).pairs if known else ():
        judged = pair.judge(device.max_regress)
        interval = f"{pair.low - 1:+.2%} to {pair.high - 1:+.2%}"
        missed = f"{pair.ratio - 1:+.2%} of {pair.unit} ({interval}); {device.max_regress:+.2%} is allowed"
        outcome, doubts = outcomes[judged], [] if judged is Judgement.PASSED else [missed]
        if not pair.reference_verdict.stable:
            outcome = Outcome.UNSTABLE
            doubts.append(f"{device.baseline} is {pair.reference_verdict}")
        yield Check(
            model.entry.name,
            Path(pair.other.file).name,
            "baseline",
            device.name,
            outcome,
            f"{pair.ratio - 1:+.2%}",
            f"{device.max_regress:+.2%}",
            tuple(doubts),
            kept,
        )


# ---- shared ---------------------------------------------------------------------------------------------------------


def _least_budget(model: Measured, budgets: Mapping[str, int], file: ModelFile) -> tuple[str, int | None]:
    """(the selector of the smallest budget that matches the file, the budget): all must be met. ("", None) for none."""
    precision = model.precision(file)
    meant = {name: most for name, most in budgets.items() if selects(name, file.format, precision)}
    return min(meant.items(), key=lambda item: item[1]) if meant else ("", None)


def _place(model: Measured, *keys: str) -> str:
    """The location of a key of the model in edgemobile.toml."""
    return model.config.file.place(("models", model.entry.name, *keys))


def _of_nothing(
    model: Measured, what: str, place: str, budgets: Mapping[str, int], files: Sequence[ModelFile]
) -> Iterator[Check]:
    for name in budgets:
        if not any(selects(name, file.format, model.precision(file)) for file in files):
            names = ", ".join(file.name for file in files) or f"none runs on {place}"
            words = (f"the budget of {name} does not match any of the files: {names}",)
            yield Check(model.entry.name, "", what, place, Outcome.WRONG, words=words)


def _judged(passed: bool) -> Outcome:
    return Outcome.PASSED if passed else Outcome.FAILED


def _metric(name: str, value: float) -> str:
    if name == "top1_agree":
        return f"{value:.1%}"
    return f"{value:.1f} dB" if METRICS[name].unit == "dB" else f"{name} {value:.3g}"


def _bytes(count: int) -> str:
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _millions(count: float) -> str:
    return f"{count / 1e6:.3f} M"
