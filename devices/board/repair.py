"""What a power cut leaves half-written in the folder of a job, removed: damaged counts as absent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

__all__ = ["remove_damaged"]


def remove_damaged(folder: Path) -> None:
    """Remove every file of the job in `folder` that is not whole, and from its progress the lines that are not.

    No worker may be at the job.
    """
    for pattern, is_whole in _CHECKS.items():
        for path in folder.glob(pattern):
            if not is_whole(path):
                path.unlink()
    with suppress(FileNotFoundError):
        _keep_whole_lines(folder / "progress.jsonl")


def _is_object(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except ValueError:
        return False


def _is_array(path: Path) -> bool:
    """Whether there is all that the header of an .npy file promises."""
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return True


def _has_its_sha256(path: Path) -> bool:
    """Whether images are those of their name, input-NUMBER-SHA256.npy, with the first digits of it."""
    digits = path.stem.rpartition("-")[2]
    return hashlib.sha256(path.read_bytes()).hexdigest().startswith(digits)


def _keep_whole_lines(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n") and _is_json(line)]
    if whole != lines:
        path.write_bytes(b"".join(whole))


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
