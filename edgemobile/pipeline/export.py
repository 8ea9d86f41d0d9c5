"""The main job: a model goes in, a folder of files that were run and compared comes out.

model + weights -> torch.export -> a route (edgemobile.pipeline.backends) -> files -> run in their runtimes
-> judge against PyTorch -> folder with manifest
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from edgemobile.devices.runtimes.latency import Latency, latency_ns
from edgemobile.devices.runtimes.sessions import Session, open_session
from edgemobile.errors import EdgemobileError
from edgemobile.exporters import FORMATS
from edgemobile.graph import Graph
from edgemobile.graph.embed import normalised, to_pixels
from edgemobile.graph.interpreter import run_real
from edgemobile.images.samples import Samples, from_blots, from_dataset, from_synthesis
from edgemobile.loading.model import Model, load_model
from edgemobile.lower import lower
from edgemobile.metrics.measures import checked_max_drop
from edgemobile.metrics.tolerances import TOLERANCES, Verdict, judge
from edgemobile.pipeline.artifact import Artifact, check_free, fresh_folder
from edgemobile.pipeline.backends import Emitted, Job, route_for
from edgemobile.pipeline.manifest import file_metadata, manifest
from edgemobile.quant.recipe import Recipe
from edgemobile.quant.recipes import RECIPES, recipe_for
from edgemobile.quant.sensitivity import Cost, rank
from edgemobile.quant.synthesize import STEPS, enough_images, synthesize
from edgemobile.quant.targets import target_for
from edgemobile.util.hashing import sha256_hex
from edgemobile.util.progress import Progress, Silent
from edgemobile.util.strict_json import to_json_text

__all__ = ["Checked", "ExportRequest", "ExportResult", "export", "ranking"]

_LATENCY_ROUNDS = 30
_RANKED_BATCH = 32
# The numpy reference is slow; this many images show an integer that differs.
_ORACLE_IMAGES = 16
_BLOT_IMAGES = 32
# To see what int8 does, fewer made images are enough than to calibrate it.
_MADE_CHECK_IMAGES = 16


@dataclass(frozen=True)
class ExportRequest:
    """What to export. None takes the checkpoint's own value, or the model's where it has none.

    `model` is a reference model's name, `package.module:factory`, or a saved torch.export program, FILE.pt2.
    `labels` is a list of class names, one a line; `preprocess` is a name of loading.presets, JSON, or a file of it.
    `calib` is an ImageFolder as a directory or a zip: int8 is calibrated on its train split and the files are checked
    on another, or on other images where it has no splits. Images that look wrong (noise, not normalised) are refused
    unless `unchecked_calib`. Without it int8 uses synthesised images for both, and float files are checked on
    random blots of colour, as is everything of random weights.

    `recipe` None is the one that measured best for such images (quant.recipes).

    `max_drop` is how many points of top-1 int8 may lose, or, where labels are not known, in how many of 100 images it
    may differ from float. With `search` the costliest layers stay in float until it does. `target` is a row of
    quant.targets: it says how ONNX stores int8 weights, and the manifest has its reasons.

    With `embed_preprocess` the files take uint8 pixels and normalise them themselves.
    """

    model: str
    out: Path
    weights: str | None = None
    formats: tuple[str, ...] | None = None
    precisions: tuple[str, ...] = ("float32",)
    via: str = "native"
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
    target: str = "cpu"
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

    def __post_init__(self) -> None:
        route_for(self.via, self.formats, self.precisions)
        for name in ("batch", "calib_images", "check_images", "threads"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise EdgemobileError(f"--{option} must be at least 1, found {getattr(self, name)}")
        target_for(self.target)
        if self.max_drop is not None:
            checked_max_drop(self.max_drop)
        if self.search and (self.max_drop is None or "int8" not in self.precisions or self.via != "native"):
            raise EdgemobileError("--search looks for int8 within a bound: give --int8 and --max-drop, and no --via")
        if self.embed_preprocess and self.via != "native":
            raise EdgemobileError(f"--embed-preprocess is for our own emitters: leave out --via {self.via}")


@dataclass(frozen=True)
class Checked:
    """A written file, run in its runtime.

    `accuracy` is top-1 where labels are known. `max_lsb` is the largest difference to the int8 reference arithmetic, in
    steps of the output's scale; None for other arithmetic.
    """

    artifact: Artifact
    runtime: str
    verdict: Verdict
    latency: Latency
    accuracy: float | None = None
    max_lsb: int | None = None


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


def export(request: ExportRequest, progress: Progress | None = None) -> ExportResult:
    """Export, run every file written, compare with PyTorch and write the folder `request.out`.

    A file that misses its tolerance is written all the same and said so in the result: the folder is what shows why.
    Raises EdgemobileError for bad input; then nothing is left behind.
    """
    check_free(request.out, overwrite=request.overwrite)
    progress = progress or Silent()
    route, formats = route_for(request.via, request.formats, request.precisions)
    model = _model(request, progress)
    samples = _samples(request, model, progress)
    metadata = partial(file_metadata, model, embed_preprocess=request.embed_preprocess)
    job = Job(
        model,
        samples,
        formats,
        request.precisions,
        request.chosen_recipe,
        metadata,
        progress,
        strict_calib=samples.real and not request.unchecked_calib,
        search_drop=request.max_drop if request.search else None,
        embed_preprocess=request.embed_preprocess,
        onnx=target_for(request.target).onnx,
    )
    emitted = route.run(job)
    with fresh_folder(request.out, overwrite=request.overwrite) as folder:
        artifacts = _write(model, emitted, folder)
        with progress.step("run PyTorch"):
            reference, samples = _reference(request, model, samples)
        result = ExportResult(
            out=request.out,
            model=model.name,
            source=model.source,
            input_px=model.preprocess.input_px,
            images=samples.described,
            float_accuracy=_accuracy(reference, samples.labels),
            recipe=emitted.recipe,
            files=_check(request, samples, reference, emitted.int8, artifacts, folder, progress),
            notes=(*_model_notes(request, model), *samples.notes, *emitted.notes),
        )
        (folder / "manifest.json").write_text(to_json_text(manifest(request, model, samples, result)), encoding="utf-8")
    return result


def ranking(request: ExportRequest, progress: Progress | None = None) -> list[Cost]:
    """What each tensor alone costs in int8, the costliest first, for the model and recipe of `request`."""
    progress = progress or Silent()
    model = _model(request, progress)
    samples = _samples(request, model, progress)
    with progress.step("rank the tensors"):
        return rank(lower(model.program, model.name), samples.batches(_RANKED_BATCH), request.chosen_recipe)


def _model(request: ExportRequest, progress: Progress) -> Model:
    with progress.step("load the model") as report:
        return load_model(
            request.model,
            request.weights,
            width=request.width,
            res=request.res,
            classes=request.classes,
            labels=request.labels,
            preprocess=request.preprocess,
            batch=request.batch,
            seed=request.seed,
            on_download=report,
        )


def _samples(request: ExportRequest, model: Model, progress: Progress) -> Samples:
    calibration = request.calib_images if "int8" in request.precisions else 1
    if request.calib is not None:
        with progress.step(f"read images of {request.calib.name}"):
            return from_dataset(
                request.calib,
                model.preprocess,
                model.labels,
                calibration=calibration,
                check=request.check_images,
                seed=request.seed,
                outputs=model.classes,
            )
    if "int8" not in request.precisions or request.weights == "random":
        check = min(request.check_images, _BLOT_IMAGES)
        return from_blots(model.preprocess, calibration=min(calibration, _BLOT_IMAGES), check=check, seed=request.seed)
    most = enough_images(model.preprocess.input_px)
    calibration, check = min(calibration, most), min(request.check_images, most, _MADE_CHECK_IMAGES)
    with progress.step("synthesise images", STEPS) as report:
        made = calibration + check
        images = synthesize(model.net, model.preprocess, images=made, seed=request.seed, progress=report)
    return from_synthesis(images, calibration=calibration, seed=request.seed)


def _reference(request: ExportRequest, model: Model, samples: Samples) -> tuple[np.ndarray, Samples]:
    """(PyTorch's logits, `samples` as the files take them: whole pixels where they normalise these themselves)."""
    if not request.embed_preprocess:
        return model.logits(samples.check), samples
    pixels = to_pixels(samples.check, model.preprocess)
    return model.logits(normalised(pixels, model.preprocess)), replace(samples, check=pixels)


def _model_notes(request: ExportRequest, model: Model) -> tuple[str, ...]:
    if request.weights != "random":
        return (*model.notes, *filter(None, (model.assumption,)))
    return (
        *model.notes,
        "random weights: good for size and latency; int8 is not held to a tolerance, nor is its distance a finding",
    )


def _write(model: Model, emitted: Emitted, folder: Path) -> list[Artifact]:
    """Write the files and labels.txt."""
    artifacts = []
    for (name, precision), data in emitted.files.items():
        row = FORMATS[name]
        file = f"{model.name}-{precision}{row.suffix}"
        (folder / file).write_bytes(data)
        ops = row.load().op_counts(data)
        replaced = precision == "int8" and emitted.recipe is not None and emitted.recipe.hswish == "relu"
        hswish = _hswish_form(ops, emitted.hardswish_count, "ReLU" if replaced else "delegated")
        artifacts.append(Artifact(file, name, precision, len(data), sha256_hex(data), ops, hswish))
    if model.labels is not None:
        (folder / "labels.txt").write_text("\n".join(model.labels) + "\n", encoding="utf-8")
    return artifacts


def _hswish_form(ops: Mapping[str, int], total: int, other: str) -> str:
    """How the model's hard-swishes are written: "21 fused", "21 delegated" (or whatever `other` is), or nothing."""
    fused = ops.get("HARD_SWISH", 0) + ops.get("HardSwish", 0)
    parts = ((fused, "fused"), (total - fused, other))
    return ", ".join(f"{count} {form}" for count, form in parts if count > 0)


def _check(
    request: ExportRequest,
    samples: Samples,
    reference: np.ndarray,
    int8: Graph | None,
    artifacts: list[Artifact],
    folder: Path,
    progress: Progress,
) -> tuple[Checked, ...]:
    """Run every file on the check images, judge it against `reference`, and time all of them in turns."""
    sessions = {artifact.file: open_session(folder / artifact.file, threads=request.threads) for artifact in artifacts}
    for session in sessions.values():
        session.settle(samples.check.shape[1])
    outputs = {}
    with progress.step("run the files", len(artifacts)) as report:
        for file, session in sessions.items():
            outputs[file] = session.run(samples.check)
            report(len(outputs))
        exact = None if int8 is None else run_real(int8, samples.check[:_ORACLE_IMAGES])
    with progress.step("measure latency"):
        prepared = {file: session.prepare(_one_batch(samples.check, session)) for file, session in sessions.items()}
        latencies = latency_ns(sessions, prepared, rounds=_LATENCY_ROUNDS)
    return tuple(
        Checked(
            artifact,
            f"{sessions[artifact.file].runtime} {sessions[artifact.file].version}",
            _judged(request, artifact.precision, reference, outputs[artifact.file], samples.labels),
            latencies[artifact.file],
            _accuracy(outputs[artifact.file], samples.labels),
            _max_lsb(int8, exact, outputs[artifact.file]) if artifact.precision == "int8" else None,
        )
        for artifact in artifacts
    )


def _judged(
    request: ExportRequest, precision: str, reference: np.ndarray, output: np.ndarray, labels: np.ndarray | None
) -> Verdict:
    """The verdict on a file by the table of tolerances and, for int8, by the request's own bound."""
    verdict = judge(reference, output, _tolerances(request, precision))
    if request.max_drop is None or precision != "int8":
        return verdict
    was, became = _accuracy(reference, labels), _accuracy(output, labels)
    if was is None or became is None:
        lost, what = 100 * (1 - verdict.metrics["top1_agree"]), "differs from float on"
    else:
        lost, what = 100 * (was - became), "loses"
    if lost <= request.max_drop:
        return verdict
    return replace(verdict, missed=(*verdict.missed, f"{what} {lost:.2f} in 100, --max-drop is {request.max_drop:g}"))


def _tolerances(request: ExportRequest, precision: str) -> Mapping[str, float]:
    """Untrained layers amplify whatever noise goes in: random weights are held to a bound in float only."""
    return {} if request.weights == "random" and precision in ("int8", "dynamic") else TOLERANCES[precision]


def _one_batch(images: np.ndarray, session: Session) -> np.ndarray:
    """As many images as the session's batch, repeated where there are fewer."""
    return np.resize(images, (session.input.shape[0], *images.shape[1:]))


def _max_lsb(graph: Graph | None, exact: np.ndarray | None, output: np.ndarray) -> int | None:
    """The largest difference of a file to the reference arithmetic, in steps of the output's scale."""
    if graph is None or exact is None:
        return None
    qparams = graph[graph.outputs[0]].qparams
    assert qparams is not None
    return int(np.rint(np.abs(output[: len(exact)] - exact) / qparams.scale[0]).max())


def _accuracy(logits: np.ndarray, labels: np.ndarray | None) -> float | None:
    return None if labels is None else float(np.mean(logits.argmax(axis=1) == labels))
