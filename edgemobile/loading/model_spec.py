"""Names of models other than a reference model's name: a checkpoint of one, `package.module:factory`, FILE.pt2, or a
model file of any exporter or of Keras.
"""

from __future__ import annotations

from pathlib import Path

from edgemobile.errors import EdgemobileError

__all__ = [
    "CHECKPOINT_SUFFIXES",
    "KERAS_SUFFIXES",
    "MODEL_FILE_SUFFIXES",
    "PICKLE_SUFFIXES",
    "PROGRAM_SUFFIX",
    "check_readable",
    "is_checkpoint",
    "is_factory",
    "is_keras",
    "is_model_file",
    "is_own",
    "is_program",
]

PICKLE_SUFFIXES = (".pt", ".pth", ".tar", ".bin", ".ckpt")
CHECKPOINT_SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
# What torch.export.save writes.
PROGRAM_SUFFIX = ".pt2"
KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")
MODEL_FILE_SUFFIXES = (".onnx", ".tflite", *KERAS_SUFFIXES)


def check_readable(spec: str) -> None:
    """Raises EdgemobileError if `spec` names a file or folder that is not read; the message says what to do with it."""
    if "://" in spec:
        raise EdgemobileError(f"{spec} is an address. Download the file, then name it here")
    if is_own(spec) or is_checkpoint(spec) or is_model_file(spec):
        return
    if (Path(spec) / "saved_model.pb").is_file():
        raise EdgemobileError(
            f"{spec} is a SavedModel of TensorFlow. Convert it to TFLite: "
            "tf.lite.TFLiteConverter.from_saved_model(folder).convert(), then export the .tflite file"
        )
    inside = sorted(
        path for path in Path(spec).glob("*") if path.suffix in (*CHECKPOINT_SUFFIXES, *MODEL_FILE_SUFFIXES)
    )
    if inside and ("/" in spec or (Path(spec) / "config.json").is_file()):
        raise EdgemobileError(f"{spec} is a folder. Name the file: {', '.join(map(str, inside[:4]))}")
    if Path(spec).is_file():
        raise EdgemobileError(
            f"{spec} is a file of a kind that is not read. Read are {', '.join(MODEL_FILE_SUFFIXES)}, "
            f"{PROGRAM_SUFFIX} (torch.export.save) and checkpoints of a reference model "
            f"({', '.join(CHECKPOINT_SUFFIXES)}); other formats can usually be exported to .onnx or .tflite"
        )


def is_checkpoint(spec: str) -> bool:
    """Whether it is a file of weights; its shapes determine the reference model."""
    return spec.lower().endswith(CHECKPOINT_SUFFIXES)


def is_factory(spec: str) -> bool:
    return ":" in spec and not is_program(spec) and not is_model_file(spec)


def is_program(spec: str) -> bool:
    return spec.endswith(PROGRAM_SUFFIX)


def is_model_file(spec: str) -> bool:
    return spec.lower().endswith(MODEL_FILE_SUFFIXES)


def is_keras(spec: str) -> bool:
    return spec.lower().endswith(KERAS_SUFFIXES)


def is_own(spec: str) -> bool:
    """Whether it is a user's own model in PyTorch."""
    return is_factory(spec) or is_program(spec)
