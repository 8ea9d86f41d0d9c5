"""Measures the files of a request on a device; returns a Run with notes about the validity of the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from edgemobile import __version__
from edgemobile.devices.host.llvm_mca import find_llvm
from edgemobile.devices.host.processes import MissingTool
from edgemobile.devices.host.profiles import Device, open_device
from edgemobile.devices.host.records import RUN_VERSION, Case, Facts, Run, Settings
from edgemobile.devices.host.runner import Measured, Prepared, bench_job, run_job
from edgemobile.devices.host.setup import ready
from edgemobile.devices.host.transport import Transport
from edgemobile.devices.runtimes.table import default_runtime
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.inspection import Inspection, facts_of
from edgemobile.latency.estimates import on_boards
from edgemobile.latency.layer_costs import PREFIX_RUNS, count_prefixes, layer_costs, negative
from edgemobile.latency.statistics import summarize
from edgemobile.model_file.metadata import MODEL, WEIGHTS_SHA256
from edgemobile.model_file.model_file import ModelFile
from edgemobile.util.progress import Progress, Report, Silent

__all__ = ["BenchRequest", "advice", "bench", "cores_of"]

_MAX_CORE = 1023
_SHOWN_REFUSALS = 4
_SHOWN_LAYERS = 4


@dataclass(frozen=True)
class BenchRequest:
    """What to measure, and on which device. A file given twice is measured once."""

    files: tuple[ModelFile, ...]
    device: str = "local"
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        if not self.files:
            raise EdgemobileError("nothing to measure: give at least one .onnx or .tflite file")


def bench(
    request: BenchRequest, progress: Progress | None = None, *, sleep: Callable[[float], None] = time.sleep
) -> Run:
    """Measure every file with every number of threads on the device; files that their runtime refuses are in `refused`.

    While the device works, this waits with `sleep`; an exception from it also stops the measurement on the device.
    Files whose runtimes share one Python are interleaved; others are measured after them, and the run notes it.
    Raises EdgemobileError for bad input and if no file is left, DeviceUnreachable, Unsupported for what the device
    cannot do.
    """
    settings, cores = request.settings, cores_of(request.settings.cores)
    files = list({file.path: file for file in request.files}.values())
    facts = {file.path: file.once(_facts) for file in files}
    _check_shapes(settings.shapes, facts)
    device, transport = open_device(request.device)
    shown = progress or Silent()
    try:
        if transport.emulated:
            _check_emulated(settings, device.name)
        elif settings.clock_mhz is not None:
            raise Unsupported(f"--clock is for the estimated time of an emulated core; {device.name} is not emulated")
        parts = []
        for prepared, group in _groups(files, settings.runtime, lambda name: ready(device, transport, name)):
            job = bench_job(group, settings, cores, emulated=transport.emulated)
            with shown.step(f"measure on {device.name}", 100) as report:
                part = run_job(device, transport, prepared, job, group, partial(_report, report), sleep=sleep)
            if transport.emulated and settings.profile:
                count = partial(_counted, device, transport, prepared, settings, shown)
                part = _with_prefixes(part, group, count)
            parts.append(part)
    finally:
        transport.close()
    run = Run(
        version=RUN_VERSION,
        edgemobile=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        device=device.name,
        emulated=transport.emulated,
        facts=_merged_facts(parts),
        settings=settings,
        conditions=tuple(sample for part in parts for sample in part.conditions),
        cases=tuple(case for part in parts for case in part.cases),
        refused=tuple(refusal for part in parts for refusal in part.refused),
    )
    if not run.cases:
        raise Unsupported("; ".join(f"{device.name}: {refusal.reason}" for refusal in run.refused[:_SHOWN_REFUSALS]))
    happened = [note for part in parts for note in part.notes]
    return replace(run, notes=(*happened, *_notes(run, len(parts)), *_decided(run, facts)))


def _with_prefixes(
    part: Measured, files: Sequence[ModelFile], count: Callable[[list[ModelFile], list[int]], Measured]
) -> Measured:
    """`part` with the counts of every file of it up to each of its layers."""
    known = {file.sha256: file for file in files}
    cases, notes = [], list(part.notes)
    for case in part.cases:
        prefixes, more = count_prefixes(known[case.sha256], count)
        cases.append(replace(case, prefixes=prefixes))
        notes += more
    return replace(part, cases=tuple(cases), notes=tuple(notes))


def _counted(
    device: Device,
    transport: Transport,
    prepared: Prepared,
    settings: Settings,
    shown: Progress,
    files: list[ModelFile],
    displaced_bytes: list[int],
) -> Measured:
    """The counts of files that stand for one file and its layers."""
    asked = replace(settings, runs=min(settings.runs or PREFIX_RUNS, PREFIX_RUNS), profile=False)
    job = bench_job(files, asked, [], emulated=True, displaced_bytes=displaced_bytes)
    with shown.step(f"count {len(files) - 1} layers of {files[-1].name}", len(files)) as report:
        return run_job(device, transport, prepared, job, files, partial(_report, report))


def _facts(file: ModelFile) -> Inspection | None:
    """A file's metadata; None if it cannot be read on this machine."""
    try:
        return facts_of(file, ask_runtimes=False)
    except EdgemobileError:
        return None


def _check_shapes(shapes: Mapping[str, Sequence[int]], facts: Mapping[Path, Inspection | None]) -> None:
    """Refuse a shape of an input that no file has: it is a typing error."""
    inputs = {port.name: port.shape for found in facts.values() if found is not None for port in found.inputs}
    for name in shapes if None not in facts.values() else ():
        if name not in inputs:
            known = ", ".join(f"{other}={'x'.join(map(str, shape))}" for other, shape in inputs.items())
            raise EdgemobileError(
                f"--shape {name}: no file has an input with that name. Inputs: {known.replace('-1', 'N')}"
            )


def _decided(run: Run, facts: Mapping[Path, Inspection | None]) -> Iterator[str]:
    """The notes about files with dynamic image sizes that were not given, and the sizes used."""
    shown = {case.file: case.input for case in run.cases}
    for path, found in facts.items():
        ports = found.inputs if found is not None and str(path) in shown else ()
        free = [port for port in ports if port.layout and min(port.shape[1:]) < 0]
        if said := [port.name for port in free if port.name not in run.settings.shapes]:
            taken = shown[str(path)]
            names = ", ".join(said)
            yield f"{path.name} has dynamic dimensions in {names}: measured with {taken}; set others with --shape"


def _report(report: Report, event: Mapping[str, Any]) -> None:
    """Report an event of the worker as progress; a board may send anything."""
    done, total = event.get("done"), event.get("total")
    if event["event"] == "round" and isinstance(done, int) and isinstance(total, int):
        report(done, total)


def cores_of(text: str | None) -> list[int]:
    """ "2-3,5" -> [2, 3, 5]; None -> [], which means all. Raises EdgemobileError."""
    cores: list[int] = []
    for part in () if text is None else text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)) or int(last or first) > _MAX_CORE:
            raise EdgemobileError(f"cores {text!r}: expected numbers and ranges of cores, such as 0-1 or 2,3")
        cores += range(int(first), int(last or first) + 1)
    if text is not None and (not cores or len(set(cores)) != len(cores)):
        raise EdgemobileError(f"cores {text!r}: expected every core once, and ascending ranges")
    return cores


def _groups(
    files: Sequence[ModelFile], runtime: str | None, prepare: Callable[[str], Prepared]
) -> Iterator[tuple[Prepared, list[ModelFile]]]:
    """Files grouped by the Python that runs them: this machine may have one for all runtimes, a board has one for
    each.
    """
    groups: list[tuple[Prepared, list[ModelFile]]] = []
    for file in files:
        prepared = prepare(runtime or default_runtime(file.format))
        same = [
            group for other, group in groups if (other.python, dict(other.env)) == (prepared.python, dict(prepared.env))
        ]
        if same:
            same[0].append(file)
        else:
            groups.append((prepared, [file]))
    yield from groups


def _check_emulated(settings: Settings, name: str) -> None:
    asked = {
        "--threads": settings.threads != (1,),
        "--cores": settings.cores is not None,
        "--seconds": settings.seconds is not None,
        "--processes": settings.processes is not None,
        "--memory": settings.memory,
        "--cooldown": settings.cooldown_c is not None,
        "--sustained": settings.sustained_s is not None,
    }
    if any(asked.values()):
        refused = ", ".join(option for option, given in asked.items() if given)
        raise Unsupported(
            f"{name} is emulated: it counts the instructions of one thread and estimates time from them. Not "
            f"supported: {refused}. Allowed: --runs, --runtime, --shape, --clock, --profile"
        )


def _merged_facts(parts: Sequence[Measured]) -> Facts:
    runtimes = {name: version for part in parts for name, version in part.facts.runtimes.items()}
    return replace(parts[0].facts, runtimes=runtimes)


# ---- notes ----------------------------------------------------------------------------------------------------------


def _notes(run: Run, parts: int) -> Iterator[str]:
    """Notes about the validity of this run, kept in it."""
    if parts > 1:
        yield "files of different runtimes were measured one after the other, not in turns: they use separate Pythons"
    before = run.conditions[0].conditions if run.conditions else None
    cores = len(cores_of(run.settings.cores)) or len(run.facts.cores)
    if before and not run.emulated and cores and (before.load1 or 0) > 0.5 * cores:
        yield f"the board was busy before the measurement: a load of {before.load1:.1f} on {cores} cores"
    if cores and max(run.settings.threads) > cores:
        yield f"{max(run.settings.threads)} threads on {cores} cores compete with each other"
    if run.emulated and not any(case.estimate for case in run.cases):
        yield from _unestimated()
    yield from _fused(run)
    if before and before.governor not in (None, "performance"):
        yield f"the governor is {before.governor}: the clock follows the load, as in normal use"


def _fused(run: Run) -> Iterator[str]:
    """The note on layers with a negative cost."""
    for case in run.cases:
        names = [cost.name for cost in negative(layer_costs(case, run.settings.clock_mhz))]
        if names:
            shown = ", ".join(names[:_SHOWN_LAYERS]) + (
                f" and {len(names) - _SHOWN_LAYERS} more" * (len(names) > _SHOWN_LAYERS)
            )
            yield (
                f"{Path(case.file).name} executes fewer instructions with {shown} than without: the runtime fuses them "
                "with a layer before, so only the sum of both costs is valid"
            )


def _unestimated() -> Iterator[str]:
    """Why there is no estimate, if installing something would enable it."""
    try:
        find_llvm()
    except MissingTool as error:
        yield f"time is not estimated: {error}"


def advice(run: Run, files: Sequence[ModelFile] = ()) -> list[str]:
    """Advice for int8 files slower than their float counterparts in the same runtime and threads, with known reasons.

    `files` are the measured files as read; without them there are fewer reasons.
    """
    known = {file.sha256: file for file in files}
    found = []
    for slow in (case for case in run.cases if case.precision == "int8"):
        rivals = [
            case
            for case in run.cases
            if case.precision.startswith("float")
            and (case.runtime, case.threads) == (slow.runtime, slow.threads)
            and _same_model(slow, case, run, known)
            and _slower(slow, case)
        ]
        if rivals:
            names = f"{Path(slow.file).name} (int8) is slower than {Path(rivals[0].file).name} ({rivals[0].precision})"
            reasons = "; ".join(_reasons(slow, run, known)) or "the reason is not known; --profile shows the ops"
            found.append(f"{names}: {reasons}")
    return found


def _same_model(one: Case, other: Case, run: Run, known: Mapping[str, ModelFile]) -> bool:
    """Whether two files are the same model with the same weights, from their metadata.

    Files without metadata are compared only if nothing else was measured.
    """
    origins = _origin(known.get(one.sha256)), _origin(known.get(other.sha256))
    if None in origins:
        return len({case.file for case in run.cases}) == 2
    return origins[0] == origins[1]


def _origin(file: ModelFile | None) -> tuple[str, str] | None:
    """(the model, the sha256 of its weights) in a file's metadata."""
    try:
        metadata = {} if file is None else file.metadata
    except EdgemobileError:
        return None
    return (metadata[MODEL], metadata[WEIGHTS_SHA256]) if {MODEL, WEIGHTS_SHA256} <= metadata.keys() else None


def _slower(slow: Case, other: Case) -> bool:
    """Clearly slower: the intervals of the medians do not overlap. Without times: by estimated cycles or counts."""
    if slow.estimate is not None and other.estimate is not None:
        return all(
            a.cycles > b.cycles for a, b in zip(on_boards(slow.estimate), on_boards(other.estimate), strict=True)
        )
    if slow.instructions is not None and other.instructions is not None:
        return slow.instructions_median["total"] > other.instructions_median["total"]
    return (
        summarize(slow.rounds_ns, slow.rounds_per_process).low_ns
        > summarize(other.rounds_ns, other.rounds_per_process).high_ns
    )


def _reasons(slow: Case, run: Run, known: Mapping[str, ModelFile]) -> Iterator[str]:
    if slow.partitions == 0:
        yield "the delegate runs none of its ops"
    elif slow.partitions is not None and slow.partitions > 1:
        outside = ", ".join(f"{count} {op}" for op, count in (slow.outside or {}).items())
        cure = " (export with --hswish delegated)" if "HARD_SWISH" in (slow.outside or {}) else ""
        yield f"the delegate splits it into {slow.partitions} partitions, and {outside} run outside them{cure}"
    if slow.runtime == "tflite_runtime":
        yield "tflite_runtime's int8 kernels use no dot product; ai-edge-litert's do"
    if slow.runtime == "onnxruntime" and run.facts.has_int8_dot and _has_uint8_weights(known.get(slow.sha256)):
        target = "arm" if run.facts.machine.startswith(("aarch64", "arm")) else "x86-vnni"
        yield f"its weights are uint8, for which onnxruntime has slower kernels (export with --target {target})"
    if not run.facts.has_int8_dot:
        yield f"this CPU has no instructions for int8 dot products ({run.facts.int8_isa})"


def _has_uint8_weights(file: ModelFile | None) -> bool:
    """Whether a file is known to store its weights as uint8."""
    facts = None if file is None else file.once(_facts)
    return facts is not None and any(weight.dtype == "uint8" for weight in facts.weights)
