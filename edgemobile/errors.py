"""The errors a user can fix. Each names the thing, what was found, what is allowed and what to do."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType

__all__ = [
    "BrokenImage",
    "EdgemobileError",
    "MissingExtra",
    "Unsupported",
    "first_few",
    "first_line",
    "in_a_line",
    "missing",
    "require",
]


# Extras that would break the others of their environment.
_APART = {
    "tflite-runtime": "It wants Python 3.9 to 3.11 and numpy < 2, so a virtual environment of its own: "
    "python3.11 -m venv tflite && tflite/bin/pip install 'edgemobile[tflite-runtime]', then tflite/bin/edgemobile. "
    "Or a device: edgemobile devices setup DEVICE --runtime tflite_runtime, and --on DEVICE",
}


class EdgemobileError(Exception):
    """Bad input or a bad environment: the command line prints it as one line and exits with `exit_code`.

    `details` is what another library said beyond its first line; the command line puts it into a file.
    """

    exit_code = 2
    details = ""


class Unsupported(EdgemobileError):
    """A model, op or option that has no road through edgemobile."""


class MissingExtra(EdgemobileError):
    """A dependency of an optional extra is not installed."""

    exit_code = 3


class BrokenImage(EdgemobileError):
    """An image file that cannot be read."""


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra brings it.

    Raises MissingExtra with the exact pip command.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise missing(module.partition(".")[0], extra) from error


def missing(package: str, extra: str) -> MissingExtra:
    """What to do about a package that is not there; of one that cannot live beside the others, where to put it."""
    if extra in _APART:
        return MissingExtra(f"{package} is not installed here. {_APART[extra]}")
    return MissingExtra(f"{package} is not installed, and this needs it. Run: pip install 'edgemobile[{extra}]'")


def first_line(error: BaseException) -> str:
    """The first line of what another library's exception says; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def in_a_line(error: BaseException) -> str:
    """All that another library's exception says, as one line of at most 200 characters; its type for nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def first_few(names: Sequence[str], count: int = 3) -> str:
    """The first names, and whether there are more."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
