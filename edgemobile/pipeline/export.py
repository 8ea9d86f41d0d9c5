"""The main job: a model goes in, a folder of files that were run and compared comes out.

model + weights -> torch.export -> a backend (pipeline.backends) -> files -> run in their runtimes
-> judge against PyTorch (pipeline.check) -> folder with manifest
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from edgemobile.accuracy.doubts import TRIED_IMAGES, better_tried, guessing
from edgemobile.exporters import FORMATS
from edgemobile.graph import Graph
from edgemobile.graph.embed import normalised, to_pixels
from edgemobile.images.dataset import Dataset, open_dataset
from edgemobile.images.samples import Samples, from_dataset, from_noise, from_package, from_synthesis
from edgemobile.loading.checkpoint import CHECK_IMAGES
from edgemobile.loading.model import Model, load_model
from edgemobile.loading.stored_images import CALIBRATION_IMAGES, stored_images
from edgemobile.lower import lower
from edgemobile.lower.hints import faint
from edgemobile.pipeline.artifact import Artifact, check_free, fresh_folder
from edgemobile.pipeline.backends import Emitted, Job, backend_for
from edgemobile.pipeline.check import accuracy, check, file_notes
from edgemobile.pipeline.manifest import file_metadata, manifest
from edgemobile.pipeline.request import ExportRequest, ExportResult
from edgemobile.preprocess import Preprocess
from edgemobile.quant.calibration import calibrate, refuse_unmatched
from edgemobile.quant.sensitivity import Cost, rank
from edgemobile.quant.synthesize import STEPS, enough_images, synthesize
from edgemobile.quant.targets import target_for
from edgemobile.util.hashing import sha256_hex
from edgemobile.util.progress import Progress, Silent
from edgemobile.util.strict_json import to_json_text

__all__ = ["export", "ranking"]

_RANKED_BATCH = 32
_NOISE_IMAGES = 32
# To see what int8 does, fewer synthetic images are enough than to calibrate it.
_MADE_CHECK_IMAGES = 16


def export(request: ExportRequest, progress: Progress | None = None) -> ExportResult:
    """Export, run every file written, compare with PyTorch and write the folder `request.out`.

    A file that misses its tolerance is written all the same and said so in the result: the folder is what shows why.
    Raises EdgemobileError for bad input; then nothing is left behind.
    """
    backend, formats = backend_for(request.backend, request.formats, request.precisions)
    check_free(request.out, overwrite=request.overwrite, keep=request.not_made)
    calib = _opened(request.calib)
    backend.check_installed(formats)
    progress = progress or Silent()
    model = _model(request, progress)
    graph = _lowered(request, model, progress) if backend.lowers else None
    samples = _samples(request, calib, model, progress)
    metadata = partial(file_metadata, model, embed_preprocess=request.embed_preprocess)
    job = Job(
        model,
        graph,
        samples,
        formats,
        request.precisions,
        request.chosen_recipe,
        metadata,
        progress,
        strict_calib=samples.real and not request.unchecked_calib,
        search_drop=request.max_drop if request.search else None,
        embed_preprocess=request.embed_preprocess,
        target=target_for(request.target),
    )
    emitted = backend.run(job)
    with fresh_folder(request.out, overwrite=request.overwrite, keep=request.not_made) as folder:
        artifacts = _write(model, emitted, folder)
        with progress.step("run PyTorch"):
            reference, samples = _reference(request, model, samples)
        doubts = _doubts(request, calib, model, samples, reference, progress)
        files = check(request, model, samples, reference, emitted.int8, artifacts, folder, progress)
        result = ExportResult(
            out=request.out,
            model=model.name,
            source=model.source,
            input_px=model.preprocess.input_px,
            images=samples.described,
            float_accuracy=accuracy(reference, samples.labels),
            recipe=emitted.recipe,
            files=files,
            notes=(
                *_model_notes(model),
                *filter(None, (faint(reference),)),
                *doubts,
                *samples.notes,
                *emitted.notes,
                *file_notes(request, model, files),
            ),
        )
        (folder / "manifest.json").write_text(to_json_text(manifest(request, model, samples, result)), encoding="utf-8")
    return result


def ranking(request: ExportRequest, progress: Progress | None = None) -> list[Cost]:
    """What each tensor alone costs in int8, the highest first, for the model and recipe of `request`."""
    progress = progress or Silent()
    calib = _opened(request.calib)
    model = _model(request, progress)
    graph = _lowered(request, model, progress)
    samples = _samples(request, calib, model, progress)
    with progress.step("rank the tensors"):
        return rank(calibrate(graph, samples.batches(_RANKED_BATCH)), request.chosen_recipe)


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


def _lowered(request: ExportRequest, model: Model, progress: Progress) -> Graph:
    """Raises EdgemobileError for a rule of the recipe that matches no layer, before anything is calibrated."""
    with progress.step("lower to a graph"):
        graph = lower(model.program, model.name)
    if "int8" in request.precisions and request.backend == "native":
        refuse_unmatched(request.chosen_recipe, graph)
    return graph


def _opened(calib: Path | None) -> Dataset | None:
    """Opened before the work, so that nobody waits to hear that there is no such folder."""
    return None if calib is None else open_dataset(calib)


def _samples(request: ExportRequest, calib: Dataset | None, model: Model, progress: Progress) -> Samples:
    calibration = request.calib_images if "int8" in request.precisions else 1
    if calib is not None:
        with progress.step(f"read images of {calib.path.name}"):
            return from_dataset(
                calib,
                model.preprocess,
                model.labels,
                calibration=calibration,
                check=request.check_images,
                seed=request.seed,
                outputs=model.classes,
            )
    if "int8" not in request.precisions or model.random:
        checked = min(request.check_images, _NOISE_IMAGES)
        return from_noise(
            model.preprocess, calibration=min(calibration, _NOISE_IMAGES), check=checked, seed=request.seed
        )
    most = enough_images(model.preprocess.input_px)
    calibration, checked = min(calibration, most), min(request.check_images, most, _MADE_CHECK_IMAGES)
    if (stored := stored_images(CALIBRATION_IMAGES, model)) is not None:
        return from_package(
            stored, CHECK_IMAGES, model.preprocess, calibrate_on=calibration, check_on=checked, seed=request.seed
        )
    with progress.step("synthesise images", STEPS) as report:
        made = calibration + checked
        images = synthesize(model.net, model.preprocess, images=made, seed=request.seed, progress=report)
    return from_synthesis(images, calibration=calibration, seed=request.seed)


def _reference(request: ExportRequest, model: Model, samples: Samples) -> tuple[np.ndarray, Samples]:
    """(PyTorch's logits, `samples` as the files take them: whole pixels where they normalise these themselves)."""
    if not request.embed_preprocess:
        return model.logits(samples.check), samples
    pixels = to_pixels(samples.check, model.preprocess)
    return model.logits(normalised(pixels, model.preprocess)), replace(samples, check=pixels)


def _model_notes(model: Model) -> tuple[str, ...]:
    if not model.random:
        return (*model.notes, *filter(None, (model.assumption,)))
    return (
        *model.notes,
        "random weights: good for size and latency; int8 is not held to a tolerance, nor is its distance a finding",
    )


def _doubts(
    request: ExportRequest,
    calib: Dataset | None,
    model: Model,
    samples: Samples,
    reference: np.ndarray,
    progress: Progress,
) -> tuple[str, ...]:
    """What to look at where PyTorch itself is right far less often than it could be."""
    if samples.labels is None or model.random or calib is None:
        return ()

    def load(preprocess: Preprocess) -> tuple[np.ndarray, np.ndarray]:
        told = {"calibration": 1, "check": TRIED_IMAGES, "seed": request.seed, "outputs": model.classes}
        shown = from_dataset(calib, preprocess, model.labels, **told)
        assert shown.labels is not None
        return shown.check, shown.labels

    with progress.step("check what is assumed"):
        found = better_tried(model, load)
    if found is None:
        correct = int(np.sum(reference.argmax(axis=1) == samples.labels))
        found = guessing(correct, samples.labels)
        found = found and f"PyTorch is {found}"
    return () if found is None else (found,)


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
