"""Whether a file can be written, asked before minutes of work."""

from __future__ import annotations

from pathlib import Path

from edgemobile.errors import EdgemobileError

__all__ = ["check_writable"]


def check_writable(option: str, path: Path | None) -> None:
    """Raises EdgemobileError where `path`, as given with `option`, is a folder or no file can be made there."""
    try:
        if path is not None:
            _try(option, path)
    except OSError as error:
        raise EdgemobileError(f"{option} {path}: no file can be made there: {error.strerror or error}") from error


def _try(option: str, path: Path) -> None:
    if path.is_dir():
        raise EdgemobileError(f"{option} {path}: this is a folder; name a file in it")
    if not path.parent.is_dir():
        raise EdgemobileError(f"{option} {path}: there is no folder {path.parent}")
    if not path.exists():
        path.touch()
        path.unlink()
    # A pipe would wait for its reader.
    elif path.is_file():
        path.open("a", encoding="utf-8").close()
