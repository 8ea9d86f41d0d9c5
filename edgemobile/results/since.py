"""The time from which results are wanted: a date, an age or a commit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from edgemobile.errors import EdgemobileError
from edgemobile.results.record import Result

__all__ = ["start_of"]

_AGE = re.compile(r"(\d{1,4})([hdw])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")


def start_of(when: str, results: Sequence[Result], now: datetime) -> datetime:
    """A date begins at 0:00 UTC, an age is counted back from `now`, a commit begins with its first result in `results`.

    Raises EdgemobileError for anything else, and for a commit without a result.
    """
    if age := _AGE.fullmatch(when):
        return now - int(age[1]) * _UNITS[age[2]]
    if _DATE.fullmatch(when):
        try:
            return datetime.fromisoformat(when).replace(tzinfo=UTC)
        except ValueError:
            pass
    if not _COMMIT.fullmatch(when):
        raise EdgemobileError(
            f"--since {when!r} is not a time. Allowed: a date such as 2026-11-01, an age such as 24h, 7d or 2w, or at "
            "least 7 digits of a commit with a result"
        )
    times = [datetime.fromisoformat(one.created) for one in results if _is_commit(one.commit, when)]
    if not times:
        known = list(dict.fromkeys(one.commit for one in reversed(results) if one.commit))
        there = f"The last ones are {', '.join(known[:3])}" if known else "None of the results has a commit"
        raise EdgemobileError(f"--since {when}: no selected result is of this commit. {there}")
    return min(times)


def _is_commit(recorded: str | None, when: str) -> bool:
    """git's abbreviations of a commit differ in length."""
    commit = (recorded or "").removesuffix("-dirty")
    return commit != "" and (commit.startswith(when) or when.startswith(commit))
