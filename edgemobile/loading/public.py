"""torchvision's public ImageNet checkpoints: which there are, and how one comes to this machine, whole.

They go where torch.hub keeps them (TORCH_HOME), so a file torchvision fetched is found and the other way round. A
download that is cut off is kept as FILE.partial and goes on from there; a file counts once its sha256 begins as its
name says.
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
    """A checkpoint of `model`, 1000 ImageNet classes at 224 px; `version` counts torchvision's training recipes.

    `shorter_px` is the side images are resized to before the crop.
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

# What --weights takes -> the version, None for the latest there is.
SPECS: dict[str, int | None] = {"imagenet": None, "imagenet-v1": 1, "imagenet-v2": 2}


def public_weights(model: str, spec: str) -> PublicWeights:
    """The checkpoint `spec` (a row of SPECS) names for `model`; raises EdgemobileError with those there are."""
    version = SPECS[spec]
    found = [row for row in PUBLIC if row.model == model and version in (None, row.version)]
    if not found:
        known = ", ".join(f"{row.model} (imagenet-v{row.version})" for row in PUBLIC)
        raise EdgemobileError(f"there are no public {spec} weights of {model} to fetch. There are: {known}")
    return max(found, key=lambda row: row.version)


def fetch(weights: PublicWeights, folder: Path | None = None, on_progress: Report | None = None) -> Path:
    """The file in `folder` (torch.hub's by default), downloaded where it is not there yet.

    `on_progress` hears of the bytes so far, and of all where the server says how many. Raises EdgemobileError in one
    line that says which file to put where.
    """
    if folder is None:
        import torch

        folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / weights.file
    if path.is_file():
        _check(path, weights, "remove it, and it will be fetched again")
        return path
    partial = path.with_name(f"{path.name}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _download(weights.url, partial, on_progress)
    except (OSError, HTTPException) as error:
        raise EdgemobileError(
            f"cannot fetch {weights.url} ({_reason(error)}). Run again to go on from where it stopped, "
            f"or put {weights.file} into {folder} yourself"
        ) from error
    try:
        _check(partial, weights, "it was thrown away; run again")
    except EdgemobileError:
        partial.unlink()
        raise
    partial.replace(path)
    return path


def _download(url: str, partial: Path, on_progress: Report | None) -> None:
    """Append to `partial` what it lacks of `url`. Raises OSError or HTTPException where the whole does not come."""
    start = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            _receive(response, partial, start if response.status == 206 else 0, on_progress)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        # Nothing is left to send: the file is all there, or another one. Its sha256 tells.


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
        raise ConnectionError(f"the connection was cut at {done:,} of {total:,} bytes")


def _check(path: Path, weights: PublicWeights, remedy: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(weights.sha256_start):
        raise EdgemobileError(
            f"{path} is not {weights.file}: its sha256 starts {found[:8]}, needed {weights.sha256_start}; {remedy}"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
