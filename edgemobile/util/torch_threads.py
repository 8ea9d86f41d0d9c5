"""How many threads torch computes in, which is a setting of the whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgemobile.errors import require

__all__ = ["torch_threads"]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch computes in `count` threads inside, and in as many as before afterwards.

    One thread gives the same bits on every machine with the same instruction set: several add the same numbers in
    another order.
    """
    torch = require("torch", "export")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
