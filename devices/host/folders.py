"""The folders of edgemobile on this machine and on a board, and a check that a path on a board is inside them."""

from __future__ import annotations

import os
from pathlib import Path

from edgemobile.errors import EdgemobileError

__all__ = ["cache_folder", "cache_path", "config_folder", "inside"]


def cache_folder(part: str) -> Path:
    """`cache_path`, created if missing, for this user only."""
    folder = cache_path(part)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def cache_path(part: str) -> Path:
    """edgemobile's folder `part` in the user's cache (XDG_CACHE_HOME, else ~/.cache). It is not created."""
    return _base("XDG_CACHE_HOME", ".cache") / "edgemobile" / part


def config_folder() -> Path:
    """edgemobile's folder in the user's configuration (XDG_CONFIG_HOME, else ~/.config). It is not created."""
    return _base("XDG_CONFIG_HOME", ".config") / "edgemobile"


def inside(path: str) -> str:
    """`path` itself, checked to stay below the root of a board.

    Raises EdgemobileError for an absolute path, one that climbs, an empty one, and control characters.
    """
    parts = path.split("/")
    if not path or ".." in parts or "" in parts or any(ord(char) < 32 or ord(char) == 127 for char in path):
        raise EdgemobileError(f"path {path!r} leaves edgemobile's folder on the board. Allowed: names joined by '/'")
    return path


def _base(variable: str, default: str) -> Path:
    # The XDG specification: a relative path is invalid and to be ignored.
    given = os.environ.get(variable, "")
    return Path(given) if given.startswith("/") else Path.home() / default
