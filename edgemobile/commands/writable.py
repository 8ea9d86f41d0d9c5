"""Whether a file can be written, and may be, asked before minutes of work. One rule for the outputs of all commands."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from edgemobile.errors import EdgemobileError

__all__ = ["check_apart", "check_writable"]


def check_writable(option: str, path: Path | None, inputs: Sequence[Path | str | None] = ()) -> None:
    """Raises EdgemobileError where `path`, as given with `option`, is a folder, no file can be made there, or it is one
    of the command's `inputs` or inside of one. Of those that are text only files count: a name may be a model's.
    """
    try:
        if path is not None:
            check_apart([path], inputs)
            _try(option, path)
    except OSError as error:
        raise EdgemobileError(f"{option} {path}: no file can be made there: {error.strerror or error}") from error


def check_apart(outputs: Sequence[Path], inputs: Sequence[Path | str | None]) -> None:
    """Raises EdgemobileError where an output would take the place of an input, of what is in it, or of another output.

    Links of both kinds are seen through.
    """
    taken: set[str] = set()
    for output in outputs:
        target = os.path.realpath(output)
        for given in inputs:
            if given is not None and (os.path.isfile(given) or isinstance(given, Path)):
                _check_beside(output, Path(given))
        if target in taken:
            raise EdgemobileError(f"{output} is named for two outputs, and one would be lost: name two files")
        taken.add(target)


def _check_beside(output: Path, given: Path) -> None:
    if os.path.exists(output) and os.path.exists(given) and os.path.samefile(output, given):
        raise EdgemobileError(f"{output} is an input (as {given}), and writing it would lose it: name another file")
    if given.is_dir() and Path(os.path.realpath(given)) in Path(os.path.realpath(output)).parents:
        raise EdgemobileError(f"{output} is inside of {given}, an input: name a file outside of it")


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
