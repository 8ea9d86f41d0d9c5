"""[sweep] of edgemobile.toml: lists whose combinations are the points of a grid.

To add a key: a field of Grid here, and a row of _SWEEP; if it is a list of the grid, also a loop of `_points`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from edgemobile.errors import EdgemobileError
from edgemobile.exporters import FILE_SUFFIXES
from edgemobile.gate.config import DeviceEntry, GateConfig, LabelledImages, ModelEntry
from edgemobile.gate.load import (
    IMAGES_KEYS,
    SHARED_KEYS,
    read_devices,
    read_model,
    read_recipe,
    read_settings,
    read_weights,
)
from edgemobile.gate.reading import Read, Reader, items, list_of, read_text, real, whole
from edgemobile.loading.model_spec import is_own
from edgemobile.models.arch import ARCHS
from edgemobile.util.config_file import ConfigFile

__all__ = ["SweepConfig", "load_sweep"]

_AT = ("sweep",)
_PLACEHOLDERS = ("model", "width", "res")


@dataclass(frozen=True)
class SweepConfig:
    """The points of the grid, each a model of the gate with a unique name, and what is measured of their files.

    `gate` has the settings of [gate] (cache, seed, images); `data` None measures no accuracy.
    """

    gate: GateConfig
    points: tuple[ModelEntry, ...]
    devices: tuple[DeviceEntry, ...]
    data: LabelledImages | None

    @property
    def path(self) -> Path:
        return self.gate.path


def load_sweep(file: ConfigFile) -> SweepConfig:
    """Raises EdgemobileError with FILE:LINE for a key, a type or a value that is not allowed."""
    file.check_tables()
    if "sweep" not in file.tables:
        raise EdgemobileError(f'{file.path} has no [sweep]. Add one, at least: [sweep] models = ["v3-small"]')
    read = Reader(file)
    grid, given = read.table(_AT, _SWEEP), read_devices(read)
    _check(file, grid)
    config = GateConfig(file, replace(read_settings(read), layers=False), {}, given, ())
    points = tuple(_points(grid))
    names = [point.name for point in points]
    if len(set(names)) != len(names):
        raise file.wrong(
            _AT, f"two points of the grid are called {max(names, key=names.count)}: name their files apart"
        )
    return SweepConfig(config, points, _devices(file, grid, given), grid.get("accuracy"))


def _devices(file: ConfigFile, grid: Mapping[str, Any], given: tuple[DeviceEntry, ...]) -> tuple[DeviceEntry, ...]:
    """The selected devices, with the settings of their [devices.NAME] if there is one."""
    from edgemobile.devices.host.selection import select_devices

    rows = {device.name: device for device in given}
    try:
        names = [name for text in grid.get("devices", ()) for name in select_devices(text)]
    except EdgemobileError as error:
        raise file.wrong((*_AT, "devices"), str(error)) from error
    return tuple(rows.get(name, DeviceEntry(name)) for name in dict.fromkeys(names))


# ---- the points -----------------------------------------------------------------------------------------------------


def _points(grid: Mapping[str, Any]) -> Iterator[ModelEntry]:
    """Later recipes have only int8 files: the others do not depend on the recipe."""
    shared = {name: grid[name] for name in SHARED_KEYS if name in grid}
    lists = [grid.get(name, (None,)) for name in ("models", "widths", "resolutions", "weights")]
    for model, width, res, weights in product(*lists):
        for index, recipe in enumerate(grid.get("recipes", (None,))):
            # The default width has no part in the name: a width that is added later does not repeat its exports.
            width = None if width == 1 else width
            found = None if weights is None else _filled(weights, model=model, width=width or 1.0, res=res)
            entry = ModelEntry("", model, found, width, res, recipe=recipe, **shared)
            if index:
                entry = replace(entry, precisions=("int8",))
            yield replace(entry, name=_name(entry, several="recipes" in grid))


def _filled(pattern: str, **values: Any) -> str:
    for name, value in values.items():
        text = f"{value:g}" if isinstance(value, float) else str(value)
        pattern = pattern.replace(f"{{{name}}}", Path(text).stem if name == "model" and "/" in text else text)
    return pattern


def _name(entry: ModelEntry, *, several: bool) -> str:
    """Also the name of a folder in the cache: "v3-small-w0.5-96px"."""
    weights = entry.weights if entry.weights not in (None, "bundled") else None
    parts = [
        Path(entry.model).stem if "/" in entry.model else entry.model,
        None if entry.width is None else f"w{entry.width:g}",
        None if entry.res is None else f"{entry.res}px",
        None if weights is None else Path(weights).stem,
        None if entry.recipe is None or not several else Path(entry.recipe).name.removesuffix(".json"),
    ]
    return re.sub(r"[^\w.+-]", "_", "-".join(filter(None, parts))).lstrip(".")


# ---- the keys -------------------------------------------------------------------------------------------------------


def _check(file: ConfigFile, grid: Mapping[str, Any]) -> None:
    """Raises EdgemobileError with FILE:LINE for what no point could be exported with."""
    if "models" not in grid:
        raise file.wrong(_AT, 'needs models, such as models = ["v3-small", "v3-large"]')
    for model in grid["models"]:
        if not (model in ARCHS or is_own(model)):
            allowed = f"{', '.join(ARCHS)}, package.module:factory, FILE.pt2"
            raise file.wrong((*_AT, "models"), f"{model!r} is not a model. Allowed: {allowed}")
        if is_own(model) and any(width != 1 for width in grid.get("widths", ())):
            raise file.wrong((*_AT, "widths"), f"{model} has only its own width: sweep it without widths")
    int8 = "int8" in grid.get("precisions", ("int8",))
    for key in ("recipes", "calib_images", "target"):
        if key in grid and not int8:
            raise file.wrong((*_AT, key), "has no effect with precisions without int8: remove it")
    images = grid.get("accuracy")
    for keys, path in ((("accuracy", "data"), images and images.data), (("calib",), grid.get("calib"))):
        if path is not None and not path.exists():
            raise file.wrong((*_AT, *keys), f"{path} does not exist")
    for recipe in grid.get("recipes", ()):
        _check_recipe(file, recipe)


def _check_recipe(file: ConfigFile, recipe: str) -> None:
    from edgemobile.quant.recipes import read_recipe as opened

    try:
        opened(recipe)
    except EdgemobileError as error:
        raise file.wrong((*_AT, "recipes"), str(error)) from error


def _weights(value: Any, read: Reader, keys: tuple[str, ...]) -> tuple[str, ...]:
    """One text or a list: "bundled", "imagenet", "random", or a file; {model}, {width} and {res} are replaced."""
    texts = (value,) if isinstance(value, str) else list_of(read_text)(value, read, keys)
    for name in re.findall(r"\{(.*?)\}", " ".join(texts)):
        if name not in _PLACEHOLDERS:
            raise ValueError(f"{{{name}}} is not replaced. Allowed: {', '.join(f'{{{one}}}' for one in _PLACEHOLDERS)}")
    return tuple(read_weights(text, read, keys) for text in texts)


def _accuracy(value: Any, read: Reader, keys: tuple[str, ...]) -> LabelledImages:
    items(value)
    given = read.table(keys, IMAGES_KEYS)
    if "data" not in given:
        raise ValueError("needs data")
    return LabelledImages(**given)


def _listed_model(value: Any, read: Reader, keys: tuple[str, ...]) -> str:
    text = str(read_model(value, read, keys))
    if text.endswith(FILE_SUFFIXES):
        raise ValueError("must be models to export; measure existing files with `edgemobile eval` and `bench`")
    return text


_SWEEP: Mapping[str, Read] = {
    "models": list_of(_listed_model),
    "widths": list_of(real(0.01, 10)),
    "resolutions": list_of(whole(16)),
    "weights": _weights,
    "recipes": list_of(read_recipe),
    "devices": list_of(read_text),
    "accuracy": _accuracy,
    **SHARED_KEYS,
}
