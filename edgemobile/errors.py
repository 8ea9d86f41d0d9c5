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


# Extras that would break other packages in the same environment.
_APART = {
    "tflite-runtime": "It needs Python 3.9 to 3.11 and numpy < 2, so install it in a separate virtual environment: "
    "python3.11 -m venv tflite && tflite/bin/pip install 'edgemobile[tflite-runtime]', then tflite/bin/edgemobile. "
    "Or use a device: edgemobile devices setup DEVICE --runtime tflite_runtime, and --on DEVICE",
}


class EdgemobileError(Exception):
    """Bad input or a bad environment: the command line prints it as one line and exits with `exit_code`.

    `details` is another library's message beyond its first line; the command line writes it to a file.
    """

    exit_code = 2
    details = ""


class Unsupported(EdgemobileError):
    """A model, op or option that edgemobile does not support."""


class MissingExtra(EdgemobileError):
    """A dependency of an optional extra is not installed."""

    exit_code = 3


class BrokenImage(EdgemobileError):
    """An image file that cannot be read."""


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or name the extra that installs it.

    Raises MissingExtra with the exact pip command.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise missing(module.partition(".")[0], extra) from error


def missing(package: str, extra: str) -> MissingExtra:
    """What to do about a missing package; for one that cannot share an environment, where to install it."""
    if extra in _APART:
        return MissingExtra(f"{package} is not installed here. {_APART[extra]}")
    return MissingExtra(f"{package} is required and not installed. Run: pip install 'edgemobile[{extra}]'")


def first_line(error: BaseException) -> str:
    """The first line of another library's exception, or its type if it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def in_a_line(error: BaseException) -> str:
    """The whole message of another library's exception as one line of at most 200 characters, or its type if it has
    none.
    """
    return " ".join(str(error).split())[:200] or type(error).__name__


def first_few(names: Sequence[str], count: int = 3) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
