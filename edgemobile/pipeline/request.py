"""What to export, and the result."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgemobile.devices.runtimes.latency import Latency
from edgemobile.errors import EdgemobileError
from edgemobile.loading.model_spec import is_checkpoint, is_model_file, is_program
from edgemobile.metrics.measures import checked_max_drop
from edgemobile.metrics.tolerances import Verdict
from edgemobile.pipeline.artifact import ManifestEntry
from edgemobile.pipeline.backends import PRECISIONS, backend_for
from edgemobile.quant.recipe import Recipe, Rule
from edgemobile.quant.recipes import RECIPES, read_recipe, recipe_for
from edgemobile.quant.targets import DEFAULT_TARGET, suited, target_for

__all__ = ["Checked", "ExportRequest", "ExportResult", "default_out", "recipe_of", "refuse_unused"]

# Options about int8: only for the native backend, and for any backend.
_NATIVE_INT8 = ("recipe", "hswish", "target", "keep_float", "unchecked_calib")
_ANY_INT8 = (*_NATIVE_INT8, "max_drop", "calib_images")


@dataclass(frozen=True)
class ExportRequest:
    """What to export. None means the value of the checkpoint, or of the model if the checkpoint has none.

    `model` is a reference model's name, a checkpoint of one, `package.module:factory`, a saved torch.export program,
    FILE.pt2, or a model file, FILE.onnx or FILE.tflite. `labels` is a file of class names, one per line; `preprocess`
    is a name of loading.presets, JSON, or a JSON file.

    `calib` is an ImageFolder as a directory or a zip: int8 is calibrated on its train split and the files are checked
    on another split, or on other images if it has no splits. Images that look wrong (noise, not normalized) are refused
    unless `unchecked_calib`. Without `calib`, int8 uses synthesized images for both, or the stored ones if they were
    made for exactly these weights. Float files, and all files with random weights, are checked on low-frequency noise.

    If `recipe` is None, the recipe with the best results for such images is used (quant.recipes). If it has trials, no
    further one starts after `minutes` (10 if None), and they need real images.

    `max_drop` is how many points of top-1 int8 may lose or, if labels are not known, on how many of 100 images it
    may differ from float. With `search`, the layers with the highest cost stay in float until the bound is met.
    `target` is a row of quant.targets: it determines how ONNX stores int8 weights, and the manifest gives its reasons.
    Files are checked as the target computes them, even if this machine's kernels would saturate.

    With `use_trained` the integers that `edgemobile finetune` trained for a checkpoint are its int8 files, if they are
    for the request's resolution and batch; without it, int8 is quantized from the weights.

    With `embed_preprocess` the files take uint8 pixels and normalize them. Channels that no output depends on are
    removed (lower.dead_channels) unless `keep_dead`.
    """

    model: str
    out: Path
    weights: str | None = None
    formats: tuple[str, ...] | None = None
    precisions: tuple[str, ...] = ("float32",)
    backend: str = "native"
    width: float | None = None
    res: int | None = None
    classes: int | None = None
    labels: Path | None = None
    preprocess: str | None = None
    batch: int = 1
    keep_dead: bool = False
    calib: Path | None = None
    calib_images: int = 128
    unchecked_calib: bool = False
    check_images: int = 200
    recipe: Recipe | None = None
    target: str = DEFAULT_TARGET
    max_drop: float | None = None
    search: bool = False
    minutes: float | None = None
    use_trained: bool = True
    embed_preprocess: bool = False
    threads: int = 1
    seed: int = 0
    overwrite: bool = False
    command: tuple[str, ...] = ()

    @property
    def chosen_recipe(self) -> Recipe:
        return self.recipe or RECIPES[recipe_for(self.calib_images, real=self.calib is not None)]

    @property
    def not_made(self) -> tuple[str, ...]:
        """The precisions of an export that `quantize`, which writes only int8, must not replace."""
        return () if "float32" in self.precisions else tuple(name for name in PRECISIONS if name not in self.precisions)

    def __post_init__(self) -> None:
        backend_for(self.backend, self.formats, self.precisions)
        for name in ("batch", "calib_images", "check_images", "threads"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise EdgemobileError(f"--{option} must be at least 1, found {getattr(self, name)}")
        if self.backend == "torch" and is_model_file(self.model):
            raise EdgemobileError(f"--backend torch is for models in PyTorch, found {self.model}: omit it")
        target_for(self.target)
        if self.max_drop is not None:
            checked_max_drop(self.max_drop)
        if self.search and (self.max_drop is None or "int8" not in self.precisions or self.backend != "native"):
            raise EdgemobileError("--search finds int8 within a bound: add --int8 and --max-drop, and omit --backend")
        self._check_trials()
        if self.unchecked_calib and self.calib is None:
            raise EdgemobileError("--unchecked-calib: only for images of --calib. Add --calib, or omit it")
        if self.embed_preprocess and self.backend != "native":
            raise EdgemobileError(f"--embed-preprocess is only for the native backend: omit --backend {self.backend}")

    def _check_trials(self) -> None:
        has_trials = "int8" in self.precisions and bool(self.chosen_recipe.trials)
        if self.minutes is not None and not has_trials:
            raise EdgemobileError("--minutes is for the trials of a recipe: add --int8 and --recipe best, or omit it")
        if self.minutes is not None and not 0 <= self.minutes < math.inf:
            raise EdgemobileError(f"--minutes must be a number from 0, found {self.minutes}")
        if has_trials and self.calib is None:
            raise EdgemobileError(
                f"recipe {self.chosen_recipe.name!r} is chosen on held-out calibration images, and synthetic ones "
                "mislead: give real ones with --calib"
            )


@dataclass(frozen=True)
class Checked:
    """A written file, run in its runtime.

    `accuracy` is top-1 if labels are known. `max_lsb` is the largest difference to the int8 reference arithmetic, in
    steps of the output's scale; None for other arithmetic. `tie_note` explains an unusually large one. `config` is
    the configuration with which the runtime computes what the file's target computes. `metrics_here` are the metrics
    on this machine without it; None if they are the same. `latency` is always measured as this machine runs the file.
    """

    entry: ManifestEntry
    runtime: str
    verdict: Verdict
    latency: Latency
    accuracy: float | None = None
    max_lsb: int | None = None
    config: Mapping[str, str] = field(default_factory=dict)
    metrics_here: Mapping[str, float] | None = None
    tie_note: str | None = None


@dataclass(frozen=True)
class ExportResult:
    """The result of an export. `images` describes what the files were checked on, and `reference` what they were
    compared with; `notes` are for the user.

    `recipe` is that of int8, with the additions of a search; None for other backends than native.
    """

    out: Path
    model: str
    source: str
    input_px: int
    images: str
    float_accuracy: float | None
    files: tuple[Checked, ...]
    recipe: Recipe | None = None
    notes: tuple[str, ...] = field(default=())
    reference: str = "PyTorch"

    @property
    def passed(self) -> bool:
        return all(file.verdict.passed for file in self.files)


def default_out(model: str) -> Path:
    """The default folder of a model."""
    name = model.replace(":", ".")
    is_file = is_program(model) or is_checkpoint(model) or is_model_file(model)
    return Path(Path(name).stem if is_file else name)


def recipe_of(
    recipe: str | None, hswish: str, target: str, keep_float: tuple[str, ...], images: dict[str, Any], **fields: Any
) -> Recipe:
    """The recipe from the options of `export` and `quantize`.

    `images` has `calib` and `calib_images`, which choose the recipe if none is given. `fields` are fields of Recipe
    that replace those of the recipe; None changes nothing.
    """
    chosen = read_recipe(recipe or recipe_for(images["calib_images"], real=images["calib"] is not None))
    changes = {name: value for name, value in fields.items() if value is not None}
    rules = (*chosen.rules, *changes.pop("rules", ()), *(Rule(name, precision="float") for name in keep_float))
    chosen = replace(chosen, rules=rules, **changes)
    form: Any = hswish
    return suited(chosen, target) if form == "auto" else replace(chosen, hswish=form)


def refuse_unused(given: Collection[str], *, int8: bool, backend: str) -> None:
    """Raises EdgemobileError for options without effect: no int8 file is written, or not by the native backend."""
    unused = [name for name in (_NATIVE_INT8 if int8 else _ANY_INT8) if name in given]
    if not unused or (int8 and backend == "native"):
        return
    options = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
    if not int8:
        raise EdgemobileError(f"{options}: only for int8 files, and none is requested. Add --int8")
    raise EdgemobileError(f"{options}: only for int8 of the native backend. Omit --backend {backend}")
