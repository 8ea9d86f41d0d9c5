"""Turns a traced model into files. One row per backend.

    native      lower -> Graph -> edgemobile's int8 and exporters: every format and precision, with the same integers
    torch       torch.onnx.export + onnxsim, int8 by onnxruntime's quantizer: ONNX, also for ops without a lowering
    tensorflow  lower -> Graph -> tf.function -> TFLiteConverter, int8 by its quantizer: TFLite

The libraries' exporters are for comparison, and for models that the native backend does not support.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from edgemobile.devices.runtimes.sessions import import_runtime, open_session
from edgemobile.devices.runtimes.table import default_runtime
from edgemobile.errors import Unsupported, missing
from edgemobile.exporters import FORMATS
from edgemobile.graph import Graph
from edgemobile.graph.checksums import checksums_metadata
from edgemobile.graph.embed import embed
from edgemobile.images.samples import Samples
from edgemobile.loading.model import Model, TorchModel
from edgemobile.loading.stored_images import stored_statistics
from edgemobile.model_file.metadata import TARGET
from edgemobile.quant.calibration import Calibration, calibrate, held_out, is_held_out
from edgemobile.quant.calibration_file import with_statistics
from edgemobile.quant.ptq import quantize
from edgemobile.quant.recipe import Recipe
from edgemobile.quant.sensitivity import search
from edgemobile.quant.targets import DEFAULT_TARGET, TARGETS, Target
from edgemobile.quant.trials import MINUTES, choose
from edgemobile.quant.weights_only import to_float16, to_int8_weights
from edgemobile.util.progress import Progress

__all__ = ["BACKENDS", "PRECISIONS", "Backend", "Emitted", "Job", "backend_for", "calibrated", "in_runtime"]

_FLOAT_FORMS: dict[str, Callable[[Graph], Graph]] = {
    "float32": lambda graph: graph,
    "float16": to_float16,
    "weight-only": to_int8_weights,
}
PRECISIONS = (*_FLOAT_FORMS, "int8")
_CALIBRATION_BATCH = 32


@dataclass(frozen=True)
class Job:
    """The input of a backend. `metadata`: precision -> the metadata of a file. `graph` is the lowered model; None for
    a backend that does not lower.

    With `strict_calib`, calibration images that do not look like the model's images are refused. `search_drop` turns on
    the search for layers to keep in float, until int8 loses at most so many points of top-1. After `minutes`, no
    further trial of the recipe starts. With `embed_preprocess` the files take raw pixels. `target` is the execution
    target. `trained_int8` is the int8 graph if the model comes with one; then nothing is quantized.
    """

    model: Model
    graph: Graph | None
    samples: Samples
    formats: Sequence[str]
    precisions: Sequence[str]
    recipe: Recipe
    metadata: Callable[[str], Mapping[str, str]]
    progress: Progress
    strict_calib: bool = True
    search_drop: float | None = None
    minutes: float = MINUTES
    embed_preprocess: bool = False
    target: Target = TARGETS[DEFAULT_TARGET]
    trained_int8: Graph | None = None

    def calibration_batches(self) -> list[np.ndarray]:
        return self.samples.batches(_CALIBRATION_BATCH)


@dataclass(frozen=True)
class Emitted:
    """The result of a backend: (format, precision) -> the file's bytes.

    `int8` is the integer graph of the int8 files, and `recipe` its recipe, for the native backend. `hardswish_count`
    is the number of hard-swish ops in the model.
    """

    files: Mapping[tuple[str, str], bytes]
    int8: Graph | None = None
    hardswish_count: int = 0
    notes: tuple[str, ...] = field(default=())
    recipe: Recipe | None = None


def calibrated(model: Model, graph: Graph, samples: Samples, *, strict: bool = False) -> Calibration:
    """`graph`, the lowered `model`, calibrated on the images for int8.

    For bundled weights and the package's own images, most statistics are read from the package.
    Raises EdgemobileError as quant.calibration.calibrate does.
    """
    calibration = calibrate(graph, samples.batches(_CALIBRATION_BATCH), strict=strict, largest=model.preprocess.largest)
    stored = None if samples.real else stored_statistics(model)
    return calibration if stored is None else with_statistics(calibration, stored)


def _native(job: Job) -> Emitted:
    graph = job.graph
    assert graph is not None
    graphs: dict[str, Graph] = {}
    recipe: Recipe | None
    notes: tuple[str, ...]
    recipe, notes = None, ()
    for precision in job.precisions:
        if precision == "int8" and job.trained_int8 is not None:
            graphs[precision] = job.trained_int8
        elif precision == "int8":
            calibration = calibrated(job.model, graph, job.samples, strict=job.strict_calib)
            tried, trial_notes = _tried(calibration, job)
            recipe, notes = _searched(calibration, replace(job, recipe=tried))
            quantized = quantize(calibration, recipe, progress=job.progress)
            graphs[precision], notes = quantized.graph, (*trial_notes, *notes, *quantized.notes)
        else:
            graphs[precision] = _FLOAT_FORMS[precision](graph)
    if job.embed_preprocess:
        graphs = {precision: embed(form, job.model.preprocess) for precision, form in graphs.items()}
    files = {}
    with job.progress.step("write the files", len(graphs) * len(job.formats)) as report:
        for precision, form in graphs.items():
            checksums = checksums_metadata(form.tensors) if precision == "int8" else {}
            metadata = {**job.metadata(precision), **checksums}
            for name in job.formats:
                options, target_entry = _of_target(job.target, name, precision)
                files[name, precision] = (
                    FORMATS[name].load().to_bytes(form, metadata={**metadata, **target_entry}, **options)
                )
                report(len(files))
    return Emitted(files, graphs.get("int8"), _hardswishes(graph), notes, recipe)


def _of_target(target: Target, format_name: str, precision: str) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """(options of the emitter for the target, the metadata entry that names it)."""
    options = target.onnx if format_name == "onnx" else {}
    named = format_name == "onnx" and precision == "int8" and target.needs_exact_sums
    return options, {TARGET: target.name} if named else {}


def _tried(calibration: Calibration, job: Job) -> tuple[Recipe, tuple[str, ...]]:
    """(the job's recipe with those of its trials that help, the result in words)."""
    if not job.recipe.trials:
        return job.recipe, ()
    with job.progress.step("try changes of the recipe") as report:
        chosen = choose(
            calibration,
            job.recipe,
            minutes=job.minutes,
            evaluate=partial(in_runtime, job.formats[0]),
            progress=report,
        )
    return chosen.recipe, (str(chosen),)


def _searched(calibration: Calibration, job: Job) -> tuple[Recipe, tuple[str, ...]]:
    """(the job's recipe with the float layers that its bound requires, a note on the result).

    The bound is checked on every fourth calibration image. During the search, calibration uses only the others.
    """
    if job.search_drop is None:
        return job.recipe, ()
    seen, images = held_out(calibration)
    labels = job.samples.calibration_labels
    with job.progress.step("search layers to keep in float") as report:
        found = search(
            seen,
            job.recipe,
            images=images,
            labels=None if labels is None else labels[is_held_out(len(labels))],
            max_drop=job.search_drop,
            evaluate=partial(in_runtime, job.formats[0]),
            progress=report,
        )
    lost = f"{found.drop:.2f} points" if found.drop is not None else f"{100 * (1 - found.agreement):.2f} answers in 100"
    kept = ", ".join(found.kept_float) or "none"
    note = f"search: {kept} kept in float; int8 then loses {lost} on {len(images)} held-out calibration images"
    return found.recipe, (note,)


def in_runtime(format_name: str, graph: Graph, images: np.ndarray) -> np.ndarray:
    """The outputs f32[N,values] of `graph` as a file of this format, in its runtime."""
    return open_session(FORMATS[format_name].load().to_bytes(graph, metadata={})).rows(images)


def _torch(job: Job) -> Emitted:
    from edgemobile.exporters import torch_onnx

    model = job.model
    assert isinstance(model, TorchModel)
    px = model.preprocess.input_px
    with job.progress.step("torch.onnx.export"):
        data = torch_onnx.to_bytes(model.program, (model.batch, 3, px, px), metadata=job.metadata("float32"))
    files = {("onnx", "float32"): data}
    if "int8" in job.precisions:
        with job.progress.step("onnxruntime's quantizer"):
            batches = [images.transpose(0, 3, 1, 2) for images in job.samples.batches(model.batch)]
            full = [images for images in batches if len(images) == model.batch]
            files["onnx", "int8"] = torch_onnx.quantize_static(data, full, metadata=job.metadata("int8"))
    return Emitted(files)


def _tensorflow(job: Job) -> Emitted:
    from edgemobile.exporters import tensorflow

    graph = job.graph
    assert graph is not None
    files = {}
    for precision in job.precisions:
        with job.progress.step(f"TFLiteConverter, {precision}"):
            representative = job.calibration_batches() if precision == "int8" else None
            files["tflite", precision] = tensorflow.to_bytes(
                graph, metadata=job.metadata(precision), representative=representative
            )
    return Emitted(files, hardswish_count=_hardswishes(graph))


def _hardswishes(graph: Graph) -> int:
    return graph.op_counts().get("hardswish", 0)


@dataclass(frozen=True)
class Backend:
    """One row: the formats and precisions that a backend can write, and the function that writes them.

    `needs` are (package, the extra that installs it), in addition to those that write and run each format. `lowers`:
    whether it starts from the lowered graph of the model.
    """

    formats: tuple[str, ...]
    precisions: tuple[str, ...]
    run: Callable[[Job], Emitted]
    needs: tuple[tuple[str, str], ...]
    lowers: bool = True

    def check_installed(self, formats: Sequence[str]) -> None:
        """Raises MissingExtra for missing packages, before an export to `formats` begins."""
        for package, extra in self.needs:
            if importlib.util.find_spec(package) is None:
                raise missing(package, extra)
        for name in formats:
            FORMATS[name].load()
            import_runtime(default_runtime(name))


_TORCH = ("torch", "export")
BACKENDS = {
    "native": Backend(tuple(FORMATS), PRECISIONS, _native, (_TORCH,)),
    "torch": Backend(
        ("onnx",), ("float32", "int8"), _torch, (_TORCH, ("onnxscript", "export"), ("onnxsim", "export")), lowers=False
    ),
    "tensorflow": Backend(("tflite",), ("float32", "int8"), _tensorflow, (_TORCH, ("tensorflow", "tensorflow"))),
}


def backend_for(name: str, formats: Sequence[str] | None, precisions: Sequence[str]) -> tuple[Backend, tuple[str, ...]]:
    """(the backend's row, the formats to write: all it has if `formats` is None).

    Raises Unsupported for anything that the backend cannot write.
    """
    if name not in BACKENDS:
        raise Unsupported(f"unknown backend {name!r}. Known: {', '.join(BACKENDS)}")
    row = BACKENDS[name]
    formats = row.formats if formats is None else tuple(formats)
    for what, wanted, known in (("format", formats, row.formats), ("precision", precisions, row.precisions)):
        unknown = [one for one in wanted if one not in known]
        if unknown or not wanted:
            found = ", ".join(unknown) or "(none)"
            raise Unsupported(f"{what} {found} cannot be written by the backend {name}. Allowed: {', '.join(known)}")
    return row, formats
