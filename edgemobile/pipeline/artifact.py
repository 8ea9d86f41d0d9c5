"""The folder an export leaves: files written whole or not at all, and a manifest that says where each came from."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemobile.errors import EdgemobileError

__all__ = ["MANIFEST_VERSION", "Artifact", "check_free", "fresh_folder", "sha256_hex", "to_json_text"]

MANIFEST_VERSION = 1
_MANIFEST, _LABELS = "manifest.json", "labels.txt"


@dataclass(frozen=True)
class Artifact:
    """One exported file as the manifest describes it; `hswish` is how hard-swish is written, "" where there is none."""

    file: str
    format: str
    precision: str
    bytes: int
    sha256: str
    ops: Mapping[str, int]
    hswish: str = ""

    @property
    def op_count(self) -> int:
        return sum(self.ops.values())


def sha256_hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def to_json_text(value: Any) -> str:
    """Strict JSON, keys in the order given; inf and nan, which JSON has not, become null."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def fresh_folder(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A scratch folder that becomes `out` when the block ends well, and vanishes when it does not.

    Raises EdgemobileError where `out` exists and `overwrite` is off, or where edgemobile did not write it and all that
    is in it: a slip of the keyboard must not delete somebody's folder.
    """
    check_free(out, overwrite=overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise EdgemobileError(
            f"cannot write to {out.parent}: {error.strerror}. Choose another folder with --out"
        ) from error
    try:
        scratch.chmod(0o777 & ~_umask())
        yield scratch
        _swap(scratch, out)
    except OSError as error:
        raise EdgemobileError(f"cannot write {out}: {error.strerror or error}; nothing was left behind") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_free(out: Path, *, overwrite: bool) -> None:
    """Refuse an `out` that would be lost. Called before the work as well, so that nobody waits for a refusal."""
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise EdgemobileError(f"{out} exists already. Use --overwrite to replace it, or --out for another folder")
    held = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
    written = _written(out / _MANIFEST)
    if held and not written:
        raise EdgemobileError(
            f"{out} is not a folder edgemobile wrote (no {_MANIFEST} of an export in it); choose another with --out"
        )
    if foreign := sorted(held - written):
        raise EdgemobileError(
            f"{out} holds {', '.join(foreign[:3])}, which its {_MANIFEST} does not name and --overwrite would delete; "
            "move that elsewhere, or choose another folder with --out"
        )


def _written(manifest: Path) -> set[str]:
    """The names of all files of the export that `manifest` describes; none where it describes none."""
    try:
        facts = json.loads(manifest.read_text(encoding="utf-8"))
        return {_MANIFEST, _LABELS, *(file["file"] for file in facts["files"])} if facts["edgemobile"] else set()
    except (OSError, ValueError, TypeError, KeyError):
        return set()


def _swap(scratch: Path, out: Path) -> None:
    """Put `scratch` in the place of `out`; the old folder goes only once the new one stands."""
    if not out.exists():
        scratch.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    out.rename(old / "old")
    try:
        scratch.rename(out)
    except BaseException:
        (old / "old").rename(out)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
