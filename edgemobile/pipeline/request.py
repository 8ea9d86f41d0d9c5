"""What to export, and what came of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgemobile.devices.runtimes.latency import Latency
from edgemobile.errors import EdgemobileError
from edgemobile.loading.model_spec import is_checkpoint, is_program
from edgemobile.metrics.measures import checked_max_drop
from edgemobile.metrics.tolerances import Verdict
from edgemobile.pipeline.artifact import ManifestEntry
from edgemobile.pipeline.backends import PRECISIONS, backend_for
from edgemobile.quant.recipe import Recipe, Rule
from edgemobile.quant.recipes import RECIPES, read_recipe, recipe_for
from edgemobile.quant.targets import DEFAULT_TARGET, suited, target_for

__all__ = ["Checked", "ExportRequest", "ExportResult", "default_out", "recipe_of", "refuse_unused"]

# What says how int8 is made: by ours, and by any backend.
_OUR_INT8 = ("recipe", "hswish", "target", "keep_float", "unchecked_calib")
_ANY_INT8 = (*_OUR_INT8, "max_drop", "calib_images")


@dataclass(frozen=True)
class ExportRequest:
    """What to export. None takes the checkpoint's own value, or the model's where it has none.

    `model` is a reference model's name, a checkpoint of one, `package.module:factory`, or a saved torch.export program,
    FILE.pt2. `labels` is a list of class names, one a line; `preprocess` is a name of loading.presets, JSON, or a
    file of it.

    `calib` is an ImageFolder as a directory or a zip: int8 is calibrated on its train split and the files are checked
    on another, or on other images where it has no splits. Images that look wrong (noise, not normalised) are refused
    unless `unchecked_calib`. Without it int8 uses synthesised images for both, those stored in the package where they
    were made for just these weights, and float files are checked on low-frequency noise, as is everything of random
    weights.

    `recipe` None is the one that measured best for such images (quant.recipes).

    `max_drop` is how many points of top-1 int8 may lose, or, where labels are not known, in how many of 100 images it
    may differ from float. With `search` the layers of the highest cost stay in float until it does. `target` is a row
    of quant.targets: it says how ONNX stores int8 weights, and the manifest has its reasons. Files are checked as it
    computes them, also where this machine's kernels would saturate.

    With `embed_preprocess` the files take uint8 pixels and normalise them themselves.
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
    calib: Path | None = None
    calib_images: int = 128
    unchecked_calib: bool = False
    check_images: int = 200
    recipe: Recipe | None = None
    target: str = DEFAULT_TARGET
    max_drop: float | None = None
    search: bool = False
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
        """Of `quantize`, which makes int8 alone, the precisions of an export that it must not replace."""
        return () if "float32" in self.precisions else tuple(name for name in PRECISIONS if name not in self.precisions)

    def __post_init__(self) -> None:
        backend_for(self.backend, self.formats, self.precisions)
        for name in ("batch", "calib_images", "check_images", "threads"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise EdgemobileError(f"--{option} must be at least 1, found {getattr(self, name)}")
        target_for(self.target)
        if self.max_drop is not None:
            checked_max_drop(self.max_drop)
        if self.search and (self.max_drop is None or "int8" not in self.precisions or self.backend != "native"):
            raise EdgemobileError(
                "--search looks for int8 within a bound: give --int8 and --max-drop, and no --backend"
            )
        if self.unchecked_calib and self.calib is None:
            raise EdgemobileError("--unchecked-calib: only for images of --calib. Give them, or leave it out")
        if self.embed_preprocess and self.backend != "native":
            raise EdgemobileError(f"--embed-preprocess is for our own emitters: leave out --backend {self.backend}")


@dataclass(frozen=True)
class Checked:
    """A written file, run in its runtime.

    `accuracy` is top-1 where labels are known. `max_lsb` is the largest difference to the int8 reference arithmetic, in
    steps of the output's scale; None for other arithmetic. `strays` explains one that is unusually large. `config` is
    what the runtime was told so that it computes what the file's target computes, and `metrics_here` what this machine
    makes of the file without: None where that is the same. `latency` is always of the file as this machine runs it.
    """

    entry: ManifestEntry
    runtime: str
    verdict: Verdict
    latency: Latency
    accuracy: float | None = None
    max_lsb: int | None = None
    config: Mapping[str, str] = field(default_factory=dict)
    metrics_here: Mapping[str, float] | None = None
    strays: str | None = None


@dataclass(frozen=True)
class ExportResult:
    """What an export made. `images` says what the files were checked on; `notes` is what a reader should know.

    `recipe` is how int8 was made, with what a search added to it; None where it was not ours.
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

    @property
    def passed(self) -> bool:
        return all(file.verdict.passed for file in self.files)


def default_out(model: str) -> Path:
    """The folder a model is written to where none is named."""
    name = model.replace(":", ".")
    return Path(Path(name).stem if is_program(model) or is_checkpoint(model) else name)


def recipe_of(
    recipe: str | None, hswish: str, target: str, keep_float: tuple[str, ...], images: dict[str, Any], **fields: Any
) -> Recipe:
    """The recipe that the options of `export` and `quantize` add up to.

    `images` has `calib` and `calib_images`, which decide where no recipe is named. `fields` are fields of Recipe that
    take the place of the named recipe's; None changes nothing.
    """
    chosen = read_recipe(recipe or recipe_for(images["calib_images"], real=images["calib"] is not None))
    changes = {name: value for name, value in fields.items() if value is not None}
    rules = (*chosen.rules, *changes.pop("rules", ()), *(Rule(name, precision="float") for name in keep_float))
    chosen = replace(chosen, rules=rules, **changes)
    form: Any = hswish
    return suited(chosen, target) if form == "auto" else replace(chosen, hswish=form)


def refuse_unused(given: Collection[str], *, int8: bool, backend: str) -> None:
    """Raises EdgemobileError for options that would change nothing, as no int8 file is made, or not by us."""
    unused = [name for name in (_OUR_INT8 if int8 else _ANY_INT8) if name in given]
    if not unused or (int8 and backend == "native"):
        return
    options = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
    if not int8:
        raise EdgemobileError(f"{options}: only for int8 files, and none is asked for. Add --int8")
    raise EdgemobileError(
        f"{options}: only for our own int8, and --backend {backend} makes another. Leave out --backend"
    )
