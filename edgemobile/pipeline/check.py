"""Runs every written file in its runtime with the arithmetic of its target, and compares it with the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgemobile.comparison.oracle import OutputDifference, explain_difference
from edgemobile.devices.host.saturation import found_here, note_on_target, target_elsewhere
from edgemobile.devices.runtimes.latency import latency_ns
from edgemobile.devices.runtimes.sessions import Session, open_session
from edgemobile.errors import Unsupported
from edgemobile.graph import Graph
from edgemobile.graph.interpreter import run_real
from edgemobile.images.samples import Samples
from edgemobile.loading.model import Model
from edgemobile.loading.model_spec import is_factory
from edgemobile.metrics.tolerances import QUANTIZED, TABLE, Verdict, bounds_of, judge_rows, tolerance, untrained
from edgemobile.model_file.model_file import ModelFile
from edgemobile.pipeline.artifact import ManifestEntry
from edgemobile.pipeline.request import Checked, ExportRequest
from edgemobile.util.progress import Progress

__all__ = ["accuracy", "check", "file_notes"]

_LATENCY_ROUNDS = 30
# The numpy reference is slow; so many images are enough to detect different integers.
_ORACLE_IMAGES = 16
# A tie may be rounded either way. In common nets, later layers increase the difference to at most so many steps.
_TIE_LSB, _USUAL_LSB = 1, 4


def check(
    request: ExportRequest,
    model: Model,
    samples: Samples,
    reference: np.ndarray,
    int8: Graph | None,
    entries: Sequence[ManifestEntry],
    written: Mapping[str, ModelFile],
    progress: Progress,
) -> tuple[Checked, ...]:
    """Run every file on the check images as its target would, compare it with the rows `reference`, and measure the
    latency of all files in turns.

    `written` are the files by the names in their entries.
    """
    sessions = {name: _session(file, request.threads) for name, file in written.items()}
    exact = {
        name: _session(written[name], request.threads, exact=True)
        for name, session in sessions.items()
        if target_elsewhere(session.metadata)
    }
    for session in (*sessions.values(), *exact.values()):
        session.settle(samples.check.shape[1])
    outputs, here = {}, {}
    with progress.step("run the files", len(written)) as report:
        for file, session in sessions.items():
            outputs[file] = exact.get(file, session).rows(samples.check)
            if file in exact:
                here[file] = judge_rows(reference, session.rows(samples.check), model.outputs, {}).metrics
            report(len(outputs))
        oracle = None if int8 is None else run_real(int8, samples.check[:_ORACLE_IMAGES])
    with progress.step("measure latency"):
        prepared = {file: session.prepare(_one_batch(samples.check, session)) for file, session in sessions.items()}
        latencies = latency_ns(sessions, prepared, rounds=_LATENCY_ROUNDS)
    checked = (
        Checked(
            entry,
            f"{sessions[entry.file].runtime} {sessions[entry.file].version}",
            _judged(request, model, entry.precision, reference, outputs[entry.file], samples.labels),
            latencies[entry.file],
            accuracy(outputs[entry.file], samples.labels),
            _max_lsb(int8, oracle, outputs[entry.file]) if entry.precision == "int8" else None,
            exact.get(entry.file, sessions[entry.file]).config,
            here.get(entry.file),
        )
        for entry in entries
    )
    return tuple(_explained(file, int8, oracle, outputs[file.entry.file], samples.check, written) for file in checked)


def _session(file: ModelFile, threads: int, *, exact: bool = False) -> Session:
    return open_session(file.data, threads=threads, name=str(file.path), exact=exact)


def file_notes(request: ExportRequest, model: Model, files: Sequence[Checked]) -> tuple[str, ...]:
    """Notes that explain the files' numbers."""
    notes = [file.tie_note for file in files if file.tie_note is not None]
    poor = any(file.entry.precision in QUANTIZED and not file.verdict.passed for file in files)
    if poor and is_factory(request.model) and request.weights is None and not model.random:
        notes.append(
            f"if the weights of {request.model} were never trained, use --weights random: int8 files are then not "
            "checked against a tolerance"
        )
    return (*notes, *_notes_of_here(request, model.reference, files))


def _notes_of_here(request: ExportRequest, reference: str, files: Iterable[Checked]) -> Iterator[str]:
    for file in files:
        if file.metrics_here is not None:
            yield note_on_target(file.entry.file, request.target, found_here(file.metrics_here, f"{reference}'s"))


def _judged(
    request: ExportRequest,
    model: Model,
    precision: str,
    reference: np.ndarray,
    output: np.ndarray,
    labels: np.ndarray | None,
) -> Verdict:
    """Check a file against the table of tolerances and, for int8, against the request's own bound."""
    # If the model is quantized as well, both sides have rounding errors.
    judged_as = "int8" if model.is_quantized else precision
    table = untrained(TABLE) if model.random else TABLE
    bounds = bounds_of(model.outputs, tolerance("*", judged_as, "*", table).bounds)
    verdict = judge_rows(reference, output, model.outputs, bounds)
    if request.max_drop is None or precision != "int8":
        return verdict
    was, became = accuracy(reference, labels), accuracy(output, labels)
    if was is None or became is None:
        lost, what = 100 * (1 - verdict.metrics["top1_agree"]), "differs from float on"
    else:
        lost, what = 100 * (was - became), "loses"
    if lost <= request.max_drop:
        return verdict
    return replace(verdict, missed=(*verdict.missed, f"{what} {lost:.2f} in 100, --max-drop is {request.max_drop:g}"))


def _one_batch(images: np.ndarray, session: Session) -> np.ndarray:
    """As many images as the session's batch, repeated if there are fewer."""
    return np.resize(images, (session.input.shape[0], *images.shape[1:]))


def _max_lsb(graph: Graph | None, exact: np.ndarray | None, output: np.ndarray) -> int | None:
    """The largest difference between a file and the reference arithmetic, in steps of the output's scale."""
    return None if graph is None or exact is None else int(_steps(graph, exact, output).max())


def _steps(graph: Graph, exact: np.ndarray, output: np.ndarray) -> np.ndarray:
    """The differences to the rows `exact` in steps of each output's scale, for its images."""
    scales = []
    for name in graph.outputs:
        tensor = graph[name]
        assert tensor.qparams is not None
        scales.append(np.full(math.prod(tensor.shape[1:]), tensor.qparams.scale[0]))
    return np.rint(np.abs(output[: len(exact)] - exact) / np.concatenate(scales))


def _explained(
    file: Checked,
    graph: Graph | None,
    exact: np.ndarray | None,
    output: np.ndarray,
    images: np.ndarray,
    written: Mapping[str, ModelFile],
) -> Checked:
    """`file` with a note on its difference to the reference arithmetic; an op that differs by more than a tie is a
    missed bound.
    """
    if graph is None or exact is None or file.max_lsb is None or file.max_lsb <= _TIE_LSB:
        return file
    worst = int(_steps(graph, exact, output).max(axis=1).argmax())
    try:
        found = explain_difference(graph, written[file.entry.file], images[worst : worst + 1], _TIE_LSB)
    except Unsupported as error:
        found = OutputDifference((), f"its ops cannot be compared ({error})")
    if found.wrong:
        return replace(file, verdict=replace(file.verdict, missed=(*file.verdict.missed, *found.wrong)))
    if file.max_lsb <= _USUAL_LSB:
        return file
    steps = f"the outputs of {file.entry.file} differ from the reference arithmetic by up to {file.max_lsb} steps"
    return replace(file, tie_note=f"{steps}: {found.words}")


def accuracy(logits: np.ndarray, labels: np.ndarray | None) -> float | None:
    return None if labels is None else float(np.mean(logits.argmax(axis=1) == labels))
