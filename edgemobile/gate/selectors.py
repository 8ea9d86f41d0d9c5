"""Selects files in edgemobile.toml: a model that is a file, by its suffix, and the files of a budget, by a precision
("int8"), a format ("tflite") or both ("int8.tflite").
"""

from __future__ import annotations

from edgemobile.exporters import FILE_SUFFIXES, FORMATS
from edgemobile.loading.model_spec import PROGRAM_SUFFIX

__all__ = ["MODEL_SUFFIXES", "PRECISIONS", "checked", "selects"]

MODEL_SUFFIXES = (PROGRAM_SUFFIX, *FILE_SUFFIXES)

# The same as pipeline.backends.PRECISIONS, which would load every backend; a test checks that they are equal.
PRECISIONS = ("float32", "float16", "weight-only", "int8")


def selects(selector: str, format: str, precision: str) -> bool:
    """Whether it matches a file of this format and precision."""
    return set(selector.split(".")) <= {format, precision}


def checked(selector: str) -> str:
    """Raises ValueError, with what is allowed, for a selector that cannot match any file."""
    parts = selector.split(".")
    kinds = [part in PRECISIONS for part in parts]
    if not all(part in (*PRECISIONS, *FORMATS) for part in parts) or kinds not in ([True], [False], [True, False]):
        raise ValueError(
            f"does not match any file. Allowed: a precision ({', '.join(PRECISIONS)}), a format "
            f"({', '.join(FORMATS)}), "
            'or both in quotes, such as "int8.tflite"'
        )
    return selector
