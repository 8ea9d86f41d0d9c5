"""The results of a store as a table: the latest figure of each file and device, and where it changed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from edgemobile.errors import EdgemobileError
from edgemobile.report.tables import Cell, Table
from edgemobile.report.words import dash
from edgemobile.results.record import METRICS, Result
from edgemobile.results.trend import Trend, trends

__all__ = ["over_time_table"]

_COLUMNS = (
    *("file", "device", "metric", "latest", "95 % interval", "change", "results", "measured, UTC", "commit"),
    *("board", "runtime", "threads", "images"),
)


def over_time_table(results: Sequence[Result], start: datetime) -> Table:
    """A row for each series with a result since `start`. Changes since then are found with the results before it.

    Raises EdgemobileError if nothing was recorded since then.
    """
    rows = tuple(_row(trend, start) for trend in trends(results) if _time(trend.results[-1]) >= start)
    if not rows:
        newest = max(results, key=_time, default=None)
        last = f"the newest one is {newest.file} on {newest.device}, {_words(newest)} UTC" if newest else "none at all"
        raise EdgemobileError(f"no result since {start.astimezone(UTC):%Y-%m-%d %H:%M} UTC: {last}")
    return Table("Over time", _COLUMNS, rows)


def _row(trend: Trend, start: datetime) -> tuple[Cell, ...]:
    last = trend.results[-1]
    metric = METRICS[last.metric]
    known = last.low is not None and last.high is not None
    interval = f"{metric.words(last.low or 0)} to {metric.words(last.high or 0)}" if known else dash
    count = sum(_time(one) >= start for one in trend.results)
    return (
        _text(last.file),
        _text(last.device),
        _text(last.metric),
        Cell(metric.words(last.value) + ("" if last.trusted else ", unstable"), last.value, "number"),
        Cell(interval, last.low, "number"),
        _text(_changes(trend, start)),
        Cell(str(count), count, "number"),
        _text(_words(last)),
        _text(last.commit),
        _text(last.board),
        _text(last.runtime),
        Cell(dash if last.threads is None else str(last.threads), last.threads, "number"),
        _text(last.data),
    )


def _changes(trend: Trend, start: datetime) -> str:
    if not trend.decides:
        return "too few stable results"
    metric = METRICS[trend.results[0].metric]
    since = [(trend.results[one.at], one.ratio) for one in trend.changes if _time(trend.results[one.at]) >= start]
    return "; ".join(f"{metric.change_words(ratio)} from {_words(one)}" for one, ratio in since) or "none"


def _text(value: str | None) -> Cell:
    return Cell(value or dash, (value or dash).lower())


def _time(result: Result) -> datetime:
    return datetime.fromisoformat(result.created)


def _words(result: Result) -> str:
    return f"{_time(result).astimezone(UTC):%Y-%m-%d %H:%M}"
