"""What the gate measures of a model, each kept by the content of what it depends on: files, parity, accuracy, devices.

Nothing is judged here: a budget that moves costs no run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from edgemobile.comparison.report import ParityReport
from edgemobile.devices.host.records import Run
from edgemobile.errors import EdgemobileError
from edgemobile.exporters import format_of
from edgemobile.gate.cache import Cache
from edgemobile.gate.config import Accuracy, DeviceEntry, GateConfig, ModelEntry
from edgemobile.gate.fingerprint import content_sha256, contents, fingerprint, software
from edgemobile.gate.selectors import MODEL_SUFFIXES
from edgemobile.images import class_labels
from edgemobile.loading import checkpoint_facts as facts
from edgemobile.loading.checkpoint import CHECK_IMAGES, NAMED, bundled
from edgemobile.loading.model_spec import is_factory
from edgemobile.metrics.tolerances import TABLE, Tolerance, untrained
from edgemobile.util.progress import Progress
from edgemobile.util.strict_json import decode, encode

__all__ = ["Measured", "Scored", "Written", "measure_accuracy", "measure_device", "measure_parity", "written_files"]

_T = TypeVar("_T")
# One answer of 64 is 1.6 points of agreement.
_READ_IMAGES, _MADE_IMAGES = 64, 32


@dataclass(frozen=True)
class Written:
    """A model file: `name` in its folder."""

    name: str
    format: str
    precision: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Scored:
    """The accuracy of a file; `drop_points` of top-1 below the float32 file, None for that one itself.

    `not_finite` counts the images for which it gave nan or inf.
    """

    file: str
    count: int
    correct: int
    drop_points: float | None
    not_finite: int


@dataclass(frozen=True)
class Measured:
    """A model under the gate: its files, and the key of what made them."""

    entry: ModelEntry
    config: GateConfig
    cache: Cache
    folder: Path
    files: tuple[Written, ...]
    key: str
    kept: bool

    def path(self, file: Written) -> Path:
        return self.folder / file.name

    def kept_or(
        self, stage: str, key: str, read: Callable[[Any], _T], run: Callable[[], tuple[_T, Any]]
    ) -> tuple[_T, bool]:
        """(the result, whether it was kept). `run` gives it and what to keep of it; None keeps nothing."""
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
    """The model's files: those named, those kept, or new ones. Raises EdgemobileError."""
    if entry.files:
        return _named_files(entry, config, cache)
    key = _export_key(entry, config)
    folder = cache.files(entry.name, key)
    found = cache.get("export", key, lambda value: decode(_Kept, value, "export"))
    if found is not None and not is_factory(entry.model) and _is_whole(folder, found.sha256):
        return Measured(entry, config, cache, folder, found.files, key, kept=True)
    cache.before("export")
    cache.clear(entry.name, key)
    files = _export(entry, config, folder, progress)
    cache.put("export", key, encode(_Kept(content_sha256(folder), files)))
    cache.tidy(entry.name, key)
    return Measured(entry, config, cache, folder, files, key, kept=False)


@dataclass(frozen=True)
class _Kept:
    """`sha256` is of the folder: every name in it, and every file's content."""

    sha256: str
    files: tuple[Written, ...]


def _is_whole(folder: Path, sha256: str) -> bool:
    """Whether it is as it was written: nothing changed, lost or added."""
    try:
        return folder.is_dir() and content_sha256(folder) == sha256
    except EdgemobileError:
        return False


def _named_files(entry: ModelEntry, config: GateConfig, cache: Cache) -> Measured:
    files, names = [], [path.name for path in entry.files]
    if len(set(names)) != len(names):
        raise EdgemobileError(
            f"{entry.name}: two files are called {max(names, key=names.count)}; give them other names"
        )
    for path in entry.files:
        digest = content_sha256(path)
        key = fingerprint("file", digest, software())
        precision = cache.get("file", key, str)
        if precision is None:
            from edgemobile.comparison.observing import open_file

            precision = open_file(path).precision
            cache.put("file", key, precision)
        files.append(Written(str(path), format_of(path.suffix).name, precision, path.stat().st_size, digest))
    # An absolute or a relative name stands for itself under an empty folder.
    return Measured(entry, config, cache, Path(), tuple(files), fingerprint("files", _source(entry)), kept=True)


def _export_key(entry: ModelEntry, config: GateConfig) -> str:
    made = (entry.formats, entry.precisions, entry.recipe, entry.target, entry.calib_images)
    recipe = content_sha256(Path(entry.recipe)) if entry.recipe and entry.recipe.endswith(".json") else None
    asked = (_count(entry, config), config.settings.seed)
    # Each model has a folder of its own, whose manifest is like no other.
    return fingerprint("export", entry.name, software(), _source(entry), made, recipe, asked)


def _source(entry: ModelEntry) -> list[Any]:
    """The net, its weights with what is said of them beside them, and its images, by content."""
    weights = None if entry.weights in (None, *NAMED) else Path(str(entry.weights))
    read = [
        content_sha256(Path(text)) if is_file else None
        for text, is_file in (
            (entry.model, entry.model.endswith(MODEL_SUFFIXES)),
            (str(weights), weights is not None),
            (str(entry.calib), entry.calib is not None),
        )
    ]
    said = [] if weights is None else contents(facts.places_beside(weights))
    return [entry.model, entry.weights, entry.width, entry.res, entry.classes, read, said]


def _export(entry: ModelEntry, config: GateConfig, folder: Path, progress: Progress) -> tuple[Written, ...]:
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
    artifacts = [file.artifact for file in export(request, progress).files]
    return tuple(Written(one.file, one.format, one.precision, one.bytes, one.sha256) for one in artifacts)


# ---- parity ---------------------------------------------------------------------------------------------------------


def measure_parity(model: Measured, progress: Progress) -> tuple[ParityReport, bool]:
    """(every file against PyTorch, layer by layer where asked for, whether it was kept)."""
    entry, settings = model.entry, model.config.settings
    table, images, count = _tolerances(model), _compared_on(entry), _count(entry, model.config)
    asked = (count, settings.layers, settings.seed, [asdict(row) for row in table])
    digests = [(file.name, file.sha256) for file in model.files]
    shown = None if images is None else content_sha256(images)
    key = fingerprint("parity", software(), _source(entry), digests, asked, shown)

    def run() -> tuple[ParityReport, Any]:
        from edgemobile.comparison.run import ParityRequest, parity

        request = ParityRequest(
            ref=entry.model,
            others=tuple(str(model.path(file)) for file in model.files),
            weights=entry.weights,
            width=entry.width,
            classes=entry.classes,
            data=images,
            images=count,
            seed=settings.seed,
            layers=settings.layers,
            table=table,
        )
        report = parity(request, progress)
        # A factory's code may import anything: no hash says whether it changed.
        return report, None if is_factory(entry.model) else report.to_json()

    return model.kept_or("parity", key, ParityReport.from_json, run)


def _compared_on(entry: ModelEntry) -> Path | None:
    """The model's own images; for the package's weights those that were made once for all of them.

    None: made from the model. They then differ from machine to machine, and with them how often int8 agrees.
    """
    in_the_package = entry.model in bundled() and entry.weights in (None, "bundled")
    return entry.calib or (CHECK_IMAGES if in_the_package else None)


def _count(entry: ModelEntry, config: GateConfig) -> int:
    """How many images a file is compared on. Making them costs seconds each at 224 px, reading them nothing."""
    return config.settings.images or (_READ_IMAGES if _compared_on(entry) else _MADE_IMAGES)


def _tolerances(model: Measured) -> tuple[Tolerance, ...]:
    """The table, and behind it the configuration's own bounds: for all models, then for this one."""
    rows = list(untrained(TABLE) if model.entry.weights == "random" else TABLE)
    for bounds in (model.config.tolerances, model.entry.tolerances):
        for precision, own in bounds.items():
            row = next(row for row in reversed(rows) if row.precision == precision)
            rows.append(replace(row, bounds={**row.bounds, **own}))
    return tuple(rows)


# ---- accuracy -------------------------------------------------------------------------------------------------------


def measure_accuracy(model: Measured, asked: Accuracy, progress: Progress) -> tuple[tuple[Scored, ...], bool]:
    """(the accuracy of every file against the first float32 one, whether it was kept). Raises EdgemobileError."""
    baseline = next((file for file in model.files if file.precision == "float32"), None)
    if baseline is None:
        raise EdgemobileError(
            f"{model.entry.name}: max_drop is against a float32 file, and there is none among its files"
        )
    digests = [(file.name, file.sha256) for file in model.files]
    labels = [contents(class_labels.places_beside(model.path(file))) for file in model.files]
    chosen = (content_sha256(asked.data), asked.split, asked.limit, model.config.settings.seed)
    key = fingerprint("accuracy", software(), digests, labels, chosen)

    def run() -> tuple[tuple[Scored, ...], Any]:
        from edgemobile.accuracy.evaluate import evaluate
        from edgemobile.accuracy.evaluation import EvalRequest

        request = EvalRequest(
            files=tuple(str(model.path(file)) for file in model.files),
            data=asked.data,
            split=asked.split,
            limit=asked.limit,
            seed=model.config.settings.seed,
            baseline=str(model.path(baseline)),
        )
        names = {str(model.path(file)): file.name for file in model.files}
        evaluation = evaluate(request, progress)
        for file, reason in evaluation.refused:
            raise EdgemobileError(f"{names[file]}: {reason}")
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


def measure_device(model: Measured, device: DeviceEntry, files: Sequence[Written]) -> tuple[Run, bool]:
    """(`files` measured on the device, whether that was kept). What is unstable is not kept.

    Raises EdgemobileError, DeviceUnreachable, MissingTool.
    """
    from edgemobile.devices.host.profiles import find_device

    row = find_device(device.name)
    digests = [(file.name, file.sha256) for file in files]
    key = fingerprint("device", software(), row.address, row.options, device.runs, device.threads, digests)

    def run() -> tuple[Run, Any]:
        from edgemobile.devices.host.records import Settings
        from edgemobile.latency.run import BenchRequest, bench
        from edgemobile.latency.statistics import verdict

        settings = Settings(threads=(device.threads,), runs=device.runs)
        found = bench(BenchRequest(tuple(model.path(file) for file in files), device.name, settings))
        stable = all(verdict(case, found).stable for case in found.cases)
        return found, encode(found) if stable and not found.refused else None

    return model.kept_or("device", key, lambda value: decode(Run, value, "run"), run)
