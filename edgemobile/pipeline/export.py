"""Exports a model to a folder of files that were run and compared with it.

model + weights -> torch.export -> a backend (pipeline.backends) -> files -> run in their runtimes
-> judge against PyTorch, or against the file that was the model (pipeline.check) -> folder with manifest
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from edgemobile.accuracy.doubts import TRIED_IMAGES, better_tried, guessing
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.exporters import FORMATS
from edgemobile.exporters.model_files import model_file
from edgemobile.graph import Graph
from edgemobile.graph.embed import normalised, to_pixels
from edgemobile.images.dataset import Dataset, open_dataset
from edgemobile.images.samples import Samples, from_dataset, from_noise, from_package, from_synthesis
from edgemobile.loading.checkpoint import CHECK_IMAGES
from edgemobile.loading.file_model import load_file
from edgemobile.loading.model import Model, TorchModel, load_model
from edgemobile.loading.model_spec import is_checkpoint, is_model_file
from edgemobile.loading.stored_images import CALIBRATION_IMAGES, stored_images
from edgemobile.loading.trained_integers import trained_integers
from edgemobile.lower.dead_channels import removed_channels, without_dead_channels
from edgemobile.lower.hints import faint
from edgemobile.metrics.outputs import most_images, not_a_classifier
from edgemobile.model_file.model_file import ModelFile
from edgemobile.pipeline.artifact import MANIFEST_FILE, ManifestEntry, check_free, fresh_folder
from edgemobile.pipeline.backends import Emitted, Job, backend_for, calibrated, in_runtime
from edgemobile.pipeline.check import accuracy, check, file_notes
from edgemobile.pipeline.manifest import file_metadata, manifest
from edgemobile.pipeline.other_files import write_other_files
from edgemobile.pipeline.request import ExportRequest, ExportResult
from edgemobile.preprocess import Preprocess
from edgemobile.quant.calibration import Calibration, refuse_unmatched
from edgemobile.quant.explain import Explanation, explain
from edgemobile.quant.sensitivity import Cost, rank
from edgemobile.quant.synthesize import STEPS, enough_images, synthesize
from edgemobile.quant.targets import target_for
from edgemobile.quant.trials import MINUTES
from edgemobile.util.progress import Progress, Silent
from edgemobile.util.strict_json import to_json_text

__all__ = ["explanation", "export", "ranking"]

_NOISE_IMAGES = 32
# Checking int8 needs fewer synthetic images than calibrating it.
_SYNTHETIC_CHECK_IMAGES = 16


def export(request: ExportRequest, progress: Progress | None = None) -> ExportResult:
    """Export, run every file written, compare with PyTorch and write the folder `request.out`.

    A file that misses its tolerance is still written, because it helps to find the cause, and the result reports it.
    Raises EdgemobileError for bad input; then no files are left behind.
    """
    backend, formats = backend_for(request.backend, request.formats, request.precisions)
    check_free(request.out, overwrite=request.overwrite, keep=request.not_made)
    calib = _opened(request.calib)
    backend.check_installed(formats)
    progress = progress or Silent()
    model = _model(request, progress)
    graph, removed = _lowered(request, model, progress) if backend.lowers else (None, {})
    _refuse_classifier_options(request, model)
    trained, trained_note = _trained_int8(request, model)
    original, request = request, replace(request, check_images=most_images(model.outputs, request.check_images))
    samples = _samples(request, calib, model, progress, calibrating=trained is None)
    if samples.class_names is not None:
        model = replace(model, labels=samples.class_names)
    metadata = partial(
        file_metadata, model, embed_preprocess=request.embed_preprocess, removed_channels=sum(removed.values())
    )
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
        minutes=MINUTES if request.minutes is None else request.minutes,
        embed_preprocess=request.embed_preprocess,
        target=target_for(request.target),
        trained_int8=trained,
    )
    emitted = backend.run(job)
    with fresh_folder(request.out, overwrite=request.overwrite, keep=request.not_made) as folder:
        entries, written = _write(model, emitted, folder)
        with progress.step(f"run {model.reference}"):
            reference, samples = _reference(request, model, samples)
        doubts = _doubts(request, calib, model, samples, reference, progress)
        files = check(request, model, samples, reference, emitted.int8, entries, written, progress)
        result = ExportResult(
            out=request.out,
            model=model.name,
            source=model.source,
            reference=model.reference,
            input_px=model.preprocess.input_px,
            images=samples.described,
            float_accuracy=accuracy(reference, samples.labels),
            recipe=emitted.recipe,
            files=files,
            notes=(
                *_model_notes(model),
                *_fewer_check_images(original, model, samples),
                *filter(None, (faint(reference),)),
                *doubts,
                *samples.notes,
                *_too_few_to_judge(request, samples),
                *_removed_note(removed),
                *trained_note,
                *emitted.notes,
                *file_notes(request, model, files),
            ),
        )
        others = write_other_files(
            model, entries, written, folder, name=request.out.resolve().name, threads=request.threads
        )
        facts = manifest(request, model, samples, result, others, removed)
        (folder / MANIFEST_FILE).write_text(to_json_text(facts), encoding="utf-8")
    return result


def ranking(request: ExportRequest, progress: Progress | None = None) -> list[Cost]:
    """The cost of each tensor when it alone is int8, highest first, for the model and recipe of `request`."""
    progress = progress or Silent()
    _refuse_trials(request)
    calibration = calibration_of(request, progress)
    with progress.step("rank the tensors"):
        return rank(calibration, request.chosen_recipe)


def explanation(request: ExportRequest, progress: Progress | None = None) -> Explanation:
    """Where the noise of int8 is, and why, for the model and recipe of `request`."""
    progress = progress or Silent()
    _refuse_trials(request)
    calibration = calibration_of(request, progress)
    with progress.step("explain the noise"):
        evaluate = partial(in_runtime, _explained_format(request))
        return explain(calibration, request.chosen_recipe, evaluate=evaluate)


def _explained_format(request: ExportRequest) -> str:
    _, formats = backend_for(request.backend, request.formats, request.precisions)
    return formats[0]


def _refuse_trials(request: ExportRequest) -> None:
    if request.chosen_recipe.trials:
        raise Unsupported(
            f"--rank and --explain: recipe {request.chosen_recipe.name!r} is chosen by trials. Quantize with it first, "
            'save "recipe" of its manifest.json to a file, and give that with --recipe'
        )


def calibration_of(request: ExportRequest, progress: Progress | None = None) -> Calibration:
    """The model of `request` with the images that its int8 files are calibrated on."""
    progress = progress or Silent()
    calib = _opened(request.calib)
    model = _model(request, progress)
    graph, _ = _lowered(request, model, progress)
    samples = _samples(request, calib, model, progress)
    return calibrated(model, graph, samples)


def _model(request: ExportRequest, progress: Progress) -> Model:
    with progress.step("load the model") as report:
        if is_model_file(request.model):
            return load_file(
                request.model,
                res=request.res,
                batch=request.batch,
                labels=request.labels,
                preprocess=request.preprocess,
                weights=request.weights,
                width=request.width,
                classes=request.classes,
            )
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


def _lowered(request: ExportRequest, model: Model, progress: Progress) -> tuple[Graph, dict[str, int]]:
    """(the model as a graph, layer -> how many dead channels it lost).

    Raises EdgemobileError for a rule of the recipe that matches no layer, before the calibration.
    """
    with progress.step("lower to a graph"):
        whole = model.graph()
        graph = whole if request.keep_dead else without_dead_channels(whole)
    if "int8" in request.precisions and request.backend == "native":
        refuse_unmatched(request.chosen_recipe, graph)
    return graph, removed_channels(whole, graph)


def _refuse_classifier_options(request: ExportRequest, model: Model) -> None:
    """Raises Unsupported for options that are only for classifiers, if the model is not one."""
    if model.is_classifier:
        return
    given = {"--max-drop": request.max_drop, "--labels": request.labels if model.postprocess is None else None}
    for option in (name for name, value in given.items() if value is not None):
        raise Unsupported(f"{option}: {not_a_classifier(model.name, [output.words for output in model.outputs])}")


def _fewer_check_images(request: ExportRequest, model: Model, samples: Samples) -> Iterator[str]:
    """The note that the files are checked on fewer images than requested, because their outputs are large."""
    most, values = most_images(model.outputs, request.check_images), sum(output.size for output in model.outputs)
    if len(samples.check) == most < request.check_images:
        yield f"checked on {most} images instead of {request.check_images}: each has {values:,} output values"


def _opened(calib: Path | None) -> Dataset | None:
    """Open the images before the work, so that a missing folder is reported at once."""
    return None if calib is None else open_dataset(calib)


def _trained_int8(request: ExportRequest, model: Model) -> tuple[Graph | None, tuple[str, ...]]:
    """(the int8 graph that was trained for the checkpoint, if the request can use it; a note about it)."""
    path = Path(request.weights or request.model)
    if "int8" not in request.precisions or request.backend != "native" or not is_checkpoint(path.name):
        return None, ()
    found = trained_integers(path, model.sha256, model.name)
    if found is None:
        return None, ()
    graph, file = found
    shape = graph[graph.inputs[0]].shape
    wanted = (model.batch, model.preprocess.input_px, model.preprocess.input_px, 3)
    if shape != wanted:
        return None, (f"{file} next to {path.name} is not used: it is for images of {list(shape)}, not {list(wanted)}",)
    if not request.use_trained:
        return None, (f"{file} next to {path.name} is not used: an option chooses another quantization",)
    return graph, (f"int8 has the integers trained with {path.name}: {file}. No calibration was needed",)


def _samples(
    request: ExportRequest, calib: Dataset | None, model: Model, progress: Progress, *, calibrating: bool = True
) -> Samples:
    calibration = request.calib_images if calibrating and "int8" in request.precisions else 1
    if calib is not None:
        with progress.step(f"read images of {calib.path.name}"):
            return from_dataset(
                calib,
                model.preprocess,
                model.labels if model.is_classifier else None,
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
    if not isinstance(model, TorchModel):
        raise EdgemobileError(
            f"{request.model}: a file has no batch-norm statistics to synthesize calibration images from. Give real "
            "ones: --calib DIR|ZIP (an ImageFolder)"
        )
    most = enough_images(model.preprocess.input_px)
    calibration, checked = min(calibration, most), min(request.check_images, most, _SYNTHETIC_CHECK_IMAGES)
    if (stored := stored_images(CALIBRATION_IMAGES, model)) is not None:
        return from_package(
            stored, CHECK_IMAGES, model.preprocess, calibrate_on=calibration, check_on=checked, seed=request.seed
        )
    with progress.step("synthesize images", STEPS) as report:
        count = calibration + checked
        images = synthesize(model.net, model.preprocess, images=count, seed=request.seed, progress=report)
    return from_synthesis(images, calibration=calibration, seed=request.seed)


def _reference(request: ExportRequest, model: Model, samples: Samples) -> tuple[np.ndarray, Samples]:
    """(the outputs of the model, `samples` as the files take them: raw pixels if the files normalize them)."""
    if not request.embed_preprocess:
        return model.rows(samples.check), samples
    pixels = to_pixels(samples.check, model.preprocess)
    return model.rows(normalised(pixels, model.preprocess)), replace(samples, check=pixels)


def _model_notes(model: Model) -> tuple[str, ...]:
    if not model.random:
        return (*model.notes, *filter(None, (model.assumption,)))
    return (
        *model.notes,
        "random weights: only for size and latency; int8 is not checked against a tolerance",
    )


def _doubts(
    request: ExportRequest,
    calib: Dataset | None,
    model: Model,
    samples: Samples,
    reference: np.ndarray,
    progress: Progress,
) -> tuple[str, ...]:
    """A note on what to check if the accuracy of PyTorch itself is far lower than expected."""
    if samples.labels is None or model.random or calib is None or not model.is_classifier:
        return ()

    def load(preprocess: Preprocess) -> tuple[np.ndarray, np.ndarray]:
        options = {"calibration": 1, "check": TRIED_IMAGES, "seed": request.seed, "outputs": model.classified()}
        read = from_dataset(calib, preprocess, model.labels, **options)
        assert read.labels is not None
        return read.check, read.labels

    with progress.step("check the preprocessing"):
        found = better_tried(model, load)
    if found is None:
        correct = int(np.sum(reference.argmax(axis=1) == samples.labels))
        found = guessing(correct, samples.labels)
        found = found and f"{model.reference} is {found}"
    return () if found is None else (found,)


def _too_few_to_judge(request: ExportRequest, samples: Samples) -> Iterator[str]:
    """The note that there are too few check images to measure a loss as small as --max-drop."""
    one = 100 / len(samples.check)
    if request.max_drop is not None and 0 < request.max_drop < one:
        yield (
            f"--max-drop {request.max_drop:g} is less than one answer: each of {len(samples.check)} check images is "
            f"{one:.2g} points. Use --check-images {math.ceil(100 / request.max_drop)} or more"
        )


def _removed_note(removed: Mapping[str, int]) -> Iterator[str]:
    if removed:
        worst = max(removed, key=lambda layer: removed[layer])
        yield (
            f"dead channels removed: {sum(removed.values())} in {len(removed)} layers, most in {worst} "
            f"({removed[worst]}); the outputs do not depend on them. --keep-dead keeps them"
        )


def _write(model: Model, emitted: Emitted, folder: Path) -> tuple[list[ManifestEntry], dict[str, ModelFile]]:
    """Write the model files: (the manifest's entry of each, the files by name)."""
    entries, written = [], {}
    for (name, precision), data in emitted.files.items():
        row = FORMATS[name]
        file = f"{model.name}-{precision}{row.suffix}"
        (folder / file).write_bytes(data)
        written[file] = model_file(folder / file, data)
        ops = row.load().op_counts(data)
        replaced = precision == "int8" and emitted.recipe is not None and emitted.recipe.hswish == "relu"
        hswish = _hswish_form(ops, emitted.hardswish_count, "ReLU" if replaced else "delegated")
        entries.append(ManifestEntry(file, name, precision, len(data), written[file].sha256, ops, hswish))
    return entries, written


def _hswish_form(ops: Mapping[str, int], total: int, other: str) -> str:
    """How the model's hard-swish ops are expressed: "21 fused", "21 delegated" (or as in `other`), or ""."""
    fused = ops.get("HARD_SWISH", 0) + ops.get("HardSwish", 0)
    parts = ((fused, "fused"), (total - fused, other))
    return ", ".join(f"{count} {form}" for count, form in parts if count > 0)
