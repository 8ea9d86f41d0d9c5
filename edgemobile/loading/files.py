"""Reads third-party weight files as data, never as code. Pickles are read with weights_only=True, always.

A training checkpoint holds more than weights; the state_dict in it is found, averaged weights first. What else is
in it may be plain data of the usual kinds: a run's arguments, its best accuracy, its paths.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgemobile.errors import EdgemobileError, first_few, require
from edgemobile.loading.model_spec import CHECKPOINT_SUFFIXES

if TYPE_CHECKING:
    import torch

__all__ = [
    "Content",
    "described",
    "error_line",
    "existing",
    "read",
    "why_unread",
]

# Averaged weights are what a training run is evaluated with, so they come first.
_AVERAGED = ("model_ema", "ema", "ema_state_dict", "state_dict_ema", "params_ema", "average", "shadow")
_TRAINED = ("state_dict", "model_state_dict", "model_state", "model", "net", "module", "params", "weights")


# Entries of a checkpoint inside of each other.
_DEEPEST = 8
# Values that a byte of a large tensor may stand for, and from how many values on it is large.
_MOST_REPEATED, _LARGE = 1024, 2**26
# How much larger an archive may be once it is unpacked.
_MOST_UNPACKED = 16


class Content(NamedTuple):
    """What a file holds. `entry` says in words which part of a training checkpoint was taken ("" for the whole).

    `whole` is all of it, or a safetensors file's metadata.
    """

    state: dict[str, torch.Tensor]
    sha256: str
    whole: Any
    entry: str
    notes: tuple[str, ...]


def read(path: Path) -> Content:
    """The weights in `path`, f32. Raises EdgemobileError with the reason where there are none to be had."""
    path = existing(path, "weights", CHECKPOINT_SUFFIXES)
    sha256 = _file_sha256(path)
    whole: Any
    if path.suffix.lower() == ".safetensors":
        content, whole = _read_safetensors(path)
    else:
        content = whole = _read_pickle(path)
    state, entries = _state_dict(content, (*_AVERAGED, *_TRAINED))
    if not state:
        raise EdgemobileError(f"{path} holds no state_dict, only {described(content)}. Save model.state_dict()")
    notes: tuple[str, ...] = ()
    if averaged := [entry for entry in entries if entry in _AVERAGED]:
        notes = (f"took the averaged weights ({averaged[0]!r}) of {path.name}",)
        trained, _ = _state_dict(content, _TRAINED)
        if state.keys() < trained.keys():
            state = {**trained, **state}
            notes += (
                f"they have no batch-norm statistics or other buffers: those of {path.name}'s own weights go with them",
            )
    entry = f" ({'.'.join(entries)})" if entries else ""
    if _file_sha256(path) != sha256:
        raise EdgemobileError(f"{path} was replaced while it was read: wait until it is written, and run this again")
    return Content(_to_f32(state, path), sha256, whole, entry, notes)


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EdgemobileError(f"cannot read weights {path}: {error.strerror or error}") from error


def existing(path: Path, what: str, suffixes: tuple[str, ...]) -> Path:
    """`path`, once it is known to be a file with one of `suffixes`."""
    if path.suffix.lower() not in suffixes:
        also = ", bundled, imagenet or random" if what == "weights" else ""
        raise EdgemobileError(
            f"{what} {str(path)!r} is not known. Allowed: a file ending in {', '.join(suffixes)}{also}"
        )
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise EdgemobileError(f"cannot read {what} {path}: it {found}")
    return path


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(tensors, metadata); metadata values are text, and JSON where they are more than a word."""
    safetensors = require("safetensors", "export")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
            return tensors, {key: _from_json(value) for key, value in (file.metadata() or {}).items()}
    except (safetensors.SafetensorError, OSError) as error:
        raise EdgemobileError(
            f"cannot read weights {path}: it is damaged or no safetensors file ({error_line(error)})"
        ) from error


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _read_pickle(path: Path) -> Any:
    import torch

    _check_unpacked(path)
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_plain_data()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise EdgemobileError(f"cannot read weights {path}: {why_unread(str(error))}") from error


def _check_unpacked(path: Path) -> None:
    """Refuse an archive that is far larger unpacked. torch.save compresses nothing, so the two are alike."""
    with suppress(zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > max(_MOST_UNPACKED * path.stat().st_size, _LARGE):
            raise EdgemobileError(
                f"cannot read weights {path}: its {path.stat().st_size:,} bytes unpack to {unpacked:,}; save it again "
                "with torch.save, which does not compress"
            )


def _plain_data() -> list[Any]:
    """What training scripts keep beside the weights and what, unpickled, is data only.

    Arguments as torchvision's scripts save them, a best accuracy that NumPy computed, paths, histories.
    """
    # NumPy 1 pickles its numbers under another name.
    scalars = [(np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    dtypes = [np.dtype, *(getattr(np.dtypes, name) for name in np.dtypes.__all__ if name.endswith("DType"))]
    paths = [(PurePosixPath, "pathlib.PosixPath"), (PureWindowsPath, "pathlib.WindowsPath")]
    paths += [(to, name.replace("pathlib", "pathlib._local")) for to, name in paths]
    # PyTorch's reader fills dicts, and no defaultdict.
    histories = [(lambda default=None: {}, "collections.defaultdict"), list, dict, int, float]
    return [argparse.Namespace, *scalars, *dtypes, *paths, *histories]


def why_unread(text: str) -> str:
    """What torch says of a pickle it does not read, which is long and advises weights_only=False, in a line."""
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it holds {found[1]}, and only tensors are read from a file. Save model.state_dict() instead"
    if "TorchScript" in text:
        return "it is a TorchScript archive. Save model.state_dict() instead"
    return "it is damaged, truncated or no PyTorch checkpoint"


def _state_dict(
    content: Any, entries: tuple[str, ...], deepest: int = _DEEPEST
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """(the state_dict in a training checkpoint, the `entries` that lead to it); ({}, ()) where there is none."""
    import torch

    # A pickle may hold itself.
    if not isinstance(content, Mapping) or not deepest:
        return {}, ()
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if tensors and len(tensors) == len(content):
        return tensors, ()
    for entry in entries:
        state, below = _state_dict(content.get(entry), entries, deepest - 1)
        if state:
            return state, (entry, *below)
    # A state_dict to which a script has added its epoch.
    return (tensors, ()) if 2 * len(tensors) > len(content) else ({}, ())


def _to_f32(state: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    import torch

    plain = {}
    for key, value in state.items():
        if value.is_quantized or value.is_complex() or value.is_nested or value.layout != torch.strided:
            raise EdgemobileError(
                f"{path}: {key} is {value.dtype} ({value.layout}); weights must be plain float tensors"
            )
        if value.device.type != "cpu":
            raise EdgemobileError(
                f"{path}: {key} is on the device {value.device}, which holds no values; save it again"
            )
        # One number may stand for many, and float32 of all of them for more than there is memory.
        held = value.untyped_storage().nbytes()
        if value.numel() > max(_MOST_REPEATED * held, _LARGE):
            raise EdgemobileError(f"{path}: {key} holds {held} bytes for {value.numel()} values; save it .contiguous()")
        plain[key] = value.detach().to(torch.float32) if value.is_floating_point() else value.detach()
        if value.is_floating_point() and not plain[key].isfinite().all():
            raise EdgemobileError(f"{path}: {key} holds values that are not finite; the training may have diverged")
    return plain


def described(content: Any) -> str:
    """What something found in a file is, in words."""
    if isinstance(content, Mapping):
        return f"a dict of {first_few([str(key) for key in content]) or 'nothing'}"
    return f"something of type {type(content).__name__}"


def error_line(error: BaseException) -> str:
    """An exception in one line, whatever it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
