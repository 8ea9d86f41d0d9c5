"""Which boards agree before the work begins."""

from __future__ import annotations

import numpy as np
import pytest

from edgemobile.devices.fleet.agreement import agree
from edgemobile.devices.fleet.board import Opened
from edgemobile.errors import EdgemobileError

_A72, _A76 = "4x Cortex-A72, aarch64, neon, no dotprod", "4x Cortex-A76, aarch64, dotprod"


def _opened(step: float = 0.0, *, kind: str = _A72, runtime: str = "litert 2.3.0") -> Opened:
    """One of 6 outputs is `step` away from the others'."""
    scores = np.arange(6, dtype=np.float32).reshape(2, 3)
    scores[1, 1] += step
    return Opened(kind, runtime, (scores[:1], scores[1:]))


def test_boards_that_give_the_same_agree() -> None:
    found = agree({"pi-1": _opened(), "pi-2": _opened()})
    assert (found.kind, found.runtime, dict(found.others)) == (_A72, "litert 2.3.0", {})


def test_the_smallest_difference_is_one() -> None:
    other = np.spacing(np.float32(4))
    found = agree({"pi-1": _opened(other), "pi-2": _opened(), "pi-3": _opened()})
    assert list(found.others) == ["pi-1"]
    assert found.others["pi-1"].startswith("1 of 6 outputs for the first images differ")
    assert found.canary[1][0, 1] == 4


def test_another_runtime_is_not_compared() -> None:
    opened = {"pi-1": _opened(9, runtime="litert 2.1.0"), "pi-2": _opened(), "pi-3": _opened()}
    assert agree(opened).others == {"pi-1": "it has litert 2.1.0; most have litert 2.3.0"}


@pytest.mark.parametrize(
    ("opened", "said"),
    [
        ({"pi-1": _opened(), "pi-2": _opened(1)}, r"pi-1 and pi-2 are of one kind .* one of them is wrong"),
        (
            {"pi-1": _opened(), "pi-5": _opened(kind=_A76), "pi-2": _opened()},
            r"of 2 kinds, .*: 4x Cortex-A72, .*: pi-1, pi-2; 4x Cortex-A76, aarch64, dotprod: pi-5$",
        ),
        (
            {"pi-1": _opened(), "pi-2": _opened(runtime="litert 2.1.0")},
            r"different runtimes: litert 2.3.0: pi-1; litert 2.1.0: pi-2. Install the same",
        ),
    ],
)
def test_what_cannot_be_decided_is_refused(opened: dict[str, Opened], said: str) -> None:
    with pytest.raises(EdgemobileError, match=said):
        agree(opened)
