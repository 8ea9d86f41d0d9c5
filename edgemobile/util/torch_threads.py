"""Sets the number of torch's threads, which is a setting of the whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgemobile.errors import require

__all__ = ["torch_threads"]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch uses `count` threads inside the context, and the previous number afterwards.

    With one thread the results are identical on every machine with the same instruction set; several threads add
    numbers in another order.
    """
    torch = require("torch", "export")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
