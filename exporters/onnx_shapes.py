"""Sets the dynamic dimensions of an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence

from edgemobile.errors import Unsupported, in_a_line
from edgemobile.exporters.damaged import reading
from edgemobile.exporters.onnx_contents import load, onnx

__all__ = ["with_input_shape"]


def with_input_shape(data: bytes, name: str, shape: Sequence[int]) -> bytes:
    """The file `data` whose input `name` has this shape, in the file's layout, with the inferred shapes.

    Raises Unsupported for a shape that the file does not accept.
    """
    model = load(data)
    with reading("ONNX", data):
        (value,) = (value for value in model.graph.input if value.name == name)
        kind = value.type.tensor_type.elem_type
        value.CopyFrom(onnx.helper.make_tensor_value_info(name, kind, list(shape)))
        # The shapes in the file are for its dynamic dimensions.
        del model.graph.value_info[:]
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as error:
        raise Unsupported(f"the file does not accept an input {name} of {list(shape)}: {in_a_line(error)}") from error
    return inferred.SerializeToString()
