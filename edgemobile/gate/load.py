"""Read edgemobile.toml strictly into the records of gate.config: every error has the line of its key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgemobile.exporters import FORMATS
from edgemobile.gate.agreement import check_agreement
from edgemobile.gate.config import Accuracy, DeviceEntry, GateConfig, GateSettings, ModelEntry
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
from edgemobile.quant.targets import TARGETS
from edgemobile.util.config_file import ConfigFile

__all__ = [
    "IMAGES_KEYS",
    "SHARED_KEYS",
    "load_gate",
    "read_devices",
    "read_model",
    "read_recipe",
    "read_settings",
    "read_weights",
]


def load_gate(file: ConfigFile) -> GateConfig:
    """Raises EdgemobileError with FILE:LINE for a key, a type or a value that is not allowed."""
    file.check_tables()
    read = Reader(file)
    settings, devices = read_settings(read), read_devices(read)
    tolerances = read.tables(("tolerances",), _BOUNDS, PRECISIONS)
    models = []
    for name in read.names(("models",), required=True):
        given = {"model": name, **read.table(("models", name), _MODEL)}
        models.append(ModelEntry(name, **given))
    config = GateConfig(file, settings, tolerances, devices, tuple(models))
    check_agreement(file, config)
    return config


def read_settings(read: Reader) -> GateSettings:
    """[gate]. Raises EdgemobileError with FILE:LINE."""
    return GateSettings(**read.table(("gate",), _GATE))


def read_devices(read: Reader) -> tuple[DeviceEntry, ...]:
    """Every [devices.NAME]. Raises EdgemobileError with FILE:LINE."""
    names = read.names(("devices",), required=False)
    return tuple(DeviceEntry(name, **read.table(("devices", name), _DEVICE)) for name in names)


# ---- values for a model, a file or a metric -------------------------------------------------------------------------


def read_weights(value: Any, read: Reader, keys: tuple[str, ...]) -> str:
    text = read_text(value, read, keys)
    return text if text in NAMED else str(read.file.path.parent / text)


def read_model(value: Any, read: Reader, keys: tuple[str, ...]) -> str:
    text = read_text(value, read, keys)
    return str(read.file.path.parent / text) if text.endswith(MODEL_SUFFIXES) else text


def read_recipe(value: Any, read: Reader, keys: tuple[str, ...]) -> str:
    text = read_text(value, read, keys)
    return str(read.file.path.parent / text) if text.endswith(".json") else text


def _metric(name: str) -> str:
    """A metric, optionally without its unit: "sqnr"."""
    known = next((row for row in METRICS if name in (row, row.rpartition("_")[0])), None)
    if known is None:
        raise ValueError(f"unknown metric. Allowed: {', '.join(METRICS)}")
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
        raise ValueError(f"unknown precision. Allowed: {', '.join(PRECISIONS)}")
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
IMAGES_KEYS: Mapping[str, Read] = {"data": read_path, "split": read_text, "limit": whole(1)}
_ACCURACY: Mapping[str, Read] = {**IMAGES_KEYS, "max_drop": real(0, 100)}
_MODEL: Mapping[str, Read] = {
    "model": read_model,
    "weights": read_weights,
    "width": real(0.01, 10),
    "res": whole(16),
    "classes": whole(1),
    "calib": read_path,
    "calib_images": whole(1),
    "files": list_of(read_path),
    "formats": _FORMATS,
    "precisions": _PRECISIONS,
    "recipe": read_recipe,
    "target": one_of(tuple(TARGETS)),
    "devices": list_of(read_text, empty=True),
    "size": _by_selector(amount(_UNITS, '"4.6 MiB"')),
    "instructions": _by_device,
    "tolerances": _by_precision,
    "accuracy": _accuracy,
}
# Keys of a model that have the same meaning in [sweep].
SHARED_KEYS: Mapping[str, Read] = {
    name: _MODEL[name] for name in ("classes", "calib", "calib_images", "formats", "precisions", "target")
}
