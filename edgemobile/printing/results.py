"""The results store: a table of results, and the trend of one figure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from rich.markup import escape

from edgemobile.printing.terminal import console, format_table
from edgemobile.results.record import METRICS, Result
from edgemobile.results.store import Store
from edgemobile.results.trend import FEWEST, Trend

__all__ = ["print_damaged", "print_results", "print_trend"]

_BARS = "▁▂▃▄▅▆▇█"
_SHOWN_DAMAGED = 3


def print_results(results: Sequence[Result], total: int, store: str) -> None:
    """Print `results`, the last of `total` that match the request."""
    columns = ["time", "file", "device", "board", "runtime", "commit", "metric", "value", "95 % interval", "count"]
    table = format_table(escape(store), columns, left=7)
    for result in results:
        table.add_row(
            _when(result),
            escape(result.file),
            escape(result.device),
            escape(result.board or ""),
            escape(_runtime(result)),
            escape(result.commit or ""),
            result.metric,
            _value(result, result.value) + ("" if result.trusted else " unstable"),
            _interval(result),
            "" if result.count is None else str(result.count),
        )
    console().print(table)
    if len(results) < total:
        console().print(f"[dim]the last {len(results)} of {total}; --limit shows more[/dim]")


def print_trend(trend: Trend) -> None:
    """The results of one series in order of time, with the changes."""
    first = trend.results[0]
    where = ", ".join(filter(None, (first.device, first.board, _runtime(first), first.data)))
    columns = ["time", "commit", "change", first.metric, "95 % interval", "count"]
    table = format_table(f"{escape(first.file)} on {escape(where)}  {_bars(trend)}", columns, left=3)
    changes = {change.at: change.ratio for change in trend.changes}
    for place, result in enumerate(trend.results):
        table.add_row(
            _when(result),
            escape(result.commit or ""),
            _change(result, changes.get(place)) if result.trusted else "[dim]unstable: not compared[/dim]",
            _value(result, result.value),
            _interval(result),
            "" if result.count is None else str(result.count),
        )
    console().print(table)
    if not trend.decides:
        fewest = 2 if METRICS[first.metric].repeats_within is not None else 2 * FEWEST
        console().print(f"[dim]at least {fewest} stable results are needed to find a change[/dim]")


def print_damaged(store: Store, name: str) -> None:
    for number, reason in store.damaged[:_SHOWN_DAMAGED]:
        console(stderr=True).print(f"[yellow]warning:[/yellow] {escape(name)}, line {number}: {escape(reason)}")
    if len(store.damaged) > _SHOWN_DAMAGED:
        console(stderr=True).print(
            f"[yellow]warning:[/yellow] {len(store.damaged)} lines of {escape(name)} are damaged"
        )


def _change(result: Result, ratio: float | None) -> str:
    if ratio is None:
        return ""
    words = METRICS[result.metric].change_words(ratio)
    return f"[{'red' if words.endswith('worse') else 'green'}]{words}[/]"


def _bars(trend: Trend) -> str:
    values = np.array([result.value for result in trend.results])
    low, high = float(values.min()), float(values.max())
    steps = np.zeros(len(values)) if high == low else (values - low) / (high - low) * (len(_BARS) - 1)
    return "".join(_BARS[round(step)] for step in steps)


def _when(result: Result) -> str:
    return datetime.fromisoformat(result.created).astimezone().strftime("%Y-%m-%d %H:%M")


def _runtime(result: Result) -> str:
    threads = "" if result.threads in (None, 1) else f", {result.threads} threads"
    return f"{result.runtime or ''}{threads}"


def _value(result: Result, value: float) -> str:
    return METRICS[result.metric].words(value)


def _interval(result: Result) -> str:
    if result.low is None or result.high is None:
        return ""
    return f"{_value(result, result.low)} - {_value(result, result.high)}"
