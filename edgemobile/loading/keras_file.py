"""Keras's files, .keras and .h5, as TFLite files: TensorFlow's converter writes one, and edgemobile reads that.

Keras runs in another process: it is large, prints a lot, and a third-party file is not trusted. Its safe mode refuses
files that contain code (Lambda layers).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgemobile.errors import EdgemobileError, in_a_line, missing
from edgemobile.exporters.model_files import model_file
from edgemobile.loading.model_spec import is_keras
from edgemobile.model_file.model_file import ModelFile
from edgemobile.util.hashing import sha256_hex

__all__ = ["convert", "keras_file", "source_sha256"]

_LIMIT_S = 600.0
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from edgemobile.loading.keras_file import convert; convert(*sys.argv[2:])"
)


def keras_file(path: Path, res: int | None = None) -> ModelFile:
    """The Keras model in `path` as a float32 TFLite file for one image. `res` is for a model that takes any size.

    Raises EdgemobileError for a file that Keras cannot load or TensorFlow cannot convert, MissingExtra without
    tensorflow.
    """
    if not path.is_file():
        raise EdgemobileError(f"cannot read model {path}: it {'is a folder' if path.exists() else 'does not exist'}")
    if find_spec("tensorflow") is None:
        raise missing("tensorflow", "tensorflow")
    with tempfile.TemporaryDirectory() as folder:
        made, reason = Path(folder, "model.tflite"), Path(folder, "reason")
        arguments = [json.dumps(sys.path), str(path), str(made), str(reason), str(res or "")]
        try:
            done = subprocess.run(
                [sys.executable, "-c", _START, *arguments], capture_output=True, timeout=_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise EdgemobileError(f"{path}: TensorFlow did not convert it within {_LIMIT_S:.0f} s") from error
        if reason.exists():
            raise EdgemobileError(f"{path}: {reason.read_text(encoding='utf-8')}")
        if done.returncode or not made.exists():
            raise EdgemobileError(
                f"{path}: TensorFlow crashed on it (exit code {done.returncode}); convert it to a .tflite file yourself"
            )
        return model_file(path, made.read_bytes())


def source_sha256(file: ModelFile) -> str:
    """The sha256 of the file on disk: of Keras's own file, not of the TFLite file that it was converted to."""
    return sha256_hex(file.path.read_bytes()) if is_keras(str(file.path)) else file.sha256


def convert(path: str, made: str, reason: str, res: str) -> None:
    """In the other process: write the TFLite file `made`, or why there is none into `reason`."""
    try:
        Path(made).write_bytes(_converted(path, int(res) if res else None))
    except EdgemobileError as error:
        Path(reason).write_text(str(error), encoding="utf-8")


def _converted(path: str, res: int | None) -> bytes:
    import keras
    import tensorflow as tf

    try:
        model = keras.saving.load_model(path, custom_objects=_older_layers(keras), compile=False, safe_mode=True)
    except Exception as error:
        raise EdgemobileError(f"Keras {keras.__version__} cannot load it: {in_a_line(error)}") from error
    if len(model.inputs) != 1:
        raise EdgemobileError(f"it takes {len(model.inputs)} inputs. Supported: one image [N, H, W, 3]")
    (source,) = model.inputs
    shape = _sized(list(source.shape), res)
    image = keras.Input(batch_shape=shape, dtype=source.dtype, name="input")
    try:
        return tf.lite.TFLiteConverter.from_keras_model(keras.Model(image, model(image, training=False))).convert()
    except Exception as error:
        raise EdgemobileError(f"TFLiteConverter {tf.__version__} refuses it: {in_a_line(error)}") from error


def _sized(shape: list[int | None], res: int | None) -> list[int | None]:
    """The shape of one image of `res` pixels."""
    if len(shape) != 4:
        raise EdgemobileError(f"it takes {shape}. Supported: one image [N, H, W, 3]")
    fixed = [px for px in shape[1:3] if px]
    if res is not None and any(px != res for px in fixed):
        raise EdgemobileError(f"it takes images of {fixed[0]} pixels only. Omit --res {res}")
    if len(fixed) < 2 and res is None:
        raise EdgemobileError("it takes images of any size. Choose one: --res PX, as it was trained at")
    return [1, *(px or res for px in shape[1:3]), shape[3]]


def _older_layers(keras: Any) -> dict[str, Any]:
    """Layers as Keras 2 saved them: its DepthwiseConv2D has an argument that Keras 3 refuses."""

    class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
        def __init__(self, *args: Any, groups: int = 1, **options: Any) -> None:
            super().__init__(*args, **options)

    return {"DepthwiseConv2D": DepthwiseConv2D}
