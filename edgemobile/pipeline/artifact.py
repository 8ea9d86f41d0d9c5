"""Writes the folder of an export atomically: model files, and a manifest with the origin of each."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgemobile.errors import EdgemobileError
from edgemobile.util.renaming import exchange, rename_onto_nothing
from edgemobile.util.work_folder import LOCK, abandoned_work, new_work, work_path
from edgemobile.util.writing import sync_entries, sync_folder

__all__ = ["LABELS_FILE", "MANIFEST_FILE", "MANIFEST_VERSION", "ManifestEntry", "check_free", "fresh_folder"]

MANIFEST_VERSION = 1
MANIFEST_FILE, LABELS_FILE = "manifest.json", "labels.txt"
# In the work folder of an export: the new folder, and the previous one.
_NEW, _OLD = "new", "old"


@dataclass(frozen=True)
class ManifestEntry:
    """A file's entry in the manifest, before anything is measured. `precision` is the requested one.

    `hswish` is how hard-swish is expressed, "" if there is none.
    """

    file: str
    format: str
    precision: str
    bytes: int
    sha256: str
    ops: Mapping[str, int]
    hswish: str

    @property
    def op_count(self) -> int:
        return sum(self.ops.values())


@contextmanager
def fresh_folder(out: Path, *, overwrite: bool = False, keep: Collection[str] = ()) -> Iterator[Path]:
    """A folder that becomes `out` when the block succeeds, and is deleted when it fails.

    With `overwrite` it replaces an earlier export atomically. Files that no export wrote are kept, including those
    added while the block runs, and so are files of the precisions in `keep`. Leftovers of a killed run are removed.

    Raises EdgemobileError if `out` exists and `overwrite` is off, or if `out` has any file that edgemobile did not
    write: a typing error must not delete a user's folder.
    """
    out = _unlinked(out)
    check_free(out, overwrite=overwrite, keep=keep)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work, lock = new_work(out)
    except OSError as error:
        raise _unwritable(out, error) from error
    try:
        (work / _NEW).mkdir()
        yield work / _NEW
        sync_folder(work / _NEW)
        _put(work, out, overwrite=overwrite, keep=keep)
        # Before the previous export is removed.
        sync_entries(out.parent)
    except OSError as error:
        raise EdgemobileError(f"cannot write {out}: {error.strerror or error}; no files were left behind") from error
    finally:
        _clean(work)
        lock.release()


def _unlinked(out: Path) -> Path:
    """The target of a link to a folder: the link is kept."""
    return Path(os.path.realpath(out)) if out.is_dir() else out


def check_free(out: Path, *, overwrite: bool, keep: Collection[str] = ()) -> None:
    """Refuse an `out` that would be lost or cannot be written. Also called before the work, to fail early."""
    out = _unlinked(out)
    _check_writable(out)
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise EdgemobileError(f"{out} exists already. Use --overwrite to replace it, or --out for another folder")
    _check_ours(out, out, keep)


def _check_writable(out: Path) -> None:
    """Raises EdgemobileError if no folder can be created next to `out`. It creates one, because permissions can
    mislead.

    The leftovers of killed runs are removed first.
    """
    parent = next(path for path in out.absolute().parents if os.path.lexists(path))
    _recover(parent / out.name)
    work = work_path(parent / out.name)
    try:
        work.mkdir()
    except OSError as error:
        raise _unwritable(out, error) from error
    finally:
        with suppress(OSError):
            work.rmdir()


def _unwritable(out: Path, error: OSError) -> EdgemobileError:
    return EdgemobileError(f"cannot write to {out.parent}: {error.strerror}. Choose another folder with --out")


def _check_ours(folder: Path, out: Path, keep: Collection[str]) -> None:
    """Raises EdgemobileError if `folder`, called `out`, is not an export, or has files that must be kept."""
    found = tuple(folder.iterdir()) if folder.is_dir() else (folder,)
    names = {path.name for path in found}
    precisions = _written(folder / MANIFEST_FILE)
    if names and not precisions:
        raise EdgemobileError(
            f"{out} was not written by edgemobile (it has no {MANIFEST_FILE} of an export); choose another "
            "folder with --out"
        )
    if foreign := sorted(path.name for path in found if path.name not in precisions or path.is_dir()):
        raise EdgemobileError(
            f"{out} contains {', '.join(foreign[:3])}, which is not in its {MANIFEST_FILE} and which --overwrite would "
            "delete; move it elsewhere, or choose another folder with --out"
        )
    if kept := sorted(name for name in names if precisions[name] in keep):
        raise EdgemobileError(
            f"{out} contains {', '.join(kept[:3])} of an export, which this command does not write again and which "
            "--overwrite would delete; choose another folder with --out, or write all of them: edgemobile export "
            "MODEL --int8 --overwrite"
        )


def _written(manifest: Path) -> dict[str, str]:
    """The files of the export that `manifest` describes -> their precisions; {} if it describes none."""
    try:
        facts = json.loads(manifest.read_text(encoding="utf-8"))
        if not facts["edgemobile"]:
            return {}
        labels = {LABELS_FILE: ""} if facts["model"]["labels"] else {}
        others = {str(file["file"]): "" for file in facts.get("other_files", ())}
        files = {str(file["file"]): str(file["precision"]) for file in facts["files"]}
        return {MANIFEST_FILE: "", **labels, **others, **files}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def _put(work: Path, out: Path, *, overwrite: bool, keep: Collection[str]) -> None:
    """Move the new folder to `out`, and the previous one to the old folder.

    Files added since the work began are detected before the change, or undo it.
    """
    new, old = work / _NEW, work / _OLD
    try:
        rename_onto_nothing(new, out)
        return
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTDIR):
            raise
    if not overwrite:
        raise EdgemobileError(
            f"{out} was created by another program meanwhile, and was not changed. "
            "Use --overwrite to replace it, or --out for another folder"
        )
    _check_ours(out, out, keep)
    new.rename(old)
    if not exchange(old, out):
        old.rename(new)
        try:
            # If killed between these two, there is no `out`; _recover restores the old folder.
            out.rename(old)
            rename_onto_nothing(new, out)
        except BaseException:
            if old.exists():
                old.rename(out)
            raise
    try:
        _check_ours(old, out, keep)
    except EdgemobileError:
        _undo(work, out)
        raise


def _undo(work: Path, out: Path) -> None:
    """Restore the old folder, which has files that no export wrote."""
    if not exchange(work / _OLD, out):
        out.rename(work / _NEW)
        (work / _OLD).rename(out)


def _recover(out: Path) -> None:
    """Clean up after killed runs next to `out`: restore a moved folder, and remove the rest."""
    for work in abandoned_work(out):
        with suppress(OSError):
            if (work / _OLD).is_dir() and not os.path.lexists(out):
                rename_onto_nothing(work / _OLD, out)
            _clean(work)


def _clean(work: Path) -> None:
    """Remove `work` with the export in it; of the old folder only the files in its manifest."""
    shutil.rmtree(work / _NEW, ignore_errors=True)
    old = work / _OLD
    written = _written(old / MANIFEST_FILE)
    with suppress(OSError):
        # The manifest is removed last: without it the other files could not be identified.
        for path in sorted(old.iterdir() if old.is_dir() else (), key=lambda path: path.name == MANIFEST_FILE):
            if path.name in written:
                path.unlink()
        if old.is_dir():
            old.rmdir()
        (work / LOCK).unlink(missing_ok=True)
        work.rmdir()
