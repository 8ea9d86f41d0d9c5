"""One hash of everything that determines a result: inputs by content, software by version and source."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import edgemobile
from edgemobile.errors import EdgemobileError

__all__ = ["content_sha256", "contents", "fingerprint", "software"]

_TOOLS = ("torch", "onnx", "onnxruntime", "onnxsim", "ai-edge-litert", "numpy", "Pillow", "safetensors", "flatbuffers")


def fingerprint(*parts: Any) -> str:
    """sha256 of records, paths, numbers and texts, in order."""
    text = json.dumps([_plain(part) for part in parts], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def software() -> Mapping[str, str]:
    """The software and the machine: edgemobile by its sources, its dependencies by version, the machine by its kind."""
    root = Path(edgemobile.__file__).parent
    digest = hashlib.sha256()
    for path in _files(root, (".py", ".c", ".json", ".safetensors")):
        digest.update(f"{path.relative_to(root)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    versions = {name: version for name in _TOOLS if (version := _version(name))}
    machine = {"machine": platform.machine(), "python": platform.python_version()}
    return {"edgemobile": edgemobile.__version__, "sources": digest.hexdigest(), **versions, **machine}


def content_sha256(path: Path, known: Mapping[Path, str] = MappingProxyType({})) -> str:
    """Hash of a file, or of a folder: every name in it and every file's content. Raises EdgemobileError.

    `known` are files that were read already, with their sha256.
    """
    try:
        if not path.is_dir():
            return known.get(path) or _file_sha256(path)
        digest = hashlib.sha256()
        for file in _files(path, ("",)):
            sha256 = known.get(file) or _file_sha256(file)
            digest.update(f"{file.relative_to(path)}\0{sha256}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()
    except OSError as error:
        raise EdgemobileError(f"cannot read {error.filename or path}: {error.strerror or error}") from error


def contents(paths: Iterable[Path]) -> list[tuple[str, str | None]]:
    """(name, sha256) of each; None if there is no file, so that a new one is noticed. Raises EdgemobileError."""
    return [(path.name, content_sha256(path) if path.is_file() else None) for path in paths]


def _file_sha256(path: Path) -> str:
    status = path.stat()
    return _read_sha256(path, status.st_ino, status.st_size, status.st_mtime_ns)


# Several keys use the same set of images.
@lru_cache(maxsize=100_000)
def _read_sha256(path: Path, inode: int, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(root: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """In the same order on every machine; packages in a checkout are links."""
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(suffixes))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
