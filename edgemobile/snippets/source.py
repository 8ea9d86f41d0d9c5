"""Fills in the code templates for one file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from importlib.resources import files
from string import Template

from edgemobile.errors import Unsupported
from edgemobile.pipeline.other_files import with_pixels
from edgemobile.snippets.arena import activation_bytes, resolver_calls
from edgemobile.snippets.model import SnippetModel

__all__ = ["LANGUAGES", "snippet"]

_ROW_BYTES = 16
_C_TYPES = {"float32": "float", "int8": "int8_t", "uint8": "uint8_t"}
_ORT_TYPES = {"float32": "FLOAT", "int8": "INT8", "uint8": "UINT8"}
_LITERT_TYPES = {"float32": "Float32", "int8": "Int8", "uint8": "UInt8"}


_PYTHON_QUANTIZED = """    limits = np.iinfo(DTYPE)
    array = np.clip(np.rint(array / INPUT_SCALE) + INPUT_ZERO_POINT, limits.min, limits.max)
"""
_PYTHON_REAL = """    scores = (scores.astype(np.int32) - OUTPUT_ZERO_POINT).astype(np.float32) * OUTPUT_SCALE
"""
_PYTHON_SOFTMAX = """powers = np.exp(scores - scores.max())
    return powers / powers.sum()"""
# For floats, for integers.
_KOTLIN_PREPARED = (
    "  private fun prepared(real: Float) = real",
    "  private fun prepared(real: Float) =\n"
    "    max(-128, min(127, round(real / INPUT_SCALE).toInt() + INPUT_ZERO_POINT)).toByte()",
)
_KOTLIN_REAL = (
    "  private fun real(value: Float) = value",
    "  private fun real(value: Byte) = (value - OUTPUT_ZERO_POINT) * OUTPUT_SCALE",
)


def snippet(model: SnippetModel, language: str) -> str:
    """The code for `model` in a language of LANGUAGES. Raises Unsupported if there is none for its format."""
    return LANGUAGES[language](model)


def _python(model: SnippetModel) -> str:
    more = {
        "image": "real.transpose(2, 0, 1)" if model.given.layout == "NCHW" else "real",
        "quantized": "" if model.given.dtype == "float32" else _PYTHON_QUANTIZED,
        "real": "" if model.made.dtype == "float32" else _PYTHON_REAL,
        "probabilities": "return scores" if model.probabilities else _PYTHON_SOFTMAX,
    }
    return with_pixels(_filled(f"{model.file.format}.py.in", model, json.dumps, more))


def _cpp(model: SnippetModel) -> str:
    return _filled(f"{model.file.format}.cpp.in", model, _c_text)


def _kotlin(model: SnippetModel) -> str:
    _tflite_only(model, "kotlin")
    if "uint8" in (model.given.dtype, model.made.dtype):
        raise Unsupported(
            f"{model.file.name} has a uint8 input or output, which LiteRT's Kotlin TensorBuffer does not "
            "support. Supported: float32 and int8; export without --embed-preprocess"
        )
    integer_in, integer_out = model.given.dtype == "int8", model.made.dtype == "int8"
    more = {
        "kotlin_array": "ByteArray" if integer_in else "FloatArray",
        "kotlin_write": "writeInt8" if integer_in else "writeFloat",
        "kotlin_read": "readInt8" if integer_out else "readFloat",
        "kotlin_convert": f"{_KOTLIN_PREPARED[integer_in]}\n\n{_KOTLIN_REAL[integer_out]}",
        "kotlin_mean": ", ".join(f"{value}f" for value in model.preprocess.mean),
        "kotlin_std": ", ".join(f"{value}f" for value in model.preprocess.std),
        "input_size": math.prod(model.given.shape),
    }
    return _filled("tflite.kt.in", model, lambda text: _c_text(text).replace("$", "\\$"), more)


def _c_array(model: SnippetModel) -> str:
    _tflite_only(model, "c-array")
    contents, data = model.file.contents, model.file.data
    calls = resolver_calls(contents)
    rows = (data[start : start + _ROW_BYTES] for start in range(0, len(data), _ROW_BYTES))
    more = {
        "array": "\n".join("  " + ",".join(f"0x{octet:02x}" for octet in row) + "," for row in rows),
        "bytes": len(data),
        "activations": activation_bytes(contents),
        "op_count": len(calls),
        "ops": "\n".join(f"//       resolver.{call}();" for call in calls),
    }
    return _filled("tflite.c.in", model, _c_text, more)


LANGUAGES: Mapping[str, Callable[[SnippetModel], str]] = {
    "python": _python,
    "cpp": _cpp,
    "kotlin": _kotlin,
    "c-array": _c_array,
}


def _tflite_only(model: SnippetModel, language: str) -> None:
    if model.file.format != "tflite":
        raise Unsupported(
            f"{model.file.name} is {model.file.format}, and {language} code is for TFLite files. "
            "Supported for ONNX: python, cpp"
        )


def _filled(
    template: str, model: SnippetModel, quoted: Callable[[str], str], more: Mapping[str, object] | None = None
) -> str:
    text = (files("edgemobile.snippets") / template).read_text(encoding="utf-8")
    return Template(text).substitute({**_values(model, quoted), **(more or {})})


def _values(model: SnippetModel, quoted: Callable[[str], str]) -> dict[str, object]:
    given, made, how = model.given, model.made, model.preprocess
    nchw = given.layout == "NCHW"
    height, width = given.shape[2:] if nchw else given.shape[1:3]
    return {
        "file": quoted(model.file.name),
        "name": _comment(model.file.name),
        "sha256": model.file.sha256,
        "identifier": re.sub(r"\W", "_", model.file.path.stem, flags=re.ASCII),
        "input": _comment(given.words),
        "output": _comment(made.words),
        "preprocess": _comment(model.preprocess_words),
        "labels_from": _comment(model.labels_words),
        "input_name": quoted(given.name),
        "output_name": quoted(made.name),
        "input_shape": ", ".join(map(str, given.shape)),
        "output_shape": ", ".join(map(str, made.shape)),
        "input_dtype": given.dtype,
        "input_c": _C_TYPES[given.dtype],
        "output_c": _C_TYPES[made.dtype],
        "input_litert": _LITERT_TYPES[given.dtype],
        "input_ort": _ORT_TYPES[given.dtype],
        "output_litert": _LITERT_TYPES[made.dtype],
        "input_scale": repr(given.scale or 0.0),
        "input_zero_point": given.zero_point or 0,
        "output_scale": repr(made.scale or 0.0),
        "output_zero_point": made.zero_point or 0,
        "height": height,
        "width": width,
        "transposed": "true" if nchw else "false",
        "classes": len(model.labels),
        "mean": ", ".join(map(repr, how.mean)),
        "std": ", ".join(map(repr, how.std)),
        "resize_px": how.shorter_px or how.input_px,
        "resize": json.dumps(how.resize),
        "interpolation": json.dumps(how.interpolation),
        "antialias": how.antialias,
        "probabilities": "true" if model.probabilities else "false",
        "labels": "".join(f"    {quoted(label)},\n" for label in model.labels).rstrip("\n"),
    }


def _c_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _comment(text: str) -> str:
    """Text from a file, safe for a comment line: it cannot end the line or join the next with a backslash."""
    return "".join(char if char.isprintable() and char != "\\" else "?" for char in text)
