"""Reads the folder of an export: its files by name, and whether they are unchanged."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemobile.errors import EdgemobileError, first_few
from edgemobile.models.arch import ARCHS
from edgemobile.pipeline.artifact import LABELS_FILE, MANIFEST_FILE, MANIFEST_VERSION
from edgemobile.util.strict_json import decode, parse

__all__ = ["Changed", "Recorded", "Verification", "expanded", "model_files", "single", "verify"]

_LOG = logging.getLogger(__name__)
_MAX_MANIFEST_BYTES = 64 * 2**20
_READ_BYTES = 2**20


@dataclass(frozen=True)
class Recorded:
    """A file as recorded in the manifest; `format` is "" if it is not a model."""

    file: str
    bytes: int
    sha256: str
    format: str = ""

    def __post_init__(self) -> None:
        if self.file in ("", ".", "..") or {"/", "\\", "\0"} & set(self.file):
            raise ValueError(f"{self.file!r} is not the name of a file in the folder")

    @classmethod
    def of(cls, path: Path) -> Recorded:
        """A file as it is now. Raises EdgemobileError if it cannot be read."""
        size, digest = 0, hashlib.sha256()
        try:
            with path.open("rb") as file:
                while part := file.read(_READ_BYTES):
                    size += len(part)
                    digest.update(part)
        except OSError as error:
            raise EdgemobileError(f"cannot read {path}: {error.strerror or error}") from error
        return cls(path.name, size, digest.hexdigest())


@dataclass(frozen=True)
class Changed:
    """A file that differs from the manifest: `recorded` there, `found` on disk."""

    recorded: Recorded
    found: Recorded

    @property
    def words(self) -> str:
        was, now = self.recorded, self.found
        size = "the same size" if was.bytes == now.bytes else f"{now.bytes} bytes, not {was.bytes}"
        return f"{was.file} has sha256 {now.sha256[:12]}, not {was.sha256[:12]} ({size})"


@dataclass(frozen=True)
class Verification:
    """A folder compared with its manifest. `extra` files are not in the manifest: they are reported, and are not an
    error.
    """

    folder: Path
    intact: tuple[Recorded, ...]
    changed: tuple[Changed, ...]
    missing: tuple[Recorded, ...]
    extra: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not (self.changed or self.missing)

    def to_json(self) -> dict[str, Any]:
        return {
            "version": 1,
            "folder": str(self.folder),
            "passed": self.passed,
            "intact": [one.file for one in self.intact],
            "changed": [
                {
                    "file": one.recorded.file,
                    "sha256": one.found.sha256,
                    "recorded_sha256": one.recorded.sha256,
                    "bytes": one.found.bytes,
                    "recorded_bytes": one.recorded.bytes,
                }
                for one in self.changed
            ],
            "missing": [one.file for one in self.missing],
            "extra": list(self.extra),
        }


def verify(folder: Path) -> Verification:
    """Compare every file of an export with the size and the sha256 in its manifest.

    Raises EdgemobileError if `folder` is not the folder of an export, or a file in it cannot be read.
    """
    recorded = _recorded(folder)
    intact, changed, missing = [], [], []
    for one in recorded:
        path = folder / one.file
        if not path.is_file():
            missing.append(one)
            continue
        found = Recorded.of(path)
        if (found.bytes, found.sha256) == (one.bytes, one.sha256):
            intact.append(one)
        else:
            changed.append(Changed(one, found))
    known = {MANIFEST_FILE, LABELS_FILE, *(one.file for one in recorded)}
    extra = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    extra = [name for name in extra if name not in known]
    return Verification(folder, tuple(intact), tuple(changed), tuple(missing), tuple(extra))


def model_files(folder: Path, formats: Collection[str] | None = None) -> tuple[Path, ...]:
    """The model files of an export, all or those of `formats`, in the order of its manifest.

    Raises EdgemobileError if one is missing or changed, or none is in `formats`.
    """
    found = verify(folder)
    if not found.passed:
        wrong = [*(one.words for one in found.changed), *(f"{one.file} is missing" for one in found.missing)]
        raise EdgemobileError(
            f"{folder} does not match its {MANIFEST_FILE}: {'; '.join(wrong[:3])}{'; ...' if wrong[3:] else ''}. "
            "To use the files as they are, name each of them; otherwise export again with --overwrite"
        )
    models = [one for one in found.intact if one.format]
    chosen = [one for one in models if formats is None or one.format in formats]
    if not chosen:
        raise EdgemobileError(
            f"{folder} has no file in {' or '.join(formats or ('any format',))}; it has "
            f"{first_few([one.file for one in models]) or 'no model files'}"
        )
    return tuple(folder / one.file for one in chosen)


def expanded(given: Iterable[str | os.PathLike[str]], formats: Collection[str] | None = None) -> tuple[str, ...]:
    """`given` with the folder of an export replaced by its model files.

    A name of a reference model means the model, with a log message if a folder has the same name; "v3-large/" means
    the folder. Raises EdgemobileError as `model_files` does.
    """
    found: list[str] = []
    for one in given:
        is_model = isinstance(one, str) and one in ARCHS
        is_folder = Path(one).is_dir()
        if is_model and is_folder:
            _LOG.warning("%s means the reference model; for the folder with that name, write %s/", one, one)
        found += map(str, model_files(Path(one), formats)) if is_folder and not is_model else [os.fspath(one)]
    return tuple(found)


def single(given: str | os.PathLike[str]) -> str:
    """As `expanded`, for one file: the folder of an export stands for its model file if it has only one.

    Raises EdgemobileError with their names if it has several.
    """
    files = expanded([given])
    if len(files) > 1:
        raise EdgemobileError(
            f"{given} has {len(files)} model files. Choose one of them: {first_few(files, len(files))}"
        )
    return files[0]


def _recorded(folder: Path) -> tuple[Recorded, ...]:
    """The files in the manifest. Raises EdgemobileError if there is no manifest of an export."""
    path = folder / MANIFEST_FILE
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise EdgemobileError(
            f"{folder} is not the folder of an export: {path.name}: {error.strerror or error}. "
            "Name a folder that `edgemobile export` wrote, or .onnx and .tflite files"
        ) from error
    value = parse(data, str(path), _MAX_MANIFEST_BYTES)
    if not (isinstance(value, dict) and value.get("edgemobile") and "files" in value):
        raise EdgemobileError(f"{path} is not the manifest of an export. Name a folder that `edgemobile export` wrote")
    if value.get("version") != MANIFEST_VERSION:
        raise EdgemobileError(
            f"{path} has version {str(value.get('version'))[:20]}; this edgemobile reads {MANIFEST_VERSION}"
        )
    lists = {name: value.get(name, []) for name in ("files", "other_files")}
    for name, entries in lists.items():
        if not isinstance(entries, list):
            raise EdgemobileError(f"{path}: {name}: expected a list")
    return tuple(
        _entry(one, f"{path}: {name}[{index}]") for name, entries in lists.items() for index, one in enumerate(entries)
    )


def _entry(value: Any, where: str) -> Recorded:
    if not isinstance(value, Mapping):
        raise EdgemobileError(f"{where}: expected an object")
    kept = {name: value[name] for name in ("file", "bytes", "sha256", "format") if name in value}
    return decode(Recorded, {"format": "", **kept}, where)
