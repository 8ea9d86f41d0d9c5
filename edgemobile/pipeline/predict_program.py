"""Find the classes or boxes in images with a model file in this folder, on a board or any other computer:

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

from edgemobile.boxes import best_boxes, box_corners, grid_anchors, shares
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
    """The input or an output of a file. An integer q is scale * (q - zero_point); scale is 0 for floats."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0


class Opened(NamedTuple):
    """A model file opened in its runtime. `invoke` is one inference, raw array -> the raw array of each output."""

    runtime: str
    input: Port
    outputs: list[Port]
    invoke: Callable[[np.ndarray], list[np.ndarray]]
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
    (input_,) = session.get_inputs()
    dtypes = {
        "tensor(float)": "float32",
        "tensor(float16)": "float16",
        "tensor(uint8)": "uint8",
        "tensor(int8)": "int8",
    }
    return Opened(
        f"onnxruntime {onnxruntime.__version__}",
        Port(input_.name, tuple(input_.shape), dtypes[input_.type]),
        [Port(output.name, tuple(output.shape), dtypes[output.type]) for output in session.get_outputs()],
        lambda images: session.run(None, {input_.name: images}),
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
    (input_,), outputs = interpreter.get_input_details(), interpreter.get_output_details()

    def invoke(images: np.ndarray) -> list[np.ndarray]:
        interpreter.set_tensor(input_["index"], images)
        interpreter.invoke()
        return [interpreter.get_tensor(output["index"]) for output in outputs]

    runtime = f"{name} {getattr(package, '__version__', '')}".strip()
    ports = [_tflite_port(output) for output in outputs]
    return Opened(runtime, _tflite_port(input_), ports, invoke, tflite_metadata(data))


def _tflite_port(detail: dict[str, Any]) -> Port:
    scale, zero_point = detail["quantization"]
    shape, dtype = tuple(map(int, detail["shape"])), np.dtype(detail["dtype"]).name
    return Port(detail["name"], shape, dtype, float(scale), int(zero_point))


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


# ---- a model of images ----------------------------------------------------------------------------------------------


class Model:
    """A model file with its preprocessing."""

    def __init__(self, path: Path, opened: Opened) -> None:
        self.path, self.opened = path, opened
        if "edgemobile.preprocess" not in opened.metadata:
            raise Failure(f"{path} does not contain its preprocessing: use the file that edgemobile export wrote")
        self.preprocess = json.loads(opened.metadata["edgemobile.preprocess"])
        self.is_nchw = opened.input.shape[1] == 3 and opened.input.shape[3] != 3

    def outputs(self, image: np.ndarray) -> list[np.ndarray]:
        """A preprocessed image f32[px,px,3] -> each output, f32 without the batch."""
        input_ = self.opened.input
        images = np.zeros((input_.shape[0], *image.shape), np.float32)
        images[0] = image
        if self.is_nchw:
            images = images.transpose(0, 3, 1, 2)
        if not input_.dtype.startswith("float"):
            # An integer input without a scale takes raw pixels.
            steps = np.rint(images / np.float32(input_.scale or 1)) + input_.zero_point
            images = np.clip(steps, np.iinfo(input_.dtype).min, np.iinfo(input_.dtype).max)
        raw = self.opened.invoke(np.ascontiguousarray(images, input_.dtype))
        return [_real(raw[place][0], port) for place, port in enumerate(self.opened.outputs)]

    def of_pixels(self, pixels: np.ndarray) -> list[np.ndarray]:
        """The outputs for an image u8[H,W,3]. Raises BrokenImage if they are not finite."""
        how = self.preprocess
        px = how["shorter_px"] or how["input_px"]
        resized = resize(pixels, px, how["resize"], how["interpolation"], how["antialias"])
        mean, std = (np.array(how[name], np.float32) for name in ("mean", "std"))
        outputs = self.outputs((crop(resized, how["input_px"]) - mean) / std)
        if not all(np.isfinite(output).all() for output in outputs):
            raise BrokenImage("the model's outputs are not finite: there is no result")
        return outputs


def _real(raw: np.ndarray, port: Port) -> np.ndarray:
    if not port.scale:
        return raw.astype(np.float32)
    return (raw.astype(np.int32) - port.zero_point).astype(np.float32) * np.float32(port.scale)


# ---- classify -------------------------------------------------------------------------------------------------------


class Classifier(Model):
    """A model file that classifies images. `key` is the field of the JSON."""

    key = "top"

    def __init__(self, path: Path, opened: Opened) -> None:
        super().__init__(path, opened)
        outputs = self.outputs(np.zeros((self.preprocess["input_px"],) * 2 + (3,), np.float32))[0].squeeze()
        port = opened.outputs[0]
        if len(opened.outputs) > 1 or outputs.ndim != 1 or len(outputs) < 2:
            shapes = ", ".join(str(list(port.shape)) for port in opened.outputs)
            raise Failure(f"{path} has the output {shapes} and is not an image classifier")
        self.labels = _labels(path, opened.metadata, len(outputs))
        # The TFLite specification requires this scale for the output of SOFTMAX. Otherwise, check whether the outputs
        # for an image of zeros are a distribution.
        softmax = port.scale == 1 / 256 and port.zero_point in (0, -128)
        self.gives_probabilities = softmax or bool((outputs >= 0).all() and abs(outputs.sum() - 1) < 0.02)

    def found(self, pixels: np.ndarray, top: int) -> list[dict[str, Any]]:
        """The best classes of an image u8[H,W,3]."""
        scores = self.of_pixels(pixels)[0].squeeze()
        probabilities = scores if self.gives_probabilities else shares(scores)
        best = np.argsort(-probabilities, kind="stable")[:top]
        return [{"output": int(i), "label": self.labels[i], "probability": float(probabilities[i])} for i in best]

    def lines(self, found: list[dict[str, Any]]) -> list[str]:
        return [f"  {one['probability']:6.1%}  {one['label']}" for one in found]


# ---- detect ---------------------------------------------------------------------------------------------------------


class Detector(Model):
    """A model file that finds boxes; its metadata has the anchors. `key` is the field of the JSON."""

    key = "boxes"

    def __init__(self, path: Path, opened: Opened) -> None:
        super().__init__(path, opened)
        self.how = json.loads(opened.metadata["edgemobile.postprocess"])
        self.anchors = np.concatenate([grid_anchors(one["grid"], one["sizes"]) for one in self.how["levels"]])
        self.names = [port.name for port in opened.outputs]
        shapes = {port.name: tuple(port.shape[1:]) for port in opened.outputs}
        boxes, logits = shapes.get(self.how["boxes"]), shapes.get(self.how["logits"])
        if boxes != (len(self.anchors), 4) or logits is None or logits[:1] != boxes[:1]:
            raise Failure(f"{path} has the outputs {shapes}, which do not fit its {len(self.anchors)} anchors")
        self.labels = _labels(path, opened.metadata, logits[1])

    def found(self, pixels: np.ndarray, top: int) -> list[dict[str, Any]]:
        """The best boxes in an image u8[H,W,3], in its pixels."""
        values = self.of_pixels(pixels)
        outputs = {name: values[place] for place, name in enumerate(self.names)}
        limits = {name: self.how[name] for name in ("score_threshold", "iou_threshold", "candidates", "detections")}
        corners = box_corners(outputs[self.how["boxes"]], self.anchors, self.how["scales"])
        boxes, scores, numbers = best_boxes(corners, shares(outputs[self.how["logits"]])[:, 1:], **limits)
        height, width = pixels.shape[:2]
        return [
            {
                "output": int(numbers[place]) + 1,
                "label": self.labels[numbers[place] + 1],
                "score": float(scores[place]),
                "left": float(boxes[place, 0] * width),
                "top": float(boxes[place, 1] * height),
                "right": float(boxes[place, 2] * width),
                "bottom": float(boxes[place, 3] * height),
            }
            for place in range(min(top, len(scores)))
        ]

    def lines(self, found: list[dict[str, Any]]) -> list[str]:
        sides = ("left", "top", "right", "bottom")
        rows = [
            f"  {one['score']:6.1%}  {one['label']}  {' '.join(f'{one[side]:.0f}' for side in sides)}" for one in found
        ]
        return rows or ["  no boxes"]


# ---- the program ----------------------------------------------------------------------------------------------------


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
    parser = argparse.ArgumentParser(description="Find the classes or the boxes in images.")
    parser.add_argument("model", type=Path, metavar="MODEL", help="a .tflite or .onnx file in this folder")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes or boxes to print (default: 5)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of an inference (default: 1)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if options.top < 1 or options.threads < 1:
        parser.error("--top and --threads must be at least 1")
    try:
        opened = open_model(options.model, options.threads)
        kind = Detector if "edgemobile.postprocess" in opened.metadata else Classifier
        model = kind(options.model, opened)
    except Failure as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    code = 0
    shown: list[dict[str, Any]] = []
    if not options.json:
        print(f"{options.model.name}  {model.opened.runtime}")
    for path in options.images:
        try:
            found = model.found(_pixels(path), options.top)
        except BrokenImage as error:
            print(f"error: {path}: {error}", file=sys.stderr)
            shown.append({"image": str(path), "error": str(error)})
            code = 2
            continue
        shown.append({"image": str(path), model.key: found})
        if not options.json:
            print(f"\n{path}", *model.lines(found), sep="\n")
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
