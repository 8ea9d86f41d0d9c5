"""Classify images with a model file in this folder, on a board or any other computer:

    python3 predict.py MODEL IMAGE...

Needs Python 3.9, numpy, Pillow and one runtime: onnxruntime for .onnx files, ai-edge-litert or tflite-runtime for
.tflite files. Preprocessing and labels are read from the model file. The results are those of `edgemobile predict`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import struct
import sys
import warnings
from pathlib import Path
from typing import Any, Callable, NamedTuple  # noqa: UP035  # for Python 3.9

import numpy as np
from PIL import Image

from edgemobile.errors import BrokenImage
from edgemobile.pixels import crop, resize, upright_rgb

__all__ = ["main"]

_TFLITE_RUNTIMES = ("ai_edge_litert", "tflite_runtime")


class Failure(Exception):
    """An error that the user can fix; `code` is the exit code."""

    def __init__(self, words: str, code: int = 2) -> None:
        super().__init__(words)
        self.code = code


class Port(NamedTuple):
    """The input or output of a file. An integer q is scale * (q - zero_point); scale is 0 for floats."""

    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0


class Opened(NamedTuple):
    """A model file opened in its runtime. `invoke` is one inference, raw array -> raw array."""

    runtime: str
    input: Port
    output: Port
    invoke: Callable[[np.ndarray], np.ndarray]
    metadata: dict[str, str]


# ---- runtimes -------------------------------------------------------------------------------------------------------


def open_model(path: Path, threads: int) -> Opened:
    """Raises Failure for a file that cannot be opened, and for a runtime that is not installed."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}") from error
    opener = _open_tflite if data[4:8] == b"TFL3" else _open_onnx
    try:
        return opener(data, threads)
    except Failure:
        raise
    except Exception as error:
        raise Failure(f"cannot open {path}: {' '.join(str(error).split())[:200]}") from error


def _open_onnx(data: bytes, threads: int) -> Opened:
    try:
        import onnxruntime
    except ImportError as error:
        raise Failure("onnxruntime is not installed. Run: pip install onnxruntime", 3) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    # Only has an effect on x86 without VNNI, where sums of int8 products would saturate.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (input_,), (output,) = session.get_inputs(), session.get_outputs()
    dtypes = {
        "tensor(float)": "float32",
        "tensor(float16)": "float16",
        "tensor(uint8)": "uint8",
        "tensor(int8)": "int8",
    }
    return Opened(
        f"onnxruntime {onnxruntime.__version__}",
        Port(tuple(input_.shape), dtypes[input_.type]),
        Port(tuple(output.shape), dtypes[output.type]),
        lambda images: session.run(None, {input_.name: images})[0],
        dict(session.get_modelmeta().custom_metadata_map),
    )


def _open_tflite(data: bytes, threads: int) -> Opened:
    for name in _TFLITE_RUNTIMES:
        try:
            module, package = importlib.import_module(f"{name}.interpreter"), importlib.import_module(name)
            break
        except ImportError:
            continue
    else:
        raise Failure("ai-edge-litert is not installed. Run: pip install ai-edge-litert", 3)
    interpreter = module.Interpreter(model_content=data, num_threads=threads)
    interpreter.allocate_tensors()
    (input_,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()

    def invoke(images: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(input_["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(output["index"])

    version = getattr(package, "__version__", "")
    return Opened(
        f"{name} {version}".strip(), _tflite_port(input_), _tflite_port(output), invoke, tflite_metadata(data)
    )


def _tflite_port(detail: dict[str, Any]) -> Port:
    scale, zero_point = detail["quantization"]
    return Port(tuple(map(int, detail["shape"])), np.dtype(detail["dtype"]).name, float(scale), int(zero_point))


def tflite_metadata(data: bytes) -> dict[str, str]:
    """The texts of a TFLite file's metadata, by name. It parses the flatbuffer, because no runtime provides them."""

    def number(form: str, at: int) -> int:
        return struct.unpack_from(f"<{form}", data, at)[0]

    def field(table: int, index: int) -> int:
        """The position of a field of a table; 0 if it is omitted."""
        vtable, entry = table - number("i", table), 4 + 2 * index
        offset = number("H", vtable + entry) if entry < number("H", vtable) else 0
        return table + offset if offset else 0

    def vector(table: int, index: int) -> tuple[int, int]:
        """(the position of the first item, the number of items)."""
        at = field(table, index)
        start = at + number("I", at) if at else 0
        return (start + 4, number("I", start)) if at else (0, 0)

    def tables(table: int, index: int) -> list[int]:
        start, count = vector(table, index)
        return [at + number("I", at) for at in range(start, start + 4 * count, 4)]

    def content(table: int, index: int) -> bytes:
        start, count = vector(table, index)
        return data[start : start + count]

    # Fields of schema.fbs: Model.buffers 4, Model.metadata 6; Metadata.name 0, .buffer 1; Buffer.data 0.
    model = number("I", 0)
    buffers, found = tables(model, 4), {}
    for entry in tables(model, 6):
        at = field(entry, 1)
        name, value = content(entry, 0), content(buffers[number("I", at) if at else 0], 0)
        found[name.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
    return found


# ---- classify -------------------------------------------------------------------------------------------------------


class Model:
    """A model file that classifies images."""

    def __init__(self, path: Path, threads: int) -> None:
        self.opened = open_model(path, threads)
        metadata, shape = self.opened.metadata, self.opened.input.shape
        if "edgemobile.preprocess" not in metadata:
            raise Failure(f"{path} does not contain its preprocessing: use the file that edgemobile export wrote")
        self.preprocess = json.loads(metadata["edgemobile.preprocess"])
        self.is_nchw = shape[1] == 3 and shape[3] != 3
        outputs = self.scores(np.zeros((self.preprocess["input_px"],) * 2 + (3,), np.float32))
        if outputs.ndim != 1 or len(outputs) < 2:
            raise Failure(f"{path} has the output {list(self.opened.output.shape)} and is not an image classifier")
        self.labels = _labels(path, metadata, len(outputs))
        # The TFLite specification requires this scale for the output of SOFTMAX. Otherwise, check whether the outputs
        # for an image of zeros are a distribution.
        softmax = self.opened.output.scale == 1 / 256 and self.opened.output.zero_point in (0, -128)
        self.gives_probabilities = softmax or bool((outputs >= 0).all() and abs(outputs.sum() - 1) < 0.02)

    def scores(self, image: np.ndarray) -> np.ndarray:
        """A preprocessed image f32[px,px,3] -> f32[classes]."""
        input_, output = self.opened.input, self.opened.output
        images = np.zeros((input_.shape[0], *image.shape), np.float32)
        images[0] = image
        if self.is_nchw:
            images = images.transpose(0, 3, 1, 2)
        if not input_.dtype.startswith("float"):
            # An integer input without a scale takes raw pixels.
            steps = np.rint(images / np.float32(input_.scale or 1)) + input_.zero_point
            images = np.clip(steps, np.iinfo(input_.dtype).min, np.iinfo(input_.dtype).max)
        raw = self.opened.invoke(np.ascontiguousarray(images, input_.dtype))[0].squeeze()
        if not output.scale:
            return raw.astype(np.float32)
        return (raw.astype(np.int32) - output.zero_point).astype(np.float32) * np.float32(output.scale)

    def probabilities(self, path: Path) -> np.ndarray:
        """f32[classes] of an image file. Raises BrokenImage."""
        preprocess = self.preprocess
        px = preprocess["shorter_px"] or preprocess["input_px"]
        resized = resize(_pixels(path), px, preprocess["resize"], preprocess["interpolation"], preprocess["antialias"])
        mean, std = (np.array(preprocess[name], np.float32) for name in ("mean", "std"))
        scores = self.scores((crop(resized, preprocess["input_px"]) - mean) / std)
        if not np.isfinite(scores).all():
            raise BrokenImage("the model's outputs are not finite: there is no result")
        if self.gives_probabilities:
            return scores
        exponentials = np.exp(scores - scores.max())
        return exponentials / exponentials.sum()


def _labels(path: Path, metadata: dict[str, str], outputs: int) -> list[str]:
    """Labels in the file, else in labels.txt next to it, else numbers."""
    labels_file = path.with_name("labels.txt")
    names = json.loads(metadata.get("edgemobile.labels", "[]"))
    if not names and labels_file.is_file():
        names = labels_file.read_text(encoding="utf-8").splitlines()
    if len(names) != outputs:
        return [f"class {index}" for index in range(outputs)]
    return ["".join(char if char.isprintable() else "?" for char in name) for name in names]


def _pixels(path: Path) -> np.ndarray:
    """u8[H,W,3] of an image file, rotated upright. Raises BrokenImage."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            return np.asarray(upright_rgb(image))
    except BrokenImage:
        raise
    # Decoders raise many kinds of exceptions on broken bytes.
    except Exception as error:
        raise BrokenImage(getattr(error, "strerror", None) or "it is not an image, or is damaged") from error


def main() -> int:
    parser = argparse.ArgumentParser(description="Classify images with a model file in this folder.")
    parser.add_argument("model", type=Path, metavar="MODEL", help="a .tflite or .onnx file in this folder")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes to print (default: 5)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of an inference (default: 1)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if options.top < 1 or options.threads < 1:
        parser.error("--top and --threads must be at least 1")
    try:
        model = Model(options.model, options.threads)
    except Failure as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    code = 0
    shown: list[dict[str, Any]] = []
    if not options.json:
        print(f"{options.model.name}  {model.opened.runtime}")
    for path in options.images:
        try:
            probabilities = model.probabilities(path)
        except BrokenImage as error:
            print(f"error: {path}: {error}", file=sys.stderr)
            shown.append({"image": str(path), "error": str(error)})
            code = 2
            continue
        best = np.argsort(-probabilities, kind="stable")[: options.top]
        top = [{"output": int(i), "label": model.labels[i], "probability": float(probabilities[i])} for i in best]
        shown.append({"image": str(path), "top": top})
        if not options.json:
            print(f"\n{path}", *(f"  {one['probability']:6.1%}  {one['label']}" for one in top), sep="\n")
    if options.json:
        print(json.dumps({"file": str(options.model), "runtime": model.opened.runtime, "images": shown}, indent=2))
    return code


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the output closed the pipe, as `head` does: discard the rest. 141 is the code of SIGPIPE.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
