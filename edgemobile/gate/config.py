"""The settings of the gate in edgemobile.toml, as records.

    [gate]                  how to check
    [tolerances.int8]       bounds for every file of a precision, which replace those of the built-in table
    [devices.NAME]          devices that run files besides this machine
    [models.NAME]           what is exported, and its bounds

To add a key: a field of its record here, and a row of its table in gate/load.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgemobile.quant.targets import DEFAULT_TARGET
from edgemobile.util.config_file import ConfigFile

__all__ = ["Accuracy", "DeviceEntry", "GateConfig", "GateSettings", "LabelledImages", "ModelEntry"]


@dataclass(frozen=True)
class GateSettings:
    """[gate]. `images` is the number each file is compared on, None for a number at which one answer has little weight;
    `cache` is the folder of cached results."""

    images: int | None = None
    layers: bool = True
    seed: int = 0
    cache: Path = Path(".edgemobile")


@dataclass(frozen=True)
class DeviceEntry:
    """[devices.NAME]. () for formats and precisions means all. `max_regress` is relative to `baseline`, a saved run.

    A device that is not `required` and not available is skipped with a note.
    """

    name: str
    formats: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    runs: int | None = None
    threads: int = 1
    baseline: Path | None = None
    max_regress: float | None = None
    required: bool = True

    def takes(self, format: str, precision: str) -> bool:
        """Whether files of this format and precision run on it."""
        return format in (self.formats or (format,)) and precision in (self.precisions or (precision,))


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """The images that accuracy is measured on: None for `limit` takes all of the split."""

    data: Path
    split: str | None = None
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Accuracy(LabelledImages):
    """`max_drop` is in points of top-1 below the float32 file."""

    max_drop: float


@dataclass(frozen=True)
class ModelEntry:
    """[models.NAME]. `model` is what `edgemobile export` takes. `files` are existing files, instead of an export;
    then `model` may also be a file, and `calib` is the images they are compared on.

    `size` is in bytes, `instructions` per inference by device, each by selector: a precision ("int8"), a format
    ("tflite") or both ("int8.tflite"). `tolerances` is precision -> metric -> bound. `devices` None means all.
    """

    name: str
    model: str
    weights: str | None = None
    width: float | None = None
    res: int | None = None
    classes: int | None = None
    calib: Path | None = None
    calib_images: int = 128
    files: tuple[Path, ...] = ()
    formats: tuple[str, ...] = ("onnx", "tflite")
    precisions: tuple[str, ...] = ("float32", "int8")
    recipe: str | None = None
    target: str = DEFAULT_TARGET
    devices: tuple[str, ...] | None = None
    size: Mapping[str, int] = field(default_factory=dict)
    instructions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    tolerances: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    accuracy: Accuracy | None = None

    def runs_on(self, device: str) -> bool:
        return self.devices is None or device in self.devices


@dataclass(frozen=True)
class GateConfig:
    """The whole file. `tolerances` is precision -> metric -> bound; `file` is the file it was read from."""

    file: ConfigFile
    settings: GateSettings
    tolerances: Mapping[str, Mapping[str, float]]
    devices: tuple[DeviceEntry, ...]
    models: tuple[ModelEntry, ...]

    @property
    def path(self) -> Path:
        return self.file.path
