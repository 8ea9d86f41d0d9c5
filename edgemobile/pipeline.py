"""The main job: a model goes in, a folder of files that were run and compared comes out.

    model + weights -> torch.export -> lower -> Graph -> [int8 | float16 | dynamic] -> emitters -> run in the real runtime
    -> judge against PyTorch -> manifest
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import edgemobile
from edgemobile.artifact import MANIFEST_VERSION, Artifact, check_free, fresh_folder, sha256_hex, to_json_text
from edgemobile.dataset import Dataset, class_indices, open_dataset
from edgemobile.devices.latency import Latency, measure_latency
from edgemobile.devices.runtimes import Session, open_session
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.exporters import FORMATS
from edgemobile.graph import Graph
from edgemobile.interpreter import dequantize, quantize
from edgemobile.interpreter import run as run_graph
from edgemobile.parity import TOLERANCES, Verdict, judge
from edgemobile.preprocess import Preprocess
from edgemobile.quant.recipe import DEFAULT, Recipe

__all__ = ["PRECISIONS", "Checked", "ExportRequest", "ExportResult", "Progress", "export"]

PRECISIONS = ("float32", "float16", "dynamic", "int8")
_CALIBRATION_BATCH = 32
_LATENCY_ROUNDS = 20


class Progress(Protocol):
    """Where the pipeline tells how far it is; the command line draws bars from it."""

    def step(self, title: str, total: int | None = None) -> AbstractContextManager[Callable[[int], None]]:
        """A step begins; the context gives a function to call with what is done so far."""
        ...


class Silent:
    """Progress for library use."""

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        yield lambda done: None


@dataclass(frozen=True)
class ExportRequest:
    """What to export. None takes the checkpoint's own value, or the model's where it has none.

    `model` is a reference model's name, `package.module:factory`, or the path of a saved torch.export program (.pt2).
    `calib` is an ImageFolder as a directory or a zip: it calibrates int8 (its train split, where it has splits) and is what
    the written files are checked on (another split, or other images). Without it both use synthesised images.
    """

    model: str
    out: Path
    weights: str = "bundled"
    formats: tuple[str, ...] = tuple(FORMATS)
    precisions: tuple[str, ...] = ("float32",)
    width: float | None = None
    res: int | None = None
    classes: int | None = None
    batch: int = 1
    calib: Path | None = None
    calib_images: int = 128
    check_images: int = 200
    recipe: Recipe = DEFAULT
    threads: int = 1
    seed: int = 0
    overwrite: bool = False
    command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what, given, known in (("format", self.formats, FORMATS), ("precision", self.precisions, PRECISIONS)):
            unknown = [name for name in given if name not in known]
            if unknown or not given:
                raise Unsupported(f"{what} {', '.join(unknown) or '(none)'} is not known. Allowed: {', '.join(known)}")
        for name in ("batch", "calib_images", "check_images", "threads"):
            if getattr(self, name) < 1:
                raise EdgemobileError(f"{name} must be at least 1, found {getattr(self, name)}")


@dataclass(frozen=True)
class Checked:
    """A written file, run in its runtime. `accuracy` is top-1 where labels are known; `max_lsb` is the largest difference
    to the int8 reference arithmetic, in steps of the output's scale (None for float arithmetic)."""

    artifact: Artifact
    runtime: str
    verdict: Verdict
    latency: Latency
    accuracy: float | None = None
    max_lsb: int | None = None


@dataclass(frozen=True)
class ExportResult:
    """What an export made. `images` says what the files were checked on; `notes` is what a reader should know."""

    out: Path
    model: str
    source: str
    input_px: int
    images: str
    float_accuracy: float | None
    files: tuple[Checked, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        return all(file.verdict.passed for file in self.files)


def export(request: ExportRequest, progress: Progress | None = None) -> ExportResult:
    """Export, run every file written, compare with PyTorch and write the folder `request.out`.

    A file that misses its tolerance is written all the same and said so in the result: the folder is what shows why.
    Raises EdgemobileError for bad input; then nothing is left behind.
    """
    check_free(request.out, overwrite=request.overwrite)
    progress = progress or Silent()
    model = _load(request, progress)
    images = _images(request, model, progress)
    graphs, notes = _graphs(request, model, images, progress)
    with fresh_folder(request.out, overwrite=request.overwrite) as folder:
        artifacts = _write(request, model, graphs, folder, progress)
        checked, float_accuracy = _check(request, model, graphs, images, artifacts, folder, progress)
        result = ExportResult(
            request.out,
            model.name,
            model.source,
            model.preprocess.input_px,
            images.described,
            float_accuracy,
            checked,
            (*model.notes, *images.notes, *notes),
        )
        (folder / "manifest.json").write_text(to_json_text(_manifest(request, model, images, result)))
    return result
