"""The gate's measurements of a model, each cached by the content that it depends on: files, parity, accuracy, devices.

Nothing is checked here, so a changed budget needs no new run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgemobile.comparison.report import ParityReport
from edgemobile.devices.host.records import Run
from edgemobile.errors import EdgemobileError
from edgemobile.exporters.model_files import read_model_file
from edgemobile.gate.cache import Cache, WouldRun
from edgemobile.gate.config import Accuracy, DeviceEntry, GateConfig, LabelledImages, ModelEntry
from edgemobile.gate.fingerprint import content_sha256, contents, fingerprint, software
from edgemobile.gate.selectors import MODEL_SUFFIXES
from edgemobile.images import class_labels
from edgemobile.loading import checkpoint_facts as facts
from edgemobile.loading.checkpoint import CHECK_IMAGES, NAMED, bundled
from edgemobile.loading.model_spec import is_factory
from edgemobile.model_file.model_file import ModelFile
from edgemobile.util.progress import Progress
from edgemobile.util.strict_json import decode, encode

__all__ = [
    "Measured",
    "Scored",
    "measure_accuracy",
    "measure_device",
    "measure_devices",
    "measure_parity",
    "written_files",
]

_T = TypeVar("_T")
# With 64 images, one answer is 1.6 points of agreement.
_READ_IMAGES, _MADE_IMAGES = 64, 32


@dataclass(frozen=True)
class Scored:
    """The accuracy of a file; `drop_points` of top-1 below the float32 file, None for that one itself.

    `not_finite` counts the images with nan or inf in the outputs.
    """

    file: str
    count: int
    correct: int
    drop_points: float | None
    not_finite: int


@dataclass(frozen=True)
class Measured:
    """A model of the gate: its files, read once for all of its checks, and the key of their inputs."""

    entry: ModelEntry
    config: GateConfig
    cache: Cache
    files: tuple[ModelFile, ...]
    key: str
    kept: bool

    @property
    def opened(self) -> dict[str, ModelFile]:
        """The files by their name in a request."""
        return {str(file.path): file for file in self.files}

    @property
    def digests(self) -> list[tuple[str, str]]:
        return [(file.name, file.sha256) for file in self.files]

    def precision(self, file: ModelFile) -> str:
        """The precision of a file, cached by its content: reading it imports for seconds. Raises EdgemobileError."""
        key = fingerprint("precision", file.sha256, software())
        found = self.cache.get("precision", key, str)
        if found is None:
            found = file.precision
            self.cache.put("precision", key, found)
        return found

    def kept_or(
        self, stage: str, key: str, read: Callable[[Any], _T], run: Callable[[], tuple[_T, Any]]
    ) -> tuple[_T, bool]:
        """(the result, whether it was cached). `run` returns it and what to cache; None caches nothing."""
        found = self.cache.get(stage, key, read)
        if found is not None:
            return found, True
        self.cache.before(stage)
        result, value = run()
        if value is not None:
            self.cache.put(stage, key, value)
        return result, False


# ---- files ----------------------------------------------------------------------------------------------------------


def written_files(entry: ModelEntry, config: GateConfig, cache: Cache, progress: Progress) -> Measured:
    """The model's files: the given ones, cached ones, or new ones. Raises EdgemobileError."""
    if entry.files:
        return _named_files(entry, config, cache)
    key = _export_key(entry, config)
    folder = cache.files(entry.name, key)
    found = cache.get("export", key, lambda value: decode(_Kept, value, "export"))
    if found is not None and not is_factory(entry.model):
        kept = _kept_files(folder, found)
        if kept:
            return Measured(entry, config, cache, kept, key, kept=True)
    cache.before("export")
    cache.clear(entry.name, key)
    names = _export(entry, config, folder, progress)
    files = tuple(read_model_file(folder / name) for name in names)
    cache.put("export", key, encode(_Kept(_folder_sha256(folder, files), names)))
    cache.tidy(entry.name, key)
    return Measured(entry, config, cache, files, key, kept=False)


@dataclass(frozen=True)
class _Kept:
    """`sha256` is of the folder: all names and all contents of files. `files` are its model files."""

    sha256: str
    files: tuple[str, ...]


def _kept_files(folder: Path, kept: _Kept) -> tuple[ModelFile, ...]:
    """The model files if the folder is unchanged; () if anything in it is changed, missing or added."""
    try:
        files = tuple(read_model_file(folder / name) for name in kept.files)
        return files if _folder_sha256(folder, files) == kept.sha256 else ()
    except EdgemobileError:
        return ()


def _folder_sha256(folder: Path, files: Sequence[ModelFile]) -> str:
    return content_sha256(folder, {file.path: file.sha256 for file in files})


def _named_files(entry: ModelEntry, config: GateConfig, cache: Cache) -> Measured:
    names = [path.name for path in entry.files]
    if len(set(names)) != len(names):
        raise EdgemobileError(
            f"{entry.name}: two files are called {max(names, key=names.count)}; give them other names"
        )
    files = tuple(map(read_model_file, entry.files))
    model = Measured(entry, config, cache, files, fingerprint("files", _source(entry, files)), kept=True)
    for file in files:
        # A damaged file is found here, before checks that depend on its precision.
        model.precision(file)
    return model


def _export_key(entry: ModelEntry, config: GateConfig) -> str:
    made = (entry.formats, entry.precisions, entry.recipe, entry.target, entry.calib_images)
    recipe = content_sha256(Path(entry.recipe)) if entry.recipe and entry.recipe.endswith(".json") else None
    asked = (_count(entry, config), config.settings.seed)
    # Each model has its own folder with a unique manifest.
    return fingerprint("export", entry.name, software(), _source(entry), made, recipe, asked)


def _source(entry: ModelEntry, files: Sequence[ModelFile] = ()) -> list[Any]:
    """The net, its weights with the files about them, and its images, by content.

    `files` were read already: the net may be one of them.
    """
    known = {file.path: file.sha256 for file in files}
    weights = None if entry.weights in (None, *NAMED) else Path(str(entry.weights))
    read = [
        content_sha256(Path(text), known) if is_file else None
        for text, is_file in (
            (entry.model, entry.model.endswith(MODEL_SUFFIXES)),
            (str(weights), weights is not None),
            (str(entry.calib), entry.calib is not None),
        )
    ]
    said = [] if weights is None else contents(facts.places_beside(weights))
    return [entry.model, entry.weights, entry.width, entry.res, entry.classes, read, said]


def _export(entry: ModelEntry, config: GateConfig, folder: Path, progress: Progress) -> tuple[str, ...]:
    """The names of the files that the model's export wrote to `folder`."""
    from edgemobile.pipeline.export import export
    from edgemobile.pipeline.request import ExportRequest
    from edgemobile.quant.recipes import read_recipe, recipe_for
    from edgemobile.quant.targets import suited

    recipe = read_recipe(entry.recipe or recipe_for(entry.calib_images, real=entry.calib is not None))
    request = ExportRequest(
        model=entry.model,
        out=folder,
        weights=entry.weights,
        formats=entry.formats,
        precisions=entry.precisions,
        width=entry.width,
        res=entry.res,
        classes=entry.classes,
        calib=entry.calib,
        calib_images=entry.calib_images,
        check_images=_count(entry, config),
        recipe=suited(recipe, entry.target),
        target=entry.target,
        seed=config.settings.seed,
    )
    return tuple(file.entry.file for file in export(request, progress).files)


# ---- parity ---------------------------------------------------------------------------------------------------------


def measure_parity(model: Measured, progress: Progress) -> tuple[ParityReport, bool]:
    """(every file against PyTorch, layer by layer if requested, whether it was cached)."""
    entry, settings = model.entry, model.config.settings
    images, count = _compared_on(entry), _count(entry, model.config)
    # First the bounds for all models, then those for this one.
    tolerances = (model.config.tolerances, entry.tolerances)
    asked = (count, settings.layers, settings.seed, tolerances)
    shown = None if images is None else content_sha256(images)
    key = fingerprint("parity", software(), _source(entry, model.files), model.digests, asked, shown)

    def run() -> tuple[ParityReport, Any]:
        from edgemobile.comparison.run import ParityRequest, parity

        request = ParityRequest(
            ref=entry.model,
            others=tuple(model.opened),
            weights=entry.weights,
            width=entry.width,
            classes=entry.classes,
            data=images,
            images=count,
            seed=settings.seed,
            layers=settings.layers,
            tolerances=tolerances,
            opened=model.opened,
        )
        report = parity(request, progress)
        # A factory's code may import anything: no hash can show whether it changed.
        return report, None if is_factory(entry.model) else report.to_json()

    return model.kept_or("parity", key, ParityReport.from_json, run)


def _compared_on(entry: ModelEntry) -> Path | None:
    """The model's own images; for the bundled weights, the stored images.

    None: synthesized from the model. They then differ between machines, and so does the agreement of int8.
    """
    in_the_package = entry.model in bundled() and entry.weights in (None, "bundled")
    return entry.calib or (CHECK_IMAGES if in_the_package else None)


def _count(entry: ModelEntry, config: GateConfig) -> int:
    """How many images a file is compared on. Synthesizing one takes seconds at 224 px, reading it almost nothing."""
    return config.settings.images or (_READ_IMAGES if _compared_on(entry) else _MADE_IMAGES)


# ---- accuracy -------------------------------------------------------------------------------------------------------


def measure_accuracy(model: Measured, asked: LabelledImages, progress: Progress) -> tuple[tuple[Scored, ...], bool]:
    """(the accuracy of every file against the first float32 one, whether it was cached).

    Raises EdgemobileError, also if there is no float32 file to compare with and a `max_drop` is asked for.
    """
    baseline = next((file for file in model.files if model.precision(file) == "float32"), None)
    if baseline is None and isinstance(asked, Accuracy):
        raise EdgemobileError(f"{model.entry.name}: max_drop compares with a float32 file, and the model has none")
    labels = [contents(class_labels.places_beside(file.path)) for file in model.files]
    chosen = (content_sha256(asked.data), asked.split, asked.limit, model.config.settings.seed)
    key = fingerprint("accuracy", software(), model.digests, labels, chosen)

    def run() -> tuple[tuple[Scored, ...], Any]:
        from edgemobile.accuracy.evaluate import evaluate
        from edgemobile.accuracy.evaluation import EvalRequest

        request = EvalRequest(
            files=tuple(model.opened),
            data=asked.data,
            split=asked.split,
            limit=asked.limit,
            seed=model.config.settings.seed,
            baseline=None if baseline is None else str(baseline.path),
            opened=model.opened,
        )
        names = {path: file.name for path, file in model.opened.items()}
        evaluation = evaluate(request, progress)
        for path, reason in evaluation.refused:
            raise EdgemobileError(f"{names[path]}: {reason}")
        scored = tuple(
            Scored(
                names[str(file.classifier.file)],
                file.count,
                file.correct,
                None if file.paired is None else file.paired.drop_points,
                file.not_finite,
            )
            for file in evaluation.files
        )
        return scored, encode(scored)

    return model.kept_or("accuracy", key, lambda value: tuple(decode(Scored, item, "scored") for item in value), run)


# ---- devices --------------------------------------------------------------------------------------------------------


def measure_device(model: Measured, device: DeviceEntry, files: Sequence[ModelFile]) -> tuple[Run, bool]:
    """(`files` measured on the device, whether that was cached), as `measure_devices`.

    Raises EdgemobileError, DeviceUnreachable, MissingTool, and WouldRun in a dry run.
    """
    ((_, outcome, kept),) = measure_devices(model.cache, files, (device,))
    if isinstance(outcome, Exception):
        raise outcome
    return outcome, kept


def measure_devices(
    cache: Cache, files: Sequence[ModelFile], devices: Sequence[DeviceEntry], progress: Progress | None = None
) -> Iterator[tuple[DeviceEntry, Run | EdgemobileError | WouldRun, bool]]:
    """(device, `files` measured on it or the error, whether that was cached) for each device.

    Boards are measured at the same time, `local` and emulated cores one after another. Unstable results are not cached.
    """
    from edgemobile.devices.host.records import Settings
    from edgemobile.latency.boards import bench_all
    from edgemobile.latency.run import BenchRequest

    missing = []
    for device in devices:
        try:
            key = _device_key(device, files)
        except EdgemobileError as error:
            yield device, error, False
            continue
        found = cache.get("device", key, lambda value: decode(Run, value, "run"))
        if found is not None:
            yield device, found, True
        elif cache.dry_run:
            yield device, WouldRun("device"), False
        else:
            missing.append((device, key))
    settings = [Settings(threads=(device.threads,), runs=device.runs) for device, _ in missing]
    requests = [
        BenchRequest(tuple(files), device.name, one) for (device, _), one in zip(missing, settings, strict=True)
    ]
    for index, outcome in bench_all(requests, progress):
        device, key = missing[index]
        if isinstance(outcome, Run) and _lasting(outcome):
            cache.put("device", key, encode(outcome))
        yield device, outcome, False


def _device_key(device: DeviceEntry, files: Sequence[ModelFile]) -> str:
    from edgemobile.devices.host.profiles import find_device

    row = find_device(device.name)
    digests = [(file.name, file.sha256) for file in files]
    return fingerprint("device", software(), row.address, row.options, device.runs, device.threads, digests)


def _lasting(run: Run) -> bool:
    """Whether another run need not measure the same files again."""
    from edgemobile.latency.statistics import verdict

    return not run.refused and all(verdict(case, run).stable for case in run.cases)
