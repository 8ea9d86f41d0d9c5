"""Checks before minutes of work that a file can and may be written. One rule for the outputs of all commands."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from edgemobile.errors import EdgemobileError
from edgemobile.util.writing import partial_file

__all__ = ["check_apart", "check_writable"]


def check_writable(option: str, path: Path | None, inputs: Sequence[Path | str | None] = ()) -> None:
    """Raises EdgemobileError if `path`, as given with `option`, is a folder, if no file can be created there, or if it
    is one of the command's `inputs` or inside one. Inputs given as text count only if they are files: a name may be a
    model's.
    """
    try:
        if path is not None:
            check_apart([path], inputs)
            _try(option, path)
    except OSError as error:
        raise EdgemobileError(f"{option} {path}: no file can be created there: {error.strerror or error}") from error


def check_apart(outputs: Sequence[Path], inputs: Sequence[Path | str | None]) -> None:
    """Raises EdgemobileError if an output would overwrite an input, a file inside an input, or another output.

    Symbolic and hard links are resolved.
    """
    taken: set[str] = set()
    for output in outputs:
        target = os.path.realpath(output)
        for given in inputs:
            if given is not None and (os.path.isfile(given) or isinstance(given, Path)):
                _check_beside(output, Path(given))
        if target in taken:
            raise EdgemobileError(f"{output} is given for two outputs, and one would be overwritten: choose two files")
        taken.add(target)


def _check_beside(output: Path, given: Path) -> None:
    if os.path.exists(output) and os.path.exists(given) and os.path.samefile(output, given):
        raise EdgemobileError(f"{output} is an input (as {given}) and would be overwritten: choose another file")
    if given.is_dir() and Path(os.path.realpath(given)) in Path(os.path.realpath(output)).parents:
        raise EdgemobileError(f"{output} is inside {given}, an input: choose a file outside it")


def _try(option: str, path: Path) -> None:
    if path.is_dir():
        raise EdgemobileError(f"{option} {path}: this is a folder; choose a file in it")
    if not path.parent.is_dir():
        raise EdgemobileError(f"{option} {path}: the folder {path.parent} does not exist")
    if not path.exists():
        with partial_file(Path(os.path.realpath(path))):
            pass
    # Opening a pipe would wait for its reader.
    elif path.is_file():
        path.open("a", encoding="utf-8").close()
