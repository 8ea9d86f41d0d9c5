"""Reads third-party weight files as data, never as code. Pickles are read with weights_only=True, always.

A training checkpoint contains more than weights. The state_dict in it is searched for, averaged weights first. The
other contents may be plain data of the usual kinds: a run's arguments, its best accuracy, its paths.
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

# A training run is evaluated with its averaged weights, so they come first.
_AVERAGED = ("model_ema", "ema", "ema_state_dict", "state_dict_ema", "params_ema", "average", "shadow")
_TRAINED = ("state_dict", "model_state_dict", "model_state", "model", "net", "module", "params", "weights")


# How deep entries of a checkpoint may be nested.
_DEEPEST = 8
# Maximum values per stored byte of a large tensor, and the number of values that makes a tensor large.
_MOST_REPEATED, _LARGE = 1024, 2**26
# How much larger an archive may be once it is unpacked.
_MOST_UNPACKED = 16


class Content(NamedTuple):
    """The contents of a file. `entry` describes which part of a training checkpoint was taken ("" for all of it).

    `whole` is the complete content, or a safetensors file's metadata.
    """

    state: dict[str, torch.Tensor]
    sha256: str
    whole: Any
    entry: str
    notes: tuple[str, ...]


def read(path: Path) -> Content:
    """Read the weights in `path`, f32. Raises EdgemobileError with the reason if that is not possible."""
    path = existing(path, "weights", CHECKPOINT_SUFFIXES)
    sha256 = _file_sha256(path)
    whole: Any
    if path.suffix.lower() == ".safetensors":
        content, whole = _read_safetensors(path)
    else:
        content = whole = _read_pickle(path)
    state, entries = _state_dict(content, (*_AVERAGED, *_TRAINED))
    if not state:
        raise EdgemobileError(f"{path} contains no state_dict, only {described(content)}. Save model.state_dict()")
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
        raise EdgemobileError(
            f"{path} was replaced while it was read: wait until it is written, then run the command again"
        )
    return Content(_to_f32(state, path), sha256, whole, entry, notes)


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EdgemobileError(f"cannot read weights {path}: {error.strerror or error}") from error


def existing(path: Path, what: str, suffixes: tuple[str, ...]) -> Path:
    """`path`, checked to be a file with one of `suffixes`."""
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
    """(tensors, metadata); metadata values are text, parsed if they are JSON."""
    safetensors = require("safetensors", "export")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is not a dict
            return tensors, {key: _from_json(value) for key, value in (file.metadata() or {}).items()}
    except (safetensors.SafetensorError, OSError) as error:
        raise EdgemobileError(
            f"cannot read weights {path}: it is damaged or not a safetensors file ({error_line(error)})"
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
    """Types that training scripts save next to the weights, and that are only data when unpickled.

    Arguments as saved by torchvision's scripts, a best accuracy computed by NumPy, paths, histories.
    """
    # NumPy 1 uses another name for its numbers in pickles.
    scalars = [(np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    dtypes = [np.dtype, *(getattr(np.dtypes, name) for name in np.dtypes.__all__ if name.endswith("DType"))]
    paths = [(PurePosixPath, "pathlib.PosixPath"), (PureWindowsPath, "pathlib.WindowsPath")]
    paths += [(to, name.replace("pathlib", "pathlib._local")) for to, name in paths]
    # PyTorch's reader can fill a dict, but not a defaultdict.
    histories = [(lambda default=None: {}, "collections.defaultdict"), list, dict, int, float]
    return [argparse.Namespace, *scalars, *dtypes, *paths, *histories]


def why_unread(text: str) -> str:
    """One line for torch's error about a pickle, which is long and recommends weights_only=False."""
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it contains {found[1]}, and only tensors are read from a file. Save model.state_dict() instead"
    if "TorchScript" in text:
        return "it is a TorchScript archive. Save model.state_dict() instead"
    return "it is damaged, truncated or not a PyTorch checkpoint"


def _state_dict(
    content: Any, entries: tuple[str, ...], deepest: int = _DEEPEST
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """(the state_dict in a training checkpoint, the path of `entries` to it); ({}, ()) if there is none."""
    import torch

    # A pickle may contain itself.
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
            raise EdgemobileError(f"{path}: {key} is on the device {value.device}, which has no values; save it again")
        # One stored number may be expanded to many, and all of them as float32 may exceed the memory.
        held = value.untyped_storage().nbytes()
        if value.numel() > max(_MOST_REPEATED * held, _LARGE):
            raise EdgemobileError(f"{path}: {key} has {held} bytes for {value.numel()} values; save it .contiguous()")
        plain[key] = value.detach().to(torch.float32) if value.is_floating_point() else value.detach()
        if value.is_floating_point() and not plain[key].isfinite().all():
            raise EdgemobileError(f"{path}: {key} contains values that are not finite; the training may have diverged")
    return plain


def described(content: Any) -> str:
    """Describes an object found in a file, in words."""
    if isinstance(content, Mapping):
        return f"a dict of {first_few([str(key) for key in content]) or 'nothing'}"
    return f"an object of type {type(content).__name__}"


def error_line(error: BaseException) -> str:
    """An exception as one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
