"""Reads edgemobile.toml and devices.toml: their tables, and the line of each key, so that errors can name it.

tomllib keeps no line numbers. They are found only for an error, by parsing the text statement by statement.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgemobile.errors import EdgemobileError

__all__ = ["CONFIG_NAME", "ConfigFile", "read_config"]

CONFIG_NAME = "edgemobile.toml"
# [defaults] is for the options of every command (edgemobile.commands.defaults), [sweep] for `sweep`, the others for
# `ci` (edgemobile.gate).
_TABLES = ("gate", "tolerances", "devices", "models", "sweep", "defaults")
_MAX_BYTES = 2**20


@dataclass(frozen=True)
class ConfigFile:
    """`tables` as tomllib returns them. Paths in them are relative to the file's folder."""

    path: Path
    text: str
    tables: Mapping[str, Any]

    def place(self, keys: tuple[str, ...]) -> str:
        """The location of the key at `keys`, as FILE:LINE: table.key."""
        dotted = ".".join(key if re.fullmatch(r"[\w-]+", key) else f'"{key}"' for key in keys)
        return f"{self.path}:{self.line(keys)}: {dotted}"

    def wrong(self, keys: tuple[str, ...], words: str) -> EdgemobileError:
        """The error to raise about the key at `keys`."""
        return EdgemobileError(f"{self.place(keys)}: {words}")

    def check_tables(self) -> None:
        """Raises EdgemobileError, with FILE:LINE, for an unknown top-level table."""
        for table in self.tables:
            if table not in _TABLES:
                raise self.wrong((table,), f"unknown table. Allowed: {', '.join(f'[{name}]' for name in _TABLES)}")

    def without(self, name: str) -> str:
        """The text without the top-level table `name`: without its headers and their contents, and its dotted keys.

        A comment directly above the next table belongs to that table and is kept.
        """
        # Not splitlines, which splits at more characters than TOML does.
        lines = StringIO(self.text).readlines()
        dropped: set[int] = set()
        inside, below_header = False, False
        statements = [*_statements(self.text), (len(lines) + 1, len(lines) + 1, "", {})]
        for (start, end, statement, tables), (following, _, next_statement, next_tables) in pairwise(statements):
            ours = next(iter(tables)) == name
            if statement.lstrip().startswith("["):
                inside, below_header = ours, True
            if inside:
                until = following
                if next_statement.lstrip().startswith("[") and name not in next_tables:
                    while until > end and lines[until - 2].lstrip().startswith("#"):
                        until -= 1
                dropped |= {*range(start, until)}
            elif ours and not below_header:
                dropped |= {*range(start, end)}
        return "".join(line for number, line in enumerate(lines, 1) if number not in dropped)

    def line(self, keys: tuple[str, ...]) -> int:
        """The line of the key, or of the nearest table around it; from 1."""
        for length in range(len(keys), 0, -1):
            if keys[:length] in self._lines:
                return self._lines[keys[:length]]
        return 1

    @cached_property
    def _lines(self) -> dict[tuple[str, ...], int]:
        found: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        for number, _, statement, tables in _statements(self.text):
            header = statement.lstrip().startswith("[")
            paths = list(_paths(tables))
            if header:
                # The last match is the longest: [a.b] defines a and then a.b.
                table = paths[-1]
            for path in paths:
                found.setdefault(path if header else (*table, *path), number)
        return found


def read_config(path: Path) -> ConfigFile:
    """Raises EdgemobileError, with the line, for a file that cannot be read or is not TOML."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise EdgemobileError(f"{path} is larger than {_MAX_BYTES} bytes, more than a configuration may have")
        # tomllib accepts only TOML's own line ends.
        text = data.decode("utf-8").replace("\r\n", "\n")
        return ConfigFile(path, text, tomllib.loads(text))
    except OSError as error:
        raise EdgemobileError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise EdgemobileError(f"{path} is not UTF-8 text: {error}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        found = re.search(r"\(at line (\d+), column \d+\)", str(error))
        line = int(found[1]) if found else len(text.splitlines()) or 1
        raise EdgemobileError(f"{path}:{line}: not TOML: {error}") from error


def _statements(text: str) -> Iterator[tuple[int, int, str, dict[str, Any]]]:
    """(first line, line after it, how it begins, parsed value) of every header and every key = value."""
    lines = text.split("\n")
    start = 0
    while start < len(lines):
        end, parsed = start + 1, _parsed(lines[start])
        # A value over several lines parses only once its last line is included.
        while parsed is None and end < len(lines):
            end += 1
            parsed = _parsed("\n".join(lines[start:end]))
        if parsed:
            yield start + 1, end + 1, lines[start], parsed
        start = end


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _paths(value: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key in `value`, outer keys first."""
    # [[name]] gives a list with one table.
    value = value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else value
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (*above, key)
        yield from _paths(inner, (*above, key))
