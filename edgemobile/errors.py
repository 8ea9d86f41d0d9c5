"""The errors a user can mend. Each names the thing, what was found, what is allowed and what to do."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["BrokenImage", "EdgemobileError", "MissingExtra", "Unsupported", "missing", "require"]


# Extras that would break the others of their environment.
_APART = {
    "tflite-runtime": "It wants Python 3.9 to 3.11 and numpy < 2, so a virtual environment of its own: "
    "python3.11 -m venv tflite && tflite/bin/pip install 'edgemobile[tflite-runtime]', then tflite/bin/edgemobile. "
    "Or a device: edgemobile devices setup DEVICE --runtime tflite_runtime, and --on DEVICE",
}


class EdgemobileError(Exception):
    """Bad input or a bad environment: the command line prints it as one line and exits with `exit_code`."""

    exit_code = 2


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
