"""The facts of any .onnx or .tflite file, from any exporter.

Facts of the file come from its bytes. How a runtime runs it is found with the installed runtime; if it is not
installed, there is a note instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.exporters import FORMATS
from edgemobile.exporters.model_files import read_model_file
from edgemobile.graph import GraphError, Tensor
from edgemobile.inspection.hswish import hswish_forms
from edgemobile.inspection.islands import islands
from edgemobile.inspection.precision import ops_by_precision
from edgemobile.inspection.records import Inspection, PortFacts
from edgemobile.inspection.weights import weight_facts
from edgemobile.model_file.contents import Contents, Value
from edgemobile.model_file.file import layout_of, output_layout
from edgemobile.model_file.metadata import CHECKSUMS, LABELS, ORIGINS, PREPROCESS
from edgemobile.model_file.model_file import ModelFile

__all__ = ["facts_of", "inspect_file", "read_stored_tensors"]

_T = TypeVar("_T")


def inspect_file(path: Path) -> Inspection:
    """Raises EdgemobileError for a file that is missing, damaged or neither ONNX nor TFLite."""
    return facts_of(read_model_file(path))


def facts_of(file: ModelFile, *, ask_runtimes: bool = True) -> Inspection:
    """The facts of a file; without `ask_runtimes` only those from its bytes.

    Raises EdgemobileError for a damaged one.
    """
    contents, data = file.contents, file.data
    notes: list[str] = []
    optimized = _noted(notes, _optimized, file) if ask_runtimes and contents.format == "onnx" else None
    partitions = _noted(notes, _delegate_partitions, file) if ask_runtimes and contents.format == "tflite" else None
    usual = "NCHW" if contents.format == "onnx" else "NHWC"
    labels, preprocess = file.labels, _json(contents.metadata.get(PREPROCESS))
    # There are thousands of origins and checksums, and only a comparison needs them.
    left_out = (LABELS, PREPROCESS, ORIGINS, CHECKSUMS)
    return Inspection(
        file=str(file.path),
        bytes=file.bytes,
        format=contents.format,
        producer=contents.producer,
        description=contents.description,
        inputs=tuple(_port(contents, name, partial(layout_of, usual=usual)) for name in contents.inputs),
        outputs=tuple(_port(contents, name, output_layout) for name in contents.outputs),
        ops=contents.op_counts(),
        subgraphs=len(contents.graphs) - 1,
        precision=file.precision,
        ops_by_precision=ops_by_precision(contents),
        bytes_by_dtype=_bytes_by_dtype(contents, len(data)),
        hswish=hswish_forms(contents),
        islands=_islands(contents, optimized),
        weights=tuple(weight_facts(contents)),
        metadata={key: value for key, value in contents.metadata.items() if key not in left_out},
        preprocess=preprocess if isinstance(preprocess, dict) else None,
        labels=None if labels is None else len(labels),
        runtime_ops=None if optimized is None else optimized.op_counts(),
        runtime_ops_by_precision=None if optimized is None else ops_by_precision(optimized),
        delegate_partitions=partitions,
        notes=tuple(notes),
    )


def _islands(contents: Contents, optimized: Contents | None) -> tuple[tuple[str, ...], ...] | None:
    """The stored ONNX file does not show it: onnxruntime uses integer kernels for some parts, not for all."""
    return None if contents.format == "onnx" and optimized is None else islands(optimized or contents)


def read_stored_tensors(file: ModelFile) -> dict[str, Tensor]:
    """The constants and quantized tensors of a file, with the Graph's names, layouts and signedness.

    Raises Unsupported if they have no such form, as in many third-party files.
    """
    try:
        return FORMATS[file.format].load().read_tensors(file.data)
    except (EdgemobileError, GraphError, LookupError, TypeError, ValueError) as error:
        raise Unsupported(f"the tensors of {file.path} cannot be compared across formats ({error})") from error


def _optimized(file: ModelFile) -> Contents:
    """The graph that onnxruntime builds from the file on this machine."""
    from edgemobile.devices.runtimes.isolated import optimized_onnx
    from edgemobile.exporters.onnx_contents import read_contents

    return read_contents(optimized_onnx(file.data, file.name), optimized=True)


def _delegate_partitions(file: ModelFile) -> int | None:
    """Into how many partitions XNNPACK, LiteRT's default delegate, splits the file on this machine; 1 is best.

    Between partitions, ops run in the plain kernels. 0 means that nothing was delegated; None means that this release
    of the runtime does not list its ops.
    """
    from edgemobile.devices.runtimes.isolated import open_isolated

    cut = open_isolated(file.data, runtime="litert", name=file.name).delegation()
    return None if cut is None else cut.partitions


def _noted(notes: list[str], ask: Callable[[ModelFile], _T], file: ModelFile) -> _T | None:
    """A fact from a runtime, or None and a note."""
    try:
        return ask(file)
    except EdgemobileError as error:
        notes.append(str(error))
        return None


def _json(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def _port(contents: Contents, name: str, layout_of_shape: Callable[[tuple[int, ...]], str]) -> PortFacts:
    value = contents.values[name]
    layout = layout_of_shape(value.shape)
    if value.scale is None or value.zero_point is None:
        return PortFacts(name, value.shape, value.dtype, layout)
    return PortFacts(name, value.shape, value.dtype, layout, float(value.scale[0]), int(value.zero_point[0]))


def _stored_values(contents: Contents, around: frozenset[str] = frozenset()) -> Iterator[Value]:
    """The constants of all graphs; the values of an ONNX subgraph include those of the graph `around` it."""
    yield from (value for name, value in contents.values.items() if value.constant and name not in around)
    shared = frozenset(contents.values) if contents.format == "onnx" else frozenset()
    for part in contents.subgraphs:
        yield from _stored_values(part, shared)


def _bytes_by_dtype(contents: Contents, total: int) -> dict[str, int]:
    sizes: dict[str, int] = {}
    # TFLite stores equal constants once; their tensors then share the same bytes.
    seen: set[tuple[str, bytes]] = set()
    for value in _stored_values(contents):
        if value.data is not None and contents.format == "tflite":
            key = (value.dtype, value.data.tobytes())
            if key in seen:
                continue
            seen.add(key)
        sizes[value.dtype] = sizes.get(value.dtype, 0) + value.nbytes
    ordered = dict(sorted(sizes.items(), key=lambda item: -item[1]))
    return {**ordered, "structure": max(total - sum(ordered.values()), 0)}
