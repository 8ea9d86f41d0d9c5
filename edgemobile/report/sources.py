"""Reads the inputs of a report: bench runs, evaluations, parity reports and exports, recognized by their content.

Every file is untrusted: it is parsed strictly, and only the fields declared here are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from edgemobile.accuracy.evaluation import EVALUATION_VERSION
from edgemobile.comparison.report import ParityReport
from edgemobile.devices.host.records import MAX_RUN_BYTES, RUN_VERSION, Run
from edgemobile.errors import EdgemobileError
from edgemobile.pipeline.artifact import MANIFEST_VERSION, ManifestEntry
from edgemobile.preprocess import Preprocess
from edgemobile.util.strict_json import decode, parse

__all__ = ["ClassScore", "Confused", "Evaluated", "Export", "ExportedFile", "Scores", "Sources", "read_sources"]

_MANIFEST = "manifest.json"
_T = TypeVar("_T")


@dataclass(frozen=True)
class ClassScore:
    """How many images of one class a file classifies correctly: `correct` of `count`. `output` is the class's index."""

    folder: str
    output: int
    count: int
    correct: int
    label: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.count or self.count < 1:
            raise ValueError("correct is from 0 to count, of at least one image")


@dataclass(frozen=True)
class Confused:
    """How many images of class `true` a file classifies as `predicted`, by the indices of outputs."""

    true: int
    predicted: int
    count: int


@dataclass(frozen=True)
class Evaluated:
    """One file of an evaluation; fractions are from 0 to 1. `sha256` is None if it is not a file, or not known."""

    file: str
    count: int
    top1: float
    top1_interval95: tuple[float, ...]
    top5: float | None
    runtime: str
    preprocess: str
    sha256: str | None = None
    per_class: tuple[ClassScore, ...] = ()
    confusion: tuple[Confused, ...] = ()

    def __post_init__(self) -> None:
        if len(self.top1_interval95) != 2 or self.count < 1:
            raise ValueError("top1_interval95 is (low, high) of at least one image")
        if not all(0 <= share <= 1 for share in (self.top1, *self.top1_interval95, self.top5 or 0)):
            raise ValueError("top1, top5 and the interval are shares from 0 to 1")


@dataclass(frozen=True)
class Scores:
    """An evaluation: files on the same images. `images` identifies them, so that only equal sets are compared."""

    data: str
    split: str | None
    limit: int | None
    seed: int
    on: str | None
    images: tuple[str, ...]
    files: tuple[Evaluated, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ExportedFile(ManifestEntry):
    """One file of an export, with its measurements; `metrics` against PyTorch, None for infinite."""

    runtime: str
    metrics: Mapping[str, float | None]
    top1: float | None
    missed: tuple[str, ...]
    latency_ns: tuple[int, ...]


@dataclass(frozen=True)
class _Manifest:
    folder: str
    name: str
    classes: int | None
    input_px: int
    labels: tuple[str, ...] | None
    weights_source: str
    weights_sha256: str
    checked_on: str
    files: tuple[ExportedFile, ...]
    preprocess_embedded: bool = False


@dataclass(frozen=True, kw_only=True)
class Export(_Manifest):
    """A manifest. `facts` is the rest of it as JSON, only for display.

    `preprocess` is the model's; if it is embedded, mean and std are inside the files.
    """

    preprocess: Preprocess
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Sources:
    runs: tuple[Run, ...] = ()
    scores: tuple[Scores, ...] = ()
    parities: tuple[ParityReport, ...] = ()
    exports: tuple[Export, ...] = ()

    def measured(self, run: Run) -> str:
        """The time in UTC, to the minute; to the second if minutes do not distinguish the runs of a device."""
        minutes = {(one.device, one.created[:16]) for one in self.runs}
        return run.created.replace("T", " ")[: 16 if len(minutes) == len(self.runs) else 19]


def read_sources(paths: Iterable[Path]) -> Sources:
    """Read every file and folder by its kind; the same content given twice counts once.

    Raises EdgemobileError for one that cannot be read or has an unknown kind.
    """
    found: dict[str, dict[bytes, list[Any]]] = {name: {} for name in ("runs", "scores", "parities", "exports")}
    for path in paths:
        path = path / _MANIFEST if path.is_dir() else path
        data = _bytes(path)
        kind, records = _recognised(parse(data, str(path), MAX_RUN_BYTES), path)
        found[kind][data] = records
    return Sources(**{kind: tuple(chain(*by_content.values())) for kind, by_content in found.items()})


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_RUN_BYTES + 1)
    except OSError as error:
        raise EdgemobileError(f"cannot read {path}: {error.strerror or error}. {_ALLOWED}") from error


# ---- kinds: what its JSON has, and how it is read -------------------------------------------------------------------


def _run(value: Mapping[str, Any], path: Path) -> list[Run]:
    _check_version(value, path, RUN_VERSION)
    return [decode(Run, value, path.name)]


def _bench(value: Mapping[str, Any], path: Path) -> list[Run]:
    runs = value["runs"]
    if not isinstance(runs, list) or not all(
        isinstance(one, dict) and isinstance(one.get("run"), dict) for one in runs
    ):
        raise EdgemobileError(f"{path}: expected a list of runs, as printed by `edgemobile bench --json`")
    return [decode(Run, one["run"], path.name) for one in runs]


def _scores(value: Mapping[str, Any], path: Path) -> list[Scores]:
    _check_version(value, path, EVALUATION_VERSION)
    files = _picks(Evaluated, value["files"], path)
    for file in files:
        for name, record in (("per_class", ClassScore), ("confusion", Confused)):
            file[name] = _picks(record, list(file[name]) if isinstance(file[name], tuple) else file[name], path)
    return [_picked(Scores, {**value, "files": files}, path.name)]


def _parity(value: Mapping[str, Any], path: Path) -> list[ParityReport]:
    return [ParityReport.from_json(value)]


def _export(value: Mapping[str, Any], path: Path) -> list[Export]:
    _check_version(value, path, MANIFEST_VERSION)
    model, weights, checked = (_mapping(value, key, path) for key in ("model", "weights", "checked_on"))
    kept = ("edgemobile", "command", "backend", "target", "calibration", "recipe", "tools", "notes")
    facts = {
        "model": {key: item for key, item in model.items() if key not in ("labels", "preprocess")},
        **{key: value[key] for key in kept if value.get(key) is not None},
    }
    flat = {
        **model,
        "folder": path.resolve().parent.name,
        "weights_source": weights.get("source"),
        "weights_sha256": weights.get("sha256"),
        "checked_on": checked.get("images"),
        "files": _picks(ExportedFile, value["files"], path),
    }
    read = _picked(_Manifest, flat, path.name)
    preprocess = Preprocess.from_json(_mapping(model, "preprocess", path))
    return [Export(**vars(read), preprocess=preprocess, facts=facts)]


# ---- strict, but only about the fields that are used ----------------------------------------------------------------


def _picked(record: type[_T], value: Any, where: str) -> _T:
    return decode(record, _pick(record, value, where), where)


def _pick(record: Any, value: Any, where: str) -> dict[str, Any]:
    """The fields of `record` from `value`, with the record's defaults for missing ones."""
    if not isinstance(value, dict):
        raise EdgemobileError(f"{where}: expected an object")
    defaults = {one.name: one.default for one in fields(record) if one.default is not MISSING}
    return {one.name: {**defaults, **value}[one.name] for one in fields(record) if one.name in {**defaults, **value}}


def _picks(record: Any, value: Any, path: Path) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise EdgemobileError(f"{path}: expected a list of {record.__name__}")
    return [_pick(record, one, f"{path.name}: {record.__name__} {index}") for index, one in enumerate(value)]


def _mapping(value: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    found = value.get(key)
    if not isinstance(found, dict):
        raise EdgemobileError(f"{path}: {key}: expected an object")
    return found


def _check_version(value: Mapping[str, Any], path: Path, version: int) -> None:
    if value.get("version") != version:
        raise EdgemobileError(f"{path} has version {str(value.get('version'))[:20]}; this edgemobile reads {version}")


_KINDS: tuple[tuple[str, frozenset[str], Callable[[Mapping[str, Any], Path], list[Any]]], ...] = (
    ("runs", frozenset({"version", "facts", "cases"}), _run),
    ("runs", frozenset({"version", "runs"}), _bench),
    ("exports", frozenset({"model", "weights", "files", "tools"}), _export),
    ("parities", frozenset({"reference", "images", "files"}), _parity),
    ("scores", frozenset({"data", "files", "images", "classes"}), _scores),
)
_ALLOWED = (
    "A report takes runs (`edgemobile bench --out` or `--json`), `edgemobile eval --json` of classifiers, "
    "`edgemobile parity --json`, and folders of `edgemobile export`"
)


def _recognised(value: Any, path: Path) -> tuple[str, list[Any]]:
    for kind, keys, read in _KINDS:
        if isinstance(value, dict) and keys <= value.keys():
            return kind, read(value, path)
    raise EdgemobileError(f"{path} is not an input of a report. {_ALLOWED}")
