"""A model file of any exporter as the input of an export: its Graph, and the file itself as the reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from edgemobile.devices.host.saturation import open_on_target
from edgemobile.devices.runtimes.isolated import open_isolated
from edgemobile.devices.runtimes.sessions import Port
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.exporters.damaged import reading
from edgemobile.exporters.intermediate_outputs import with_intermediate_outputs
from edgemobile.exporters.model_files import read_known, read_model_file
from edgemobile.graph import Graph, GraphError
from edgemobile.images.class_labels import find_labels
from edgemobile.loading.keras_file import keras_file, source_sha256
from edgemobile.loading.model import Model, refuse_given
from edgemobile.loading.model_spec import is_keras
from edgemobile.loading.presets import ASSUMED, PRESETS, chosen_preprocess, default_preprocess, stated_normalisation
from edgemobile.lower.file_graph import FileGraph, lower_file
from edgemobile.lower.input_scaling import InputScaling
from edgemobile.metrics.outputs import Output
from edgemobile.model_file.contents import Contents, Value
from edgemobile.model_file.file import layout_of
from edgemobile.model_file.model_file import ModelFile
from edgemobile.preprocess import Preprocess, at_resolution

__all__ = ["FileModel", "load_file"]

_INPUTS = ("float32", "uint8", "int8")
_QUANTIZED = ("int8", "weight-only")


@dataclass(frozen=True, kw_only=True)
class FileModel(Model):
    """A model file. `until_logits` are the bytes of the file that ends before its last softmax, if it has one.

    `input_scaling` is what the file does to its input first. It is a part of `preprocess`, not of the Graph.
    """

    file: ModelFile
    input_scaling: InputScaling
    until_logits: bytes = field(repr=False)
    lowered: Graph = field(repr=False)

    def rows(self, images: np.ndarray) -> np.ndarray:
        """As the file's runtime computes them, in a separate process."""
        session = open_on_target(partial(open_isolated, self.until_logits, name=str(self.file.path)))
        session.settle(images.shape[1])
        return session.rows(self.input_scaling.undone(images))

    def graph(self) -> Graph:
        return self.lowered


def load_file(
    spec: str,
    *,
    res: int | None = None,
    batch: int = 1,
    labels: Path | None = None,
    preprocess: str | None = None,
    **refused: object,
) -> FileModel:
    """The model in the .onnx, .tflite, .keras or .h5 file `spec`, for `batch` images.

    `res` chooses the resolution of an ONNX file that takes any. `preprocess` is what loading.presets takes; None takes
    what the file states. `labels` is a file of class names. Of the `refused` options none may be given. Raises
    EdgemobileError for a damaged file, one that is not an image classifier, and one that does not state its
    preprocessing; Unsupported, naming the op, for what a Graph has no word for.
    """
    refuse_given(spec, "is a file, which has its own", {f"--{name}": value for name, value in refused.items()})
    file = keras_file(Path(spec), res) if is_keras(spec) else read_model_file(Path(spec))
    port = _port(file, res)
    px = _square_px(file, port)
    found = _lowered(file, port, batch)
    chosen, source = _preprocess(file, port, px, preprocess, found.input_scaling)
    classes = found.graph[found.graph.outputs[0]].shape[1]
    names = find_labels(file.path, classes, file.metadata, labels, file.data)
    notes = (*names.notes, *([f"preprocessing {source}"] if source.startswith(ASSUMED) else []), *_notes(file, found))
    return FileModel(
        name=file.path.stem,
        batch=batch,
        outputs=(Output("output", (classes,)),),
        preprocess=found.input_scaling.after(chosen),
        source_preprocess=chosen if found.input_scaling else None,
        source=file.name,
        sha256=source_sha256(file),
        labels=names.names,
        facts={"file": str(file.path), "precision": file.precision},
        notes=notes,
        reference=file.name,
        is_quantized=file.precision in _QUANTIZED,
        file=file,
        input_scaling=found.input_scaling,
        until_logits=_until_logits(file, found),
        lowered=found.graph,
    )


# ---- the input ------------------------------------------------------------------------------------------------------


def _port(file: ModelFile, res: int | None) -> Port:
    """The file's input with its dynamic sizes chosen: one image, of `res` pixels."""
    contents = file.contents
    if len(contents.inputs) != 1:
        raise Unsupported(f"{file.path} takes {', '.join(contents.inputs) or 'nothing'}. Supported: one image")
    value = contents.values[contents.inputs[0]]
    layout = layout_of(value.shape, "NCHW" if file.format == "onnx" else "NHWC")
    if not layout or value.dtype not in _INPUTS:
        raise Unsupported(
            f"{file.path} takes {value.dtype}{list(value.shape)}. Supported: RGB images, [N,3,H,W] or [N,H,W,3], of "
            f"{', '.join(_INPUTS)}"
        )
    shape = _chosen_shape(file, value, layout, res)
    scale = None if value.scale is None else float(value.scale[0])
    zero_point = None if value.zero_point is None else int(value.zero_point[0])
    return Port(value.name, shape, value.dtype, layout, scale, zero_point, free=())


def _chosen_shape(file: ModelFile, value: Value, layout: str, res: int | None) -> tuple[int, ...]:
    sides, channel = ((2, 3), 1) if layout == "NCHW" else ((1, 2), 3)
    shape = list(value.shape)
    fixed = [shape[side] for side in sides if shape[side] > 1]
    if res is not None and any(px != res for px in fixed):
        raise EdgemobileError(f"--res {res}: {file.path} takes images of {fixed[0]} pixels only. Omit --res")
    if len(fixed) < len(sides):
        if file.format != "onnx":
            raise Unsupported(
                f"{file.path} takes images of any size {shape}, and its other tensors state none. Supported: TFLite "
                "files of a fixed resolution; convert the model again with one"
            )
        if res is None and not fixed:
            raise EdgemobileError(f"{file.path} takes images of any size. Choose one: --res PX, as it was trained at")
    for side in sides:
        shape[side] = shape[side] if shape[side] > 1 else res or fixed[0]
    shape[0] = 1 if shape[0] < 1 else shape[0]
    shape[channel] = 3 if shape[channel] < 1 else shape[channel]
    return tuple(shape)


def _square_px(file: ModelFile, port: Port) -> int:
    height, width = port.shape[2:] if port.layout == "NCHW" else port.shape[1:3]
    if height != width:
        raise Unsupported(f"{file.path} takes images of {height} x {width} pixels. Supported: square ones")
    return width


# ---- the Graph ------------------------------------------------------------------------------------------------------


def _lowered(file: ModelFile, port: Port, batch: int) -> FileGraph:
    try:
        graph, unknown = read_known(file.format, _sized(file, port))
        for reason in unknown.values():
            raise Unsupported(reason)
        with reading(file.format, file.data):
            return lower_file(graph, batch)
    except GraphError as error:
        raise Unsupported(f"{file.path} is inconsistent: {error}; export it again") from error
    except Unsupported as error:
        raise Unsupported(f"{file.path}: {error}") from error


def _sized(file: ModelFile, port: Port) -> bytes:
    """The file with the chosen input."""
    if file.format != "onnx" or file.contents.values[port.name].shape == port.shape:
        return file.data
    from edgemobile.exporters.onnx_shapes import with_input_shape

    return with_input_shape(file.data, port.name, port.shape)


def _until_logits(file: ModelFile, found: FileGraph) -> bytes:
    if found.softmax is None:
        return file.data
    before = _softmax_input(file.contents, found.softmax)
    return with_intermediate_outputs(file.data, file.contents, [before])


def _softmax_input(contents: Contents, output: str) -> str:
    """The file's name of what its softmax reads, which gives the Graph's `output`."""
    if contents.format != "onnx":
        return contents.producers[output].inputs[0]
    from edgemobile.exporters.onnx_graph import tensor_name

    made = (op for op in contents.ops if op.kind.endswith("Softmax") and tensor_name(op.outputs[0]) == output)
    return next(made).inputs[0]


# ---- what is known about it -----------------------------------------------------------------------------------------


def _preprocess(
    file: ModelFile, port: Port, px: int, chosen: str | None, scaling: InputScaling
) -> tuple[Preprocess, str]:
    """(the preprocessing of the file's own input, its source). Raises EdgemobileError where no source states it."""
    if chosen is not None:
        return chosen_preprocess(chosen, port, px, px)
    if (stated := file.preprocess) is not None:
        return at_resolution(stated, px), f"in the metadata of {file.name}"
    usual, source = default_preprocess(port, px, stated_normalisation(file))
    if source.startswith(ASSUMED) and port.dtype == "float32":
        guess = source.removeprefix(f"{ASSUMED} ").partition(":")[0]
        usual_one = "raw would be usual, because it scales its input itself" if scaling else f"{guess} would be usual"
        raise EdgemobileError(
            f"{file.path} does not state its preprocessing, and its answers depend on it. Choose one: --preprocess "
            f"{'|'.join(PRESETS)}, JSON, or a file of JSON ({usual_one})"
        )
    return usual, source


def _notes(file: ModelFile, found: FileGraph) -> list[str]:
    notes = []
    if found.input_scaling:
        notes.append(
            f"{file.name} scales its input itself. The files here do not: the scaling is in their preprocessing, which "
            "their metadata states"
        )
    if found.softmax is not None:
        notes.append(
            f"{file.name} ends with a softmax: the exported files output the logits before it, and are compared with "
            "those; `eval`, `predict` and predict.py compute probabilities from them"
        )
    if file.precision in _QUANTIZED:
        notes.append(
            f"{file.name} is quantized ({file.precision}): its integers are converted to real values. Because it "
            "rounds, float files are checked against the bounds of int8"
        )
    return notes
