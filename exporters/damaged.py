"""One clear error for a damaged file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from edgemobile.errors import Unsupported, in_a_line

__all__ = ["reading"]

# What reading a damaged file may raise.
_TRIPPED = (
    *(AttributeError, LookupError, TypeError, ValueError, ArithmeticError, NotImplementedError),
    *(MemoryError, RecursionError, struct.error),
)


@contextmanager
def reading(format: str, data: bytes) -> Iterator[None]:
    """Turns the exceptions that reading a damaged file raises into Unsupported.

    `format` is the name of the format for the message: "ONNX", "TFLite".
    """
    try:
        yield
    except _TRIPPED as error:
        words = in_a_line(error)
        raise Unsupported(f"damaged {format} file of {len(data)} bytes: {words}; export or copy it again") from error
