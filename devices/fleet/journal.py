"""Stores the answers of boards on disk, so that an interrupted call can be resumed."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgemobile.devices.host.folders import cache_folder
from edgemobile.errors import EdgemobileError
from edgemobile.util.writing import partial_file, replace_synced

__all__ = ["Journal", "Kept", "part_name"]

_OLD_S = 30 * 86400


@dataclass(frozen=True)
class Kept:
    """The outputs `scores` f32[n,outputs] of a part, the board that computed them, and its time in s."""

    board: str
    scores: np.ndarray
    inference_s: float


class Journal:
    """One file per answered part. The name of the folder is a hash of everything that determines the answers."""

    def __init__(self, about: Sequence[object], canary: Sequence[np.ndarray]) -> None:
        """`about` are the file, runtime, threads and kind of boards; `canary` are the outputs that all boards gave."""
        digest = hashlib.sha256(json.dumps(list(about)).encode())
        for scores in canary:
            digest.update(np.ascontiguousarray(scores).tobytes())
        self._folder: Path | None = None
        # Without a cache on this machine, no call can be resumed.
        with suppress(OSError, EdgemobileError):
            folder = cache_folder("answers")
            _sweep(folder)
            self._folder = cache_folder(f"answers/{digest.hexdigest()[:32]}")

    def get(self, name: str, images: int, outputs: int) -> Kept | None:
        """The answer f32[images,outputs] to the part `name`, if there is one."""
        for path in self._folder.glob(f"{name}.*.npz") if self._folder else ():
            # A file that a full disk or a power cut damaged counts as missing.
            with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                with np.load(path, allow_pickle=False) as found:
                    kept = Kept(str(found["board"]), found["scores"], float(found["inference_s"]))
                if kept.scores.shape == (images, outputs) and kept.scores.dtype == np.float32:
                    return kept
        return None

    def put(self, name: str, kept: Kept) -> None:
        """Store an answer, synced to the disk. If the disk is full, nothing is stored."""
        if self._folder is None:
            return
        data = io.BytesIO()
        np.savez(data, scores=kept.scores, inference_s=np.float64(kept.inference_s), board=np.str_(kept.board))
        target = self._folder / f"{name}.{_file_part(kept.board)}.npz"
        with suppress(OSError), partial_file(target) as partial:
            partial.write_bytes(data.getvalue())
            replace_synced(partial, target)

    def forget(self, board: str) -> None:
        """Remove all answers of `board`."""
        for path in self._folder.glob(f"*.{_file_part(board)}.npz") if self._folder else ():
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all answers of this call, which has succeeded."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def part_name(images: np.ndarray) -> str:
    """A name for images f32[N,H,W,C] by their content."""
    return hashlib.sha256(f"{images.shape}".encode() + np.ascontiguousarray(images).tobytes()).hexdigest()[:32]


def _file_part(board: str) -> str:
    """A name for `board` in file names: an address may contain characters that a file name must not."""
    return hashlib.sha256(board.encode()).hexdigest()[:12]


def _sweep(folder: Path) -> None:
    """Remove answers of calls that were not resumed within a month."""
    for path in folder.iterdir():
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _OLD_S:
                shutil.rmtree(path, ignore_errors=True)
