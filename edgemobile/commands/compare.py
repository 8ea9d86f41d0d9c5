"""`edgemobile compare`: two saved runs against each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from edgemobile.errors import EdgemobileError
from edgemobile.printing.terminal import console, format_table
from edgemobile.util.strict_json import to_json_text

if TYPE_CHECKING:
    from edgemobile.latency.compare import Compared, Comparison

__all__ = ["UNSTABLE", "compare", "comparison_json", "gate", "percentage", "print_comparison", "print_unstable"]

UNSTABLE = 5


def percentage(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """ "5%" or "5" -> 0.05, a share."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%?", value.strip())
    if not found:
        raise click.BadParameter(f"{value!r} is no percentage, as in 5%")
    return float(found[1]) / 100


@click.command("compare")
@click.argument("reference", type=click.Path(path_type=Path), metavar="A.json")
@click.argument("other", type=click.Path(path_type=Path), metavar="B.json")
@click.option("--max-regress", callback=percentage, metavar="P%", help="Exit 1 when B is that much slower than A.")
@click.option("--allow-unlike", is_flag=True, help="Compare though device, runtime or conditions differ.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(reference: Path, other: Path, max_regress: float | None, allow_unlike: bool, as_json: bool) -> int:
    """How much slower or faster run B is than run A, each saved by `edgemobile bench --out`.

    Runs on different devices, runtimes, threads or conditions are refused. Exits 1 where B is slower than --max-regress
    allows with all of the interval; 5 where the median is and the interval is not, or either run is unstable.

    \b
    Examples:
      edgemobile compare monday.json tuesday.json --max-regress 5%
      edgemobile compare pi4.json pi5.json --allow-unlike
    """
    from edgemobile.devices.host.records import load_run
    from edgemobile.latency.compare import compare as compare_runs

    compared = compare_runs(load_run(reference), load_run(other), allow_unlike=allow_unlike)
    if as_json:
        print(to_json_text(comparison_json(compared, max_regress)), end="")
    else:
        print_comparison(compared)
    code = gate(compared, max_regress, quiet=as_json)
    if not as_json:
        print_unstable(compared, str(reference), str(other))
    return code if compared.stable else UNSTABLE


def print_unstable(compared: Comparison, reference: str, other: str | None) -> None:
    """Which figures cannot be trusted, and why, of the runs called `reference` and `other`; None is told elsewhere."""
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
    table = format_table("", columns, left=3)
    for pair in compared.pairs:
        low_high = f"{pair.low:.4f} to {pair.high:.4f}"
        table.add_row(
            escape(Path(pair.other.file).name),
            escape(Path(pair.reference.file).name),
            escape(f"{pair.other.runtime} {pair.other.version}"),
            str(pair.other.threads),
            *_figures(pair),
            f"{pair.ratio:.4f}",
            low_high,
        )
    console().print(table)
    for words in compared.unlike:
        console().print(f"[yellow]not alike:[/yellow] {escape(words)}")
    for words in compared.unpaired:
        console().print(f"[yellow]only in one run:[/yellow] {escape(words)}")


def gate(compared: Comparison, max_regress: float | None, *, quiet: bool = False) -> int:
    """The exit code: 1 where a file regressed, 5 where one may have, 0 otherwise and where no limit is given."""
    from edgemobile.latency.compare import Judgement

    if max_regress is None:
        return 0
    if not compared.pairs:
        raise EdgemobileError("nothing to judge: no file of the baseline was measured")
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


def comparison_json(compared: Comparison, max_regress: float | None) -> dict[str, object]:
    return {
        "version": 1,
        "max_regress": max_regress,
        "pairs": [
            {
                "file": pair.other.file,
                "reference": pair.reference.file,
                "threads": pair.other.threads,
                "unit": pair.unit,
                "ratio": pair.ratio,
                "low": pair.low,
                "high": pair.high,
                "judgement": None if max_regress is None else pair.judge(max_regress).value,
            }
            for pair in compared.pairs
        ],
        "unlike": list(compared.unlike),
        "unpaired": list(compared.unpaired),
    }
