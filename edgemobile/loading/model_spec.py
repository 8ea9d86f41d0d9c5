"""Names of models other than a reference model's name: a checkpoint of one, `package.module:factory`, FILE.pt2, or a
model file of any exporter.
"""

from __future__ import annotations

__all__ = [
    "CHECKPOINT_SUFFIXES",
    "MODEL_FILE_SUFFIXES",
    "PICKLE_SUFFIXES",
    "PROGRAM_SUFFIX",
    "is_checkpoint",
    "is_factory",
    "is_model_file",
    "is_own",
    "is_program",
]

PICKLE_SUFFIXES = (".pt", ".pth", ".tar", ".bin", ".ckpt")
CHECKPOINT_SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
# What torch.export.save writes.
PROGRAM_SUFFIX = ".pt2"
MODEL_FILE_SUFFIXES = (".onnx", ".tflite")


def is_checkpoint(spec: str) -> bool:
    """Whether it is a file of weights; its shapes determine the reference model."""
    return spec.lower().endswith(CHECKPOINT_SUFFIXES)


def is_factory(spec: str) -> bool:
    return ":" in spec and not is_program(spec) and not is_model_file(spec)


def is_program(spec: str) -> bool:
    return spec.endswith(PROGRAM_SUFFIX)


def is_model_file(spec: str) -> bool:
    return spec.lower().endswith(MODEL_FILE_SUFFIXES)


def is_own(spec: str) -> bool:
    """Whether it is a user's own model in PyTorch."""
    return is_factory(spec) or is_program(spec)
