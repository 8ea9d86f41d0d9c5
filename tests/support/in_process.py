"""Files of tests, which are our own, run in the tests' process: one for each would take most of a suite's time."""

from __future__ import annotations

from typing import Any

from edgemobile.devices.runtimes.sessions import Session, open_layers, open_session

__all__ = ["open_here"]


def open_here(data: bytes, *, layers: bool = False, name: str = "the model", **options: Any) -> Session:
    """In the place of `open_isolated`."""
    return open_layers(data, **options) if layers else open_session(data, name=name, **options)
