"""Removes the files in the folder of a job that a power cut left incomplete: a damaged file counts as missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

__all__ = ["remove_damaged"]


def remove_damaged(folder: Path) -> None:
    """Remove the incomplete files of the job in `folder`, and the incomplete lines of its progress.

    No worker may be running the job.
    """
    for pattern, is_complete in _CHECKS.items():
        for path in folder.glob(pattern):
            if not is_complete(path):
                path.unlink()
    with suppress(FileNotFoundError):
        _keep_complete_lines(folder / "progress.jsonl")


def _is_object(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except ValueError:
        return False


def _is_array(path: Path) -> bool:
    """Whether an .npy file contains as much data as its header states."""
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return True


def _has_its_sha256(path: Path) -> bool:
    """Whether the content of input-NUMBER-SHA256.npy matches SHA256, the first digits of its hash."""
    digits = path.stem.rpartition("-")[2]
    return hashlib.sha256(path.read_bytes()).hexdigest().startswith(digits)


def _keep_complete_lines(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    complete = [line for line in lines if line.endswith(b"\n") and _is_json(line)]
    if complete != lines:
        path.write_bytes(b"".join(complete))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


_CHECKS: Mapping[str, Callable[[Path], bool]] = {
    "job.json": _is_object,
    "run.json": _is_object,
    "input-*.npy": _has_its_sha256,
    "output-*.npy": _is_array,
    "*.partial": lambda path: False,
    ".*.partial": lambda path: False,
}
