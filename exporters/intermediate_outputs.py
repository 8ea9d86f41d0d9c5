"""Makes the intermediate tensors of a file outputs, to see what a runtime computes in each layer.

Only the list of outputs changes. A runtime may fuse fewer ops around an output than in the original file; comparing the
final outputs of both shows whether that changed a result.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgemobile.model_file.contents import Contents

__all__ = ["intermediate_names", "is_read_before_quantized", "with_intermediate_outputs"]


def intermediate_names(contents: Contents) -> tuple[str, ...]:
    """The outputs of a file, then its other activations in order; in a QDQ file the integers, not the dequantized
    values.

    If the output of a DequantizeLinear were an output of the file, onnxruntime would not use its integer kernels.
    """
    names = []
    for op in contents.ops:
        made = [name for name in op.outputs if name and name not in contents.constants]
        names += [name for name in made if not _between_conversions(contents, name)]
    return tuple(dict.fromkeys((*contents.outputs, *names)))


def _between_conversions(contents: Contents, name: str) -> bool:
    """Whether a value of a QDQ file is only a step between a float op and quantized values."""
    op = contents.producers[name]
    readers = contents.consumers.get(name, [])
    if op.kind == "DequantizeLinear":
        return name not in contents.outputs
    if name.endswith((":wide", ":linear:q")):
        return True
    quantized = bool(readers) and all(reader.kind == "QuantizeLinear" for reader in readers)
    # The input of a fused activation is not a value of the model.
    cut = len(readers) == 1 and readers[0].kind in ("Relu", "Clip") and op.kind in ("Conv", "Gemm", "Add")
    return quantized or cut


def is_read_before_quantized(contents: Contents, name: str) -> bool:
    """Whether some ops read the float value and others its quantized form; then these are two different tensors."""
    kinds = {reader.kind for reader in contents.consumers.get(name, [])}
    made = name in contents.producers and contents.producers[name].kind != "DequantizeLinear"
    return made and name not in contents.outputs and "QuantizeLinear" in kinds and len(kinds) > 1


def with_intermediate_outputs(data: bytes, contents: Contents, names: Sequence[str] | None = None) -> bytes:
    """The file `data`, whose `contents` these are, with `names` as its outputs; None means `intermediate_names`."""
    names = intermediate_names(contents) if names is None else names
    return (_exposed_onnx if contents.format == "onnx" else _exposed_tflite)(data, contents, names)


def _exposed_onnx(data: bytes, contents: Contents, names: Sequence[str]) -> bytes:
    from edgemobile.exporters.onnx_contents import load, onnx

    model = load(data)
    described = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    del model.graph.output[:]
    # If the file has no type for a value, onnxruntime infers it.
    model.graph.output.extend(described.get(name) or onnx.ValueInfoProto(name=name) for name in names)
    return model.SerializeToString()


def _exposed_tflite(data: bytes, contents: Contents, names: Sequence[str]) -> bytes:
    from edgemobile.exporters.tflite_file import pack, unpack

    model = unpack(data)
    graph = model.subgraphs[0]
    index = {name: number for number, name in enumerate(contents.values)}
    graph.outputs = np.array([index[name] for name in names], np.int32)
    # The signature has the indices of the old outputs, which runtimes refuse.
    model.signatureDefs = None
    return pack(model)
