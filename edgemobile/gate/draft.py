"""Writes a first edgemobile.toml: the measured values of some models, with a margin, as bounds."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from edgemobile.errors import EdgemobileError
from edgemobile.exporters import FORMATS
from edgemobile.gate.checks import Check, GateReport, Outcome
from edgemobile.gate.config import GateConfig
from edgemobile.gate.load import load_gate
from edgemobile.gate.run import run_gate
from edgemobile.gate.selectors import PRECISIONS
from edgemobile.loading.model_spec import is_checkpoint, is_own
from edgemobile.metrics.tolerances import QUANTIZED, TOLERANCES
from edgemobile.models.arch import get_arch
from edgemobile.util.config_file import ConfigFile
from edgemobile.util.progress import Progress

__all__ = ["DraftModel", "draft", "draft_model"]

# Margins above the measured value: other versions of compilers and libraries write and run slightly more.
_SIZE_MARGIN, _INSTRUCTION_MARGIN = 0.01, 0.01
# Margins below it: images synthesized on another machine differ, and one answer of 64 images is 1.6 points.
_SQNR_MARGIN_DB, _ANSWERS_MARGIN = 2.0, 0.05
_KIB, _MIB = 2**10, 2**20
_HEAD = (
    "# Bounds of these models, checked by `edgemobile ci` in every change.",
    "# `edgemobile ci init` measured these values and added a margin; change them as needed.",
)
_DEVICE = (
    'formats = ["tflite"]',
    'precisions = ["int8"]',
    "required = false  # skipped with a note if it is not set up",
)


@dataclass(frozen=True)
class DraftModel:
    """A model to write an entry for: the `name` of its table, and the keys that identify the model."""

    name: str
    keys: Mapping[str, str]


def draft_model(spec: str, *, weights: str | None = None, calib: Path | None = None) -> DraftModel:
    """The entry of a model that `edgemobile export` takes; a checkpoint's reference model is found from its shapes.

    Raises EdgemobileError for an unknown model, and for a checkpoint that is not of a reference model.
    """
    model, name = spec, spec
    if is_checkpoint(spec):
        from edgemobile.loading.checkpoint import identify

        model, weights, name = identify(Path(spec)).name, spec, Path(spec).stem
    elif is_own(spec):
        name = Path(spec.rpartition(":")[2]).stem
    else:
        get_arch(spec)
    keys = {"model": model if name != model else None, "weights": weights, "calib": calib and str(calib)}
    return DraftModel(name, {key: value for key, value in keys.items() if value})


def draft(
    path: Path, models: Sequence[DraftModel], devices: Sequence[str] = (), progress: Progress | None = None
) -> tuple[str, GateReport]:
    """(the text of an edgemobile.toml for `path`, the run that measured its bounds).

    int8 TFLite files are measured on `devices`: for emulated ones an instruction budget is written. Raises
    EdgemobileError if a model has a problem, or if a name occurs twice.
    """
    names = [model.name for model in models]
    if len(set(names)) != len(names):
        raise EdgemobileError(f"two models are called {max(names, key=names.count)}: run ci init for one at a time")
    bare = _text(models, devices, {})
    report = run_gate(_loaded(path, bare), progress=progress)
    if problems := [check for check in report.checks if check.outcome not in (Outcome.PASSED, Outcome.SKIPPED)]:
        first = problems[0]
        where = " ".join(filter(None, (first.model, first.file, first.what)))
        raise EdgemobileError(f"{where}: {'; '.join(first.words) or first.outcome.value}. Nothing was written")
    text = _text(models, devices, {name: tuple(_bounds(report.checks, name)) for name in names})
    # Check the text as `ci` reads it: an error here must not reach the user.
    _loaded(path, text)
    return text, report


def _loaded(path: Path, text: str) -> GateConfig:
    return load_gate(ConfigFile(path, text, tomllib.loads(text)))


def _text(models: Sequence[DraftModel], devices: Sequence[str], bounds: Mapping[str, Sequence[str]]) -> str:
    lines = list(_HEAD)
    for model in models:
        keys = (f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in model.keys.items())
        lines += ["", f"[models.{_key(model.name)}]", *keys, *bounds.get(model.name, ())]
    for device in devices:
        lines += ["", f"[devices.{_key(device)}]", *_DEVICE]
    return "\n".join(lines) + "\n"


def _bounds(checks: Sequence[Check], model: str) -> Iterator[str]:
    ours = [check for check in checks if check.model == model and check.values]
    sizes = {_selector(check.file): _size(check.values["bytes"]) for check in ours if check.what == "size"}
    if sizes:
        yield f"size = {_inline(sizes)}"
    for precision in QUANTIZED:
        found = [
            check.values for check in ours if check.what == "outputs" and _selector(check.file).startswith(precision)
        ]
        if found:
            yield from _tolerances(precision, found)
    for place in dict.fromkeys(check.place for check in ours if check.what == "instructions"):
        counts = {
            _selector(check.file): _count(check.values["instructions"])
            for check in ours
            if (check.what, check.place) == ("instructions", place)
        }
        yield f"instructions.{_key(place)} = {_inline(counts)}"


def _tolerances(precision: str, found: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """Bounds of the outputs, if they are stricter than the built-in ones."""
    least = {
        "sqnr_db": math.floor(min(values["sqnr_db"] for values in found) - _SQNR_MARGIN_DB),
        "top1_agree": math.floor((min(values["top1_agree"] for values in found) - _ANSWERS_MARGIN) * 100) / 100,
    }
    stricter = {
        metric: bound for metric, bound in least.items() if bound > TOLERANCES[precision].get(metric, -math.inf)
    }
    if stricter:
        bounds = ", ".join(f"{metric} = {bound:g}" for metric, bound in stricter.items())
        yield f"tolerances.{precision} = {{ {bounds} }}"


def _selector(file: str) -> str:
    """The selector of one file of an export, MODEL-PRECISION.FORMAT: "int8.tflite"."""
    return next(
        f"{precision}.{name}"
        for precision, (name, format) in product(PRECISIONS, FORMATS.items())
        if file.endswith(f"-{precision}{format.suffix}")
    )


def _size(count: float) -> str:
    wanted = count * (1 + _SIZE_MARGIN)
    return f"{math.ceil(wanted / _MIB * 100) / 100} MiB" if wanted >= _MIB else f"{math.ceil(wanted / _KIB)} KiB"


def _count(count: float) -> str:
    return f"{math.ceil(count * (1 + _INSTRUCTION_MARGIN) / 1e4) / 100}M"


def _inline(values: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f'{_key(name)} = "{value}"' for name, value in values.items()) + " }"


def _key(name: str) -> str:
    """A TOML key: bare if allowed, else quoted."""
    bare = name and all(one.isascii() and (one.isalnum() or one in "-_") for one in name)
    return name if bare else json.dumps(name, ensure_ascii=False)
