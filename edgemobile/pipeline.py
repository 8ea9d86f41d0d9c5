"""The main job: a model goes in, a folder of files that were run and compared comes out.

model + weights -> torch.export -> lower -> Graph -> [int8 | float16 | dynamic] -> emitters -> run in the real runtime
-> judge against PyTorch -> manifest
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import edgemobile
from edgemobile.artifact import MANIFEST_VERSION, Artifact, check_free, fresh_folder, sha256_hex, to_json_text
from edgemobile.devices.latency import Latency, latency_ns
from edgemobile.devices.runtimes import Session, open_session
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.exporters import FORMATS
from edgemobile.graph import Graph
from edgemobile.interpreter import dequantize, quantize, run
from edgemobile.lower import lower
from edgemobile.model import Model, load_model
from edgemobile.parity import TOLERANCES, Verdict, judge
from edgemobile.quant.ptq import ptq
from edgemobile.quant.recipe import DEFAULT, Recipe
from edgemobile.quant.synthesize import synthesize
from edgemobile.quant.weights_only import to_float16, to_int8_weights
from edgemobile.samples import Samples, from_dataset, from_synthesis

__all__ = ["PRECISIONS", "Checked", "ExportRequest", "ExportResult", "Progress", "export"]

_FLOAT_FORMS: dict[str, Callable[[Graph], Graph]] = {
    "float32": lambda graph: graph,
    "float16": to_float16,
    "dynamic": to_int8_weights,
}
PRECISIONS = (*_FLOAT_FORMS, "int8")
_CALIBRATION_BATCH = 32
_LATENCY_ROUNDS = 30
# The numpy reference is slow; this many images show an integer that differs.
_ORACLE_IMAGES = 16
# Synthesis costs seconds; this many images of each kind, and steps, are where more stop helping.
_SYNTHESISED = 32
_SYNTHESIS_STEPS = 40
_TOOLS = ("torch", "onnx", "onnxruntime", "ai-edge-litert", "numpy")


class Progress(Protocol):
    """Where the pipeline tells how far it is; the command line draws bars from it."""

    def step(self, title: str, total: int | None = None) -> AbstractContextManager[Callable[[int], None]]:
        """A step begins; the context gives a function to call with what is done so far."""
        ...


class Silent:
    """Progress for library use."""

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        yield lambda done: None


@dataclass(frozen=True)
class ExportRequest:
    """What to export. None takes the checkpoint's own value, or the model's where it has none.

    `model` is a reference model's name, `package.module:factory`, or a saved torch.export program, FILE.pt2.
    `calib` is an ImageFolder as a directory or a zip: it calibrates int8 (its train split, where it has splits) and is what
    the written files are checked on (another split, or other images). Without it both use synthesised images.
    """

    model: str
    out: Path
    weights: str | None = None
    formats: tuple[str, ...] = tuple(FORMATS)
    precisions: tuple[str, ...] = ("float32",)
    width: float | None = None
    res: int | None = None
    classes: int | None = None
    batch: int = 1
    calib: Path | None = None
    calib_images: int = 128
    check_images: int = 200
    recipe: Recipe = DEFAULT
    threads: int = 1
    seed: int = 0
    overwrite: bool = False
    command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what, given, known in (("format", self.formats, FORMATS), ("precision", self.precisions, PRECISIONS)):
            unknown = [name for name in given if name not in known]
            if unknown or not given:
                raise Unsupported(f"{what} {', '.join(unknown) or '(none)'} is not known. Allowed: {', '.join(known)}")
        for name in ("batch", "calib_images", "check_images", "threads"):
            if getattr(self, name) < 1:
                raise EdgemobileError(f"{name} must be at least 1, found {getattr(self, name)}")


@dataclass(frozen=True)
class Checked:
    """A written file, run in its runtime. `accuracy` is top-1 where labels are known; `max_lsb` is the largest difference
    to the int8 reference arithmetic, in steps of the output's scale (None for float arithmetic)."""

    artifact: Artifact
    runtime: str
    verdict: Verdict
    latency: Latency
    accuracy: float | None = None
    max_lsb: int | None = None


@dataclass(frozen=True)
class ExportResult:
    """What an export made. `images` says what the files were checked on; `notes` is what a reader should know."""

    out: Path
    model: str
    source: str
    input_px: int
    images: str
    float_accuracy: float | None
    files: tuple[Checked, ...]
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
    with progress.step("load the model"):
        model = load_model(
            request.model,
            request.weights,
            width=request.width,
            res=request.res,
            classes=request.classes,
            batch=request.batch,
            seed=request.seed,
        )
    samples = _samples(request, model, progress)
    graphs, notes = _graphs(request, model, samples, progress)
    with fresh_folder(request.out, overwrite=request.overwrite) as folder:
        artifacts = _write(request, model, graphs, folder, progress)
        files, float_accuracy = _check(request, model, graphs.get("int8"), samples, artifacts, folder, progress)
        result = ExportResult(
            out=request.out,
            model=model.name,
            source=model.source,
            input_px=model.preprocess.input_px,
            images=samples.described,
            float_accuracy=float_accuracy,
            files=files,
            notes=(*model.notes, *samples.notes, *notes),
        )
        (folder / "manifest.json").write_text(to_json_text(_manifest(request, model, samples, result)))
    return result


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
            )
    calibration, check = min(calibration, _SYNTHESISED), min(request.check_images, _SYNTHESISED)
    with progress.step("synthesise images", _SYNTHESIS_STEPS) as report:
        images = synthesize(
            model.net,
            images=calibration + check,
            input_px=model.preprocess.input_px,
            mean=model.preprocess.mean,
            std=model.preprocess.std,
            seed=request.seed,
            steps=_SYNTHESIS_STEPS,
            progress=report,
        )
    return from_synthesis(images, calibration=calibration, seed=request.seed)


def _graphs(
    request: ExportRequest, model: Model, samples: Samples, progress: Progress
) -> tuple[dict[str, Graph], tuple[str, ...]]:
    """precision -> graph, and the notes of quantization."""
    with progress.step("lower to a graph"):
        graph = lower(model.program, model.name)
    made: dict[str, Graph] = {}
    notes: tuple[str, ...] = ()
    for precision in request.precisions:
        if precision == "int8":
            with progress.step("quantize to int8", len(samples.calibration)) as report:
                quantized = ptq(graph, samples.batches(_CALIBRATION_BATCH), request.recipe, progress=report)
            made[precision], notes = quantized.graph, quantized.notes
        else:
            made[precision] = _FLOAT_FORMS[precision](graph)
    return made, notes


def _write(
    request: ExportRequest, model: Model, graphs: Mapping[str, Graph], folder: Path, progress: Progress
) -> list[Artifact]:
    """Write every format of every precision, and labels.txt."""
    artifacts = []
    hswish_count = graphs[request.precisions[0]].op_counts().get("hardswish", 0)
    with progress.step("write files", len(graphs) * len(request.formats)) as report:
        for precision, graph in graphs.items():
            for name in request.formats:
                row = FORMATS[name]
                data = row.load().to_bytes(graph, metadata=_file_metadata(request, model, precision))
                file = f"{model.name}-{precision}{row.suffix}"
                (folder / file).write_bytes(data)
                ops = row.load().op_counts(data)
                hswish = _hswish_form(hswish_count, graph.op_counts().get("hardswish", 0))
                artifacts.append(Artifact(file, name, precision, len(data), sha256_hex(data), ops, hswish))
                report(len(artifacts))
    if model.labels is not None:
        (folder / "labels.txt").write_text("\n".join(model.labels) + "\n")
    return artifacts


def _hswish_form(total: int, fused: int) -> str:
    """How the model's hard-swishes are written: "21 fused", "21 delegated", or nothing."""
    parts = ((fused, "fused"), (total - fused, "delegated"))
    return ", ".join(f"{count} {form}" for count, form in parts if count)


def _check(
    request: ExportRequest,
    model: Model,
    int8: Graph | None,
    samples: Samples,
    artifacts: Sequence[Artifact],
    folder: Path,
    progress: Progress,
) -> tuple[tuple[Checked, ...], float | None]:
    """Run every file on the check images; (what came out, PyTorch's own accuracy)."""
    sessions = {artifact.file: open_session(folder / artifact.file, threads=request.threads) for artifact in artifacts}
    with progress.step("run PyTorch"):
        reference = model.logits(samples.check)
    oracle = None if int8 is None else _integer_logits(int8, samples.check[:_ORACLE_IMAGES])
    checked = []
    with progress.step("run the files", len(artifacts) * len(samples.check)) as report:
        outputs = {}
        for index, (file, session) in enumerate(sessions.items(), start=1):
            outputs[file] = session.run(samples.check)
            report(index * len(samples.check))
    with progress.step("measure latency"):
        prepared = {file: session.prepare(_one_batch(samples.check, session)) for file, session in sessions.items()}
        latencies = latency_ns(sessions, prepared, rounds=_LATENCY_ROUNDS)
    for artifact in artifacts:
        output, session = outputs[artifact.file], sessions[artifact.file]
        checked.append(
            Checked(
                artifact,
                f"{session.runtime} {session.version}",
                judge(reference, output, TOLERANCES[artifact.precision]),
                latencies[artifact.file],
                _accuracy(output, samples.labels),
                _max_lsb(oracle, output) if artifact.precision == "int8" else None,
            )
        )
    return tuple(checked), _accuracy(reference, samples.labels)


def _one_batch(images: np.ndarray, session: Session) -> np.ndarray:
    """As many images as the session's batch, repeated where there are fewer."""
    return np.resize(images, (session.input.shape[0], *images.shape[1:]))


def _integer_logits(graph: Graph, images: np.ndarray) -> tuple[np.ndarray, float]:
    """(logits of the reference int8 arithmetic, the scale of one step)."""
    source, result = graph[graph.inputs[0]].qparams, graph[graph.outputs[0]].qparams
    assert source is not None
    assert result is not None
    integers = run(graph, quantize(images, source, "int8"))[graph.outputs[0]]
    return dequantize(integers, result), float(result.scale[0])


def _max_lsb(oracle: tuple[np.ndarray, float] | None, output: np.ndarray) -> int | None:
    if oracle is None:
        return None
    logits, step = oracle
    return int(np.rint(np.abs(output[: len(logits)] - logits) / step).max())


def _accuracy(logits: np.ndarray, labels: np.ndarray | None) -> float | None:
    return None if labels is None else float(np.mean(logits.argmax(axis=1) == labels))


# ---- what the folder says of itself ---------------------------------------------------------------------------------


def _file_metadata(request: ExportRequest, model: Model, precision: str) -> dict[str, str]:
    """What travels inside every file, so that it can be used without its folder."""
    entries = {
        "edgemobile.version": edgemobile.__version__,
        "edgemobile.model": model.name,
        "edgemobile.precision": precision,
        "edgemobile.weights_sha256": model.sha256,
        "edgemobile.preprocess": json.dumps(model.preprocess.to_json()),
    }
    if model.labels is not None:
        entries["edgemobile.labels"] = json.dumps(list(model.labels))
    return entries


def _manifest(request: ExportRequest, model: Model, samples: Samples, result: ExportResult) -> dict[str, Any]:
    return {
        "version": MANIFEST_VERSION,
        "edgemobile": edgemobile.__version__,
        "command": shlex.join(("edgemobile", *request.command)) if request.command else None,
        "model": {
            "name": model.name,
            **model.facts,
            "classes": model.classes,
            "input_px": model.preprocess.input_px,
            "batch": request.batch,
            "labels": list(model.labels) if model.labels is not None else None,
            "preprocess": model.preprocess.to_json(),
        },
        "weights": {"source": model.source, "sha256": model.sha256},
        "calibration": samples.facts if "int8" in request.precisions else None,
        "recipe": request.recipe.to_json() if "int8" in request.precisions else None,
        "checked_on": {"images": samples.described, "float_top1": result.float_accuracy},
        "files": [_file_facts(file) for file in result.files],
        "notes": list(result.notes),
        "tools": {name: metadata.version(name) for name in _TOOLS if _installed(name)},
    }


def _file_facts(file: Checked) -> dict[str, Any]:
    facts = asdict(file.artifact)
    return facts | {
        "runtime": file.runtime,
        "metrics": dict(file.verdict.metrics),
        "top1": file.accuracy,
        "max_lsb_to_reference": file.max_lsb,
        "missed": list(file.verdict.missed),
        "latency_ns": list(file.latency.values_ns),
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
