"""What edgemobile.toml asks of the gate, as records; a strict reading whose errors point to the line.

    [gate]                  how to check
    [tolerances.int8]       what every file of a precision keeps of its reference, in place of the table's bounds
    [devices.NAME]          where files run besides this machine
    [models.NAME]           what is exported, and what must hold of it

Add a key here: a field of its record and a row of its table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgemobile.exporters import FORMATS
from edgemobile.gate.agreement import check_agreement
from edgemobile.gate.reading import (
    Read,
    Reader,
    amount,
    items,
    list_of,
    named,
    one_of,
    read_flag,
    read_number,
    read_path,
    read_share,
    read_text,
    real,
    whole,
)
from edgemobile.gate.selectors import MODEL_SUFFIXES, PRECISIONS, checked
from edgemobile.loading.checkpoint import NAMED
from edgemobile.metrics.measures import METRICS
from edgemobile.util.config_file import ConfigFile

__all__ = ["Accuracy", "DeviceEntry", "GateConfig", "GateSettings", "ModelEntry", "load_gate"]

TARGETS = ("cpu", "arm", "x86-vnni", "microcontroller", "edgetpu", "no-hswish")


@dataclass(frozen=True)
class GateSettings:
    """[gate]. `images` are how many each file is compared on; `cache` is where results are kept."""

    images: int = 16
    layers: bool = True
    seed: int = 0
    cache: Path = Path(".edgemobile")


@dataclass(frozen=True)
class DeviceEntry:
    """[devices.NAME]. () of formats and precisions is all. `max_regress` is a share of `baseline`, a saved run.

    What is not `required` and not there is skipped, and said.
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
        """Whether files of this format and precision run there."""
        return format in (self.formats or (format,)) and precision in (self.precisions or (precision,))


@dataclass(frozen=True)
class Accuracy:
    """`max_drop` is in points of top-1 below the float32 file."""

    data: Path
    max_drop: float
    split: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class ModelEntry:
    """[models.NAME]. `model` is what `edgemobile export` takes. `files` are files made already, in place of an export;
    then `model` may be a file as well, and `calib` is what they are compared on.

    `size` is bytes, and `instructions` an inference by device, each by selector: a precision ("int8"), a format
    ("tflite") or both ("int8.tflite"). `tolerances` is precision -> metric -> bound. `devices` None is all there are.
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
    target: str = "cpu"
    devices: tuple[str, ...] | None = None
    size: Mapping[str, int] = field(default_factory=dict)
    instructions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    tolerances: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    accuracy: Accuracy | None = None

    def runs_on(self, device: str) -> bool:
        return self.devices is None or device in self.devices


@dataclass(frozen=True)
class GateConfig:
    """All of it. `tolerances` is precision -> metric -> bound."""

    path: Path
    settings: GateSettings
    tolerances: Mapping[str, Mapping[str, float]]
    devices: tuple[DeviceEntry, ...]
    models: tuple[ModelEntry, ...]


def load_gate(file: ConfigFile) -> GateConfig:
    """Raises EdgemobileError with FILE:LINE for a key, a type or a value that is not allowed."""
    file.check_tables()
    read = Reader(file)
    settings = GateSettings(**read.table(("gate",), _GATE))
    tolerances = read.tables(("tolerances",), _BOUNDS, PRECISIONS)
    devices = tuple(
        DeviceEntry(name, **read.table(("devices", name), _DEVICE)) for name in read.names(("devices",), required=False)
    )
    models = []
    for name in read.names(("models",), required=True):
        given = {"model": name, **read.table(("models", name), _MODEL)}
        models.append(ModelEntry(name, **given))
    config = GateConfig(file.path, settings, tolerances, devices, tuple(models))
    check_agreement(file, config)
    return config


# ---- values that name a model, a file or a metric -------------------------------------------------------------------


def _weights(value: Any, read: Reader, keys: tuple[str, ...]) -> str:
    text = read_text(value, read, keys)
    return text if text in NAMED else str(read.file.path.parent / text)


def _model(value: Any, read: Reader, keys: tuple[str, ...]) -> str:
    text = read_text(value, read, keys)
    return str(read.file.path.parent / text) if text.endswith(MODEL_SUFFIXES) else text


def _recipe(value: Any, read: Reader, keys: tuple[str, ...]) -> str:
    text = read_text(value, read, keys)
    return str(read.file.path.parent / text) if text.endswith(".json") else text


def _metric(name: str) -> str:
    """A metric, also without its unit: "sqnr"."""
    known = next((row for row in METRICS if name in (row, row.rpartition("_")[0])), None)
    if known is None:
        raise ValueError(f"there is no such metric. Allowed: {', '.join(METRICS)}")
    return known


def _by_metric(value: Any, read: Reader, keys: tuple[str, ...]) -> dict[str, float]:
    return {
        named(read, (*keys, name), _metric): read.one(bound, (*keys, name), read_number) for name, bound in items(value)
    }


def _by_precision(value: Any, read: Reader, keys: tuple[str, ...]) -> dict[str, dict[str, float]]:
    return {
        named(read, (*keys, name), _precision): read.one(bounds, (*keys, name), _by_metric)
        for name, bounds in items(value)
    }


def _by_selector(amount: Read) -> Read:
    def read_amounts(value: Any, read: Reader, keys: tuple[str, ...]) -> dict[str, int]:
        return {
            named(read, (*keys, name), checked): read.one(most, (*keys, name), amount) for name, most in items(value)
        }

    return read_amounts


def _by_device(value: Any, read: Reader, keys: tuple[str, ...]) -> dict[str, dict[str, int]]:
    counts = _by_selector(amount(_COUNTS, '"9.5M"'))
    return {name: read.one(most, (*keys, name), counts) for name, most in items(value)}


def _accuracy(value: Any, read: Reader, keys: tuple[str, ...]) -> Accuracy:
    items(value)
    given = read.table(keys, _ACCURACY)
    if missing := [name for name in ("data", "max_drop") if name not in given]:
        raise ValueError(f"needs {' and '.join(missing)}")
    return Accuracy(**given)


def _precision(name: str) -> str:
    if name not in PRECISIONS:
        raise ValueError(f"there is no such precision. Allowed: {', '.join(PRECISIONS)}")
    return name


# ---- the tables -----------------------------------------------------------------------------------------------------

_UNITS = {"": 1, "B": 1, "KB": 10**3, "KIB": 2**10, "MB": 10**6, "MIB": 2**20, "GB": 10**9, "GIB": 2**30}
_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_FORMATS, _PRECISIONS = list_of(one_of(tuple(FORMATS))), list_of(one_of(PRECISIONS))

_GATE: Mapping[str, Read] = {"images": whole(1), "layers": read_flag, "seed": whole(0), "cache": read_path}
_BOUNDS: Read = _by_metric
_DEVICE: Mapping[str, Read] = {
    "formats": _FORMATS,
    "precisions": _PRECISIONS,
    "runs": whole(1),
    "threads": whole(1),
    "baseline": read_path,
    "max_regress": read_share,
    "required": read_flag,
}
_ACCURACY: Mapping[str, Read] = {"data": read_path, "max_drop": real(0, 100), "split": read_text, "limit": whole(1)}
_MODEL: Mapping[str, Read] = {
    "model": _model,
    "weights": _weights,
    "width": real(0.01, 10),
    "res": whole(16),
    "classes": whole(1),
    "calib": read_path,
    "calib_images": whole(1),
    "files": list_of(read_path),
    "formats": _FORMATS,
    "precisions": _PRECISIONS,
    "recipe": _recipe,
    "target": one_of(TARGETS),
    "devices": list_of(read_text, empty=True),
    "size": _by_selector(amount(_UNITS, '"4.6 MiB"')),
    "instructions": _by_device,
    "tolerances": _by_precision,
    "accuracy": _accuracy,
}
