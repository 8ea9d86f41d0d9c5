"""Does a file still say what its reference says, and if not, from which layer on, and why?

The reference is a model in PyTorch or a file; the others are files of any format and precision, each run wherever it
can be. At the end of the net the metrics are held to the table in metrics.tolerances; inside it every layer is compared
by name (comparison.layers), and the first that diverges is tried for every mistake known (comparison.causes).
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
from edgemobile.loading.model import TorchModel, load_model
from edgemobile.loading.model_spec import CHECKPOINT_SUFFIXES, is_program
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
from edgemobile.model_file.metadata import MODEL, REMOVED_CHANNELS
from edgemobile.model_file.model_file import ModelFile
from edgemobile.model_file.precision import takes_pixels
from edgemobile.models.arch import get_arch
from edgemobile.preprocess import IMAGENET, Preprocess, at_resolution
from edgemobile.quant.synthesize import STEPS, synthesize
from edgemobile.util.progress import Progress, Silent

__all__ = ["ParityRequest", "Reference", "load_reference", "parity"]

# Layers are run again one by one in numpy; a few images show a layer that differs.
_LAYER_IMAGES, _LAYER_PX = 4, 128
_SHOWN_NAMES = 8
# Saturation that leaves less than this costs accuracy.
_CUT_DB = 25.0
# Of damage everywhere a few lines tell as much as all.
_SHOWN_FINDINGS = 6


@dataclass(frozen=True)
class ParityRequest:
    """What to compare, and on what.

    `ref` is a reference model's name, `package.module:factory`, a checkpoint (with `arch`), a .pt2, or a file like the
    `others`. `data` is an ImageFolder as a directory or a zip. None means synthetic images: those in the package for
    its weights; for other weights, images synthesized from the reference's batch norm if int8 files are compared, else
    low-frequency noise. `minimums` is metric -> bound, in place of the table's, and `tolerances` the same by precision;
    a later one wins. With random weights, int8 is checked against no other bounds. The others run on each of the
    devices `on`, () being this machine, in each of `runtimes`, () being the default one of each format; `places` are
    execution targets that replace both.

    `opened` are files that were read already, by their name here.
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
            raise EdgemobileError("nothing to compare: name at least one .onnx or .tflite file behind the reference")
        for name in ("images", "threads"):
            if getattr(self, name) < 1:
                raise EdgemobileError(f"--{name} must be at least 1, found {getattr(self, name)}")


@dataclass(frozen=True)
class Reference:
    """What the others are held to. `model` is a net in PyTorch, `file` a file; one of them is there. `preprocess` is
    what makes its images, `claims` what it says of itself."""

    name: str
    preprocess: Preprocess
    model: TorchModel | None = None
    file: ModelFile | None = None
    place: ExecutionTarget | None = None
    claims: StatedMetadata = field(default_factory=StatedMetadata)
    _seen: list[tuple[Graph, np.ndarray, Mapping[str, np.ndarray]]] = field(
        default_factory=list, repr=False, compare=False
    )

    def outputs(self, images: np.ndarray) -> np.ndarray:
        """The rows f32[N,values] of preprocessed images f32[N,px,px,3], as PyTorch or the file's runtime computes them.

        They are the logits of a classifier; see metrics.outputs.
        """
        if self.model is not None:
            return self.model.rows(images)
        assert self.file is not None
        assert self.place is not None
        return self.place.infer(self.file, images)

    @cached_property
    def ends(self) -> tuple[Output, ...] | None:
        """The outputs in a row; None for a file that does not state their shapes."""
        if self.model is not None:
            return self.model.outputs
        assert self.file is not None
        return outputs_of(self.file)

    @cached_property
    def graph(self) -> Graph:
        """What it computes, its tensors by the names that PyTorch has for them. Raises Unsupported for a file with ops
        a Graph has no word for."""
        if self.file is not None:
            graph = graph_of(self.file)
            return graph if graph.is_quantized else by_path(graph)
        assert self.model is not None
        return by_path(self.model.graph())

    @cached_property
    def _living(self) -> Graph:
        from edgemobile.lower.dead_channels import without_dead_channels

        return without_dead_channels(self.graph)

    def graph_for(self, file: ModelFile) -> Graph:
        """`graph` with the channels that `file` has: an export leaves dead ones out (lower.dead_channels).

        Raises Unsupported as `graph` does, and where the reference is a file that has fewer.
        """
        own = {} if self.file is None else self.file.metadata
        if REMOVED_CHANNELS in file.metadata:
            return self.graph if REMOVED_CHANNELS in own or self.graph.is_quantized else self._living
        if REMOVED_CHANNELS in own and own.get(MODEL) == file.metadata.get(MODEL):
            raise Unsupported(
                f"{self.name} was exported without dead channels, which this file has: make this file the reference, "
                "or compare both with the model"
            )
        return self.graph

    def values(self, graph: Graph, images: np.ndarray) -> Mapping[str, np.ndarray]:
        """Every tensor of one of its graphs, in NHWC, as the reference arithmetic computes it."""
        if self._seen and self._seen[0][0] is graph and self._seen[0][1] is images:
            return self._seen[0][2]
        source = graph[graph.inputs[0]]
        given = images if source.qparams is None else quantize(images, source.qparams, source.dtype)
        self._seen[:] = [(graph, images, run(graph, given, keep_all=True))]
        return self._seen[0][2]


def parity(request: ParityRequest, progress: Progress | None = None) -> ParityReport:
    """Run the reference and every other file on the same images, and compare.

    A file that falls short is in the report, not raised, and so is one that cannot be run, beside others that can.
    Raises EdgemobileError for bad input and where no file can be run, MissingExtra where a runtime is not installed,
    DeviceUnreachable where a device does not answer.
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
    with progress.step("compare", len(pairs)) as report:
        for count, (name, file, place) in enumerate(pairs, 1):
            try:
                result = _compared(request, reference, expected, images, inner, file, place)
            except (MissingExtra, DeviceUnreachable):
                raise
            except EdgemobileError as error:
                refusals.append(error)
                result = replace(_unmeasured(file, place, {}), refused=_without_path(error, file.path))
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
    most = most_images(reference.ends or (), request.images)
    if most == request.images:
        return request, ()
    note = f"compared on {most} images instead of {request.images}: their outputs are large"
    return replace(request, images=most), (note,)


def _opened_or_refused(request: ParityRequest, name: str) -> ModelFile | EdgemobileError:
    """The file, or what is wrong with it; it is said once the others are judged."""
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
    """A reason for the row of a file, which has its name already."""
    return str(error).removeprefix(f"{path}: ")


def _layer_images(input_px: int) -> int:
    return max(1, min(_LAYER_IMAGES, _LAYER_IMAGES * _LAYER_PX**2 // input_px**2))


def load_reference(request: ParityRequest, files: Sequence[ModelFile]) -> Reference:
    """The model or file that `request.ref` names; a model at the resolution of the files. Raises EdgemobileError."""
    path = Path(request.ref)
    if path.suffix in FILE_SUFFIXES:
        file = _opened_file(request, request.ref)
        _check_ends(file)
        sides = file.sides_px
        if sides is not None and sides[0] != sides[1] and min(sides) > 0:
            raise Unsupported(f"{path}: takes images of {in_px(sides)}. Supported as the reference: square ones")
        input_px = _input_px(file) or next(filter(None, map(_input_px, files)), None) or IMAGENET.input_px
        stated = file.preprocess or next((other.preprocess for other in files if other.preprocess), None) or IMAGENET
        claims = StatedMetadata(file.preprocess, file.labels)
        preprocess, place = at_resolution(stated, input_px), _reader_here(file, request)
        return Reference(str(path), preprocess, file=file, place=place, claims=claims)
    spec, weights = request.ref, request.weights
    if path.suffix.lower() in CHECKPOINT_SUFFIXES and path.is_file():
        spec, weights = request.arch or identify(path).name, str(path)
    res = None if is_program(spec) else next(filter(None, map(_input_px, files)), None)
    model = load_model(spec, weights, width=request.width, res=res, classes=request.classes, seed=request.seed)
    said = None if model.assumption else model.preprocess
    claims = StatedMetadata(said, model.labels, _own_px(spec, weights))
    # Of a model that says nothing, what its files say is the better guess.
    stated = said or next(filter(None, (file.whole_preprocess for file in files)), model.preprocess)
    preprocess = at_resolution(stated, model.preprocess.input_px)
    return Reference(f"{model.name}, {model.source}", preprocess, model, claims=claims)


def _own_px(spec: str, weights: str | None) -> int | None:
    """The resolution of a model in the package; None for others, which take any."""
    if spec not in bundled() or weights not in (None, "bundled"):
        return None
    preprocess = load_weights("bundled", get_arch(spec)).preprocess
    return None if preprocess is None else preprocess.input_px


def _input_px(file: ModelFile) -> int | None:
    sides = file.sides_px
    return sides[1] if sides is not None and sides[1] > 0 else None


def _reader_here(file: ModelFile, request: ParityRequest) -> ExecutionTarget:
    """The default runtime of the reference's format on this machine; where it is not installed, one asked for."""
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
            f"{file.path} is {file.format}, which none of {', '.join(place.name for place in places)} reads; "
            "add a --runtime that does"
        )
    return readers


def _images(
    request: ParityRequest, reference: Reference, files: Sequence[ModelFile], progress: Progress
) -> tuple[np.ndarray, str, tuple[str, ...]]:
    """(preprocessed images, what they are in words, notes).

    Where a file takes pixels, they are whole pixels: nobody can be shown others.
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
    ends = reference.ends or (Output("output", expected.shape[1:]),)
    bounds = {**_bounds(request, row, ends, file.precision), **request.minimums}
    notes: list[str] = []
    result = _unmeasured(file, place, bounds)
    _check_ends(file)
    if misfit := _misfit(file, images):
        return replace(result, missed=(misfit,))
    shown, words = _as_stated(file, reference.preprocess, images)
    numbers = _stored_numbers(reference, file, notes)
    steps = output_steps(reference.file) if numbers.same_integers and reference.file is not None else None
    if steps is not None and not words:
        # The same integers on the same images are the same but for steps, which say more than dB.
        bounds = dict(request.minimums)
        result = replace(result, bounds=bounds)
    made = place.infer(file, shown)
    order = _order(file, ends)
    if misfit := _other_outputs(file, ends, order, made):
        return replace(result, missed=(misfit,))
    found = made[:, order]
    verdict = _judged(expected, found, ends, bounds, notes)
    wrong, remarks = check_metadata(file, reference.claims, found.shape[1], images.shape[1])
    result = replace(result, metrics=verdict.metrics, missed=verdict.missed, outputs=verdict.outputs)
    notes += remarks
    notes += _notes_of_here(file, place, shown, expected, ends, order)
    result = _with_findings(result, numbers)
    if steps is not None:
        apart = int(np.rint(np.abs(found - expected) / steps).max(initial=0))
        result = replace(result, lsb=apart)
        if not words:
            result = _in_steps(reference, inner, shown, apart, file, place, row, result, notes)
    if words:
        as_reference = _judged(expected, place.infer(file, images)[:, order], ends, bounds, [])
        notes.append(words)
        if verdict.missed and as_reference.passed:
            told = f"{words}; shown the reference's images it agrees"
            measured = as_reference.metrics["sqnr_db"], verdict.metrics["sqnr_db"]
            result = replace(result, cause=Cause("preprocess", told, *measured))
    if request.layers:
        result = _with_layers(reference, inner, shown, made, file, place, row, result, notes)
    if place.here is not None:
        result = device_vs_host(file, place, place.here, shown, made, row.lsb, result, notes)
    return replace(result, missed=(*wrong, *result.missed), notes=tuple(notes))


def _bounds(request: ParityRequest, row: Tolerance, ends: Sequence[Output], precision: str) -> Mapping[str, float]:
    """The row's bounds; of a net that is no classifier without that of top1_agree, unless it was asked for."""
    asked = {metric: bound for own in request.tolerances for metric, bound in own.get(precision, {}).items()}
    return {**bounds_of(ends, row.bounds), **asked}


def _judged(
    expected: np.ndarray, found: np.ndarray, ends: Sequence[Output], bounds: Mapping[str, float], notes: list[str]
) -> Verdict:
    rows = _as_logits(expected, found, notes) if is_classifier(ends) else (expected, found)
    return judge_rows(*rows, ends, bounds)


def _order(file: ModelFile, ends: Sequence[Output]) -> slice | np.ndarray:
    """Where in a row of the file the values of the reference's outputs are: by name where both have the same names,
    else in the file's order."""
    own = outputs_of(file)
    names = [output.name for output in ends]
    if own is None or [output.name for output in own] == names or {output.name for output in own} != set(names):
        return slice(None)
    starts = dict(zip((output.name for output in own), np.cumsum([0, *(output.size for output in own)]), strict=False))
    sizes = {output.name: output.size for output in own}
    return np.concatenate([np.arange(starts[name], starts[name] + sizes[name]) for name in names])


def _other_outputs(file: ModelFile, ends: Sequence[Output], order: slice | np.ndarray, rows: np.ndarray) -> str:
    """Why a file's rows are not of the reference's outputs; "" where they are."""
    wanted, values = [output.shape for output in ends], sum(output.size for output in ends)
    own = outputs_of(file)
    if is_classifier(ends) and (own is None or len(own) == 1):
        other = f"gives {rows.shape[1]} outputs, the reference {values}: they are of different models"
        return "" if rows.shape[1] == values else other
    if own is None:
        return "" if rows.shape[1] == values else f"gives {rows.shape[1]} values an image, the reference {values}"
    shapes = [output.shape for output in own]
    alike = shapes == wanted if isinstance(order, slice) else sorted(shapes) == sorted(wanted)
    if alike:
        return ""
    found, asked = (", ".join(output.words for output in outputs) for outputs in (own, ends))
    return f"gives {found}, the reference {asked} (channels last)"


def _notes_of_here(
    file: ModelFile,
    place: ExecutionTarget,
    images: np.ndarray,
    expected: np.ndarray,
    ends: Sequence[Output],
    order: slice | np.ndarray,
) -> Iterator[str]:
    """What this machine computes of a file that was run as another target computes it."""
    target = target_elsewhere(file.metadata)
    if place.infer_here is None or target is None:
        return
    found = _judged(expected, place.infer_here(file, images)[:, order], ends, {}, []).metrics
    yield note_on_target(file.path.name, target, found_here(found, "the reference's"))


def _stored_numbers(reference: Reference, file: ModelFile, notes: list[str]) -> StoredNumbers:
    """What an int8 file's own numbers say; nothing of other files."""
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
    shown: np.ndarray,
    apart: int,
    file: ModelFile,
    place: ExecutionTarget,
    row: Tolerance,
    result: FileParity,
    notes: list[str],
) -> FileParity:
    """`result` of a file of the reference's integers whose outputs are up to `apart` steps from the reference's. Where
    that is more than their runtimes are known to differ by, and no number is known to be wrong, the ops decide: what a
    tie started is nobody's fault."""
    assert reference.place is not None
    if apart <= most_steps(reference.place.name, (place.here or place).name):
        return result
    words = f"its outputs are up to {apart} steps from the reference's"
    if result.cause is not None:
        notes.append(words)
        return result
    try:
        graph = reference.graph_for(file)
        values = reference.values(graph, inner)
        layers, _ = _walked(graph, values, observe(file, place, shown[: len(inner)], graph)[0], row)
    except Unsupported as error:
        missed = f"{words}, and its ops cannot be compared: {error}"
        return replace(result, missed=(*result.missed, missed))
    first = first_diverging(layers)
    if first is None:
        notes.append(f"{words}; every op by itself is within a step: a tie that later layers carry on")
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


def _check_ends(file: ModelFile) -> None:
    """Raises Unsupported for a file whose only input is not an image."""
    names = file.contents.inputs
    if len(names) != 1:
        shown = first_few(list(names), _SHOWN_NAMES)
        raise Unsupported(f"{file.path}: has {len(names)} inputs ({shown}). Supported: one; cut the others off")
    if file.sides_px is None:
        source = file.contents.values[file.contents.inputs[0]]
        takes = f"{source.dtype} {list(source.shape)}".replace("-1", "N")
        raise Unsupported(f"{file.path}: takes {takes}, which is no image. Supported: nets of one image")


def _misfit(file: ModelFile, images: np.ndarray) -> str:
    """Why a file cannot be shown the reference's images f32[N,px,px,3]; "" where it can."""
    sides, wanted = file.sides_px, (images.shape[1], images.shape[2])
    if sides is None or all(side in (-1, right) for side, right in zip(sides, wanted, strict=True)):
        return ""
    return f"takes {in_px(sides)}, the reference {in_px(wanted)}: export both at one resolution"


def _as_stated(file: ModelFile, usual: Preprocess, images: np.ndarray) -> tuple[np.ndarray, str]:
    """(the images as the file's own metadata wants them, in words how that differs; "" where it does not).

    Only mean and deviation are applied again: a file that wants another resize sees the reference's pixels.
    """
    stated = file.preprocess
    if stated is None or (stated.mean, stated.std) == (usual.mean, usual.std):
        return images, ""
    mean, std, new_mean, new_std = (
        np.array(values, np.float32) for values in (usual.mean, usual.std, stated.mean, stated.std)
    )
    pixels = takes_pixels(file.contents) and stated == outside(stated)
    words = f"it states another preprocessing ({described(stated)}) than the reference ({described(usual)})"
    return ((images * std + mean) - new_mean) / new_std, "" if pixels else words


def _as_logits(expected: np.ndarray, found: np.ndarray, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Both as logits; where only one ends in a softmax, the other gets one, and both are compared as log shares."""
    from edgemobile.accuracy.classifier import is_probability

    ends = is_probability(expected), is_probability(found)
    if ends == (False, False):
        return expected, found
    if ends[0] != ends[1]:
        notes.append(f"only {'the reference' if ends[0] else 'the file'} ends in a softmax: the other is given one")
    return _log_shares(expected, ends[0]), _log_shares(found, ends[1])


def _log_shares(scores: np.ndarray, probabilities: bool) -> np.ndarray:
    if probabilities:
        return np.log(np.maximum(scores, 1e-6)).astype(np.float32)
    shifted = scores - scores.max(axis=-1, keepdims=True)
    shares = np.exp(shifted) / np.exp(shifted).sum(axis=-1, keepdims=True)
    return np.log(np.maximum(shares, 1e-6)).astype(np.float32)


def _with_layers(
    reference: Reference,
    images: np.ndarray,
    shown: np.ndarray,
    found: np.ndarray,
    file: ModelFile,
    place: ExecutionTarget,
    row: Tolerance,
    result: FileParity,
    notes: list[str],
) -> FileParity:
    """`result` with its layers on the first of the images, the first that diverges among the missed, and the cause.

    `found` is what the file made of all images it was `shown`.
    """
    try:
        graph = reference.graph_for(file)
        values = reference.values(graph, images)
        observed, end = observe(file, place, shown[: len(images)], graph)
        layers, unmatched = _walked(graph, values, observed, row)
    except (Unsupported, GraphError, OverflowError) as error:
        return replace(result, not_compared=str(error))
    _note_exposure(file, found[: len(images)], end, notes)
    first = first_diverging(layers)
    cause = result.cause
    if first is not None:
        if cause is None or cause.explained_db is None:
            cause = likely_cause(graph, first, observed, _normalisation(reference.preprocess), told=cause)
        result = _missing_layers(result, _diverging(first, cause))
    elif result.missed and cause is None:
        cause = _narrowest(layers)
    if not any(layer.op != "input" for layer in layers):
        why = next((reason for _, reason in unmatched), "the reference has none")
        result = replace(result, not_compared=f"no layer of the file could be matched to the reference's: {why}")
    if observed.renamed:
        notes.append("names differ: layers were matched by what they read and by their weights")
    return replace(result, layers=tuple(layers), unmatched=tuple(unmatched), cause=cause)


def _missing_layers(result: FileParity, words: str) -> FileParity:
    return replace(result, missed=(*result.missed, words), missed_layers=(*result.missed_layers, words))


def _walked(
    graph: Graph, values: Mapping[str, np.ndarray], observed: RecordedActivations, row: Tolerance
) -> tuple[list[LayerParity], list[tuple[str, str]]]:
    if graph.is_quantized:
        if same_integers(graph, observed):
            return compare_integers(graph, values, observed, row.lsb)
        raise Unsupported(
            "the reference is int8 and this file has other integers: compare the layers of each with a float reference"
        )
    return compare_layers(graph, values, observed, row.layer)


def _note_exposure(file: ModelFile, plain: np.ndarray, end: np.ndarray, notes: list[str]) -> None:
    """A runtime fuses less around tensors it must show; that must not change what the file says."""
    sqnr = measure(plain, end)["sqnr_db"]
    if not sqnr >= (40 if file.precision in QUANTIZED else 90):
        notes.append(f"with its layers shown the file gives other outputs ({sqnr:.1f} dB): layers are of that run")


def _narrowest(layers: Sequence[LayerParity]) -> Cause | None:
    """Where every layer is right by itself and the end is not: the layer whose integers cut the most off."""
    cut = [layer for layer in layers if layer.cut_db is not None and layer.cut_db < _CUT_DB]
    if not cut:
        return None
    worst = min(cut, key=lambda layer: layer.cut_db or 0.0)
    words = (
        f"no layer diverges by itself; the int8 range of {worst.name} cuts off the most: calibrate on images like these"
    )
    assert worst.cut_db is not None
    return Cause("range", words, worst.cut_db, worst.sqnr_db)


def _diverging(layer: LayerParity, cause: Cause | None) -> str:
    why = "none of the known causes explains it" if cause is None else f"likely cause: {cause.kind} ({cause.words})"
    return f"layer {layer.name} ({layer.op}) diverges in its {layer.diverges_in}; {why}"


def _normalisation(preprocess: Preprocess) -> Normalisation:
    return Normalisation(preprocess.mean, preprocess.std)
