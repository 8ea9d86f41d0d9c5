"""The names of files in a table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

__all__ = ["shown_names"]


def shown_names(files: Iterable[str]) -> dict[str, str]:
    """File -> its name, with as many folders before it as distinguish it from other files of the same name."""
    paths = {file: PurePath(file).parts for file in files}
    return {file: str(PurePath(*_tail(parts, list(paths.values())))) for file, parts in paths.items()}


def _tail(parts: tuple[str, ...], all_parts: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The fewest last parts that no other path ends with."""
    others = [other for other in all_parts if other != parts]
    lengths = range(1, len(parts) + 1)
    return next(
        (parts[-length:] for length in lengths if all(parts[-length:] != other[-length:] for other in others)), parts
    )
