"""How every known aten op is handled: lowered, folded or refused. docs/reference/ops.md is generated from it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from edgemobile.lower.ops import FOLDED, LOWERINGS
from edgemobile.lower.walk import ADVICE

__all__ = ["Coverage", "coverage"]


@dataclass(frozen=True)
class Coverage:
    """One row: an op without "aten." and its overload, its status, and a note on how or why."""

    op: str
    status: Literal["lowered", "folded", "refused"]
    note: str = ""


def coverage(others: Iterable[str] = ()) -> Iterator[Coverage]:
    """A row for each op with a lowering, each with advice and each of `others`, by name."""
    rows = {}
    for target, lowering in LOWERINGS.items():
        if target.startswith("aten."):
            name = target.split(".")[1].removesuffix("_")
            note = inspect.cleandoc(lowering.__doc__ or "").partition("\n")[0]
            rows[name] = Coverage(name, "folded" if lowering in FOLDED else "lowered", note)
    for name in sorted({*others, *ADVICE}):
        plain = name.removesuffix("_")
        if plain not in rows:
            rows[plain] = Coverage(plain, "refused", ADVICE.get(name, ""))
    yield from sorted(rows.values(), key=lambda row: row.op.lstrip("_"))
