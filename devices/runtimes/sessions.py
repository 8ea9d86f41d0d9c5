"""Opens a model file with a runtime of its format as a Session. Runs on the board: needs only numpy and one runtime.

To add a runtime: a subclass of Session, a row in _SESSIONS, and one in edgemobile.devices.runtimes.table.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgemobile.devices.runtimes.table import RUNTIMES, default_runtime, readers
from edgemobile.errors import EdgemobileError, Unsupported, in_a_line, require
from edgemobile.graph import QParams
from edgemobile.graph.affine import dequantize, quantize
from edgemobile.metrics.outputs import rows_of
from edgemobile.model_file.file import file_format, layout_of, output_layout, read_model
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


# A message lists at most this many of a file's ports.
_SHOWN_NAMES = 8
_FLOATS = ("float32", "float16", "float64")
_WHOLE = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


@dataclass(frozen=True)
class Port:
    """The input or output of a file. `layout` is "NCHW", "NHWC" or, with fewer dimensions, "".

    Quantized integer ports have a `scale` and a `zero_point`. `free` are the dynamic dimensions of the file, which
    count as 1 in `shape`; None if they are not known, and any 1 may be one.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str = ""
    scale: float | None = None
    zero_point: int | None = None
    free: tuple[int, ...] | None = field(default=None, compare=False)

    @property
    def qparams(self) -> QParams | None:
        if self.scale is None:
            return None
        return QParams(np.array(self.scale), np.array(self.zero_point or 0))

    @property
    def words(self) -> str:
        """For example "float32 NCHW[1, 3, 224, 224]"."""
        return f"{self.dtype} {self.layout}{list(self.shape)}"

    @property
    def takes(self) -> str:
        """The shape with N for dynamic dimensions, such as "Nx3x224x224"."""
        return "x".join("N" if axis in (self.free or ()) else str(size) for axis, size in enumerate(self.shape))

    @property
    def undecided(self) -> tuple[int, ...]:
        """The dynamic dimensions without a chosen size, except the batch, which is 1."""
        return tuple(axis for axis in self.free or () if axis)

    def settled(self, input_px: int) -> Port:
        """As `Session.settle` leaves it."""
        if not self.layout:
            return self
        channel = 1 if self.layout == "NCHW" else 3
        free = [axis for axis, size in enumerate(self.shape) if size == 1] if self.free is None else self.free
        sides = [axis for axis in free if axis not in (0, channel)]
        shape = [input_px if axis in sides else size for axis, size in enumerate(self.shape)]
        if channel in free and (sides or self.free is not None):
            shape[channel] = 3
        settled = replace(self, shape=tuple(shape), free=None if self.free is None else ())
        if self.scale is None and self.dtype in ("uint8", "int8"):
            return replace(settled, scale=1.0, zero_point=0)
        return settled

    def prepared(self, images: np.ndarray) -> np.ndarray:
        """As `Session.prepare`, for this port."""
        ordered = images.transpose(0, 3, 1, 2) if self.layout == "NCHW" and images.ndim == 4 else images
        channel = 1 if self.layout == "NCHW" else 3
        if self.layout and (self.shape[channel], ordered.shape[channel]) == (1, 3):
            raise Unsupported(
                f"input {self.name} has one grey channel, {self.layout}{list(self.shape)}. Supported: RGB images; "
                "a first layer with its weights summed over R, G and B gives the same for grey ones"
            )
        if ordered.shape != self.shape:
            raise EdgemobileError(
                f"input {self.name} is {self.layout}{list(self.shape)}; images NHWC{list(images.shape)} do not fit"
            )
        if self.dtype in _FLOATS:
            return np.ascontiguousarray(ordered, self.dtype)
        if self.qparams is None:
            raise Unsupported(
                f"input {self.name} is {self.dtype} without a scale. Supported: float32, or integers with one"
            )
        return np.ascontiguousarray(quantize(ordered, self.qparams, self.dtype))

    def example(self, rng: np.random.Generator) -> np.ndarray:
        """An example input: noise like preprocessed photos; 1 for integers without a scale, such as ids and lengths.

        Raises Unsupported for a dtype that is neither a number nor a bool.
        """
        if self.dtype in _FLOATS or self.scale is not None:
            batch, *sides = self.shape or (1,)
            shape = (batch, *sides[1:], sides[0]) if self.layout == "NCHW" else self.shape
            return self.prepared(rng.standard_normal(shape, np.float32))
        if self.dtype not in _WHOLE:
            known = ", ".join((*_FLOATS, *_WHOLE))
            raise Unsupported(f"input {self.name} is {self.dtype}, of which no example can be made. Supported: {known}")
        return np.ones(self.shape, self.dtype)


@dataclass(frozen=True)
class Delegation:
    """How a delegate splits a file: into `partitions`, with the ops `outside` (op -> count) in plain kernels."""

    partitions: int
    outside: Mapping[str, int]


class Session(ABC):
    """A model file loaded and ready. `runtime` and `version` are of the runtime, `name` is the file's name in errors.

    `metadata` is the file's metadata by key, if the runtime provides it. `config` is the runtime's configuration for
    exact computation, by its own keys. A file may have several inputs and outputs; image classifiers have one of each,
    `input` and `output`.
    """

    runtime: str
    version: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    name: str = "the model"
    metadata: Mapping[str, str] = MappingProxyType({})
    config: Mapping[str, str] = MappingProxyType({})

    @property
    def input(self) -> Port:
        """The only input. Raises Unsupported if there are several."""
        return _only(self.inputs, "inputs", self.name)

    @input.setter
    def input(self, port: Port) -> None:
        self.inputs = (port,)

    @property
    def output(self) -> Port:
        """The only output. Raises Unsupported if there are several."""
        return _only(self.outputs, "outputs", self.name)

    @output.setter
    def output(self, port: Port) -> None:
        self.outputs = (port,)

    @abstractmethod
    def invoke(self, prepared: np.ndarray) -> np.ndarray:
        """One inference on an array from `prepare`: the raw output, in the file's own dtype. This is what is timed."""

    def invoke_all(self, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One inference on one array per input, in the file's order: every raw output, in the file's order."""
        (one,) = prepared
        return [self.invoke(one)]

    def delegation(self) -> Delegation | None:
        """How the delegate splits the file; None if the runtime has none, or does not report it."""
        return None

    def settle(self, input_px: int) -> None:
        """Choose all dynamic sizes of image inputs: the resolution is `input_px`, integers without a scale are reals.

        Sizes fixed by the file are kept.
        """
        self._take(tuple(port.settled(input_px) for port in self.inputs))

    def reshape(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Choose dynamic sizes: input -> its full shape. Names that the file does not have are ignored.

        Raises EdgemobileError if the input does not accept a shape.
        """
        self._take(tuple(_reshaped(port, shapes.get(port.name), self.name) for port in self.inputs))

    def _take(self, inputs: tuple[Port, ...]) -> None:
        """Use `inputs`, which are the file's with other sizes."""
        self.inputs = inputs

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Convert preprocessed images f32[N,H,W,C], N the file's batch, to the file's own layout and dtype."""
        return self.input.prepared(images)

    def run(self, images: np.ndarray) -> np.ndarray:
        """Preprocessed images f32[N,H,W,C], any N -> the reals f32[N,...] of the only output, in the file's layout.

        Runs in the file's batches; the last is filled up with zeros, whose rows are dropped.
        """
        batch, rows = self.input.shape[0], []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            padded = np.pad(part, ((0, batch - len(part)), *((0, 0),) * (images.ndim - 1)))
            raw = self._answer(padded)[0]
            if raw.shape[:1] != (batch,):
                raise Unsupported(
                    f"{self.name} has the output {list(raw.shape)} for a batch of {batch}. Supported: one row per image"
                )
            rows.append(_real(self.output, raw)[: len(part)])
        return np.concatenate(rows) if rows else np.empty((0, *self.output.shape[1:]), np.float32)

    def rows(self, images: np.ndarray) -> np.ndarray:
        """Preprocessed images f32[N,H,W,C], any N -> f32[N,values], the reals of every output (metrics.outputs).

        The rows of a classifier are its logits. Runs in the file's batches; the last is filled up with zeros, whose
        rows are dropped.
        """
        batch, rows = self.input.shape[0], []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            padded = np.pad(part, ((0, batch - len(part)), *((0, 0),) * (images.ndim - 1)))
            arrays = self._answer(padded)
            for port, array in zip(self.outputs, arrays):  # noqa: B905  # strict= came with Python 3.10
                if array.shape[:1] != (batch,):
                    raise Unsupported(
                        f"{self.name} has the output {port.name} {list(array.shape)} for a batch of {batch}. "
                        "Supported: one row per image"
                    )
            reals = [_real(port, array) for port, array in zip(self.outputs, arrays)]  # noqa: B905
            rows.append(rows_of(reals, channels_first=self.channels_first)[: len(part)])
        width = sum(math.prod(port.shape[1:]) for port in self.outputs)
        return np.concatenate(rows) if rows else np.empty((0, width), np.float32)

    @property
    def channels_first(self) -> bool:
        """Whether images among the outputs are [N,C,H,W]."""
        return self.runtime not in RUNTIMES or RUNTIMES[self.runtime].format == "onnx"

    def run_all(self, images: np.ndarray) -> list[np.ndarray]:
        """As `rows`, N > 0, but every output by itself, f[N,...] in the file's order, layout and dtype; for
        `open_layers`."""
        batch, parts = self.input.shape[0], []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            padded = np.pad(part, ((0, batch - len(part)), *((0, 0),) * (images.ndim - 1)))
            # An intermediate value may be one number for the whole batch.
            arrays = map(np.atleast_1d, self._answer(padded))
            parts.append([array[: len(part)].copy() for array in arrays])
        return [np.concatenate([part[index] for part in parts]) for index in range(len(parts[0]))]

    def _answer(self, images: np.ndarray) -> list[np.ndarray]:
        prepared = [self.prepare(images)]
        with self.refusals():
            return self.invoke_all(prepared)

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Convert any exception of the runtime to an EdgemobileError that names the file."""
        try:
            yield
        except EdgemobileError:
            raise
        except Exception as error:
            raise EdgemobileError(f"{self.runtime} cannot run {self.name}: {in_a_line(error)}") from error


class _Onnxruntime(Session):
    runtime = "onnxruntime"

    def __init__(self, data: bytes, threads: int, profile_prefix: str | None = None, *, exact: bool = False) -> None:
        onnxruntime: Any = require("onnxruntime", "onnxruntime")
        self.version = onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Otherwise its threads spin for a while after an inference and slow down what is timed next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if exact:
            # If this CPU saturates sums of int8 products, this converts the weights to uint8; otherwise it does
            # nothing.
            self.config = {"session.x64quantprecision": "1"}
            for key, value in self.config.items():
                options.add_session_config_entry(key, value)
        if profile_prefix is not None:
            options.enable_profiling, options.profile_file_prefix = True, profile_prefix
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        self.inputs = tuple(_onnx_port(port, partial(layout_of, usual="NCHW")) for port in self._session.get_inputs())
        self.outputs = tuple(_onnx_port(port, output_layout) for port in self._session.get_outputs())
        self._names = tuple(port.name for port in self.inputs)

    def invoke(self, prepared: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._names[0]: prepared})[0]

    def invoke_all(self, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._session.run(None, dict(zip(self._names, prepared)))  # noqa: B905  # strict= came with Python 3.10

    def end_profiling(self) -> str:
        """The path of the profile, if the session was opened with a `profile_prefix`."""
        return self._session.end_profiling()


class _Tflite(Session):
    """Shared by LiteRT, tflite_runtime and TensorFlow: one Interpreter class under three names.

    Its sums are exact on every CPU, so `exact` has no effect.
    """

    def __init__(self, data: bytes, threads: int, *, exact: bool = False) -> None:
        row = RUNTIMES[self.runtime]
        with quiet_stderr():
            self.version = getattr(require(row.package, row.extra), "__version__", "unknown")
            module: Any = require(row.module, row.extra)
        with quiet_stderr():
            self._interpreter = module.Interpreter(model_content=data, num_threads=threads)
            self._interpreter.allocate_tensors()
        sources = self._interpreter.get_input_details()
        self._given = tuple(detail["index"] for detail in sources)
        self._made = tuple(detail["index"] for detail in self._interpreter.get_output_details())
        self.inputs = tuple(_tflite_port(detail, partial(layout_of, usual="NHWC")) for detail in sources)
        self.outputs = self._output_ports()

    def _output_ports(self) -> tuple[Port, ...]:
        return tuple(_tflite_port(detail, output_layout) for detail in self._interpreter.get_output_details())

    def _take(self, inputs: tuple[Port, ...]) -> None:
        before, self.inputs = self.inputs, inputs
        others = [number for number, port in enumerate(inputs) if port.shape != before[number].shape]
        if not others:
            return
        with self.refusals(), quiet_stderr():
            for number in others:
                self._interpreter.resize_tensor_input(self._given[number], inputs[number].shape)
            self._interpreter.allocate_tensors()
        self.outputs = self._output_ports()

    def invoke(self, prepared: np.ndarray) -> np.ndarray:
        self._interpreter.set_tensor(self._given[0], prepared)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._made[0])

    def invoke_all(self, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
        for index, array in zip(self._given, prepared):  # noqa: B905  # strict= came with Python 3.10
            self._interpreter.set_tensor(index, array)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._made]

    def delegation(self) -> Delegation | None:
        # A private call of both packages, stable for years; a release without it reports nothing.
        listed = getattr(self._interpreter, "_get_ops_details", None)
        return None if listed is None else _delegation(listed(), self._made)


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
    """Import the packages of `runtime`, so that opening a file later takes only the file's own time. Raises
    MissingExtra.
    """
    row = RUNTIMES[runtime]
    with quiet_stderr():
        require(row.module, row.extra)


def open_session(
    source: str | Path | bytes,
    *,
    runtime: str | None = None,
    threads: int = 1,
    name: str = "the model",
    exact: bool = False,
) -> Session:
    """A Session on a model file or its bytes, with `threads` threads for one inference.

    The content decides the format, not the name. `runtime` is a name of RUNTIMES (edgemobile.devices.runtimes.table);
    `name` is the name of bytes in errors. With `exact`, sums of int8 products do not saturate on any CPU.

    Raises EdgemobileError for a file that is missing, truncated or no model, Unsupported for a runtime that does not
    read the format, MissingExtra where the runtime is not installed.
    """
    data, name = (source, name) if isinstance(source, bytes) else (read_model(Path(source)), str(source))
    return _open(data, name, runtime, threads, exact=exact)


def open_layers(data: bytes, *, runtime: str | None = None, threads: int = 1, exact: bool = False) -> Session:
    """A Session on a file with intermediate tensors as outputs, for `run_all`. `exact` and the errors are as in
    open_session."""
    return _open(data, "the model with its intermediate tensors as outputs", runtime, threads, exact=exact)


def _open(data: bytes, name: str, runtime: str | None, threads: int, *, exact: bool = False) -> Session:
    kind = file_format(data, name)
    runtime = runtime or default_runtime(kind)
    if runtime not in readers(kind):
        allowed = ", ".join(readers(kind))
        raise Unsupported(f"runtime {runtime!r} does not read {name}, which is {kind}. Allowed: {allowed}")
    if threads < 1:
        raise EdgemobileError(f"threads must be at least 1, got {threads}")
    try:
        session = _SESSIONS[runtime](data, threads, exact=exact)
        session.name = name
        return session
    except EdgemobileError:
        raise
    except Exception as error:
        reason = in_a_line(error)
        advice = "" if "custom op" in reason else ", export it again"
        raise EdgemobileError(f"{runtime} cannot open {name} ({len(data)} bytes){advice}: {reason}") from error


def open_profiled(data: bytes, threads: int, prefix: str) -> _Onnxruntime:
    """A Session on an ONNX file that profiles every inference, to a file whose path begins with `prefix`."""
    return _Onnxruntime(data, threads, prefix)


def _real(port: Port, raw: np.ndarray) -> np.ndarray:
    return raw.astype(np.float32) if port.qparams is None else dequantize(raw, port.qparams)


def _only(ports: tuple[Port, ...], what: str, name: str) -> Port:
    if len(ports) != 1:
        raise Unsupported(
            f"{name} has {len(ports)} {what} ({_listed(port.name for port in ports)}). "
            "Supported: models with one input and one output"
        )
    return ports[0]


def _listed(names: Iterable[str]) -> str:
    """As many names as fit on a line."""
    shown = list(names)
    return ", ".join(shown[:_SHOWN_NAMES]) + (f" and {len(shown) - _SHOWN_NAMES} more" * (len(shown) > _SHOWN_NAMES))


def _reshaped(port: Port, shape: Sequence[int] | None, name: str) -> Port:
    if shape is None:
        return port
    open_to_it = range(len(port.shape)) if port.free is None else port.free
    fits = len(shape) == len(port.shape) and all(
        size == old or axis in open_to_it
        for axis, (size, old) in enumerate(zip(shape, port.shape))  # noqa: B905
    )
    if not fits:
        takes = replace(port, free=tuple(open_to_it)).takes or "a single number"
        raise EdgemobileError(f"{name} takes {takes} as input {port.name}, not {'x'.join(map(str, shape))}")
    return replace(port, shape=tuple(shape), free=())


def _onnx_port(port: Any, layout: Callable[[tuple[int, ...]], str]) -> Port:
    # A sequence or an optional has no shape.
    sizes = port.shape or ()
    free = tuple(axis for axis, size in enumerate(sizes) if not isinstance(size, int) or size < 0)
    shape = tuple(1 if axis in free else size for axis, size in enumerate(sizes))
    plain = port.type.replace("tensor(", "", 1)[:-1] if port.type.startswith("tensor(") else port.type
    dtype = {"float": "float32", "double": "float64"}.get(plain, plain)
    return Port(port.name, shape, dtype, layout(_with_free(shape, free)), free=free)


def _tflite_port(details: dict[str, Any], layout: Callable[[tuple[int, ...]], str]) -> Port:
    shape, dtype = tuple(int(size) for size in details["shape"]), np.dtype(details["dtype"]).name
    free: tuple[int, ...] | None = tuple(axis for axis, size in enumerate(details["shape_signature"]) if size < 0)
    if not free and len(shape) == 4 and shape[1:3] == (1, 1):
        # Old converters write 1 for a dynamic size, and no signature.
        free = None
    scale, zero_point = details["quantization"]
    quantized = {"scale": float(scale), "zero_point": int(zero_point)} if scale else {}
    stated = layout(_with_free(shape, free or ()))
    return Port(details["name"], shape, dtype, stated, free=free, **quantized)  # type: ignore[arg-type]


def _with_free(shape: tuple[int, ...], free: tuple[int, ...]) -> tuple[int, ...]:
    """A shape with -1 for dynamic sizes, from which layouts are found."""
    return tuple(-1 if axis in free else size for axis, size in enumerate(shape))


def _delegation(ops: list[dict[str, Any]], outputs: Sequence[int]) -> Delegation:
    """Read from the interpreter's list: the original ops, then one op DELEGATE per partition.

    It does not contain the ops of a partition, but the ops that still run can be found backwards from the outputs.
    """
    maker: dict[int, dict[str, Any]] = {}
    for op in ops:
        # A partition comes later in the list, and so replaces the op that produced its result.
        maker.update(dict.fromkeys(map(int, op["outputs"]), op))
    runs: dict[int, str] = {}
    wanted = list(outputs)
    while wanted:
        made_by = maker.get(wanted.pop())
        if made_by is not None and made_by["index"] not in runs:
            runs[made_by["index"]] = made_by["op_name"]
            wanted += [int(name) for name in made_by["inputs"]]
    outside = [name for name in runs.values() if name != "DELEGATE"]
    partitions = sum(op["op_name"] == "DELEGATE" for op in ops)
    return Delegation(partitions, {name: outside.count(name) for name in sorted(set(outside))})
