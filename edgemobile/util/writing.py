"""A file written whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from edgemobile.errors import EdgemobileError

__all__ = ["write_whole"]


def write_whole(path: Path, text: str) -> None:
    """Put UTF-8 `text` in the place of `path` at once, so that whoever reads it finds the old or the new.

    A link keeps pointing where it does. A pipe or a terminal has no old text to lose and is written to as it is.
    Raises EdgemobileError where it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        target = Path(os.path.realpath(path))
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise EdgemobileError(f"cannot write {path}: {error.strerror or error}") from error
