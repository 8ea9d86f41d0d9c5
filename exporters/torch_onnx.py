"""PyTorch -> ONNX with torch's own exporter, and int8 with onnxruntime's quantizer.

It is for comparison, and for models that edgemobile's lowering refuses. Hard-swish and hard-sigmoid stay float between
the integer layers, because onnxruntime's quantizer does not support them, so the files of exporters.onnx are smaller
and faster.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgemobile.errors import EdgemobileError, Unsupported, first_line, require

__all__ = ["OPSET", "quantize_static", "to_bytes"]

OPSET = 18


def to_bytes(program_or_net: Any, input_shape: Sequence[int], *, metadata: Mapping[str, str] | None = None) -> bytes:
    """The simplified ONNX file, opset 18, of an nn.Module or ExportedProgram on one f32 input of `input_shape` NCHW.

    Raises Unsupported with the first line of torch's error if it cannot export the model.
    """
    torch: Any = require("torch", "export")
    onnx: Any = require("onnx", "export")
    onnxsim: Any = require("onnxsim", "export")
    require("onnxscript", "export")
    if isinstance(program_or_net, torch.nn.Module):
        program_or_net = program_or_net.eval()
    with _quiet():
        try:
            exported = torch.onnx.export(
                program_or_net,
                (torch.zeros(tuple(input_shape)),),
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                input_names=["input"],
                output_names=["output"],
                verbose=False,
            )
        except Exception as error:
            reason = first_line(error)
            raise Unsupported(f"torch.onnx cannot export this model on input {list(input_shape)}: {reason}") from error
        simplified, same = onnxsim.simplify(exported.model_proto)
    if not same:
        raise EdgemobileError("onnxsim changed what the model computes; report it, and export without --backend torch")
    # Torch writes the paths of the model's source files into the file.
    for node in simplified.graph.node:
        del node.metadata_props[:]
    onnx.helper.set_model_props(simplified, {key: str(value) for key, value in sorted((metadata or {}).items())})
    return simplified.SerializeToString(deterministic=True)


def quantize_static(
    data: bytes,
    batches: Iterable[np.ndarray],
    *,
    metadata: Mapping[str, str] | None = None,
    form: Literal["QDQ", "QOperator"] = "QDQ",
) -> bytes:
    """An int8 file by onnxruntime's static quantizer: uint8 activations, int8 weights per channel, min-max.

    `batches` are f32[N,C,H,W] of the file's batch size. `metadata` replaces that of the float file, which the
    quantizer keeps. Raises EdgemobileError if there are no batches.
    """
    onnx: Any = require("onnx", "export")
    quantization: Any = require("onnxruntime.quantization", "onnxruntime")
    model = onnx.load_model_from_string(data)
    feeds = [{model.graph.input[0].name: np.asarray(batch, np.float32)} for batch in batches]
    if not feeds:
        raise EdgemobileError("the calibration set is empty: give at least one batch")
    remaining = iter(feeds)
    reader = type("Reader", (quantization.CalibrationDataReader,), {"get_next": lambda self: next(remaining, None)})
    with tempfile.TemporaryDirectory() as folder, _quiet():
        target = Path(folder) / "int8.onnx"
        quantization.quantize_static(
            model,
            str(target),
            reader(),
            quant_format=quantization.QuantFormat[form],
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
        )
        quantized = onnx.load(str(target))
    if metadata is not None:
        onnx.helper.set_model_props(quantized, {key: str(value) for key, value in sorted(metadata.items())})
    return quantized.SerializeToString()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses warnings, log lines and prints of the libraries; errors are still raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
