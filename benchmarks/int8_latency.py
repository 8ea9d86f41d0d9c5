"""v3-large 224x224, batch 1: our float and int8 files against those of the formats' own quantizers, in one run.

    python benchmarks/int8_latency.py --keep files --aeq-python venv/bin/python

Files are timed in turns, one call each per round (devices.latency), so that a slow phase affects all equally: the
ratios are valid even if the milliseconds are not. All int8 files are calibrated on the same images, synthesized from
the model.

    partitions  number of partitions that XNNPACK makes of a .tflite
    islands     float detours in onnxruntime between integer ops
    kernels     dB between onnxruntime's integer kernels and its own float emulation of the same file: below 40 they are
                wrong on this CPU (int8 weights without VNNI: vpmaddubsw saturates to int16)
    drift       largest difference to edgemobile's own arithmetic over a few images, in steps of the output's scale

ai-edge-quantizer is measured where --aeq-python names a Python that has it: it pins another LiteRT than ours.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from peers import ai_edge_quantizer

from edgemobile.devices.runtimes.latency import Latency, latency_ns
from edgemobile.devices.runtimes.sessions import Session, open_session
from edgemobile.exporters import onnx, tensorflow, tflite, torch_onnx
from edgemobile.graph import Graph
from edgemobile.graph.affine import quantize
from edgemobile.graph.interpreter import run
from edgemobile.inspection import Inspection, inspect_file
from edgemobile.loading.model import load_model
from edgemobile.lower import lower
from edgemobile.lower.dead_channels import without_dead_channels
from edgemobile.metrics.measures import sqnr_db
from edgemobile.printing.terminal import console, format_bytes, format_table
from edgemobile.quant.ptq import ptq
from edgemobile.quant.recipe import Recipe
from edgemobile.quant.synthesize import synthesize
from edgemobile.quant.targets import target_for

PX, CALIBRATION, CHECKED = 224, 4, 4
BASELINE = "tflite float"
CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "asimd", "asimddp", "i8mm")

# On a shared machine, the wall clock also counts other processes.
CLOCKS = {"wall": time.perf_counter_ns, "cpu": time.process_time_ns}


class Source:
    """The model and its derived data, each computed once and only when a row needs it."""

    def __init__(self, folder: Path, aeq_python: str | None) -> None:
        self.folder, self.aeq_python = folder, aeq_python
        self.model = load_model("v3-large", res=PX)

    @cached_property
    def images(self) -> np.ndarray:
        return synthesize(self.model.net, self.model.preprocess, images=CALIBRATION + CHECKED)

    @cached_property
    def graph(self) -> Graph:
        return without_dead_channels(lower(self.model.program, self.model.name))

    @property
    def calibration(self) -> np.ndarray:
        return self.images[:CALIBRATION]

    @cached_property
    def int8(self) -> Graph:
        return ptq(self.graph, [self.calibration]).graph

    @cached_property
    def fused(self) -> Graph:
        return ptq(self.graph, [self.calibration], Recipe(hswish="fused")).graph

    def onnx_int8(self, target: str) -> bytes:
        return onnx.to_bytes(self.int8, metadata={}, **target_for(target).onnx)

    def onnxruntime_int8(self) -> bytes:
        exported = torch_onnx.to_bytes(self.model.net, (1, 3, PX, PX))
        return torch_onnx.quantize_static(exported, [image[None] for image in self.calibration.transpose(0, 3, 1, 2)])

    def aeq_int8(self, algorithm: str = "MIN_MAX_UNIFORM_QUANT") -> bytes:
        assert self.aeq_python is not None
        return ai_edge_quantizer(self.aeq_python, self.graph, self.calibration, algorithm)


@dataclass(frozen=True)
class Row:
    """One file: how it is made, and whether its integers are `Source.int8`'s, so that its drift is meaningful."""

    name: str
    suffix: str
    make: Callable[[Source], bytes]
    ours_int8: bool = False

    @property
    def is_onnx_int8(self) -> bool:
        return self.suffix == ".onnx" and "int8" in self.name

    @property
    def file(self) -> str:
        return (
            "".join(letter for letter in self.name.replace(" ", "-") if letter.isalnum() or letter == "-") + self.suffix
        )


ROWS = (
    Row("tflite float", ".tflite", lambda s: tflite.to_bytes(s.graph, metadata={})),
    Row("tflite int8", ".tflite", lambda s: tflite.to_bytes(s.int8, metadata={}), True),
    Row("tflite int8, hard-swish fused", ".tflite", lambda s: tflite.to_bytes(s.fused, metadata={})),
    Row("TFLiteConverter int8", ".tflite", lambda s: tensorflow.to_bytes(s.graph, representative=[s.calibration])),
    Row("ai-edge-quantizer int8", ".tflite", Source.aeq_int8),
    Row("ai-edge-quantizer int8, MSE", ".tflite", lambda s: s.aeq_int8("MSE")),
    Row("onnx float", ".onnx", lambda s: onnx.to_bytes(s.graph, metadata={})),
    *(
        Row(f"onnx int8 for {name}", ".onnx", partial(Source.onnx_int8, target=name), True)
        for name in ("cpu", "arm", "x86-vnni")
    ),
    Row("onnxruntime's quantizer int8", ".onnx", Source.onnxruntime_int8),
)


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.keep or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        source = Source(folder, options.aeq_python)
        rows = [row for row in ROWS if not row.name.startswith("ai-edge-quantizer") or options.aeq_python]
        files = {row: _file(row, source) for row in rows}
        sessions = {row.name: open_session(file, threads=options.threads) for row, file in files.items()}
        drifts = _drifts(rows, sessions, source)
        checks = source.images[CALIBRATION:]
        kernels = {row.name: _kernels_db(files[row], sessions[row.name], checks) for row in rows if row.is_onnx_int8}
        facts = {row.name: inspect_file(file) for row, file in files.items()}
    prepared = {name: session.prepare(source.images[-1:]) for name, session in sessions.items()}
    for _ in range(options.repeat):
        latencies = latency_ns(sessions, prepared, rounds=options.rounds, clock=CLOCKS[options.clock])
        _print(rows, sessions, latencies, drifts, kernels, facts, f"{options.clock} time, threads {options.threads}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=100, help="timed calls of each file in one table")
    parser.add_argument("--repeat", type=int, default=2, help="number of tables; the machine is idle if they agree")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: the process's own time, on a busy machine"
    )
    parser.add_argument("--keep", metavar="FOLDER", help="folder for the files; existing files are reused")
    parser.add_argument("--aeq-python", metavar="PYTHON", help="a Python with ai-edge-quantizer")
    return parser.parse_args()


def _file(row: Row, source: Source) -> Path:
    path = source.folder / row.file
    if not path.exists():
        path.write_bytes(row.make(source))
    return path


def _drifts(rows: list[Row], sessions: Mapping[str, Session], source: Source) -> dict[str, int]:
    """name -> largest difference to the reference arithmetic, in steps of the output."""
    graph, images = source.int8, source.images[CALIBRATION:]
    entry, result = graph[graph.inputs[0]].qparams, graph[graph.outputs[0]].qparams
    assert entry is not None
    assert result is not None
    reference = run(graph, quantize(images, entry, "int8"))[graph.outputs[0]].astype(int)
    found = {row.name: quantize(sessions[row.name].run(images), result, "int8") for row in rows if row.ours_int8}
    return {name: int(np.abs(integers - reference).max()) for name, integers in found.items()}


def _kernels_db(file: Path, session: Session, images: np.ndarray) -> float:
    """SQNR of a file of QuantizeLinear pairs run in integers, against the same file run in float, pair by pair."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    emulated = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    rows = [emulated.run(None, {session.input.name: session.prepare(image[None])})[0] for image in images]
    return sqnr_db(np.concatenate(rows), session.run(images))


def _print(
    rows: list[Row],
    sessions: Mapping[str, Session],
    latencies: Mapping[str, Latency],
    drifts: Mapping[str, int],
    kernels: Mapping[str, float],
    facts: Mapping[str, Inspection],
    how: str,
) -> None:
    columns = [
        "file",
        "runtime",
        "size",
        "median",
        "spread",
        "best",
        "ratio",
        "partitions",
        "islands",
        "kernels",
        "drift",
    ]
    table = format_table(f"\nv3-large {PX}x{PX}, batch 1, {how}\n{_machine()}", columns, left=2)
    base = latencies[BASELINE].median_ns
    for row in rows:
        session, latency, file = sessions[row.name], latencies[row.name], facts[row.name]
        table.add_row(
            row.name,
            f"{session.runtime} {session.version}",
            format_bytes(file.bytes),
            f"{latency.median_ns / 1e6:.2f} ms",
            f"{latency.spread:.0%}",
            f"{min(latency.values_ns) / 1e6:.2f} ms",
            f"{latency.median_ns / base:.2f}",
            "-" if file.delegate_partitions is None else str(file.delegate_partitions),
            str(len(file.islands)) if file.format == "onnx" else "-",
            f"{kernels[row.name]:.0f} dB" if row.name in kernels else "-",
            str(drifts.get(row.name, "-")),
        )
    console().print(table)
    console().print(f"ratio: median over {BASELINE}; spread: interquartile range over median")


def _machine() -> str:
    """CPU, the flags its int8 kernels depend on, and how busy the machine is."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.partition(":")[::2] for line in info.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    present = fields.get("flags", fields.get("Features", "")).split()
    flags = " ".join(flag for flag in CPU_FLAGS if flag in present) or "none of " + " ".join(CPU_FLAGS)
    load = f"load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores"
    return f"{fields.get('model name', platform.machine())}; {flags}; {load}; Python {platform.python_version()}"


if __name__ == "__main__":
    main()
