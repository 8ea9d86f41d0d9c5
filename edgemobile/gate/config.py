"""What edgemobile.toml asks of the gate, as records; a strict reading whose errors point to the line.

    [gate]                  how to check
    [tolerances.int8]       what every file of a precision keeps of its reference, in place of the table's bounds
    [devices.NAME]          where files run besides this machine
    [models.NAME]           what is exported, and what must hold of it

Add a key here: a field of its record and a row of its table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgemobile.config_file import ConfigFile
from edgemobile.errors import EdgemobileError
from edgemobile.exporters import FORMATS
from edgemobile.metrics import METRICS

__all__ = ["Accuracy", "DeviceEntry", "GateConfig", "GateSettings", "ModelEntry", "load_gate", "selects"]

_FILES = tuple(row.suffix for row in FORMATS.values())
# As routes.PRECISIONS, which would cost loading every route; a test holds them equal.
PRECISIONS = ("float32", "float16", "dynamic", "int8")
TARGETS = ("cpu", "microcontroller", "edgetpu", "no-hswish")


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
    then `model` may be a file as well.

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


@dataclass(frozen=True)
class GateConfig:
    """All of it. `tolerances` is precision -> metric -> bound."""

    path: Path
    settings: GateSettings
    tolerances: Mapping[str, Mapping[str, float]]
    devices: tuple[DeviceEntry, ...]
    models: tuple[ModelEntry, ...]


def selects(selector: str, format: str, precision: str) -> bool:
    """ "int8", "tflite", "int8.tflite": whether it means a file of this format and precision."""
    return set(selector.split(".")) <= {format, precision}


def load_gate(file: ConfigFile) -> GateConfig:
    """Raises EdgemobileError with FILE:LINE for a key, a type or a value that is not allowed."""
    for table in file.tables:
        if table not in _TABLES:
            raise file.wrong((table,), f"unknown table. Allowed: {', '.join(f'[{name}]' for name in _TABLES)}")
    read = _Reader(file)
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
    _check(file, config)
    return config


# ---- one value ------------------------------------------------------------------------------------------------------

# value, the reader -> what the record holds; ValueError says what is allowed.
_Read = Callable[[Any, "_Reader", tuple[str, ...]], Any]
_UNITS = {"": 1, "B": 1, "KB": 10**3, "KIB": 2**10, "MB": 10**6, "MIB": 2**20, "GB": 10**9, "GIB": 2**30}
_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def _text(value: Any, read: _Reader, keys: tuple[str, ...]) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("must be text in quotes")
    return value


def _path(value: Any, read: _Reader, keys: tuple[str, ...]) -> Path:
    return read.file.path.parent / _text(value, read, keys)


def _weights(value: Any, read: _Reader, keys: tuple[str, ...]) -> str:
    text = _text(value, read, keys)
    return text if text in ("bundled", "imagenet", "random") else str(read.file.path.parent / text)


def _model(value: Any, read: _Reader, keys: tuple[str, ...]) -> str:
    text = _text(value, read, keys)
    return str(read.file.path.parent / text) if text.endswith((".pt2", *_FILES)) else text


def _recipe(value: Any, read: _Reader, keys: tuple[str, ...]) -> str:
    text = _text(value, read, keys)
    return str(read.file.path.parent / text) if text.endswith(".json") else text


def _flag(value: Any, read: _Reader, keys: tuple[str, ...]) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _whole(least: int) -> _Read:
    def read_whole(value: Any, read: _Reader, keys: tuple[str, ...]) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"must be a whole number of at least {least}")
        return value

    return read_whole


def _real(low: float, high: float) -> _Read:
    def read_real(value: Any, read: _Reader, keys: tuple[str, ...]) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return float(value)

    return read_real


def _bound(value: Any, read: _Reader, keys: tuple[str, ...]) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
        raise ValueError("must be a number")
    return float(value)


def _among(allowed: tuple[str, ...]) -> _Read:
    def read_name(value: Any, read: _Reader, keys: tuple[str, ...]) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value

    return read_name


def _several(one: _Read, *, empty: bool = False) -> _Read:
    def read_list(value: Any, read: _Reader, keys: tuple[str, ...]) -> tuple[Any, ...]:
        if not isinstance(value, list) or not (value or empty):
            raise ValueError('must be a list, as in ["a", "b"], and not empty')
        found = tuple(one(item, read, keys) for item in value)
        if len(set(found)) != len(found):
            raise ValueError("names one of them twice")
        return found

    return read_list


def _amount(units: Mapping[str, int], example: str) -> _Read:
    def read_amount(value: Any, read: _Reader, keys: tuple[str, ...]) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", value.strip()) if isinstance(value, str) else None
        if not found or found[2].upper() not in units or not float(found[1]):
            raise ValueError(f"must be a number, or text like {example}")
        return round(float(found[1]) * units[found[2].upper()])

    return read_amount


def _share(value: Any, read: _Reader, keys: tuple[str, ...]) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value.strip()) if isinstance(value, str) else None
    if not found:
        raise ValueError('must be a percentage in quotes, like "1%"')
    return float(found[1]) / 100


def _metric(name: str) -> str:
    """A metric, also without its unit: "sqnr"."""
    known = next((row for row in METRICS if name in (row, row.rpartition("_")[0])), None)
    if known is None:
        raise ValueError(f"there is no such metric. Allowed: {', '.join(METRICS)}")
    return known


def _by_metric(value: Any, read: _Reader, keys: tuple[str, ...]) -> dict[str, float]:
    return {
        _named(read, (*keys, name), _metric): read.one(bound, (*keys, name), _bound) for name, bound in _items(value)
    }


def _by_precision(value: Any, read: _Reader, keys: tuple[str, ...]) -> dict[str, dict[str, float]]:
    return {
        _named(read, (*keys, name), _precision): read.one(bounds, (*keys, name), _by_metric)
        for name, bounds in _items(value)
    }


def _by_selector(amount: _Read) -> _Read:
    def read_amounts(value: Any, read: _Reader, keys: tuple[str, ...]) -> dict[str, int]:
        return {
            _named(read, (*keys, name), _selector): read.one(most, (*keys, name), amount)
            for name, most in _items(value)
        }

    return read_amounts


def _by_device(value: Any, read: _Reader, keys: tuple[str, ...]) -> dict[str, dict[str, int]]:
    counts = _by_selector(_amount(_COUNTS, '"9.5M"'))
    return {name: read.one(most, (*keys, name), counts) for name, most in _items(value)}


def _accuracy(value: Any, read: _Reader, keys: tuple[str, ...]) -> Accuracy:
    _items(value)
    given = read.table(keys, _ACCURACY)
    if missing := [name for name in ("data", "max_drop") if name not in given]:
        raise ValueError(f"needs {' and '.join(missing)}")
    return Accuracy(**given)


def _items(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise ValueError("must be a table, as in { int8 = ... }")
    return list(value.items())


def _precision(name: str) -> str:
    if name not in PRECISIONS:
        raise ValueError(f"there is no such precision. Allowed: {', '.join(PRECISIONS)}")
    return name


def _selector(name: str) -> str:
    kinds = [part in PRECISIONS for part in name.split(".")]
    if not all(part in (*PRECISIONS, *FORMATS) for part in name.split(".")) or kinds not in (
        [True],
        [False],
        [True, False],
    ):
        raise ValueError(
            f"names no file. Allowed: a precision ({', '.join(PRECISIONS)}), a format ({', '.join(FORMATS)}), "
            'or both in quotes, like "int8.tflite"'
        )
    return name


def _named(read: _Reader, keys: tuple[str, ...], check: Callable[[str], str]) -> str:
    try:
        return check(keys[-1])
    except ValueError as error:
        raise read.file.wrong(keys, str(error)) from error


# ---- the tables -----------------------------------------------------------------------------------------------------

_FORMATS, _PRECISIONS = _several(_among(tuple(FORMATS))), _several(_among(PRECISIONS))

_GATE: Mapping[str, _Read] = {"images": _whole(1), "layers": _flag, "seed": _whole(0), "cache": _path}
_BOUNDS: _Read = _by_metric
_DEVICE: Mapping[str, _Read] = {
    "formats": _FORMATS,
    "precisions": _PRECISIONS,
    "runs": _whole(1),
    "threads": _whole(1),
    "baseline": _path,
    "max_regress": _share,
    "required": _flag,
}
_ACCURACY: Mapping[str, _Read] = {"data": _path, "max_drop": _real(0, 100), "split": _text, "limit": _whole(1)}
_MODEL: Mapping[str, _Read] = {
    "model": _model,
    "weights": _weights,
    "width": _real(0.01, 10),
    "res": _whole(16),
    "classes": _whole(1),
    "calib": _path,
    "calib_images": _whole(1),
    "files": _several(_path),
    "formats": _FORMATS,
    "precisions": _PRECISIONS,
    "recipe": _recipe,
    "target": _among(TARGETS),
    "devices": _several(_text, empty=True),
    "size": _by_selector(_amount(_UNITS, '"4.6 MiB"')),
    "instructions": _by_device,
    "tolerances": _by_precision,
    "accuracy": _accuracy,
}
# [defaults] is for the other commands (edgemobile.commands.defaults).
_TABLES = ("gate", "tolerances", "devices", "models", "defaults")


@dataclass(frozen=True)
class _Reader:
    """Reads tables of `file` by tables of rows."""

    file: ConfigFile

    def one(self, value: Any, keys: tuple[str, ...], kind: _Read) -> Any:
        try:
            return kind(value, self, keys)
        except ValueError as error:
            raise self.file.wrong(keys, f"{error}; found {_shown(value)}") from error

    def table(self, keys: tuple[str, ...], rows: Mapping[str, _Read]) -> dict[str, Any]:
        """A table with any of the keys of `rows`; {} where there is none."""
        found = {}
        for name, value in self._at(keys).items():
            if name not in rows:
                raise self.file.wrong((*keys, name), f"unknown key. Allowed: {', '.join(rows)}")
            found[name] = self.one(value, (*keys, name), rows[name])
        return found

    def tables(self, keys: tuple[str, ...], kind: _Read, allowed: tuple[str, ...]) -> dict[str, Any]:
        found = {}
        for name, value in self._at(keys).items():
            if name not in allowed:
                raise self.file.wrong((*keys, name), f"unknown. Allowed: {', '.join(allowed)}")
            found[name] = self.one(value, (*keys, name), kind)
        return found

    def names(self, keys: tuple[str, ...], *, required: bool) -> list[str]:
        names = list(self._at(keys))
        if required and not names:
            raise self.file.wrong(keys, "there is none, so there is nothing to check. Add a table: [models.v3-large]")
        return names

    def _at(self, keys: tuple[str, ...]) -> Mapping[str, Any]:
        value: Any = self.file.tables
        for depth, key in enumerate(keys, 1):
            value = value.get(key, {})
            if not isinstance(value, dict):
                raise self.file.wrong(
                    keys[:depth], f"must be a table, [{'.'.join(keys[:depth])}]; found {_shown(value)}"
                )
        return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ---- what one key has to do with another ----------------------------------------------------------------------------


def _check(file: ConfigFile, config: GateConfig) -> None:
    devices = [device.name for device in config.devices]
    for device in config.devices:
        if (device.baseline is None) != (device.max_regress is None):
            raise file.wrong(("devices", device.name), "baseline and max_regress need each other: give both or neither")
    for entry in config.models:
        at = ("models", entry.name)
        _check_model(file, entry)
        for where, names in (("devices", entry.devices or ()), ("instructions", tuple(entry.instructions))):
            for name in names:
                if name not in devices:
                    known = ", ".join(devices) or "none"
                    raise file.wrong((*at, where), f"there is no [devices.{name!r}]. Devices there are: {known}")
        if entry.accuracy is not None and not entry.files and "float32" not in entry.precisions:
            raise file.wrong((*at, "accuracy"), "max_drop is against the float32 file: add float32 to precisions")
        for key in () if entry.files else ("size", "instructions"):
            budgets = [entry.size] if key == "size" else entry.instructions.values()
            for selector in (selector for budget in budgets for selector in budget):
                if not any(selects(selector, one, other) for one in entry.formats for other in entry.precisions):
                    raise file.wrong((*at, key), f"{selector} is none of the files that formats and precisions give")


def _check_model(file: ConfigFile, entry: ModelEntry) -> None:
    from edgemobile.arch import ARCHS

    at = ("models", entry.name)
    where = (*at, "model") if "model" in file.tables["models"][entry.name] else at
    suffixes = (".pt2", *_FILES) if entry.files else (".pt2",)
    if not (entry.model in ARCHS or ":" in entry.model or entry.model.endswith(suffixes)):
        raise file.wrong(
            where,
            f'{entry.model!r} is no model. Allowed, as model = "...": {", ".join(ARCHS)}, package.module:factory, '
            "FILE.pt2 and, where files are given, .onnx and .tflite",
        )
    if entry.recipe is not None:
        from edgemobile.quant.recipes import read_recipe

        try:
            read_recipe(entry.recipe)
        except EdgemobileError as error:
            raise file.wrong((*at, "recipe"), str(error)) from error
