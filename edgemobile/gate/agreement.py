"""What one key of edgemobile.toml has to do with another: what would be ignored is refused, with its line."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import product
from typing import TYPE_CHECKING

from edgemobile.errors import EdgemobileError
from edgemobile.exporters import FILE_SUFFIXES, FORMATS
from edgemobile.gate.selectors import PRECISIONS, selects
from edgemobile.loading.model_spec import is_own

if TYPE_CHECKING:
    from edgemobile.gate.config import DeviceEntry, GateConfig, ModelEntry
    from edgemobile.util.config_file import ConfigFile

__all__ = ["check_agreement"]

# What an export is told, and what a model in PyTorch is.
_OF_AN_EXPORT = ("res", "calib_images", "formats", "precisions", "recipe", "target")
_OF_A_NET = ("weights", "width", "classes")


def check_agreement(file: ConfigFile, config: GateConfig) -> None:
    """Raises EdgemobileError with FILE:LINE."""
    for device in config.devices:
        if (device.baseline is None) != (device.max_regress is None):
            raise file.wrong(("devices", device.name), "baseline and max_regress need each other: give both or neither")
    for entry in config.models:
        _check_name(file, entry)
        _check_model(file, entry)
        _check_ignored(file, entry)
        _check_devices(file, config, entry)
        if entry.accuracy is not None and not entry.files and "float32" not in entry.precisions:
            raise file.wrong(
                ("models", entry.name, "accuracy"), "max_drop is against the float32 file: add float32 to precisions"
            )
        _check_budgets(file, config, entry)


def _check_name(file: ConfigFile, entry: ModelEntry) -> None:
    """It names a folder of the cache."""
    if not entry.name.isprintable() or not re.fullmatch(r"[^./\\*?\[\]][^/\\*?\[\]]*", entry.name):
        raise file.wrong(
            ("models", entry.name),
            r"this names a folder: leave out / \ * ? [ ] and a dot in front. A path goes below it, as model = "
            '"nets/mine.pt2"',
        )


def _check_model(file: ConfigFile, entry: ModelEntry) -> None:
    from edgemobile.models.arch import ARCHS

    at = ("models", entry.name)
    where = (*at, "model") if "model" in file.tables["models"][entry.name] else at
    a_file = bool(entry.files) and entry.model.endswith(FILE_SUFFIXES)
    if not (entry.model in ARCHS or is_own(entry.model) or a_file):
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


def _check_ignored(file: ConfigFile, entry: ModelEntry) -> None:
    """Files are what they are, and so is a reference that is a file."""
    given = file.tables["models"][entry.name]
    ignored = dict.fromkeys(_OF_AN_EXPORT if entry.files else (), "files, which are made already")
    ignored |= dict.fromkeys(_OF_A_NET if entry.model.endswith(FILE_SUFFIXES) else (), "a model that is a file")
    for key, beside in ignored.items():
        if key in given:
            raise file.wrong(("models", entry.name, key), f"means nothing beside {beside}: leave it out")


def _check_devices(file: ConfigFile, config: GateConfig, entry: ModelEntry) -> None:
    devices = [device.name for device in config.devices]
    for where, names in (("devices", entry.devices or ()), ("instructions", tuple(entry.instructions))):
        for name in names:
            if name not in devices:
                known = ", ".join(devices) or "none"
                at = ("models", entry.name, where)
                raise file.wrong(at, f"there is no [devices.{name!r}]. Devices there are: {known}")
    for name in entry.instructions:
        if not entry.runs_on(name):
            raise file.wrong(
                ("models", entry.name, "instructions", name),
                f"the model's devices leave it out ({', '.join(entry.devices or ()) or 'there are none'}), and nobody "
                "would look: add it to devices, or take this budget away",
            )


def _check_budgets(file: ConfigFile, config: GateConfig, entry: ModelEntry) -> None:
    """Every budget means a file, and one that is looked at. Of `files` the precision is known once they are read."""
    at, devices = ("models", entry.name), {device.name: device for device in config.devices}
    for selector in () if entry.files else entry.size:
        if not _meant(selector, entry):
            raise file.wrong((*at, "size"), _none_of_them(selector))
    for name, selector in ((name, selector) for name, budget in entry.instructions.items() for selector in budget):
        meant = _meant(selector, entry)
        if not meant and not entry.files:
            raise file.wrong((*at, "instructions"), _none_of_them(selector))
        if meant and not any(devices[name].takes(*one) for one in meant):
            raise file.wrong((*at, "instructions", name, selector), _not_taken(selector, devices[name]))


def _meant(selector: str, entry: ModelEntry) -> list[tuple[str, str]]:
    """The (format, precision) that the selector means of those the model has, or may have."""
    return [one for one in product(*_kinds(entry)) if selects(selector, *one)]


def _kinds(entry: ModelEntry) -> tuple[Collection[str], Collection[str]]:
    if not entry.files:
        return entry.formats, entry.precisions
    return [name for name, row in FORMATS.items() if any(path.suffix == row.suffix for path in entry.files)], PRECISIONS


def _none_of_them(selector: str) -> str:
    return f"{selector} is none of the files that formats and precisions give"


def _not_taken(selector: str, device: DeviceEntry) -> str:
    return (
        f"no file of {selector} runs on {device.name}, and nobody would look: [devices.{device.name!r}] takes "
        f"{' of '.join(', '.join(kinds) for kinds in (device.precisions, device.formats) if kinds)} alone"
    )
