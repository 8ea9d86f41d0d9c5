"""Writes the bundled labelled images as a data set, to try commands without a download."""

from __future__ import annotations

import shutil
import zipfile
from collections import defaultdict
from pathlib import Path, PurePosixPath

from edgemobile.errors import EdgemobileError
from edgemobile.loading.checkpoint import CHECK_IMAGES
from edgemobile.util.renaming import rename_onto_nothing
from edgemobile.util.work_folder import abandoned_work, new_work
from edgemobile.util.writing import sync_entries, sync_folder

__all__ = ["write_sample_data"]

# Every third image of a class is for testing, the others for calibration.
_TEST_EVERY = 3


def write_sample_data(folder: Path) -> dict[str, int]:
    """Write the bundled images to `folder`, which must not exist: split/class/image.png. Returns split -> count.

    They are synthetic, and their labels are the classes that every bundled model predicts.
    Raises EdgemobileError if the folder exists or cannot be written; then no files are left behind.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for leftover in abandoned_work(folder):
            shutil.rmtree(leftover, ignore_errors=True)
        work, lock = new_work(folder)
        try:
            counts = _extract(work / "new")
            sync_folder(work / "new")
            rename_onto_nothing(work / "new", folder)
            sync_entries(folder.parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)
            lock.release()
    except (FileExistsError, NotADirectoryError) as error:
        raise EdgemobileError(f"{folder} exists already. Choose another folder, or remove it") from error
    except OSError as error:
        raise EdgemobileError(f"cannot write {folder}: {error.strerror or error}; no files were left behind") from error
    return counts


def _extract(folder: Path) -> dict[str, int]:
    of_class: dict[str, int] = defaultdict(int)
    counts = {"train": 0, "test": 0}
    with zipfile.ZipFile(CHECK_IMAGES) as archive:
        for name in sorted(archive.namelist()):
            label, image = PurePosixPath(name).parts
            split = "test" if of_class[label] % _TEST_EVERY == 0 else "train"
            of_class[label] += 1
            counts[split] += 1
            path = folder / split / label / image
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(name))
    return counts
