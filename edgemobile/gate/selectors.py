"""How edgemobile.toml names files: a model that is one by its end, and which ones a budget means: a precision ("int8"),
a format ("tflite") or both ("int8.tflite").
"""

from __future__ import annotations

from edgemobile.exporters import FILE_SUFFIXES, FORMATS
from edgemobile.loading.model_spec import PROGRAM_SUFFIX

__all__ = ["MODEL_SUFFIXES", "PRECISIONS", "checked", "selects"]

MODEL_SUFFIXES = (PROGRAM_SUFFIX, *FILE_SUFFIXES)

# As pipeline.backends.PRECISIONS, which would cost loading every backend; a test holds them equal.
PRECISIONS = ("float32", "float16", "weight-only", "int8")


def selects(selector: str, format: str, precision: str) -> bool:
    """Whether it means a file of this format and precision."""
    return set(selector.split(".")) <= {format, precision}


def checked(selector: str) -> str:
    """Raises ValueError, with what is allowed, for what means no file there can be."""
    parts = selector.split(".")
    kinds = [part in PRECISIONS for part in parts]
    if not all(part in (*PRECISIONS, *FORMATS) for part in parts) or kinds not in ([True], [False], [True, False]):
        raise ValueError(
            f"names no file. Allowed: a precision ({', '.join(PRECISIONS)}), a format ({', '.join(FORMATS)}), "
            'or both in quotes, like "int8.tflite"'
        )
    return selector
