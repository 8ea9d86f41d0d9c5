"""torchvision's public ImageNet checkpoints: the list of them, and their verified download.

They are stored where torch.hub keeps them (TORCH_HOME), so torchvision and edgemobile find each other's files. An
interrupted download is kept as FILE.partial and resumed; a file is accepted once its sha256 starts with the digits in
its name.
"""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from edgemobile.errors import EdgemobileError
from edgemobile.preprocess import Preprocess
from edgemobile.util.progress import Report

__all__ = ["PUBLIC", "SPECS", "PublicWeights", "fetch", "public_weights"]

_HOST = "https://download.pytorch.org/models"
_CHUNK_BYTES = 1 << 20
_MOST_BYTES = 1 << 28  # the largest of them has 22 MB
_TIMEOUT_S = 30


@dataclass(frozen=True)
class PublicWeights:
    """A checkpoint of `model`, 1000 ImageNet classes at 224 px; `version` is that of torchvision's training recipe.

    `shorter_px` is the length to which the shorter side is resized before the crop.
    """

    model: str
    version: int
    file: str
    shorter_px: int

    @property
    def url(self) -> str:
        return f"{_HOST}/{self.file}"

    @property
    def sha256_start(self) -> str:
        return Path(self.file).stem.rpartition("-")[2]

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess(input_px=224, resize="shorter", shorter_px=self.shorter_px)


PUBLIC = (
    PublicWeights("v2", 1, "mobilenet_v2-b0353104.pth", 256),
    PublicWeights("v2", 2, "mobilenet_v2-7ebf99e0.pth", 232),
    PublicWeights("v3-large", 1, "mobilenet_v3_large-8738ca79.pth", 256),
    PublicWeights("v3-large", 2, "mobilenet_v3_large-5c1a4163.pth", 232),
    PublicWeights("v3-small", 1, "mobilenet_v3_small-047dcff4.pth", 256),
)

# What --weights takes -> the version, None for the latest.
SPECS: dict[str, int | None] = {"imagenet": None, "imagenet-v1": 1, "imagenet-v2": 2}


def public_weights(model: str, spec: str) -> PublicWeights:
    """The checkpoint `spec` (a row of SPECS) of `model`; raises EdgemobileError with the available ones."""
    version = SPECS[spec]
    found = [row for row in PUBLIC if row.model == model and version in (None, row.version)]
    if not found:
        known = ", ".join(f"{row.model} (imagenet-v{row.version})" for row in PUBLIC)
        raise EdgemobileError(f"there are no public {spec} weights of {model}. Available: {known}")
    return max(found, key=lambda row: row.version)


def fetch(weights: PublicWeights, folder: Path | None = None, on_progress: Report | None = None) -> Path:
    """The file in `folder` (torch.hub's by default), downloaded if it is missing.

    `on_progress` gets the bytes so far, and the total if the server states it. Raises EdgemobileError with one line
    that states which file to put where.
    """
    if folder is None:
        import torch

        folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / weights.file
    if path.is_file():
        _check(path, weights, "remove it, and it will be downloaded again")
        return path
    partial = path.with_name(f"{path.name}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _download(weights.url, partial, on_progress)
    except (OSError, HTTPException) as error:
        raise EdgemobileError(
            f"cannot download {weights.url} ({_reason(error)}). Run again to resume, "
            f"or put {weights.file} into {folder} yourself"
        ) from error
    try:
        _check(partial, weights, "it was deleted; run again")
    except EdgemobileError:
        partial.unlink()
        raise
    partial.replace(path)
    return path


def _download(url: str, partial: Path, on_progress: Report | None) -> None:
    """Append the missing rest of `url` to `partial`. Raises OSError or HTTPException if it cannot be completed."""
    start = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            _receive(response, partial, start if response.status == 206 else 0, on_progress)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        # Nothing is left to send: the file is complete, or a different one. Its sha256 decides.


def _receive(response: HTTPResponse, partial: Path, start: int, on_progress: Report | None) -> None:
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else None
    done = start
    with partial.open("ab" if start else "wb") as file:
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            if done > _MOST_BYTES:
                break
            if on_progress:
                on_progress(done, total)
    if done > _MOST_BYTES:
        partial.unlink()
        raise ConnectionError(f"it sends more than {_MOST_BYTES:,} bytes, which no such file has")
    if total is not None and done < total:
        raise ConnectionError(f"the connection was closed at {done:,} of {total:,} bytes")


def _check(path: Path, weights: PublicWeights, remedy: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(weights.sha256_start):
        raise EdgemobileError(
            f"{path} is not {weights.file}: its sha256 starts with {found[:8]}, expected "
            f"{weights.sha256_start}; {remedy}"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
