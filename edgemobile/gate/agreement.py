"""Checks keys of edgemobile.toml against each other: a key that would be ignored is refused, with its line."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import product

from edgemobile.errors import EdgemobileError
from edgemobile.exporters import FILE_SUFFIXES, FORMATS
from edgemobile.gate.config import DeviceEntry, GateConfig, ModelEntry
from edgemobile.gate.selectors import PRECISIONS, selects
from edgemobile.loading.model_spec import is_own
from edgemobile.util.config_file import ConfigFile

__all__ = ["check_agreement"]

# Keys for an export, and keys for a model in PyTorch.
_OF_AN_EXPORT = ("res", "calib_images", "formats", "precisions", "recipe", "target")
_OF_A_NET = ("weights", "width", "classes")
_OF_INT8 = ("calib_images", "recipe", "target")


def check_agreement(file: ConfigFile, config: GateConfig) -> None:
    """Raises EdgemobileError with FILE:LINE."""
    for device in config.devices:
        if (device.baseline is None) != (device.max_regress is None):
            raise file.wrong(("devices", device.name), "baseline and max_regress need each other: set both or neither")
    for entry in config.models:
        _check_name(file, entry)
        _check_model(file, entry)
        _check_ignored(file, entry)
        _check_devices(file, config, entry)
        if entry.accuracy is not None and not entry.files and "float32" not in entry.precisions:
            raise file.wrong(
                ("models", entry.name, "accuracy"), "max_drop compares with the float32 file: add float32 to precisions"
            )
        _check_budgets(file, config, entry)


def _check_name(file: ConfigFile, entry: ModelEntry) -> None:
    """The name is also the name of a folder in the cache."""
    if not entry.name.isprintable() or not re.fullmatch(r"[^./\\*?\[\]][^/\\*?\[\]]*", entry.name):
        raise file.wrong(
            ("models", entry.name),
            r"this is also a folder name: do not use / \ * ? [ ] or a leading dot. Put a path below it, as model = "
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
            f'{entry.model!r} is not a model. Allowed, as model = "...": {", ".join(ARCHS)}, package.module:factory, '
            "FILE.pt2 and, with files, .onnx and .tflite",
        )
    if entry.recipe is not None:
        from edgemobile.quant.recipes import read_recipe

        try:
            read_recipe(entry.recipe)
        except EdgemobileError as error:
            raise file.wrong((*at, "recipe"), str(error)) from error


def _check_ignored(file: ConfigFile, entry: ModelEntry) -> None:
    """Refuse keys that have no effect on existing files or on a reference that is a file."""
    given = file.tables["models"][entry.name]
    ignored = dict.fromkeys(_OF_AN_EXPORT if entry.files else (), "files, which exist already")
    if not entry.files and "int8" not in entry.precisions:
        ignored |= dict.fromkeys(_OF_INT8, "precisions without int8")
    ignored |= dict.fromkeys(_OF_A_NET if entry.model.endswith(FILE_SUFFIXES) else (), "a model that is a file")
    for key, beside in ignored.items():
        if key in given:
            raise file.wrong(("models", entry.name, key), f"has no effect with {beside}: remove it")
    for precision in () if entry.files else entry.tolerances:
        if precision not in entry.precisions:
            at = ("models", entry.name, "tolerances", precision)
            raise file.wrong(at, f"none of the model's files is {precision}: remove it, or add it to precisions")


def _check_devices(file: ConfigFile, config: GateConfig, entry: ModelEntry) -> None:
    devices = [device.name for device in config.devices]
    for where, names in (("devices", entry.devices or ()), ("instructions", tuple(entry.instructions))):
        for name in names:
            if name not in devices:
                known = ", ".join(devices) or "none"
                at = ("models", entry.name, where)
                raise file.wrong(at, f"there is no [devices.{name!r}]. Existing devices: {known}")
    for name in entry.instructions:
        if not entry.runs_on(name):
            raise file.wrong(
                ("models", entry.name, "instructions", name),
                f"the model's devices do not include it ({', '.join(entry.devices or ()) or 'there are none'}), so "
                "this budget would never be checked: add it to devices, or remove the budget",
            )


def _check_budgets(file: ConfigFile, config: GateConfig, entry: ModelEntry) -> None:
    """Every budget must match a file that is checked. The precision of `files` is known only once they are read."""
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
    """The pairs (format, precision) that match the selector, of those that the model has or may have."""
    return [one for one in product(*_kinds(entry)) if selects(selector, *one)]


def _kinds(entry: ModelEntry) -> tuple[Collection[str], Collection[str]]:
    if not entry.files:
        return entry.formats, entry.precisions
    return [name for name, row in FORMATS.items() if any(path.suffix == row.suffix for path in entry.files)], PRECISIONS


def _none_of_them(selector: str) -> str:
    return f"{selector} does not match any file of the formats and precisions"


def _not_taken(selector: str, device: DeviceEntry) -> str:
    taken = " of ".join(", ".join(kinds) for kinds in (device.precisions, device.formats) if kinds)
    return (
        f"no file of {selector} runs on {device.name}, so this budget would never be checked: "
        f"[devices.{device.name!r}] takes only {taken}"
    )
