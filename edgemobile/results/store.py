"""The file of a results store: one result per line; it only grows.

pandas.read_json(path, lines=True), polars.read_ndjson and DuckDB's read_json read it as it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgemobile.errors import EdgemobileError
from edgemobile.results.record import Result
from edgemobile.util.locking import locked

__all__ = ["Store", "append", "merge", "read"]

# A line has about 500 bytes.
_MOST_LINE_BYTES = 2**16


@dataclass(frozen=True)
class Store:
    """What a file contains. `damaged` are (number, reason) of lines that are not results, such as the last line
    before a power cut; the other lines are valid."""

    results: tuple[Result, ...]
    damaged: tuple[tuple[int, str], ...] = ()


def append(path: Path, results: Sequence[Result]) -> None:
    """Add `results` at the end of the store, flushed to disk; processes that append at once take turns.

    Raises EdgemobileError if it cannot be written.
    """
    if results:
        with _opened(path) as file:
            _write(file, path, results)


def merge(path: Path, results: Sequence[Result]) -> int:
    """As `append`, but only the results that the store does not contain yet; returns how many."""
    with _opened(path) as file:
        known = set(read(path).results) if path.stat().st_size else set()
        new = [result for result in dict.fromkeys(results) if result not in known]
        _write(file, path, new)
    return len(new)


def read(path: Path) -> Store:
    """Raises EdgemobileError if the file cannot be read, or has lines and none of them is a result."""
    results, damaged = [], []
    try:
        with path.open("rb") as file:
            for number, line in _lines(file):
                try:
                    results.append(Result.from_json(_parsed(line)))
                except EdgemobileError as error:
                    damaged.append((number, str(error)))
    except OSError as error:
        raise EdgemobileError(f"cannot read {path}: {error.strerror or error}") from error
    if damaged and not results:
        raise EdgemobileError(f"{path} is not a results store: line {damaged[0][0]}: {damaged[0][1]}")
    return Store(tuple(results), tuple(damaged))


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(_MOST_LINE_BYTES):
        number += 1
        yield number, line
        while line and not line.endswith(b"\n"):
            line = file.readline(_MOST_LINE_BYTES)


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EdgemobileError("it is not a line of JSON") from error


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The store, opened to append and locked for this process."""
    try:
        with locked(path.with_name(f".{path.name}.lock")), path.open("ab+") as file:
            yield file
    except OSError as error:
        raise EdgemobileError(f"cannot write {path}: {error.strerror or error}") from error


def _write(file: BinaryIO, path: Path, results: Sequence[Result]) -> None:
    file.seek(0, os.SEEK_END)
    if file.tell():
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            # The last writer was stopped in the middle of a line: end it, so that the next line is valid.
            file.write(b"\n")
    file.write("".join(result.to_line() for result in results).encode())
    file.flush()
    os.fsync(file.fileno())
