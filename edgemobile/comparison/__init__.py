"""Does a file still say what its reference says? `parity(ParityRequest(ref, others))` gives a ParityReport.

Names are loaded when they are asked for, so `edgemobile.metrics.tolerances` costs numpy alone. From the bottom up:

    tolerances   what a healthy file keeps, one table     layers      what each layer adds by itself
    names        a stranger's tensors                     integers    int8 against the same int8, op by op
    observing    files, and the places they run           causes      every known mistake, made on purpose:
    claims       what a file says of itself                           wrong_wiring, wrong_numbers, on a suspect
    report       the records                              output      JUnit, markdown
    run          all of it
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgemobile.comparison.causes import Cause
    from edgemobile.comparison.layers import LayerParity
    from edgemobile.comparison.observing import Place, local_places
    from edgemobile.comparison.report import FileParity, ParityReport
    from edgemobile.comparison.run import ParityRequest, parity
    from edgemobile.metrics.tolerances import (
        TABLE,
        TOLERANCES,
        LayerTolerance,
        Tolerance,
        Verdict,
        judge,
        parse_bounds,
        tolerance,
    )

__all__ = [
    "TABLE",
    "TOLERANCES",
    "Cause",
    "FileParity",
    "LayerParity",
    "LayerTolerance",
    "ParityReport",
    "ParityRequest",
    "Place",
    "Tolerance",
    "Verdict",
    "judge",
    "local_places",
    "parity",
    "parse_bounds",
    "tolerance",
]

_FROM = {
    "causes": ("Cause",),
    "layers": ("LayerParity",),
    "observing": ("Place", "local_places"),
    "report": ("FileParity", "ParityReport"),
    "run": ("ParityRequest", "parity"),
    "tolerances": (
        "TABLE",
        "TOLERANCES",
        "LayerTolerance",
        "Tolerance",
        "Verdict",
        "judge",
        "parse_bounds",
        "tolerance",
    ),
}
_MODULES = {name: module for module, names in _FROM.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
