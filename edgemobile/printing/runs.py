"""Runs of `edgemobile bench`, each figure with the delegate that computed it, and the comparison of two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from edgemobile.errors import EdgemobileError
from edgemobile.printing.file_names import shown_names
from edgemobile.printing.layer_costs import print_layer_costs
from edgemobile.printing.terminal import console, format_table

if TYPE_CHECKING:
    from edgemobile.devices.host.records import Case, Run
    from edgemobile.latency.compare import Compared, Comparison

__all__ = ["UNSTABLE", "gate", "grouped_instructions", "print_bench", "print_comparison", "print_run", "print_unstable"]

# The exit code of a measurement that cannot be trusted.
UNSTABLE = 5

_SHOWN_OPS = 12
# The columns that _who fills.
_WHO = ("file", "precision", "runtime", "int8 with", "threads", "partitions")


def print_bench(
    run: Run, advice: Sequence[str], compared: Comparison | None, max_regress: float | None, *, quiet: bool
) -> int:
    """Print the run unless `quiet`, and return the exit code. `advice` is the result of latency.run.advice."""
    from edgemobile.latency.statistics import verdict

    verdicts = {id(case): verdict(case, run) for case in run.cases}
    if not quiet:
        print_run(run, {key: found.stable for key, found in verdicts.items()})
        for case in run.cases:
            if not verdicts[id(case)].stable:
                reasons = "; ".join(verdicts[id(case)].reasons)
                console().print(f"[yellow]unstable:[/yellow] {_label(case, run)}: {escape(reasons)}")
        for words in advice:
            console().print(f"[yellow]warning:[/yellow] {escape(words)}")
        for refusal in run.refused:
            console().print(f"[red]refused:[/red] {escape(_names(run)[refusal.file])}: {escape(refusal.reason)}")
        for note in run.notes:
            console().print(f"[dim]note:[/dim] {escape(note)}")
        if compared is not None:
            print_comparison(compared)
            print_unstable(compared, "the baseline", None)
    code = 0 if compared is None else gate(compared, max_regress, quiet=quiet)
    trusted = all(found.stable for found in verdicts.values())
    return code if trusted and (compared is None or compared.stable) else UNSTABLE


def print_run(run: Run, stable: Mapping[int, bool]) -> None:
    """The table of a run, followed by the requested profiles and drift. `stable`: id of the case -> whether it is
    stable.
    """
    if run.emulated:
        _print_instructions(run)
    else:
        _print_times(run, stable)
    if run.settings.sustained_s is not None:
        _print_sustained(run)
    if run.settings.profile:
        for case in run.cases:
            _print_profile(case, run)


def _print_times(run: Run, stable: Mapping[int, bool]) -> None:
    from edgemobile.latency.statistics import summarize

    columns = [*_WHO, "median", "95 % interval", "p90", "p99", "images/s", "load", "first"]
    memory, energy = (any(getattr(case, name) for case in run.cases) for name in ("peak_mib", "energy_mj"))
    columns += (["memory"] if memory else []) + (["energy"] if energy else []) + ["verdict"]
    table = format_table(_title(run), columns, left=4)
    for case in run.cases:
        summary = summarize(case.rounds_ns, case.rounds_per_process)
        table.add_row(
            *_who(case, run),
            _ms(summary.median_ns),
            f"{_ms(summary.low_ns, '')} to {_ms(summary.high_ns)}",
            _ms(summary.p90_ns),
            _ms(summary.p99_ns),
            f"{case.images_per_s:.1f}",
            _ms(case.load_ns),
            _ms(case.first_ns),
            *([_memory(case)] if memory else []),
            *(["-" if case.energy_mj is None else f"{case.energy_mj:.1f} mJ"] if energy else []),
            "stable" if stable[id(case)] else "[yellow]unstable[/yellow]",
        )
    console().print(table)


def _print_instructions(run: Run) -> None:
    names = ("dot", "mla", "loads", "other")
    columns = [
        *_WHO,
        "instructions",
        *names,
        "repeats within",
    ]
    table = format_table(_title(run), columns, left=4)
    for case in run.cases:
        grouped = grouped_instructions(case.instructions_median)
        totals = [counts["total"] for counts in case.instructions or ()]
        table.add_row(
            *_who(case, run),
            _millions(case.instructions_median["total"]),
            *(_millions(grouped[name]) for name in names),
            f"{(max(totals) - min(totals)) / max(min(totals), 1):.4%}",
        )
    console().print(table)
    console().print("[dim]Instructions of one inference in millions, by class. They are not cycles and not time.[/dim]")
    if any(case.estimate for case in run.cases):
        _print_estimates(run)


def _print_estimates(run: Run) -> None:
    """One row for each file on each board that has the core."""
    from edgemobile.latency.estimates import caveat, on_boards

    columns = ["file", "precision", "board", "estimated", "M cycles", "compute", "memory"]
    table = format_table("", columns, left=3)
    for case in run.cases:
        for one in on_boards(case.estimate, run.settings.clock_mhz) if case.estimate else ():
            parts = (one.cycles, one.compute_cycles, one.memory_cycles)
            table.add_row(
                escape(_names(run)[case.file]),
                escape(case.precision),
                escape(one.board.words),
                _ms(one.ms * 1e6),
                *(f"{cycles / 1e6:.1f}" for cycles in parts),
            )
    console().print()
    console().print(table)
    for words in dict.fromkeys(caveat(case.estimate) for case in run.cases if case.estimate):
        console().print(f"[dim]{escape(words[0].upper() + words[1:])}.[/dim]")


def grouped_instructions(counts: Mapping[str, float]) -> dict[str, float]:
    """Classes of instructions as shown: dot products, multiply-adds, loads and stores, the rest."""
    parts = {
        "dot": ("dot", "mmla"),
        "mla": ("fmla", "mlal_mull"),
        "loads": ("ldst_gpr", "ldst_simd"),
    }
    grouped = {name: sum(counts[one] for one in ones) for name, ones in parts.items()}
    return {**grouped, "other": counts["total"] - sum(grouped.values())}


def _print_sustained(run: Run) -> None:
    """Compares the first tenth of the time with the last, in latency and temperature."""
    from edgemobile.latency.statistics import summarize, throttle_words, throttled_now

    during = [sample.conditions for sample in run.conditions if sample.when == "during"]
    for case in run.cases:
        tenth = max(1, len(case.rounds_ns) // 10)
        first, last = summarize(case.rounds_ns[:tenth]), summarize(case.rounds_ns[-tenth:])
        change = last.median_ns / first.median_ns - 1
        console().print(
            f"{_label(case, run)}: {_ms(first.median_ns)} in the first tenth, {_ms(last.median_ns)} in the last "
            f"({change:+.1%})"
        )
    for what, unit in (("temp_c", "C"), ("freq_mhz", "MHz")):
        values = [getattr(one, what) for one in during if getattr(one, what)]
        if values:
            first_value, last_value = (max(one) if isinstance(one, tuple) else one for one in (values[0], values[-1]))
            console().print(f"{first_value:.0f} {unit} at first, {last_value:.0f} {unit} at last")
    if words := throttle_words(throttled_now(run.conditions)):
        console().print(f"[yellow]meanwhile:[/yellow] {escape(words)}")


def _print_profile(case: Case, run: Run) -> None:
    if case.prefixes:
        print_layer_costs(case, escape(_names(run)[case.file]), run.settings.clock_mhz)
        return
    if case.profile is None:
        outside = ", ".join(f"{count} {op}" for op, count in (case.outside or {}).items()) or "nothing"
        cut = (
            "the runtime does not report delegates"
            if case.partitions is None
            else f"delegate partitions: {case.partitions}, with {outside} outside"
        )
        console().print(
            f"{_label(case, run)}: {escape(case.runtime)} does not report time per op to Python; {escape(cut)}"
        )
        return
    whole = sum(op.ns for op in case.profile) or 1
    title = f"{_label(case, run)}: time per op, from onnxruntime's profiler"
    table = format_table(title, ["op", "kind", "time", "share"], left=2)
    slowest = sorted(case.profile, key=lambda op: -op.ns)
    for op in slowest[:_SHOWN_OPS]:
        table.add_row(escape(op.name), escape(op.op), f"{op.ns / 1000:.0f} us", f"{op.ns / whole:.1%}")
    rest = slowest[_SHOWN_OPS:]
    if rest:
        took = sum(op.ns for op in rest)
        table.add_row(f"{len(rest)} more", "", f"{took / 1000:.0f} us", f"{took / whole:.1%}")
    console().print(table)


def _title(run: Run) -> str:
    facts, before = run.facts, run.conditions[0].conditions if run.conditions else None
    kinds = ", ".join(f"{count}x {kind}" for kind, count in _counted([core.kind for core in facts.cores]).items())
    parts = [run.device, facts.model if facts.model not in kinds else "", kinds, facts.os]
    if run.emulated:
        parts.append("EMULATED")
    elif before is not None:
        parts.append(f"governor {before.governor or 'unknown'}")
        parts += [] if before.temp_c is None else [f"{before.temp_c:.0f} C"]
    if run.settings.cores is not None:
        parts.append(f"on cores {run.settings.cores}")
    return escape("; ".join(part for part in parts if part))


def _counted(kinds: Sequence[str]) -> dict[str, int]:
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def _who(case: Case, run: Run) -> tuple[str, ...]:
    return (
        escape(_names(run)[case.file]),
        escape(case.precision),
        escape(f"{case.runtime} {case.version}"),
        escape(run.facts.int8_isa),
        str(case.threads),
        "-" if case.partitions is None else str(case.partitions),
    )


def _names(run: Run) -> dict[str, str]:
    return shown_names([*(case.file for case in run.cases), *(refusal.file for refusal in run.refused)])


def _label(case: Case, run: Run) -> str:
    """A case in a sentence."""
    return escape(f"{_names(run)[case.file]} ({case.threads} thread{'s' if case.threads > 1 else ''})")


def _ms(ns: float | None, unit: str = " ms") -> str:
    if ns is None:
        return "-"
    ms = ns / 1e6
    return f"{ms:.{0 if ms >= 1000 else 1 if ms >= 100 else 2 if ms >= 1 else 3}f}{unit}"


def _memory(case: Case) -> str:
    """Memory that the file needs on top of the runtime, and that of the whole process."""
    if case.peak_mib is None or case.runtime_mib is None:
        return "-"
    return f"{case.peak_mib - case.runtime_mib:.1f} of {case.peak_mib:.1f} MiB"


def _millions(count: float) -> str:
    return f"{count / 1e6:.3f}"


# ---- two runs -------------------------------------------------------------------------------------------------------


def print_unstable(compared: Comparison, reference: str, other: str | None) -> None:
    """Print which figures of runs `reference` and `other` cannot be trusted, and why; a run named None is skipped."""
    for pair in compared.pairs:
        sides = [(reference, pair.reference, pair.reference_verdict)]
        sides += [(other, pair.other, pair.other_verdict)] if other is not None else []
        for name, case, found in sides:
            if not found.stable:
                console().print(f"[yellow]{escape(f'{name}, {Path(case.file).name}')}:[/yellow] {escape(str(found))}")


def print_comparison(compared: Comparison) -> None:
    counted = all(pair.unit == "instructions" for pair in compared.pairs)
    columns = [
        "file",
        "against",
        "runtime",
        "threads",
        "was",
        "is",
        "ratio",
        "least to most" if counted else "95 % interval",
    ]
    others = shown_names(pair.other.file for pair in compared.pairs)
    references = shown_names(pair.reference.file for pair in compared.pairs)
    estimated = any(pair.estimated_ratio for pair in compared.pairs)
    columns += ["estimated cycles"] if estimated else []
    table = format_table("", columns, left=3)
    for pair in compared.pairs:
        low_high = f"{pair.low:.4f} to {pair.high:.4f}"
        table.add_row(
            escape(others[pair.other.file]),
            escape(references[pair.reference.file]),
            escape(f"{pair.other.runtime} {pair.other.version}"),
            str(pair.other.threads),
            *_figures(pair),
            f"{pair.ratio:.4f}",
            low_high,
            *([f"{pair.estimated_ratio:.3f}" if pair.estimated_ratio else "-"] if estimated else []),
        )
    console().print(table)
    for words in compared.unlike:
        console().print(f"[yellow]different conditions:[/yellow] {escape(words)}")
    for words in compared.unpaired:
        console().print(f"[yellow]only in one run:[/yellow] {escape(words)}")


def gate(compared: Comparison, max_regress: float | None, *, quiet: bool = False) -> int:
    """The exit code: 1 if a file regressed, 5 if one may have, 0 otherwise and without a limit."""
    from edgemobile.latency.compare import Judgement

    if max_regress is None:
        return 0
    if not compared.pairs:
        raise EdgemobileError("nothing to compare: no file of the baseline was measured")
    judged = [(pair, pair.judge(max_regress)) for pair in compared.pairs]
    for pair, found in judged:
        if found is not Judgement.PASSED and not quiet:
            console().print(f"[red]{found.value}:[/red] {_missed(pair, max_regress)}")
    found_all = {found for _, found in judged}
    return 1 if Judgement.REGRESSED in found_all else UNSTABLE if Judgement.UNSURE in found_all else 0


def _missed(pair: Compared, max_regress: float) -> str:
    name, what = escape(Path(pair.other.file).name), "slower" if pair.unit == "time" else "more instructions"
    doubt = "" if pair.low > 1 + max_regress else f", but the interval begins at {pair.low - 1:+.1%}: measure more runs"
    return f"{name}: {pair.ratio - 1:+.2%} {what}; {max_regress:.2%} is allowed{doubt}"


def _figures(pair: Compared) -> tuple[str, str]:
    if pair.unit == "time":
        return f"{pair.reference.median_ns / 1e6:.3f} ms", f"{pair.other.median_ns / 1e6:.3f} ms"
    was, now = (case.instructions_median["total"] for case in (pair.reference, pair.other))
    return f"{was / 1e6:.3f} M instr.", f"{now / 1e6:.3f} M instr."
