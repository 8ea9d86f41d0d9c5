"""Cached results by the content they depend on: strict JSON in a folder with its own .gitignore. Damaged entries are
ignored.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from edgemobile.devices.host.records import MAX_RUN_BYTES
from edgemobile.errors import EdgemobileError
from edgemobile.util.locking import locked
from edgemobile.util.progress import Progress
from edgemobile.util.strict_json import parse, to_text
from edgemobile.util.writing import write_whole

__all__ = ["CACHE_VERSION", "Cache", "WouldRun"]

CACHE_VERSION = 1
_T = TypeVar("_T")


class WouldRun(Exception):
    """Raised in a dry run instead of running a stage, such as "export"."""


class Cache:
    """`folder`/results/STAGE-KEY.json and `folder`/files/MODEL-KEY/. With `force` nothing is read, all results are
    stored.

    With `dry_run` nothing is written, and `before` raises.
    """

    def __init__(self, folder: Path, *, force: bool = False, dry_run: bool = False) -> None:
        self.folder, self.force, self.dry_run = folder, force, dry_run

    def before(self, stage: str) -> None:
        """Called before a stage runs whose result is not cached. Raises WouldRun in a dry run."""
        if self.dry_run:
            raise WouldRun(stage)

    @contextmanager
    def held(self, progress: Progress) -> Iterator[None]:
        """Exclusive use of the cache: another run waits, and then finds the results of this one.

        Raises EdgemobileError if the folder cannot be written.
        """
        if self.dry_run:
            yield
            return
        self._made(self.folder)
        with locked(self.folder / "lock", partial(progress.step, f"wait for another run on {self.folder}")):
            yield

    def get(self, stage: str, key: str, read: Callable[[Any], _T]) -> _T | None:
        """The cached value, converted by `read`; None if there is none, or if it is damaged."""
        path = self._path(stage, key)
        if self.force or not path.is_file():
            return None
        try:
            entry = parse(path.read_bytes(), path.name, MAX_RUN_BYTES)
            value = entry["value"]
            if {**entry, "value": None} != self._entry(stage, key, value) | {"value": None}:
                return None
            return read(value)
        except (OSError, EdgemobileError, KeyError, TypeError, ValueError):
            return None

    def put(self, stage: str, key: str, value: Any) -> None:
        """Store JSON's own types. Raises EdgemobileError if the folder cannot be written."""
        if self.dry_run:
            return
        path = self._path(stage, key)
        self._made(path.parent)
        write_whole(path, to_text(self._entry(stage, key, value)))

    def files(self, model: str, key: str) -> Path:
        """The folder for a model's files of this key; `tidy` removes those of earlier keys."""
        if not self.dry_run:
            self._made(self.folder / "files")
        return self.folder / "files" / f"{model}-{key[:16]}"

    def clear(self, model: str, key: str) -> None:
        """Remove the model's files of this key, including changed or added ones.

        Raises EdgemobileError if they would be outside the cache, or cannot be removed.
        """
        folder = self.files(model, key)
        if folder.resolve().parent != (self.folder / "files").resolve():
            raise EdgemobileError(f"{folder} is outside the cache: {folder.resolve()}. Remove it if it is a link")
        try:
            if folder.is_dir():
                shutil.rmtree(folder)
            folder.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def tidy(self, model: str, key: str) -> None:
        """Remove a model's files of other keys: they are large, and quick to export again."""
        keep = self.files(model, key)
        for folder in keep.parent.glob(f"{model}-{'[0-9a-f]' * 16}"):
            if folder != keep:
                shutil.rmtree(folder, ignore_errors=True)

    def _entry(self, stage: str, key: str, value: Any) -> dict[str, Any]:
        digest = hashlib.sha256(to_text(value).encode()).hexdigest()
        return {"version": CACHE_VERSION, "stage": stage, "key": key, "sha256": digest, "value": value}

    def _path(self, stage: str, key: str) -> Path:
        return self.folder / "results" / f"{stage}-{key[:32]}.json"

    def _made(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            ignore = self.folder / ".gitignore"
            if not ignore.exists():
                write_whole(ignore, "*\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> EdgemobileError:
        why = error.strerror or error
        return EdgemobileError(f"cannot write the cache {self.folder}: {why}. Choose another: [gate] cache")
