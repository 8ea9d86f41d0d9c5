"""Runs a file and records its outputs, and all its inner tensors with the Graph's names.

It runs on an ExecutionTarget: a runtime on this machine or on a device (comparison.remote).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from edgemobile.comparison.layers import RecordedActivations, integers
from edgemobile.comparison.names import FileTensor, are_alike, match
from edgemobile.devices.host.saturation import open_on_target
from edgemobile.devices.runtimes.isolated import open_isolated
from edgemobile.devices.runtimes.sessions import Session
from edgemobile.devices.runtimes.table import RUNTIMES, default_runtime
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.exporters import FORMATS
from edgemobile.exporters.intermediate_outputs import (
    intermediate_names,
    is_read_before_quantized,
    with_intermediate_outputs,
)
from edgemobile.exporters.model_files import read_known
from edgemobile.graph import Graph, GraphError, Origin, Tensor
from edgemobile.graph.affine import dequantize, quantize
from edgemobile.graph.embed import EMBEDDED
from edgemobile.graph.ir import with_origins
from edgemobile.graph.origin import path_of
from edgemobile.graph.origins_entry import read_origins
from edgemobile.metrics.outputs import Output, channels_last, rows_of
from edgemobile.model_file.contents import Contents
from edgemobile.model_file.metadata import ORIGINS
from edgemobile.model_file.model_file import ModelFile

__all__ = [
    "ExecutionTarget",
    "checked",
    "graph_name",
    "graph_of",
    "local_targets",
    "observe",
    "origins_of",
    "output_steps",
    "outputs_of",
    "stored",
    "tensors_of",
]

Infer = Callable[[ModelFile, np.ndarray], np.ndarray]
Layers = Callable[[bytes, np.ndarray], list[np.ndarray]]


@dataclass(frozen=True)
class ExecutionTarget:
    """Where files run: `formats` are those it can run, `isa` is its machine's ("x86_64", "aarch64", ...).

    `infer`: a file and preprocessed images f32[N,px,px,3] -> the rows f32[N,values] of its outputs (metrics.outputs).
    `layers`: the bytes of a file with its inner tensors as outputs, and images -> all these outputs f[N,...], in the
    file's order, layout and dtype; None if the target cannot return inner tensors.

    Only for this machine: `infer_here` is like `infer` but computes what this machine computes, if that may differ
    from the file's own target, for which `infer` computes.

    Only for a device: `machine` describes it ("aarch64, neon, no dotprod"), `here` is its runtime on this machine.
    """

    name: str
    formats: tuple[str, ...]
    isa: str
    infer: Infer
    layers: Layers | None = None
    machine: str = ""
    here: ExecutionTarget | None = None
    infer_here: Infer | None = None


def local_targets(runtimes: tuple[str, ...] = (), threads: int = 1) -> tuple[ExecutionTarget, ...]:
    """The runtimes of this machine by name; () is the default one of each format. Raises Unsupported for an unknown
    name."""
    for name in runtimes:
        if name not in RUNTIMES:
            raise Unsupported(f"there is no runtime {name!r}. Known: {', '.join(RUNTIMES)}")
    names = tuple(dict.fromkeys(runtimes or map(default_runtime, FORMATS)))
    return tuple(
        ExecutionTarget(
            name,
            (RUNTIMES[name].format,),
            platform.machine(),
            partial(_infer, runtime=name, threads=threads),
            partial(_layers, runtime=name, threads=threads),
            infer_here=partial(_infer_here, runtime=name, threads=threads) if name == "onnxruntime" else None,
        )
        for name in names
    )


def _infer(file: ModelFile, images: np.ndarray, *, runtime: str, threads: int) -> np.ndarray:
    return _ran(open_on_target(_opener(file, runtime, threads)), images)


def _infer_here(file: ModelFile, images: np.ndarray, *, runtime: str, threads: int) -> np.ndarray:
    return _ran(_opener(file, runtime, threads)(), images)


def _opener(file: ModelFile, runtime: str, threads: int) -> Callable[..., Session]:
    return partial(open_isolated, file.data, runtime=runtime, threads=threads, name=str(file.path))


def _ran(session: Session, images: np.ndarray) -> np.ndarray:
    session.settle(images.shape[1])
    return session.rows(images)


def _layers(data: bytes, images: np.ndarray, *, runtime: str, threads: int) -> list[np.ndarray]:
    name = "the model with its inner tensors as outputs"
    session = open_on_target(partial(open_isolated, data, runtime=runtime, threads=threads, name=name, layers=True))
    session.settle(images.shape[1])
    return session.run_all(images)


def checked(file: ModelFile) -> ModelFile:
    """`file`, after reading everything in it that a comparison needs. Raises EdgemobileError if it is damaged."""
    contents = file.contents
    if not contents.inputs or not contents.outputs:
        what = "outputs" if contents.inputs else "inputs"
        raise Unsupported(f"{file.path} has no {what}, so nothing can be compared")
    _ = file.preprocess, origins_of(file)
    return file


def origins_of(file: ModelFile) -> Mapping[str, Origin]:
    """The Origins in the file's metadata; none for a third-party file. Raises EdgemobileError for a damaged entry."""
    return file.once(_read_origins)


def graph_of(file: ModelFile) -> Graph:
    """The file as a Graph. Raises Unsupported, with the op's name, if a Graph cannot represent an op."""
    return file.once(_read_graph)


def tensors_of(file: ModelFile) -> Mapping[str, Tensor]:
    """Constants and quantized activations by the Graph's names. Raises Unsupported if a Graph cannot represent them."""
    return file.once(_read_tensors)


def _read_origins(file: ModelFile) -> Mapping[str, Origin]:
    return read_origins(file.metadata, str(file.path))


def _needed_origins(file: ModelFile) -> Mapping[str, Origin]:
    """origins_of. Raises Unsupported for an int8 file from edgemobile that has lost them: its tensors would be compared
    as PyTorch's, but some are multiples of those."""
    if ORIGINS not in file.metadata and file.precision == "int8" and file.contents.producer.startswith("edgemobile "):
        raise Unsupported(
            f"{file.path} was exported by edgemobile, but its metadata has no {ORIGINS}, which states the factors of "
            "its tensors: another tool removed it; export the file again"
        )
    return origins_of(file)


def _read_graph(file: ModelFile) -> Graph:
    graph, unread = _read_known(file)
    for reason in unread.values():
        raise Unsupported(f"the layers of {file.path} cannot be run again: {reason}")
    return graph


def _read_known(file: ModelFile) -> tuple[Graph, dict[str, str]]:
    """(the file as a Graph, without the ops that a Graph cannot represent; the outputs of those, with the reason)."""
    try:
        graph, unread = read_known(file.format, file.data)
        return replace(graph, tensors=with_origins(graph.tensors, _needed_origins(file))), unread
    except (GraphError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise Unsupported(f"the layers of {file.path} cannot be run again: {error}") from error


def observe(
    file: ModelFile, place: ExecutionTarget, images: np.ndarray, reference: Graph | None
) -> tuple[RecordedActivations, np.ndarray]:
    """(every tensor of the file for these images, the rows f32[N,values] of its outputs in that run).

    The tensors of a third-party file are matched with those of `reference`. Raises Unsupported if the target cannot
    return inner tensors.
    """
    if place.layers is None:
        raise Unsupported(f"{place.name} cannot return inner tensors; omit --layers")
    arrays = place.layers(with_intermediate_outputs(file.data, file.contents), images)
    tensors = dict(tensors_of(file))
    values = {}
    flattened = _flattened(file.contents) if file.format == "onnx" else {}
    for name, array in zip(intermediate_names(file.contents), arrays, strict=True):
        plain = graph_name(file, name)
        ordered = array.transpose(0, 2, 3, 1) if file.format == "onnx" and array.ndim == 4 else array
        if name in flattened and array.ndim == 2:
            ordered = array.reshape(-1, *flattened[name]).transpose(0, 2, 3, 1).reshape(array.shape)
        values[plain] = integers(ordered, tensors.get(plain))
    observed = RecordedActivations(values, tensors, origins_of(file))
    rows = rows_of([_reals(observed, graph_name(file, name)) for name in file.contents.outputs])
    sources = {graph_name(file, name): images for name in file.contents.inputs}
    seen = {name: _seen(tensors.get(name), images) for name, images in sources.items()}
    if reference is not None and EMBEDDED in values and EMBEDDED not in reference.tensors:
        # The file normalises its input, so the reference's input is an inner tensor of the file.
        tensors |= {name: replace(tensors[EMBEDDED], name=name) for name in seen if EMBEDDED in tensors}
        seen = dict.fromkeys(seen, values[EMBEDDED])
    constants = (name for name, value in file.contents.values.items() if value.constant and value.dtype == "uint8")
    unsigned = frozenset(graph_name(file, name) for name in constants)
    observed = RecordedActivations({**seen, **values}, tensors, origins_of(file), unsigned=unsigned)
    return (observed if reference is None else _renamed(file, reference, observed)), rows


def _flattened(contents: Contents) -> dict[str, tuple[int, ...]]:
    """Tensor [N, features] -> (C, H, W) of the image that it flattens: ONNX has this order, and a Graph H, W, C."""
    found: dict[str, tuple[int, ...]] = {}
    for name, node in contents.producers.items():
        source = node.inputs[0] if node.inputs else ""
        if node.kind in ("QuantizeLinear", "DequantizeLinear") and source in found:
            found[name] = found[source]
        shape = contents.values[source].shape if source in contents.values else ()
        if node.kind in ("Reshape", "Flatten") and len(shape) == 4 and shape[2] * shape[3] > 1:
            found[name] = tuple(shape[1:])
    return found


def outputs_of(file: ModelFile) -> tuple[Output, ...] | None:
    """The outputs of a file, channels last; None if it does not state their shapes."""
    values = [file.contents.values[name] for name in file.contents.outputs]
    shapes = [channels_last(value.shape) if file.format == "onnx" else value.shape for value in values]
    if not all(shape and min((1, *shape[1:])) > 0 for shape in shapes):
        return None
    return tuple(Output(value.name, shape[1:]) for value, shape in zip(values, shapes, strict=True))


def output_steps(file: ModelFile) -> np.ndarray | None:
    """The scale of every value of a file's rows, f64[values] or f64[1] for one output; None if an output is float. An
    output that is dequantized at the end of the file has the scale of its integers."""
    scales = [_output_step(file, name) for name in file.contents.outputs]
    if len(scales) == 1:
        return None if scales[0] is None else np.array(scales)
    outputs = outputs_of(file)
    if outputs is None or None in scales:
        return None
    return np.concatenate([np.full(one.size, scale) for one, scale in zip(outputs, scales, strict=True)])


def _output_step(file: ModelFile, name: str) -> float | None:
    value = file.contents.values[name]
    producer = file.contents.producers.get(value.name)
    if value.scale is None and producer is not None and producer.kind in ("DequantizeLinear", "DEQUANTIZE"):
        value = file.contents.values[producer.inputs[0]]
    return float(value.scale[0]) if value.scale is not None and value.scale.size == 1 else None


def _seen(tensor: Tensor | None, images: np.ndarray) -> np.ndarray:
    """The images, quantized if the input is."""
    if tensor is None or tensor.qparams is None:
        return images
    return quantize(images, tensor.qparams, tensor.dtype)


def _reals(observed: RecordedActivations, name: str) -> np.ndarray:
    """The real values f32[N,...] of one of the file's tensors."""
    array, qparams = observed.values[name], observed.qparams(name)
    return (array if qparams is None or array.dtype.kind == "f" else dequantize(array, qparams)).astype(np.float32)


def stored(file: ModelFile, reference: Graph) -> RecordedActivations:
    """The tensors of a file without a run: its activations have names but no values. Raises Unsupported as tensors_of
    does."""
    values = {name: np.empty(0, np.int8) for name, tensor in tensors_of(file).items() if not tensor.is_constant}
    return _renamed(file, reference, RecordedActivations(values, tensors_of(file), origins_of(file)))


def _read_tensors(file: ModelFile) -> dict[str, Tensor]:
    try:
        if file.format == "onnx":
            from edgemobile.exporters.onnx_graph import read_named_tensors

            tensors = read_named_tensors(file.data)
        else:
            tensors = FORMATS[file.format].load().read_tensors(file.data)
        return with_origins(tensors, _needed_origins(file))
    except (EdgemobileError, GraphError, LookupError, TypeError, ValueError) as error:
        raise Unsupported(f"the tensors of {file.path} cannot be compared ({error})") from error


def graph_name(file: ModelFile, name: str) -> str:
    """The Graph's name of one of a file's values."""
    if file.format == "onnx":
        from edgemobile.exporters.onnx_graph import tensor_name
        from edgemobile.exporters.onnx_plain import REAL

        return f"{name}{REAL}" if is_read_before_quantized(file.contents, name) else tensor_name(name)
    return name


def _renamed(file: ModelFile, reference: Graph, observed: RecordedActivations) -> RecordedActivations:
    """`observed` with the reference's names, if the file has other names."""
    if are_alike(reference, {path_of(name, observed.origins.get(name)) for name in observed.values}):
        return observed
    graph, unread = _read_known(file)
    found = match(reference, graph, observed.values, unread)
    values, tensors = {}, {}
    for name, own in found.tensors.items():
        if own.name in observed.values:
            values[name] = observed.values[own.name].reshape(-1, *own.shape[1:])
        if own.name in observed.tensors:
            tensors[name] = _as_reference(observed.tensors[own.name], name, own)
    renamed = {name: own.name for name, own in found.tensors.items()}
    unsigned = frozenset(name for name, own in renamed.items() if own in observed.unsigned)
    known = {name: _origin(name, own, observed.origins.get(own.name)) for name, own in found.tensors.items()}
    origins = {name: origin for name, origin in known.items() if origin is not None}
    inputs = {
        key: _reals(observed, own.name).reshape(-1, *own.shape[1:])
        for key, own in found.inputs.items()
        if own.name in observed.values
    }
    return RecordedActivations(
        values, tensors, origins, renamed, found.unknown, inputs, found.rounding, unsigned=unsigned
    )


def _origin(name: str, own: FileTensor, stated: Origin | None) -> Origin | None:
    """The Origin of a tensor from the matching, with the channel factors that only the file's metadata has."""
    if stated is None or stated.channel_factors is None:
        return own.origin
    return replace(own.origin or Origin(name), channel_factors=stated.channel_factors)


def _as_reference(tensor: Tensor, name: str, own: FileTensor) -> Tensor:
    """A file's tensor with its name and shape in the reference, multiplied by `own.times`."""
    qparams, data = tensor.qparams, tensor.data
    if qparams is not None:
        axis = qparams.axis and qparams.axis - len(tensor.shape) + len(own.shape)
        qparams = replace(qparams, scale=qparams.scale * np.float32(own.times), axis=axis)
    elif data is not None and own.times != 1:
        data = data * data.dtype.type(own.times)
    return Tensor(name, own.shape, tensor.dtype, None if data is None else data.reshape(own.shape), qparams)
