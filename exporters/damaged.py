"""What becomes of a file that contradicts itself while it is read."""

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
    """Offsets, indices and names of a damaged file point anywhere: any exception they cause is one clear error.

    `format` is what the error calls it: "ONNX", "TFLite". Raises Unsupported.
    """
    try:
        yield
    except _TRIPPED as error:
        words = in_a_line(error)
        raise Unsupported(f"damaged {format} file of {len(data)} bytes: {words}; export or copy it again") from error
