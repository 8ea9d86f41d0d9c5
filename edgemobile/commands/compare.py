"""`edgemobile compare`: compares two saved runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgemobile.printing.runs import UNSTABLE, gate, print_comparison, print_unstable
from edgemobile.util.strict_json import to_json_text

if TYPE_CHECKING:
    from edgemobile.latency.compare import Comparison

__all__ = ["compare", "comparison_json", "percentage"]


def percentage(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """ "5%" or "5" -> 0.05, a share."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%?", value.strip())
    if not found:
        raise click.BadParameter(f"{value!r} is not a percentage such as 5%")
    return float(found[1]) / 100


@click.command("compare")
@click.argument("reference", type=click.Path(path_type=Path), metavar="A.json")
@click.argument("other", type=click.Path(path_type=Path), metavar="B.json")
@click.option(
    "--max-regress", callback=percentage, metavar="P%", help="Exit 1 when B is slower than A by more than this."
)
@click.option("--allow-unlike", is_flag=True, help="Compare even if device, runtime or conditions differ.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(reference: Path, other: Path, max_regress: float | None, allow_unlike: bool, as_json: bool) -> int:
    """How much slower or faster run B is than run A, each saved by `edgemobile bench --out`.

    Runs on different devices, runtimes, threads or conditions are refused. Exits 1 if the whole interval is slower than
    --max-regress allows. Exits 5 if only the median is, or if either run is unstable.

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
                "estimated_ratio": pair.estimated_ratio,
                "judgement": None if max_regress is None else pair.judge(max_regress).value,
            }
            for pair in compared.pairs
        ],
        "unlike": list(compared.unlike),
        "unpaired": list(compared.unpaired),
    }
