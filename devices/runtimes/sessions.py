"""Open a model file with the runtime of its format, all behind one Session. Runs on the board: numpy and one runtime.

Add a runtime here: a subclass of Session, a row in _SESSIONS, and one in edgemobile.devices.runtimes.table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgemobile.devices.runtimes.table import RUNTIMES, default_runtime, readers
from edgemobile.errors import EdgemobileError, Unsupported, in_a_line, require
from edgemobile.graph import QParams
from edgemobile.graph.affine import dequantize, quantize
from edgemobile.model_file.file import file_format, layout_of, read_model
from edgemobile.util.quiet import quiet_stderr

__all__ = [
    "Delegation",
    "Port",
    "Session",
    "import_runtime",
    "open_layers",
    "open_profiled",
    "open_session",
]


@dataclass(frozen=True)
class Port:
    """The input or output of a file. `layout` is "NCHW", "NHWC" or, with fewer dimensions, "".

    Integer ports that stand for reals have a `scale` and a `zero_point`. A free batch dimension counts as 1.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str = ""
    scale: float | None = None
    zero_point: int | None = None

    @property
    def qparams(self) -> QParams | None:
        if self.scale is None:
            return None
        return QParams(np.array(self.scale), np.array(self.zero_point or 0))


@dataclass(frozen=True)
class Delegation:
    """How a delegate cuts a file: into `partitions`, the ops of `outside` (op -> how many) left to plain kernels."""

    partitions: int
    outside: Mapping[str, int]


class Session(ABC):
    """A model file loaded and ready. `runtime` and `version` say who computes.

    `metadata` is what the file says of itself, by key, where the runtime tells.
    """

    runtime: str
    version: str
    input: Port
    output: Port
    metadata: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def invoke(self, prepared: np.ndarray) -> np.ndarray:
        """One inference on an array from `prepare`: the raw output, in the file's own dtype. This is what is timed."""

    def invoke_all(self, prepared: np.ndarray) -> list[np.ndarray]:
        """As `invoke`, but every output, in the file's order: for files from `open_layers`."""
        raise Unsupported(f"{self.runtime} does not show inner tensors")

    def delegation(self) -> Delegation | None:
        """How the delegate cuts the file; None where the runtime has none, or does not tell."""
        return None

    def settle(self, input_px: int) -> None:
        """Leave nothing open of an image input: a free resolution is `input_px`, integers without a scale are reals.

        What the file fixes stays.
        """
        port = self.input
        if not port.layout:
            return
        channel = 1 if port.layout == "NCHW" else 3
        shape = [input_px if size == 1 and axis not in (0, channel) else size for axis, size in enumerate(port.shape)]
        if port.shape[channel] == 1 and tuple(shape) != port.shape:
            shape[channel] = 3
        self.input = replace(port, shape=tuple(shape))
        if port.scale is None and port.dtype in ("uint8", "int8"):
            self.input = replace(self.input, scale=1.0, zero_point=0)

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Preprocessed images f32[N,H,W,C], as many as the file's batch, in the file's own layout and dtype."""
        port = self.input
        ordered = images.transpose(0, 3, 1, 2) if port.layout == "NCHW" and images.ndim == 4 else images
        if ordered.shape != port.shape:
            raise EdgemobileError(
                f"input {port.name} is {port.layout}{list(port.shape)}; images NHWC{list(images.shape)} do not fit"
            )
        if port.dtype == "float32":
            return np.ascontiguousarray(ordered, np.float32)
        if port.qparams is None:
            raise Unsupported(
                f"input {port.name} is {port.dtype} without a scale. Supported: float32, or integers with one"
            )
        return np.ascontiguousarray(quantize(ordered, port.qparams, port.dtype))

    def run(self, images: np.ndarray) -> np.ndarray:
        """Preprocessed images f32[N,H,W,C], any N -> logits f32[N,classes].

        Runs in the file's batches; the last is filled up with zeros, whose rows are dropped.
        """
        batch = self.input.shape[0]
        rows = [np.empty((0, *self.output.shape[1:]), np.float32)]
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            padded = np.pad(part, ((0, batch - len(part)), *((0, 0),) * (images.ndim - 1)))
            rows.append(self._real(self.invoke(self.prepare(padded)))[: len(part)])
        return np.concatenate(rows)

    def run_all(self, images: np.ndarray) -> list[np.ndarray]:
        """As `run`, N > 0, but every output f[N,...] in the file's order, layout and dtype; for `open_layers`."""
        batch, parts = self.input.shape[0], []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            padded = np.pad(part, ((0, batch - len(part)), *((0, 0),) * (images.ndim - 1)))
            parts.append([array[: len(part)].copy() for array in self.invoke_all(self.prepare(padded))])
        return [np.concatenate([part[index] for part in parts]) for index in range(len(parts[0]))]

    def _real(self, raw: np.ndarray) -> np.ndarray:
        return raw.astype(np.float32) if self.output.qparams is None else dequantize(raw, self.output.qparams)


class _Onnxruntime(Session):
    runtime = "onnxruntime"

    def __init__(self, data: bytes, threads: int, profile_prefix: str | None = None, *, layers: bool = False) -> None:
        onnxruntime: Any = require("onnxruntime", "onnxruntime")
        self.version = onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Its threads would go on spinning for a while after an inference, at the cost of whatever is timed next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if profile_prefix is not None:
            options.enable_profiling, options.profile_file_prefix = True, profile_prefix
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        self.input = _onnx_port(_only(self._session.get_inputs(), "inputs"))
        outputs = self._session.get_outputs()
        self.output = _onnx_port(outputs[0] if layers else _only(outputs, "outputs"))

    def invoke(self, prepared: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self.input.name: prepared})[0]

    def invoke_all(self, prepared: np.ndarray) -> list[np.ndarray]:
        return self._session.run(None, {self.input.name: prepared})

    def end_profiling(self) -> str:
        """The path of the profile, where the session was opened with a `profile_prefix`."""
        return self._session.end_profiling()


class _Tflite(Session):
    """What LiteRT, tflite_runtime and TensorFlow share: one Interpreter class under three names."""

    def __init__(self, data: bytes, threads: int, *, layers: bool = False) -> None:
        row = RUNTIMES[self.runtime]
        with quiet_stderr():
            self.version = getattr(require(row.package, row.extra), "__version__", "unknown")
            module: Any = require(row.module, row.extra)
        with quiet_stderr():
            self._interpreter = module.Interpreter(model_content=data, num_threads=threads)
            self._interpreter.allocate_tensors()
        source = _only(self._interpreter.get_input_details(), "inputs")
        outputs = self._interpreter.get_output_details()
        target = outputs[0] if layers else _only(outputs, "outputs")
        self._indices = source["index"], target["index"]
        self._all = [detail["index"] for detail in outputs]
        self.input, self.output = _tflite_port(source), _tflite_port(target)

    def invoke(self, prepared: np.ndarray) -> np.ndarray:
        self._interpreter.set_tensor(self._indices[0], prepared)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._indices[1])

    def invoke_all(self, prepared: np.ndarray) -> list[np.ndarray]:
        self._interpreter.set_tensor(self._indices[0], prepared)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._all]

    def delegation(self) -> Delegation | None:
        # A private call of both packages, stable over the years; a release without it tells nothing.
        listed = getattr(self._interpreter, "_get_ops_details", None)
        return None if listed is None else _delegation(listed(), self._indices[1])


class _LiteRT(_Tflite):
    runtime = "litert"


class _TfliteRuntime(_Tflite):
    runtime = "tflite_runtime"


class _Tensorflow(_Tflite):
    runtime = "tensorflow"


_SESSIONS: dict[str, Callable[..., Session]] = {
    row.runtime: row for row in (_Onnxruntime, _LiteRT, _TfliteRuntime, _Tensorflow)
}


def import_runtime(runtime: str) -> None:
    """Import what `runtime` needs, so that opening a file afterwards costs the file alone. Raises MissingExtra."""
    row = RUNTIMES[runtime]
    with quiet_stderr():
        require(row.module, row.extra)


def open_session(
    source: str | Path | bytes, *, runtime: str | None = None, threads: int = 1, name: str = "the model"
) -> Session:
    """A Session on a model file or its bytes, with `threads` threads for one inference.

    The content decides the format, not the name. `runtime` is a name of RUNTIMES (edgemobile.devices.runtimes.table);
    `name` is what errors call bytes. Raises EdgemobileError for a file that is missing, truncated or no model,
    Unsupported for a runtime that does not read the format, MissingExtra where the runtime is not installed.
    """
    data, name = (source, name) if isinstance(source, bytes) else (read_model(Path(source)), str(source))
    return _open(data, name, runtime, threads)


def open_layers(data: bytes, *, runtime: str | None = None, threads: int = 1) -> Session:
    """A Session on a file with several outputs, for `invoke_all`. Raises as open_session does."""
    return _open(data, "the model with its inner tensors as outputs", runtime, threads, layers=True)


def _open(data: bytes, name: str, runtime: str | None, threads: int, **options: bool) -> Session:
    kind = file_format(data, name)
    runtime = runtime or default_runtime(kind)
    if runtime not in readers(kind):
        allowed = ", ".join(readers(kind))
        raise Unsupported(f"runtime {runtime!r} does not read {name}, which is {kind}. Allowed: {allowed}")
    if threads < 1:
        raise EdgemobileError(f"threads must be at least 1, got {threads}")
    try:
        return _SESSIONS[runtime](data, threads, **options)
    except EdgemobileError:
        raise
    except Exception as error:
        reason = in_a_line(error)
        raise EdgemobileError(f"{runtime} cannot open {name} ({len(data)} bytes), export it again: {reason}") from error


def open_profiled(data: bytes, threads: int, prefix: str) -> _Onnxruntime:
    """An ONNX file whose every inference is profiled, into a file whose path begins with `prefix`."""
    return _Onnxruntime(data, threads, prefix)


def _only(ports: list[Any], what: str) -> Any:
    if len(ports) != 1:
        raise Unsupported(f"the model has {len(ports)} {what}; supported are models with one input and one output")
    return ports[0]


def _onnx_port(port: Any) -> Port:
    shape = tuple(size if isinstance(size, int) else 1 for size in port.shape)
    dtype = {"tensor(float)": "float32"}.get(port.type, port.type.removeprefix("tensor(").removesuffix(")"))
    return Port(port.name, shape, dtype, layout_of(shape, "NCHW"))


def _tflite_port(details: dict[str, Any]) -> Port:
    shape, dtype = tuple(int(size) for size in details["shape"]), np.dtype(details["dtype"]).name
    scale, zero_point = details["quantization"]
    quantized = {"scale": float(scale), "zero_point": int(zero_point)} if scale else {}
    return Port(details["name"], shape, dtype, layout_of(shape, "NHWC"), **quantized)  # type: ignore[arg-type]


def _delegation(ops: list[dict[str, Any]], output: int) -> Delegation:
    """Read from the interpreter's list: the original ops, then an op DELEGATE a partition.

    It does not say which ops a partition took, but what still runs can be found from the output back.
    """
    maker: dict[int, dict[str, Any]] = {}
    for op in ops:
        # A partition comes later in the list and so takes the place of the op whose result it gives.
        maker.update(dict.fromkeys(map(int, op["outputs"]), op))
    runs: dict[int, str] = {}
    wanted = [output]
    while wanted:
        made_by = maker.get(wanted.pop())
        if made_by is not None and made_by["index"] not in runs:
            runs[made_by["index"]] = made_by["op_name"]
            wanted += [int(name) for name in made_by["inputs"]]
    outside = [name for name in runs.values() if name != "DELEGATE"]
    partitions = sum(op["op_name"] == "DELEGATE" for op in ops)
    return Delegation(partitions, {name: outside.count(name) for name in sorted(set(outside))})
