"""Reads edgemobile.toml strictly: tables of rows define the keys of each table of the file, and their values.

Errors contain the line. To add a kind of value: a function of (value, reader, keys) that raises ValueError with what
is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemobile.util.config_file import ConfigFile

__all__ = [
    "Read",
    "Reader",
    "amount",
    "items",
    "list_of",
    "named",
    "one_of",
    "read_flag",
    "read_number",
    "read_path",
    "read_share",
    "read_text",
    "real",
    "whole",
]

# (value, the reader, its keys) -> the record's value; ValueError states what is allowed.
Read = Callable[[Any, "Reader", tuple[str, ...]], Any]


def read_text(value: Any, read: Reader, keys: tuple[str, ...]) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("must be text in quotes")
    return value


def read_path(value: Any, read: Reader, keys: tuple[str, ...]) -> Path:
    return read.file.path.parent / read_text(value, read, keys)


def read_flag(value: Any, read: Reader, keys: tuple[str, ...]) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def whole(least: int) -> Read:
    def read_whole(value: Any, read: Reader, keys: tuple[str, ...]) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"must be a whole number of at least {least}")
        return value

    return read_whole


def real(low: float, high: float) -> Read:
    def read_real(value: Any, read: Reader, keys: tuple[str, ...]) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return float(value)

    return read_real


def read_number(value: Any, read: Reader, keys: tuple[str, ...]) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
        raise ValueError("must be a number")
    return float(value)


def one_of(allowed: tuple[str, ...]) -> Read:
    def read_name(value: Any, read: Reader, keys: tuple[str, ...]) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value

    return read_name


def list_of(one: Read, *, empty: bool = False) -> Read:
    def read_list(value: Any, read: Reader, keys: tuple[str, ...]) -> tuple[Any, ...]:
        if not isinstance(value, list) or not (value or empty):
            raise ValueError('must be a list such as ["a", "b"], and not empty')
        found = tuple(one(item, read, keys) for item in value)
        if len(set(found)) != len(found):
            raise ValueError("contains an item twice")
        return found

    return read_list


def amount(units: Mapping[str, int], example: str) -> Read:
    def read_amount(value: Any, read: Reader, keys: tuple[str, ...]) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", value.strip()) if isinstance(value, str) else None
        if not found or found[2].upper() not in units or not float(found[1]):
            raise ValueError(f"must be a number, or text like {example}")
        return round(float(found[1]) * units[found[2].upper()])

    return read_amount


def read_share(value: Any, read: Reader, keys: tuple[str, ...]) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value.strip()) if isinstance(value, str) else None
    if not found:
        raise ValueError('must be a percentage in quotes, such as "1%"')
    return float(found[1]) / 100


def items(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise ValueError("must be a table such as { int8 = ... }")
    return list(value.items())


def named(read: Reader, keys: tuple[str, ...], check: Callable[[str], str]) -> str:
    try:
        return check(keys[-1])
    except ValueError as error:
        raise read.file.wrong(keys, str(error)) from error


@dataclass(frozen=True)
class Reader:
    """Reads tables of `file` with tables of rows."""

    file: ConfigFile

    def one(self, value: Any, keys: tuple[str, ...], kind: Read) -> Any:
        try:
            return kind(value, self, keys)
        except ValueError as error:
            raise self.file.wrong(keys, f"{error}; found {_shown(value)}") from error

    def table(self, keys: tuple[str, ...], rows: Mapping[str, Read]) -> dict[str, Any]:
        """A table with any of the keys of `rows`; {} if it does not exist."""
        found = {}
        for name, value in self._at(keys).items():
            if name not in rows:
                raise self.file.wrong((*keys, name), f"unknown key. Allowed: {', '.join(rows)}")
            found[name] = self.one(value, (*keys, name), rows[name])
        return found

    def tables(self, keys: tuple[str, ...], kind: Read, allowed: tuple[str, ...]) -> dict[str, Any]:
        found = {}
        for name, value in self._at(keys).items():
            if name not in allowed:
                raise self.file.wrong((*keys, name), f"unknown. Allowed: {', '.join(allowed)}")
            found[name] = self.one(value, (*keys, name), kind)
        return found

    def names(self, keys: tuple[str, ...], *, required: bool) -> list[str]:
        names = list(self._at(keys))
        if required and not names:
            raise self.file.wrong(keys, "there are no models to check. Add a table: [models.v3-large]")
        return names

    def _at(self, keys: tuple[str, ...]) -> Mapping[str, Any]:
        value: Any = self.file.tables
        for depth, key in enumerate(keys, 1):
            value = value.get(key, {})
            if not isinstance(value, dict):
                raise self.file.wrong(
                    keys[:depth], f"must be a table, [{'.'.join(keys[:depth])}]; found {_shown(value)}"
                )
        return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
