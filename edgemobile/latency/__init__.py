"""How fast a file is on a device. `bench(BenchRequest(files, device))` gives a Run.

run         from request to Run, with what to know before believing it
compare     two runs against each other
statistics  what raw values say, how sure that is, and whether to trust it
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgemobile.latency.run import BenchRequest, advice, bench, cores_of

__all__ = ["BenchRequest", "advice", "bench", "cores_of"]


def __getattr__(name: str) -> Any:
    # When asked for: edgemobile.latency.compare costs no device.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("edgemobile.latency.run"), name)
