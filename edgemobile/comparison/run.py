"""Compares files with a reference: whether the outputs match, at which layer a file first diverges, and why.

The reference is a model in PyTorch or a file. The others are files of any format and precision; each runs on every
target that can run it. The outputs are checked against the table in metrics.tolerances. Layers are compared by name
(comparison.layers), and the first that diverges is tested for every known mistake (comparison.causes).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from pathlib import Path

import numpy as np

from edgemobile.comparison.causes import Cause, Normalisation, likely_cause
from edgemobile.comparison.device_vs_host import device_vs_host
from edgemobile.comparison.integers import compare_integers, same_integers
from edgemobile.comparison.layers import LayerParity, RecordedActivations, compare_layers, first_diverging
from edgemobile.comparison.metadata_checks import StatedMetadata, check_metadata, in_px
from edgemobile.comparison.observing import (
    ExecutionTarget,
    checked,
    graph_of,
    local_targets,
    observe,
    output_steps,
    outputs_of,
)
from edgemobile.comparison.remote import opened_targets
from edgemobile.comparison.report import FileParity, ParityReport
from edgemobile.comparison.stored_numbers import StoredNumbers, against_file, against_float
from edgemobile.devices.host.saturation import found_here, note_on_target, target_elsewhere
from edgemobile.devices.host.transport import DeviceUnreachable
from edgemobile.devices.runtimes.sessions import import_runtime
from edgemobile.errors import EdgemobileError, MissingExtra, Unsupported, first_few
from edgemobile.exporters import FILE_SUFFIXES
from edgemobile.exporters.model_files import read_model_file
from edgemobile.graph import Graph, GraphError
from edgemobile.graph.affine import quantize
from edgemobile.graph.embed import normalised, outside, to_pixels
from edgemobile.graph.interpreter import run
from edgemobile.graph.renaming import by_path
from edgemobile.images.samples import from_dataset, from_noise, from_package, from_synthesis
from edgemobile.loading.checkpoint import CHECK_IMAGES, bundled, identify, load_weights
from edgemobile.loading.keras_file import keras_file, source_sha256
from edgemobile.loading.model import TorchModel, load_model
from edgemobile.loading.model_spec import CHECKPOINT_SUFFIXES, is_keras, is_program
from edgemobile.loading.presets import described
from edgemobile.loading.stored_images import CALIBRATION_IMAGES, stored_images
from edgemobile.lower.hints import faint
from edgemobile.metrics.measures import METRICS, measure
from edgemobile.metrics.outputs import Output, is_classifier, most_images
from edgemobile.metrics.tolerances import (
    QUANTIZED,
    TABLE,
    Tolerance,
    Verdict,
    bounded,
    bounds_of,
    judge_rows,
    most_steps,
    tolerance,
    untrained,
)
from edgemobile.model_file.metadata import (
    MODEL,
    REMOVED_CHANNELS,
    SOURCE_PREPROCESS,
    WEIGHTS_SHA256,
    preprocess_in,
)
from edgemobile.model_file.model_file import ModelFile
from edgemobile.model_file.precision import takes_pixels
from edgemobile.models.arch import get_arch
from edgemobile.preprocess import IMAGENET, Preprocess, at_resolution
from edgemobile.quant.synthesize import STEPS, synthesize
from edgemobile.util.progress import Progress, Silent

__all__ = ["ParityRequest", "Reference", "load_reference", "parity"]

# Layers are run again one by one in numpy, and a few images are enough to find one that differs.
_LAYER_IMAGES, _LAYER_PX = 4, 128
_SHOWN_NAMES = 8
# If saturation leaves an SQNR below this, it costs accuracy.
_CUT_DB = 25.0
# A few findings are enough if a whole file is damaged.
_SHOWN_FINDINGS = 6


@dataclass(frozen=True)
class ParityRequest:
    """The files to compare, and the images and targets to compare them on.

    `ref` is a reference model's name, `package.module:factory`, a checkpoint (with `arch`), a .pt2, or a file like the
    `others`. `data` is an ImageFolder as a directory or a zip. None means synthetic images: those in the package for
    its weights; for other weights, images synthesized from the reference's batch norm if int8 files are compared, else
    low-frequency noise. `minimums` is metric -> bound, in place of the table's, and `tolerances` the same by precision;
    a later one replaces an earlier one. With random weights, int8 is checked against no other bounds. The others run on
    each of the devices `on`, () for this machine, in each of `runtimes`, () for the default one of each format;
    `places` are execution targets that replace both.

    `opened` are files that were already read, by their names in `others`.
    """

    ref: str
    others: tuple[str, ...]
    weights: str | None = None
    arch: str | None = None
    width: float | None = None
    classes: int | None = None
    data: Path | None = None
    images: int = 32
    seed: int = 0
    layers: bool = False
    minimums: Mapping[str, float] = field(default_factory=dict)
    on: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    places: tuple[ExecutionTarget, ...] = ()
    table: tuple[Tolerance, ...] = TABLE
    tolerances: tuple[Mapping[str, Mapping[str, float]], ...] = ()
    threads: int = 1
    opened: Mapping[str, ModelFile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.others:
            raise EdgemobileError("nothing to compare: name at least one .onnx or .tflite file after the reference")
        for name in ("images", "threads"):
            if getattr(self, name) < 1:
                raise EdgemobileError(f"--{name} must be at least 1, found {getattr(self, name)}")


@dataclass(frozen=True)
class Reference:
    """The reference that the other files are compared with: either a PyTorch `model` or a `file`, which runs on
    `place`. `preprocess` is for the images, `stated` is the reference's own metadata."""

    name: str
    preprocess: Preprocess
    model: TorchModel | None = None
    file: ModelFile | None = None
    place: ExecutionTarget | None = None
    stated: StatedMetadata = field(default_factory=StatedMetadata)
    _last_values: list[tuple[Graph, np.ndarray, Mapping[str, np.ndarray]]] = field(
        default_factory=list, repr=False, compare=False
    )

    def outputs(self, images: np.ndarray) -> np.ndarray:
        """The output rows f32[N,values] for preprocessed images f32[N,px,px,3], from PyTorch or the file's runtime.

        For a classifier, these are logits; see metrics.outputs.
        """
        if self.model is not None:
            return self.model.rows(images)
        assert self.file is not None
        assert self.place is not None
        return self.place.infer(self.file, images)

    @cached_property
    def row_outputs(self) -> tuple[Output, ...] | None:
        """The outputs in a row, with their shapes; None for a file that does not state the shapes."""
        if self.model is not None:
            return self.model.outputs
        assert self.file is not None
        return outputs_of(self.file)

    @cached_property
    def graph(self) -> Graph:
        """The reference as a Graph, with PyTorch's tensor names. Raises Unsupported for a file with ops that a Graph
        cannot represent."""
        if self.file is not None:
            graph = graph_of(self.file)
            return graph if graph.is_quantized else by_path(graph)
        assert self.model is not None
        return by_path(self.model.graph())

    @cached_property
    def _graph_without_dead_channels(self) -> Graph:
        from edgemobile.lower.dead_channels import without_dead_channels

        return without_dead_channels(self.graph)

    def graph_for(self, file: ModelFile) -> Graph:
        """`graph` with the channels that `file` has: an export removes dead channels (lower.dead_channels).

        Raises Unsupported as `graph` does, and if the reference is a file with fewer channels.
        """
        own = {} if self.file is None else self.file.metadata
        if REMOVED_CHANNELS in file.metadata:
            if REMOVED_CHANNELS in own or self.graph.is_quantized:
                return self.graph
            return self._graph_without_dead_channels
        if REMOVED_CHANNELS in own and own.get(MODEL) == file.metadata.get(MODEL):
            raise Unsupported(
                f"{self.name} was exported without dead channels, which this file has: make this file the reference, "
                "or compare both with the model"
            )
        return self.graph

    def values(self, graph: Graph, images: np.ndarray) -> Mapping[str, np.ndarray]:
        """Every tensor of one of the reference's graphs for `images`, in NHWC, from the reference arithmetic."""
        if self._last_values and self._last_values[0][0] is graph and self._last_values[0][1] is images:
            return self._last_values[0][2]
        source = graph[graph.inputs[0]]
        given = images if source.qparams is None else quantize(images, source.qparams, source.dtype)
        self._last_values[:] = [(graph, images, run(graph, given, keep_all=True))]
        return self._last_values[0][2]


def parity(request: ParityRequest, progress: Progress | None = None) -> ParityReport:
    """Run the reference and every other file on the same images, and compare them.

    A file that misses a bound is in the report and raises no error; so is a file that cannot be run, if others can, and
    a device that does not answer, if others do. Raises EdgemobileError for bad input and if no file can be run,
    MissingExtra if a runtime is not installed, DeviceUnreachable if no device answers.
    """
    with _opened(request) as places:
        return _parity(request, places, progress or Silent())


@contextmanager
def _opened(request: ParityRequest) -> Iterator[Sequence[ExecutionTarget]]:
    if request.places or not request.on:
        yield request.places or local_targets(request.runtimes, request.threads)
        return
    with opened_targets(request.on, request.runtimes, request.threads) as places:
        yield places


def _parity(request: ParityRequest, places: Sequence[ExecutionTarget], progress: Progress) -> ParityReport:
    others = {name: _opened_or_refused(request, name) for name in dict.fromkeys(request.others)}
    opened = {name: file for name, file in others.items() if isinstance(file, ModelFile)}
    if not opened:
        raise next(error for error in others.values() if isinstance(error, EdgemobileError))
    files = list(opened.values())
    request = replace(request, opened={**request.opened, **opened})
    with progress.step("load the reference"):
        reference = load_reference(request, files)
    request, fewer = _fewer_images(request, reference)
    images, described_images, notes = _images(request, reference, files, progress)
    notes += fewer
    if reference.model is not None and reference.model.random:
        request = replace(request, table=untrained(request.table))
        notes += (f"{reference.name}: random weights, so int8 is checked only against bounds given with --min",)
    request = replace(request, table=reduce(bounded, request.tolerances, request.table))
    with progress.step("run the reference"):
        expected = reference.outputs(images)
    inner = images[: _layer_images(reference.preprocess.input_px)]
    pairs = [(name, file, place) for name, file in opened.items() for place in _readers(file, places)]
    judged: dict[str, list[FileParity]] = {}
    refusals: list[EdgemobileError] = []
    away: dict[str, DeviceUnreachable] = {}
    with progress.step("compare", len(pairs)) as report:
        for count, (name, file, place) in enumerate(pairs, 1):
            try:
                if place.name in away:
                    raise away[place.name]
                result = _compared(request, reference, expected, images, inner, file, place)
            except MissingExtra:
                raise
            except EdgemobileError as error:
                refusals.append(error)
                result = replace(_unmeasured(file, place, {}), refused=_without_path(error, file.path))
                if isinstance(error, DeviceUnreachable):
                    away[place.name] = error
                    result = replace(result, unreachable=True)
            judged.setdefault(name, []).append(result)
            report(count)
    if len(refusals) == len(pairs):
        raise refusals[0]
    for name, found in others.items():
        if isinstance(found, EdgemobileError):
            judged[name] = [_unread(Path(name), found)]
    rows = [row for name in request.others for row in judged[name]]
    if hint := faint(expected):
        notes = (*notes, f"{reference.name}: {hint}")
    return ParityReport(reference.name, described_images, tuple(rows), notes)


def _fewer_images(request: ParityRequest, reference: Reference) -> tuple[ParityRequest, tuple[str, ...]]:
    """(the request with as many images as can be compared, a note if they are fewer)."""
    most = most_images(reference.row_outputs or (), request.images)
    if most == request.images:
        return request, ()
    note = f"compared on {most} images instead of {request.images}: their outputs are large"
    return replace(request, images=most), (note,)


def _opened_or_refused(request: ParityRequest, name: str) -> ModelFile | EdgemobileError:
    """The file, or its error, which is reported after the other files were compared."""
    try:
        return _opened_file(request, name)
    except MissingExtra:
        raise
    except EdgemobileError as error:
        return error


def _opened_file(request: ParityRequest, name: str) -> ModelFile:
    return checked(request.opened.get(name) or read_model_file(Path(name)))


def _unread(path: Path, error: EdgemobileError) -> FileParity:
    return FileParity(
        str(path),
        path.suffix[1:],
        "unknown",
        "",
        "",
        dict.fromkeys(METRICS, math.nan),
        {},
        refused=_without_path(error, path),
    )


def _without_path(error: EdgemobileError, path: Path) -> str:
    """The message without the file's name, for a row that already has it."""
    return str(error).removeprefix(f"{path}: ")


def _layer_images(input_px: int) -> int:
    return max(1, min(_LAYER_IMAGES, _LAYER_IMAGES * _LAYER_PX**2 // input_px**2))


def load_reference(request: ParityRequest, files: Sequence[ModelFile]) -> Reference:
    """The model or file named by `request.ref`; a model has the resolution of the files. Raises EdgemobileError."""
    path = Path(request.ref)
    if path.suffix in FILE_SUFFIXES or is_keras(request.ref):
        file = keras_file(path) if is_keras(request.ref) else _opened_file(request, request.ref)
        _check_input(file)
        sides = file.sides_px
        if sides is not None and sides[0] != sides[1] and min(sides) > 0:
            raise Unsupported(f"{path}: its input is {in_px(sides)}. Supported as the reference: square images")
        input_px = _input_px(file) or next(filter(None, map(_input_px, files)), None) or IMAGENET.input_px
        preprocess = file.preprocess or _source_preprocess(file, files)
        preprocess = preprocess or next((other.preprocess for other in files if other.preprocess), None) or IMAGENET
        stated = StatedMetadata(file.preprocess, file.labels, postprocess=file.postprocess)
        preprocess, place = at_resolution(preprocess, input_px), _reader_here(file, request)
        return Reference(str(path), preprocess, file=file, place=place, stated=stated)
    spec, weights = request.ref, request.weights
    if path.suffix.lower() in CHECKPOINT_SUFFIXES and path.is_file():
        spec, weights = request.arch or identify(path).name, str(path)
    res = None if is_program(spec) else next(filter(None, map(_input_px, files)), None)
    model = load_model(spec, weights, width=request.width, res=res, classes=request.classes, seed=request.seed)
    known = None if model.assumption else model.preprocess
    stated = StatedMetadata(known, model.labels, _own_px(spec, weights), model.postprocess)
    # If the model states no preprocessing, that of its files is the better guess.
    preprocess = known or next(filter(None, (file.whole_preprocess for file in files)), model.preprocess)
    preprocess = at_resolution(preprocess, model.preprocess.input_px)
    return Reference(f"{model.name}, {model.source}", preprocess, model, stated=stated)


def _source_preprocess(source: ModelFile, files: Sequence[ModelFile]) -> Preprocess | None:
    """The preprocessing of `source`, from the metadata of files that were exported from it; None if it is not stated
    there."""
    exported = [file.metadata for file in files if file.metadata.get(WEIGHTS_SHA256) == source_sha256(source)]
    return next(filter(None, (preprocess_in(metadata, SOURCE_PREPROCESS) for metadata in exported)), None)


def _own_px(spec: str, weights: str | None) -> int | None:
    """The training resolution of a model in the package; None for other models."""
    if spec not in bundled() or weights not in (None, "bundled"):
        return None
    preprocess = load_weights("bundled", get_arch(spec)).preprocess
    return None if preprocess is None else preprocess.input_px


def _input_px(file: ModelFile) -> int | None:
    sides = file.sides_px
    return sides[1] if sides is not None and sides[1] > 0 else None


def _reader_here(file: ModelFile, request: ParityRequest) -> ExecutionTarget:
    """The default runtime of the reference's format on this machine; if it is not installed, a requested one."""
    (usual,) = (place for place in local_targets(threads=request.threads) if file.format in place.formats)
    others = [place for place in local_targets(request.runtimes, request.threads) if file.format in place.formats]
    for place in (usual, *others):
        try:
            import_runtime(place.name)
        except MissingExtra:
            continue
        return place
    return usual


def _readers(file: ModelFile, places: Sequence[ExecutionTarget]) -> list[ExecutionTarget]:
    readers = [place for place in places if file.format in place.formats]
    if not readers:
        raise Unsupported(
            f"{file.path} is {file.format}, which none of {', '.join(place.name for place in places)} can run; "
            "add a --runtime that can"
        )
    return readers


def _images(
    request: ParityRequest, reference: Reference, files: Sequence[ModelFile], progress: Progress
) -> tuple[np.ndarray, str, tuple[str, ...]]:
    """(preprocessed images, their description, notes).

    If a file takes uint8 pixels, the images have whole pixel values, so that all files run on the same values.
    """
    images, words, notes = _any_images(request, reference, files, progress)
    if not any(takes_pixels(file.contents) for file in (*files, *([reference.file] if reference.file else ()))):
        return images, words, notes
    whole = normalised(to_pixels(images, reference.preprocess), reference.preprocess)
    return whole, f"{words}, in whole pixels", notes


def _any_images(
    request: ParityRequest, reference: Reference, files: Sequence[ModelFile], progress: Progress
) -> tuple[np.ndarray, str, tuple[str, ...]]:
    preprocess, count = reference.preprocess, request.images
    if request.data is not None:
        with progress.step(f"read images of {request.data.name}"):
            samples = from_dataset(request.data, preprocess, None, calibration=1, check=count, seed=request.seed)
        notes = tuple(note for note in samples.notes if note.startswith("skipped"))
        return samples.check, samples.described, notes
    model = reference.model
    stored = None if model is None or model.random else stored_images(CHECK_IMAGES, model)
    if stored is not None:
        samples = from_package(
            CALIBRATION_IMAGES, stored, preprocess, calibrate_on=1, check_on=count, seed=request.seed
        )
        return samples.check, samples.described, ()
    if model is not None and not model.random and any(file.precision in QUANTIZED for file in files):
        with progress.step("synthesize images", STEPS) as report:
            made = synthesize(model.net, preprocess, images=count, seed=request.seed, progress=report)
        samples = from_synthesis(made, calibration=0, seed=request.seed)
    else:
        samples = from_noise(preprocess, calibration=1, check=count, seed=request.seed)
    return samples.check, samples.described, ()


# ---- one file -------------------------------------------------------------------------------------------------------


def _compared(
    request: ParityRequest,
    reference: Reference,
    expected: np.ndarray,
    images: np.ndarray,
    inner: np.ndarray,
    file: ModelFile,
    place: ExecutionTarget,
) -> FileParity:
    row = tolerance(file.format, file.precision, place.isa, request.table)
    outputs = reference.row_outputs or (Output("output", expected.shape[1:]),)
    bounds = {**_bounds(request, row, outputs, file.precision), **request.minimums}
    notes: list[str] = []
    result = _unmeasured(file, place, bounds)
    _check_input(file)
    if mismatch := _size_mismatch(file, images):
        return replace(result, missed=(mismatch,))
    file_images, words = _as_stated(file, reference.preprocess, images)
    numbers = _stored_numbers(reference, file, notes)
    steps = output_steps(reference.file) if numbers.same_integers and reference.file is not None else None
    if steps is not None and not words:
        # Files with the same integers differ only by steps on the same images, so steps are a stricter check than dB.
        bounds = dict(request.minimums)
        result = replace(result, bounds=bounds)
    rows = place.infer(file, file_images)
    order = _order(file, outputs)
    if mismatch := _output_mismatch(file, outputs, order, rows):
        return replace(result, missed=(mismatch,))
    found = rows[:, order]
    verdict = _judged(expected, found, outputs, bounds, notes)
    wrong, remarks = check_metadata(file, reference.stated, found.shape[1], images.shape[1])
    result = replace(result, metrics=verdict.metrics, missed=verdict.missed, outputs=verdict.outputs)
    notes += remarks
    notes += _notes_of_here(file, place, file_images, expected, outputs, order)
    result = _with_findings(result, numbers)
    if steps is not None:
        steps_off = int(np.rint(np.abs(found - expected) / steps).max(initial=0))
        result = replace(result, lsb=steps_off)
        if not words:
            result = _in_steps(reference, inner, file_images, steps_off, file, place, row, result, notes)
    if words:
        as_reference = _judged(expected, place.infer(file, images)[:, order], outputs, bounds, [])
        notes.append(words)
        if verdict.missed and as_reference.passed:
            explained = f"{words}; with the reference's preprocessing it passes"
            measured = as_reference.metrics["sqnr_db"], verdict.metrics["sqnr_db"]
            result = replace(result, cause=Cause("preprocess", explained, *measured))
    if request.layers:
        result = _with_layers(reference, inner, file_images, rows, file, place, row, result, notes)
    if place.here is not None:
        result = device_vs_host(file, place, place.here, file_images, rows, row.lsb, result, notes)
    return replace(result, missed=(*wrong, *result.missed), notes=tuple(notes))


def _bounds(request: ParityRequest, row: Tolerance, outputs: Sequence[Output], precision: str) -> Mapping[str, float]:
    """The row's bounds. For a net that is not a classifier, top1_agree has no bound unless one was requested."""
    requested = {metric: bound for own in request.tolerances for metric, bound in own.get(precision, {}).items()}
    return {**bounds_of(outputs, row.bounds), **requested}


def _judged(
    expected: np.ndarray, found: np.ndarray, outputs: Sequence[Output], bounds: Mapping[str, float], notes: list[str]
) -> Verdict:
    rows = _as_logits(expected, found, notes) if is_classifier(outputs) else (expected, found)
    return judge_rows(*rows, outputs, bounds)


def _order(file: ModelFile, outputs: Sequence[Output]) -> slice | np.ndarray:
    """The positions of the reference's `outputs` in a row of the file: by name if both have the same names, else in the
    file's order."""
    own = outputs_of(file)
    names = [output.name for output in outputs]
    if own is None or [output.name for output in own] == names or {output.name for output in own} != set(names):
        return slice(None)
    starts = dict(zip((output.name for output in own), np.cumsum([0, *(output.size for output in own)]), strict=False))
    sizes = {output.name: output.size for output in own}
    return np.concatenate([np.arange(starts[name], starts[name] + sizes[name]) for name in names])


def _output_mismatch(file: ModelFile, outputs: Sequence[Output], order: slice | np.ndarray, rows: np.ndarray) -> str:
    """Why a file's rows do not have the reference's `outputs`; "" if they do."""
    wanted, values = [output.shape for output in outputs], sum(output.size for output in outputs)
    own = outputs_of(file)
    if is_classifier(outputs) and (own is None or len(own) == 1):
        other = f"it has {rows.shape[1]} outputs, but the reference has {values}: they are different models"
        return "" if rows.shape[1] == values else other
    if own is None:
        other = f"it has {rows.shape[1]} output values per image, but the reference has {values}"
        return "" if rows.shape[1] == values else other
    shapes = [output.shape for output in own]
    alike = shapes == wanted if isinstance(order, slice) else sorted(shapes) == sorted(wanted)
    if alike:
        return ""
    found, expected = (", ".join(output.words for output in each) for each in (own, outputs))
    return f"its outputs are {found}, but the reference has {expected} (channels last)"


def _notes_of_here(
    file: ModelFile,
    place: ExecutionTarget,
    images: np.ndarray,
    expected: np.ndarray,
    outputs: Sequence[Output],
    order: slice | np.ndarray,
) -> Iterator[str]:
    """The metrics of this machine's own outputs, for a file that was run with the arithmetic of another target."""
    target = target_elsewhere(file.metadata)
    if place.infer_here is None or target is None:
        return
    found = _judged(expected, place.infer_here(file, images)[:, order], outputs, {}, []).metrics
    yield note_on_target(file.path.name, target, found_here(found, "the reference's"))


def _stored_numbers(reference: Reference, file: ModelFile, notes: list[str]) -> StoredNumbers:
    """The faults in the stored numbers of an int8 file; none for other files."""
    if file.precision != "int8":
        return StoredNumbers()
    if reference.file is not None and reference.file.precision == "int8":
        numbers = against_file(file, reference.file)
    else:
        numbers = against_float(file, lambda: reference.graph_for(file), reference.preprocess)
    notes += numbers.notes
    return numbers


def _with_findings(result: FileParity, numbers: StoredNumbers) -> FileParity:
    found = numbers.findings
    words = [f"{finding.kind}: {finding.words}" for finding in found[:_SHOWN_FINDINGS]]
    if len(found) > _SHOWN_FINDINGS:
        words.append(f"{len(found) - _SHOWN_FINDINGS} more of its numbers differ: edgemobile inspect --diff lists them")
    cause = Cause(found[0].kind, found[0].words) if found else None
    return replace(result, missed=(*result.missed, *words), cause=cause)


def _in_steps(
    reference: Reference,
    inner: np.ndarray,
    file_images: np.ndarray,
    steps_off: int,
    file: ModelFile,
    place: ExecutionTarget,
    row: Tolerance,
    result: FileParity,
    notes: list[str],
) -> FileParity:
    """`result` of a file with the reference's integers, whose outputs differ by up to `steps_off` steps of their scale.

    If this is more than their runtimes are known to differ by, and no stored number is wrong, the ops are compared: a
    difference that begins with a rounding tie is not a fault.
    """
    assert reference.place is not None
    if steps_off <= most_steps(reference.place.name, (place.here or place).name):
        return result
    words = f"its outputs differ from the reference's by up to {steps_off} steps"
    if result.cause is not None:
        notes.append(words)
        return result
    try:
        graph = reference.graph_for(file)
        values = reference.values(graph, inner)
        layers, _ = _compared_layers(graph, values, observe(file, place, file_images[: len(inner)], graph)[0], row)
    except Unsupported as error:
        missed = f"{words}, and its ops cannot be compared: {error}"
        return replace(result, missed=(*result.missed, missed))
    first = first_diverging(layers)
    if first is None:
        notes.append(f"{words}; no op by itself differs by more than a step: a rounding tie that later layers amplify")
        return result
    missed = f"{words}; the first op that differs: {first.name} ({first.op}), in its {first.diverges_in}"
    return replace(result, missed=(*result.missed, missed))


def _unmeasured(file: ModelFile, place: ExecutionTarget, bounds: Mapping[str, float]) -> FileParity:
    return FileParity(
        str(file.path),
        file.format,
        file.precision,
        place.name,
        place.isa,
        dict.fromkeys(METRICS, math.nan),
        bounds,
        machine=place.machine,
        sha256=file.sha256,
    )


def _check_input(file: ModelFile) -> None:
    """Raises Unsupported for a file that does not have exactly one input, or whose input is not an image."""
    names = file.contents.inputs
    if len(names) != 1:
        listed = first_few(list(names), _SHOWN_NAMES)
        raise Unsupported(f"{file.path}: it has {len(names)} inputs ({listed}). Supported: one; remove the others")
    if file.sides_px is None:
        source = file.contents.values[file.contents.inputs[0]]
        found = f"{source.dtype} {list(source.shape)}".replace("-1", "N")
        raise Unsupported(
            f"{file.path}: its input is {found}, which is not an image. Supported: nets that take one image"
        )


def _size_mismatch(file: ModelFile, images: np.ndarray) -> str:
    """Why a file cannot run on the reference's images f32[N,px,px,3]; "" if it can."""
    sides, wanted = file.sides_px, (images.shape[1], images.shape[2])
    if sides is None or all(side in (-1, right) for side, right in zip(sides, wanted, strict=True)):
        return ""
    return f"its input is {in_px(sides)}, but the reference's is {in_px(wanted)}: export both at one resolution"


def _as_stated(file: ModelFile, usual: Preprocess, images: np.ndarray) -> tuple[np.ndarray, str]:
    """(the images with the preprocessing that the file's metadata states, the difference in words; "" if none).

    Only the mean and standard deviation are changed: a file that states another resize gets the reference's pixels.
    """
    stated = file.preprocess
    if stated is None or (stated.mean, stated.std) == (usual.mean, usual.std):
        return images, ""
    mean, std, new_mean, new_std = (
        np.array(values, np.float32) for values in (usual.mean, usual.std, stated.mean, stated.std)
    )
    pixels = takes_pixels(file.contents) and stated == outside(stated)
    words = f"its metadata states another preprocessing ({described(stated)}) than the reference ({described(usual)})"
    return ((images * std + mean) - new_mean) / new_std, "" if pixels else words


def _as_logits(expected: np.ndarray, found: np.ndarray, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Both as comparable logits. If any is a probability, both are compared as log probabilities, with a softmax for
    the other."""
    from edgemobile.accuracy.classifier import is_probability

    softmax = is_probability(expected), is_probability(found)
    if softmax == (False, False):
        return expected, found
    if softmax[0] != softmax[1]:
        one = "the reference" if softmax[0] else "the file"
        notes.append(f"only {one} ends in a softmax: a softmax is applied to the other's outputs")
    return _log_probabilities(expected, softmax[0]), _log_probabilities(found, softmax[1])


def _log_probabilities(scores: np.ndarray, is_softmax: bool) -> np.ndarray:
    if is_softmax:
        return np.log(np.maximum(scores, 1e-6)).astype(np.float32)
    shifted = scores - scores.max(axis=-1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(axis=-1, keepdims=True)
    return np.log(np.maximum(probabilities, 1e-6)).astype(np.float32)


def _with_layers(
    reference: Reference,
    images: np.ndarray,
    file_images: np.ndarray,
    found: np.ndarray,
    file: ModelFile,
    place: ExecutionTarget,
    row: Tolerance,
    result: FileParity,
    notes: list[str],
) -> FileParity:
    """`result` with the layers, compared on the first images, the first diverging one in `missed`, and its cause.

    `file_images` are all images that the file ran on, and `found` is its output for them.
    """
    try:
        graph = reference.graph_for(file)
        values = reference.values(graph, images)
        observed, rows = observe(file, place, file_images[: len(images)], graph)
        layers, unmatched = _compared_layers(graph, values, observed, row)
    except (Unsupported, GraphError, OverflowError) as error:
        return replace(result, not_compared=str(error))
    _note_changed_outputs(file, found[: len(images)], rows, notes)
    first = first_diverging(layers)
    cause = result.cause
    if first is not None:
        if cause is None or cause.explained_db is None:
            cause = likely_cause(graph, first, observed, _normalisation(reference.preprocess), from_numbers=cause)
        result = _with_missed_layer(result, _diverging(first, cause))
    elif result.missed and cause is None:
        cause = _most_saturated(layers)
    if not any(layer.op != "input" for layer in layers):
        why = next((reason for _, reason in unmatched), "the reference has none")
        result = replace(result, not_compared=f"no layer of the file could be matched with the reference's: {why}")
    if observed.renamed:
        notes.append("the tensor names differ: layers were matched by their inputs and weights")
    return replace(result, layers=tuple(layers), unmatched=tuple(unmatched), cause=cause)


def _with_missed_layer(result: FileParity, words: str) -> FileParity:
    return replace(result, missed=(*result.missed, words), missed_layers=(*result.missed_layers, words))


def _compared_layers(
    graph: Graph, values: Mapping[str, np.ndarray], observed: RecordedActivations, row: Tolerance
) -> tuple[list[LayerParity], list[tuple[str, str]]]:
    if graph.is_quantized:
        if same_integers(graph, observed):
            return compare_integers(graph, values, observed, row.lsb)
        raise Unsupported(
            "the reference is int8 and this file has other integers: compare the layers of each with a float reference"
        )
    return compare_layers(graph, values, observed, row.layer)


def _note_changed_outputs(file: ModelFile, plain: np.ndarray, with_layers: np.ndarray, notes: list[str]) -> None:
    """Add a note if the outputs change when the inner tensors are also outputs, because a runtime then fuses less."""
    sqnr = measure(plain, with_layers)["sqnr_db"]
    if not sqnr >= (40 if file.precision in QUANTIZED else 90):
        notes.append(
            f"the file's outputs change when its inner tensors are also outputs ({sqnr:.1f} dB): the layers are from "
            "that run"
        )


def _most_saturated(layers: Sequence[LayerParity]) -> Cause | None:
    """If no layer diverges but the outputs do: the layer whose integers saturate the most; None if none saturates."""
    cut = [layer for layer in layers if layer.cut_db is not None and layer.cut_db < _CUT_DB]
    if not cut:
        return None
    worst = min(cut, key=lambda layer: layer.cut_db or 0.0)
    range_of = f"the int8 range of {worst.name} saturates the most"
    words = f"no layer diverges by itself; {range_of}: calibrate on images like these"
    assert worst.cut_db is not None
    return Cause("range", words, worst.cut_db, worst.sqnr_db)


def _diverging(layer: LayerParity, cause: Cause | None) -> str:
    why = "none of the known causes explains it" if cause is None else f"likely cause: {cause.kind} ({cause.words})"
    return f"layer {layer.name} ({layer.op}) diverges in its {layer.diverges_in}; {why}"


def _normalisation(preprocess: Preprocess) -> Normalisation:
    return Normalisation(preprocess.mean, preprocess.std)
