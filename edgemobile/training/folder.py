"""The output folder of a training: the state that --resume reads, and what stays after an interruption."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from edgemobile.errors import EdgemobileError
from edgemobile.loading.model_spec import is_checkpoint
from edgemobile.training.loop import State
from edgemobile.training.request import FinetuneRequest, Resumable, Row
from edgemobile.util.writing import partial_file, replace_synced

__all__ = ["PROGRESS_FILE", "save_state", "saved_state", "training_folder", "write_bytes", "write_state"]

# What --resume reads; removed at the end.
PROGRESS_FILE = "training.pt"


def saved_state(request: Resumable, file: str = PROGRESS_FILE, what: str = "training") -> State:
    """The state in `file` that `request` resumes, {} for a new run. `what` says in words what was interrupted. Raises
    EdgemobileError if `out` exists and is not resumed or overwritten, and for a state of other options."""
    out, state_file = request.out, request.out / file
    for given in request.inputs:
        if is_checkpoint(given) and Path(given).resolve().parent == out.resolve():
            raise EdgemobileError(f"{given} is in {out}, where the result is written. Choose another folder with --out")
    if not request.resume:
        if os.path.lexists(out) and not request.overwrite:
            cure = "Use --resume to continue it, " if state_file.is_file() else "Use "
            raise EdgemobileError(f"{out} exists already. {cure}--overwrite to replace it, or --out for another folder")
        if os.path.lexists(out) and not out.is_dir():
            raise EdgemobileError(f"{out} is a file. Choose another folder with --out")
        return {}
    if not state_file.is_file():
        raise EdgemobileError(f"{out} has no interrupted {what} ({file}) to resume. Omit --resume")
    try:
        state: State = torch.load(state_file, weights_only=True)
        differing = request.differing(state["request"])
    except Exception as error:
        raise EdgemobileError(
            f"{state_file} cannot be read: it is damaged or of another version. Start again with --overwrite"
        ) from error
    if differing:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in differing)
        raise EdgemobileError(f"the {what} in {out} has other values of {options}. Resume with the same values")
    return state


@contextmanager
def training_folder(request: Resumable, file: str = PROGRESS_FILE) -> Iterator[None]:
    """Make `request.out`. If the work ends early, what it saved in `file` is kept, and a new folder without it is
    removed."""
    out, state_file = request.out, request.out / file
    is_new, is_done = not out.exists(), False
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not request.resume:
            state_file.unlink(missing_ok=True)
        yield
        is_done = True
    except OSError as error:
        raise EdgemobileError(f"cannot write to {out}: {error.strerror or error}") from error
    except KeyboardInterrupt as error:
        if state_file.exists():
            error.args = (f"{state_file}; continue with --resume",)
        raise
    finally:
        if is_new and not is_done and not state_file.exists():
            shutil.rmtree(out, ignore_errors=True)


def save_state(request: FinetuneRequest, stage: str, rows: tuple[Row, ...], state: State) -> None:
    whole = {"request": request.decisive, "stage": stage, "rows": [asdict(row) for row in rows], "run": state}
    write_state(request.out / PROGRESS_FILE, whole)


def write_state(target: Path, state: State) -> None:
    with partial_file(target) as partial_path:
        torch.save(state, partial_path)
        replace_synced(partial_path, target)


def write_bytes(path: Path, data: bytes) -> None:
    with partial_file(path) as partial_path:
        partial_path.write_bytes(data)
        replace_synced(partial_path, path)
