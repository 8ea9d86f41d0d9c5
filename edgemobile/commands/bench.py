"""`edgemobile bench`: how fast model files run on a device, and whether the measurement can be trusted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgemobile.commands.compare import comparison_json, percentage
from edgemobile.commands.completion import complete_devices, complete_runtime
from edgemobile.commands.options import RESULTS
from edgemobile.commands.sections import SectionedCommand
from edgemobile.commands.writable import check_apart, check_writable
from edgemobile.devices.runtimes.table import RUNTIMES, runtime_called
from edgemobile.errors import EdgemobileError
from edgemobile.printing.runs import UNSTABLE, print_bench
from edgemobile.printing.terminal import of_device, print_error, progress
from edgemobile.util.strict_json import encode, to_json_text

if TYPE_CHECKING:
    from edgemobile.devices.host.records import Case, Run
    from edgemobile.latency.compare import Comparison

__all__ = ["bench"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "": 1}
_DEVICE = "{device}"


def _duration(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", (value or "0").strip())
    if not found or (value is not None and float(found[1]) == 0):
        raise click.BadParameter(f"{value!r} is not a duration such as 30s or 10m")
    return None if value is None else float(found[1]) * _UNITS[found[2]]


def _temperature(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*[°]?[cC]?", (value or "0").strip())
    if not found:
        raise click.BadParameter(f"{value!r} is not a temperature such as 60C")
    return None if value is None else float(found[1])


def _clock(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """ "1.8GHz" or "1800MHz" -> 1800."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(g|m)hz", value.strip().lower())
    if not found or not float(found[1]):
        raise click.BadParameter(f"{value!r} is not a clock frequency such as 1.8GHz or 1800MHz")
    return float(found[1]) * (1000 if found[2] == "g" else 1)


def _threads(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= 1024 for part in parts) or len(set(parts)) != len(parts):
        raise click.BadParameter(f"{value!r} is not a list of different numbers of at least 1, such as 1,4")
    return tuple(int(part) for part in parts)


def _shapes(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for text in value:
        name, _, sizes = text.rpartition("=")
        parts = sizes.lower().split("x")
        if not name or not all(part.isdecimal() and int(part) for part in parts):
            raise click.BadParameter(f"{text!r} is not NAME=SIZES, such as input=1x3x224x224")
        if name in found:
            raise click.BadParameter(f"input {name} is given twice")
        found[name] = tuple(map(int, parts))
    return found


@click.command(
    "bench",
    cls=SectionedCommand,
    sections={"Device": "--on", "How long": "--runs", "Input": "--shape", "Checks": "--baseline", "Output": "--out"},
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option(
    "--on",
    default="local",
    show_default=True,
    metavar="DEVICE,...",
    shell_complete=complete_devices,
    help="Devices to measure on, boards at the same time: names, patterns such as 'pi-*', tag:TAG (see `edgemobile "
    "devices list`).",
)
@click.option(
    "--threads",
    default="1",
    show_default=True,
    metavar="N,...",
    callback=_threads,
    help="Numbers of threads; each is one case.",
)
@click.option("--cores", metavar="LIST", help="Run on these cores only, such as 2-3.")
@click.option(
    "--runtime",
    metavar="NAME",
    shell_complete=complete_runtime,
    help=f"One of {', '.join(RUNTIMES)}. [default: by format]",
)
@click.option(
    "--runs",
    type=click.IntRange(1),
    metavar="N",
    help="Inferences per case. [default: 100, more for fast files; emulated: 5]",
)
@click.option("--seconds", callback=_duration, metavar="S", help="Instead of --runs: time per case, such as 10 or 1m.")
@click.option(
    "--processes",
    type=click.IntRange(1),
    metavar="N",
    help="Processes that the inferences are split over. [default: 5]",
)
@click.option(
    "--sustained", "sustained_s", callback=_duration, metavar="T", help="Instead of --runs: total time, such as 10m."
)
@click.option(
    "--cooldown",
    "cooldown_c",
    callback=_temperature,
    metavar="C",
    help="Before each round, wait until the device is this cool, such as 60C.",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    callback=_shapes,
    metavar="NAME=1x3x224x224",
    help="Shape of an input with dynamic dimensions. Repeat it for other inputs.",
)
@click.option(
    "--clock",
    "clock_mhz",
    callback=_clock,
    metavar="F",
    help="Clock of the estimated time, such as 1.8GHz. [emulated only; default: that of the boards with the core]",
)
@click.option("--memory", is_flag=True, help="Also measure peak memory, in one process per case.")
@click.option(
    "--profile",
    is_flag=True,
    help="Also measure time per op (onnxruntime), delegate partitions (LiteRT), or the cost of each layer (emulated).",
)
@click.option("--baseline", type=click.Path(path_type=Path), metavar="RUN.json", help="Compare with an earlier run.")
@click.option(
    "--max-regress", callback=percentage, metavar="P%", help="Exit 1 when slower than the baseline by more than this."
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Save the run with every raw value.")
@RESULTS
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the figures and the complete runs.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the result, no progress.")
def bench(
    files: tuple[Path, ...],
    on: str,
    baseline: Path | None,
    max_regress: float | None,
    out: Path | None,
    results_store: Path | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> int:
    """Measure the latency of FILEs on this machine or on a board. The folder of an export stands for all files in it,
    or for those that --runtime reads.

    After a warm-up, the files take turns in rounds. Every value is kept with its conditions. If a measurement cannot
    be trusted, the command prints the reason and exits 5. If a runtime refuses a file, the command reports it, measures
    the others and exits 2. If a device does not answer, the command reports it, measures on the others and exits 4.
    On an emulated device the command counts instructions, which are reproducible, because time there is meaningless.
    If llvm is installed, it also estimates the time on boards with that core.

    \b
    Examples:
      edgemobile bench float32.tflite int8.tflite --threads 1,4
      edgemobile bench v3-large --on pi5
      edgemobile bench int8.tflite --on 'pi-*' --cooldown 60C --out run-{device}.json
      edgemobile bench int8.tflite --baseline run.json --max-regress 5%
      edgemobile bench int8.tflite --on emulated:cortex-a72 --clock 1.5GHz
      edgemobile bench int8.tflite --on emulated:cortex-a76 --profile
      edgemobile bench int8.tflite --on emulated:cortex-a72 --baseline counts.json --max-regress 1%
    """
    from edgemobile.devices.host.records import Settings, load_run, save_run
    from edgemobile.devices.host.selection import select_devices
    from edgemobile.exporters.model_files import read_model_file
    from edgemobile.latency.boards import bench_all
    from edgemobile.latency.compare import check_alike
    from edgemobile.latency.run import BenchRequest, advice
    from edgemobile.pipeline.folder import expanded
    from edgemobile.results.sources import current_commit, of_run
    from edgemobile.results.store import append

    devices = select_devices(on)
    if settings["runtime"] is not None:
        settings["runtime"] = runtime_called(settings["runtime"])
    _check_options(devices, settings["runtime"], baseline, max_regress, out)
    _check_outputs(devices, out, (*files, baseline))
    check_writable("--results", results_store, (*files, baseline))
    try:
        asked = Settings(**settings)
    except ValueError as error:
        raise EdgemobileError(str(error)) from error
    reference = None if baseline is None else load_run(baseline)
    if reference is not None:
        check_alike(reference, devices[0], asked)
    formats = None if asked.runtime is None else (RUNTIMES[asked.runtime].format,)
    opened = tuple(map(read_model_file, dict.fromkeys(map(Path, expanded(files, formats)))))
    commit = None if results_store is None else current_commit()
    requests = [BenchRequest(opened, device, asked) for device in devices]
    outcomes: dict[int, Run | EdgemobileError] = {}
    saved: list[Path] = []
    unsaved: EdgemobileError | None = None
    try:
        with progress(quiet=quiet or as_json) as bars, closing(bench_all(requests, bars)) as done:
            for index, outcome in done:
                outcomes[index] = outcome
                if isinstance(outcome, EdgemobileError):
                    continue
                # Save first: the measurement took minutes, and a later step may fail.
                if out is not None:
                    try:
                        save_run(outcome, path := _out_of(out, devices[index]))
                        saved.append(path)
                    except EdgemobileError as error:
                        unsaved = error
                if results_store is not None:
                    append(results_store, of_run(outcome, commit))
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(*saved) from error
    codes, failed, shown = [], [], []
    for index, device in enumerate(devices):
        run = outcomes[index]
        if isinstance(run, EdgemobileError):
            # Other devices may have answered. If this is the only device, its error is the command's error.
            if len(devices) == 1:
                raise run
            print_error(of_device(run, device))
            failed.append(run.exit_code)
            shown.append({"device": device, "error": str(run)})
            continue
        compared = None if reference is None else _compared(reference, run)
        advised = advice(run, opened)
        codes.append(print_bench(run, advised, compared, max_regress, quiet=as_json))
        failed += [EdgemobileError.exit_code] if run.refused else []
        shown.append(_json(run, advised, compared, max_regress) if as_json else {})
    if unsaved is not None:
        raise unsaved
    if as_json:
        print(to_json_text({"version": 1, "runs": shown}), end="")
    return min(failed) if failed else UNSTABLE if UNSTABLE in codes else max(codes)


def _check_options(
    devices: Sequence[str],
    runtime: str | None,
    baseline: Path | None,
    max_regress: float | None,
    out: Path | None,
) -> None:
    """Refuses everything that can be refused before a long measurement."""
    if runtime is not None and runtime not in RUNTIMES:
        raise EdgemobileError(f"--runtime {runtime!r}: unknown runtime. Allowed: {', '.join(RUNTIMES)}")
    if max_regress is not None and baseline is None:
        raise EdgemobileError("--max-regress needs a baseline to compare with: add --baseline RUN.json")
    if len(devices) > 1 and baseline is not None:
        raise EdgemobileError("a baseline is a run on one device: pass a single device with --on")
    if len(devices) > 1 and out is not None and _DEVICE not in out.name:
        raise EdgemobileError(f"--out {out}: each device writes its own run; the name must contain {_DEVICE}")


def _check_outputs(devices: Sequence[str], out: Path | None, inputs: Sequence[Path | None]) -> None:
    outputs = [] if out is None else [_out_of(out, device) for device in devices]
    check_apart(outputs, inputs)
    for output in outputs:
        check_writable("--out", output)


def _out_of(out: Path, device: str) -> Path:
    safe = re.sub(r"[^A-Za-z0-9._-]", "-", device)
    return out.with_name(out.name.replace(_DEVICE, safe)) if out.name else out


def _compared(reference: Run, run: Run) -> Comparison:
    from edgemobile.latency.compare import compare

    return compare(reference, run)


# ---- what is printed ------------------------------------------------------------------------------------------------


def _json(run: Run, advised: Sequence[str], compared: Comparison | None, max_regress: float | None) -> dict[str, Any]:
    from edgemobile.latency.statistics import summarize, verdict

    return {
        "device": run.device,
        "cases": [
            {
                "file": case.file,
                "runtime": f"{case.runtime} {case.version}",
                "threads": case.threads,
                **(asdict(summarize(case.rounds_ns, case.rounds_per_process)) if case.rounds_ns else {}),
                "instructions": case.instructions_median or None,
                "estimated": _estimated(case, run),
                "layers": _layers(case, run),
                "unstable": list(verdict(case, run).reasons),
            }
            for case in run.cases
        ],
        "refused": [encode(refusal) for refusal in run.refused],
        "advice": list(advised),
        "comparison": None if compared is None else comparison_json(compared, max_regress),
        "run": encode(run),
    }


def _layers(case: Case, run: Run) -> list[dict[str, Any]] | None:
    """The cost of every layer, the first an inference without any; None without --profile on an emulated core."""
    from edgemobile.latency.layer_costs import layer_costs

    return [
        {
            "layer": cost.name,
            "op": cost.op,
            "dtype": cost.dtype,
            "macs": cost.macs,
            "instructions": cost.instructions,
            "estimated_board": cost.estimated and cost.estimated.board.words,
            "estimated_compute_cycles": cost.estimated and cost.estimated.compute_cycles,
            "estimated_memory_cycles": cost.estimated and cost.estimated.memory_cycles,
            "share": cost.share,
            "bound_cycles": cost.bound_cycles,
        }
        for cost in layer_costs(case, run.settings.clock_mhz)
    ] or None


def _estimated(case: Case, run: Run) -> list[dict[str, Any]] | None:
    """The estimate for a case on every board with its core, with the known error of the estimate."""
    from edgemobile.latency.estimates import caveat, on_boards

    if case.estimate is None:
        return None
    return [
        {
            "board": one.board.name or None,
            "clock_mhz": one.board.clock_mhz,
            "estimated_ms": one.ms,
            "compute_cycles": one.compute_cycles,
            "memory_cycles": one.memory_cycles,
            "caveat": caveat(case.estimate),
        }
        for one in on_boards(case.estimate, run.settings.clock_mhz)
    ]
