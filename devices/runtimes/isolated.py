"""A session in a separate process with limits, which contains the effects of a damaged or hostile file.

Runtimes are native code and trust their files: a flipped byte of a TFLite file can corrupt the heap, and an ONNX graph
can loop forever. In a separate process that becomes an error with the file's name.

    here                                 the process
    the file, runtime, threads       ->  opens it
                                     <-  ports, metadata, version
    arrays, or sizes of inputs       ->  runs it, or resizes
                                     <-  arrays, or ports

Each message is JSON, then arrays as raw bytes. Nothing is unpickled, and sizes are checked before memory is
allocated: after reading the file, the process is not trusted either.
"""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgemobile.devices.runtimes.limits import MEMORY_BYTES, limit_memory
from edgemobile.devices.runtimes.sessions import Delegation, Port, Session, open_layers, open_session
from edgemobile.errors import EdgemobileError, MissingExtra, Unsupported, in_a_line, require
from edgemobile.util.quiet import quiet_stderr

__all__ = ["open_isolated", "optimized_onnx"]

_OPEN_S, _RUN_S, _IMAGE_S = 60.0, 60.0, 5.0
_MAX_HEADER, _MAX_ARRAYS = 2**26, 2**31
_LENGTH = struct.Struct("<Q")
_ERRORS = {row.__name__: row for row in (EdgemobileError, Unsupported, MissingExtra)}
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from edgemobile.devices.runtimes.isolated import serve; serve()"
)


def open_isolated(
    data: bytes,
    *,
    runtime: str | None = None,
    threads: int = 1,
    name: str = "the model",
    exact: bool = False,
    layers: bool = False,
) -> Session:
    """As `open_session`, or with `layers` as `open_layers`, in a separate process.

    Raises EdgemobileError, naming the file, also if it crashes the runtime, needs more memory than 3 GiB and 30 times
    its size, more than a minute to open, or more than a minute and 5 s per image to run.
    """
    return _Isolated(data, runtime, threads, name, exact=exact, layers=layers)


def optimized_onnx(data: bytes, name: str = "the model") -> bytes:
    """The ONNX file that onnxruntime optimizes this one to on this machine, in a separate process.

    Raises EdgemobileError if it cannot, and as `open_isolated` does.
    """
    process = _Process(name)
    try:
        _, (made,) = process.ask({"optimize": name}, [np.frombuffer(data, np.uint8)], _OPEN_S, "open")
        return made.tobytes()
    finally:
        process.close()


class _Process:
    """Another Python process that answers messages. `name` is its file's name in errors."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.running = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Ctrl-C goes to the process that the user started: this one ends with it.
            start_new_session=True,
        )

    def ask(
        self, message: dict[str, Any], arrays: Sequence[np.ndarray], limit_s: float, what: str
    ) -> tuple[Mapping[str, Any], list[np.ndarray]]:
        """(the answer, its arrays).

        Raises EdgemobileError for an error there, a crash, or no answer within `limit_s`.
        """
        assert self.running.stdin is not None
        assert self.running.stdout is not None
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self.running.kill()

        watch = threading.Timer(limit_s, give_up)
        watch.daemon = True
        watch.start()
        try:
            _send(self.running.stdin, message, arrays)
            answer, made = _receive(self.running.stdout)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.close()
            raise self._failed(what, limit_s if late.is_set() else None) from error
        finally:
            watch.cancel()
        if "error" in answer:
            kind = _ERRORS.get(str(answer["error"]), EdgemobileError)
            raise kind(str(answer["words"]))
        return answer, made

    def _failed(self, what: str, limit_s: float | None) -> EdgemobileError:
        if limit_s is not None:
            return EdgemobileError(
                f"{self.name}: it did not {what} within {limit_s:.0f} s: an endless loop, or far too large"
            )
        code = self.running.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return EdgemobileError(
            f"{self.name} crashed the runtime ({how}) when asked to {what}: it is damaged, or needs more memory than "
            f"the {MEMORY_BYTES / 2**30:.0f} GiB that a model may take"
        )

    def close(self) -> None:
        """Stop the process."""
        self.running.kill()
        self.running.wait()
        for pipe in (self.running.stdin, self.running.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


class _Isolated(Session):
    """The local proxy of the session in the other process."""

    def __init__(self, data: bytes, runtime: str | None, threads: int, name: str, *, exact: bool, layers: bool) -> None:
        self.name = name
        self._process = _Process(name)
        asked = {"runtime": runtime, "threads": threads, "name": name, "exact": exact, "layers": layers}
        try:
            described, _ = self._process.ask({"open": asked}, [np.frombuffer(data, np.uint8)], _OPEN_S, "open")
            self._describe(described)
        except BaseException:
            self._process.close()
            raise

    def _describe(self, described: Mapping[str, Any]) -> None:
        self.runtime, self.version = str(described["runtime"]), str(described["version"])
        self.metadata, self.config = _texts(described["metadata"]), _texts(described["config"])
        self.inputs, self.outputs = _ports(described["inputs"]), _ports(described["outputs"])
        cut = described["delegation"]
        self._delegation = None if cut is None else Delegation(int(cut["partitions"]), dict(cut["outside"]))

    def invoke(self, prepared: np.ndarray) -> np.ndarray:
        return self.invoke_all([prepared])[0]

    def invoke_all(self, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
        batch = max((len(array) for array in prepared if array.ndim), default=1)
        _, arrays = self._process.ask({"run": None}, prepared, _RUN_S + _IMAGE_S * batch, "run")
        return arrays

    def delegation(self) -> Delegation | None:
        return self._delegation

    def _take(self, inputs: tuple[Port, ...]) -> None:
        if inputs == self.inputs:
            return
        described, _ = self._process.ask({"resize": [asdict(port) for port in inputs]}, [], _OPEN_S, "resize")
        self._describe(described)

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self._process.close()


# ---- messages -------------------------------------------------------------------------------------------------------


def _send(pipe: IO[bytes], message: dict[str, Any], arrays: Sequence[np.ndarray]) -> None:
    kept = [np.ascontiguousarray(array) for array in arrays]
    header = json.dumps({**message, "arrays": [[array.dtype.str, array.shape] for array in kept]}).encode()
    pipe.write(_LENGTH.pack(len(header)))
    pipe.write(header)
    for array in kept:
        if array.size:
            pipe.write(memoryview(array).cast("B"))
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Raises EOFError, an OSError or a ValueError for anything but a message."""
    (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
    if length > _MAX_HEADER:
        raise ValueError(f"a header of {length} bytes")
    message = json.loads(_exactly(pipe, length))
    kinds = [(_dtype(text), tuple(map(int, shape))) for text, shape in message["arrays"]]
    sizes = [dtype.itemsize * math.prod(shape) for dtype, shape in kinds]
    if sum(sizes) > _MAX_ARRAYS or min(sizes, default=0) < 0:
        raise ValueError(f"arrays of {sum(sizes)} bytes")
    arrays = [
        np.frombuffer(_exactly(pipe, size), dtype).reshape(shape)
        for size, (dtype, shape) in zip(sizes, kinds)  # noqa: B905  # strict= came with Python 3.10
    ]
    return message, arrays


def _dtype(text: str) -> np.dtype[Any]:
    dtype = np.dtype(text)
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise ValueError(f"an array of {text}")
    return dtype


def _exactly(pipe: IO[bytes], count: int) -> bytearray:
    """Read exactly this many bytes; a short read means that the process ended."""
    data = bytearray(count)
    view, have = memoryview(data), 0
    while have < count:
        got = pipe.readinto(view[have:])  # type: ignore[attr-defined]
        if not got:
            raise OSError("the process ended")
        have += got
    return data


def _texts(value: Any) -> dict[str, str]:
    return {str(key): str(text) for key, text in value.items()}


def _ports(value: Any) -> tuple[Port, ...]:
    return tuple(_port(one) for one in value)


def _port(value: Mapping[str, Any]) -> Port:
    free = value["free"]
    return Port(
        str(value["name"]),
        tuple(map(int, value["shape"])),
        str(value["dtype"]),
        str(value["layout"]),
        None if value["scale"] is None else float(value["scale"]),
        None if value["zero_point"] is None else int(value["zero_point"]),
        None if free is None else tuple(map(int, free)),
    )


# ---- in the process -------------------------------------------------------------------------------------------------


def serve() -> None:
    """Answer messages on standard input until it ends. Output of the runtime is discarded."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    session: Session | None = None
    while True:
        try:
            message, arrays = _receive(requests)
        except OSError:
            return
        answer: dict[str, Any] = {}
        made: list[np.ndarray] = []
        try:
            if "optimize" in message:
                made = [np.frombuffer(_optimized(arrays[0].tobytes(), message["optimize"]), np.uint8)]
            elif "open" in message:
                session = _opened(message["open"], arrays[0].tobytes())
                answer = _description(session)
            elif "run" in message and session is not None:
                with session.refusals():
                    made = [np.asarray(array) for array in session.invoke_all(arrays)]
            elif session is not None:
                session._take(_ports(message["resize"]))
                answer = _description(session)
        except Exception as error:
            ours = isinstance(error, EdgemobileError)
            kind = type(error).__name__ if ours else EdgemobileError.__name__
            answer, made = {"error": kind, "words": str(error) if ours else in_a_line(error)}, []
        _send(answers, answer, made)


def _end_with(parent: int) -> None:
    """End this process, even in an endless model, when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _opened(asked: Mapping[str, Any], data: bytes) -> Session:
    from edgemobile.devices.runtimes.sessions import import_runtime
    from edgemobile.devices.runtimes.table import default_runtime
    from edgemobile.model_file.file import file_format

    import_runtime(asked["runtime"] or default_runtime(file_format(data, asked["name"])))
    limit_memory(len(data))
    how: Callable[..., Session] = open_layers if asked["layers"] else open_session
    named = {} if asked["layers"] else {"name": asked["name"]}
    with quiet_stderr():
        return how(data, runtime=asked["runtime"], threads=asked["threads"], exact=asked["exact"], **named)


def _optimized(data: bytes, name: str) -> bytes:
    runtime: Any = require("onnxruntime", "onnxruntime")
    limit_memory(len(data))
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    # The highest level only changes the memory layout of float convolutions, and cannot be saved without a warning.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(file)
        try:
            runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            return file.read_bytes()
        except Exception as error:
            # Raises if the file does not load; otherwise the writing failed.
            open_session(data, name=name)
            raise EdgemobileError(
                f"what onnxruntime makes of {name} cannot be written to a temporary folder: {in_a_line(error)}. "
                "Set TMPDIR to a folder with room"
            ) from error


def _description(session: Session) -> dict[str, Any]:
    cut = session.delegation()
    return {
        "runtime": session.runtime,
        "version": session.version,
        "metadata": dict(session.metadata),
        "config": dict(session.config),
        "inputs": [asdict(port) for port in session.inputs],
        "outputs": [asdict(port) for port in session.outputs],
        "delegation": None if cut is None else asdict(cut),
    }
