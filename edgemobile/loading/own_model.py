"""A custom model: the result of `package.module:factory`, or a saved torch.export program."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgemobile.errors import EdgemobileError, Unsupported, first_few, require
from edgemobile.loading.files import error_line, existing, why_unread
from edgemobile.loading.model_spec import PROGRAM_SUFFIX
from edgemobile.loading.saved_program import checked_archive
from edgemobile.util.hashing import sha256_hex

if TYPE_CHECKING:
    import torch

__all__ = ["load_factory", "load_program"]


def load_factory(spec: str) -> torch.nn.Module:
    """The net that `package.module:factory` makes (called without arguments) or is, in eval mode.

    The module is searched for in the working directory first. Raises Unsupported if the result is not an nn.Module, or
    if the module tries to exit the program.
    """
    torch = require("torch", "export")
    module_name, _, name = spec.partition(":")
    if not re.fullmatch(r"[\w.]+:\w+", spec):
        raise Unsupported(f"model {spec!r} is not of the form package.module:factory")
    with _working_directory_first():
        try:
            module = importlib.import_module(module_name)
        except SystemExit as error:
            raise _ended(f"importing {module_name}") from error
        except Exception as error:
            raise Unsupported(f"cannot import {module_name} for the model {spec}: {error_line(error)}") from error
        if not hasattr(module, name):
            raise Unsupported(
                f"{module_name} has no {name!r}. It has: {first_few([n for n in vars(module) if n[0] != '_'])}"
            )
        factory = getattr(module, name)
        try:
            net = factory if isinstance(factory, torch.nn.Module) else factory()
        except SystemExit as error:
            raise _ended(f"calling {spec}") from error
        except Exception as error:
            raise Unsupported(f"calling {spec} without arguments failed: {error_line(error)}") from error
    if not isinstance(net, torch.nn.Module):
        raise Unsupported(f"{spec} returned an object of type {type(net).__name__}, not a torch.nn.Module")
    return net.eval()


def _ended(step: str) -> Unsupported:
    """A training script that parses its arguments at import raises SystemExit."""
    return Unsupported(f"{step} exited the program; guard the script part with if __name__ == '__main__'")


def load_program(path: str | Path) -> tuple[torch.export.ExportedProgram, str]:
    """(the torch.export program saved as `path`, the sha256 of the file).

    Raises EdgemobileError if it cannot be read, or could run code.
    """
    torch = require("torch", "export")
    path = existing(Path(path), "program", (PROGRAM_SUFFIX,))
    try:
        data = path.read_bytes()
        archive = checked_archive(data, str(path))
        with _only_tensors(), warnings.catch_warnings(action="ignore"):
            return torch.export.load(archive), sha256_hex(data)
    except EdgemobileError:
        raise
    except Exception as error:
        reason = why_unread(str(error)) if isinstance(error, pickle.UnpicklingError) else error_line(error)
        raise EdgemobileError(f"cannot read {path} as a saved torch.export program: {reason}") from error


@contextmanager
def _working_directory_first() -> Iterator[None]:
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)


@contextmanager
def _only_tensors() -> Iterator[None]:
    """torch.export.load unpickles anything if weights_only=True fails; with this variable torch refuses instead."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
