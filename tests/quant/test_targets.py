"""Every target says what suits it and why."""

from __future__ import annotations

from typing import get_args

import pytest

from edgemobile.errors import Unsupported
from edgemobile.quant.recipe import Hswish, Recipe
from edgemobile.quant.targets import TARGETS, suited, target_for


@pytest.mark.parametrize("name", TARGETS)
def test_a_row_is_whole(name: str) -> None:
    target = target_for(name)
    assert target.name == name
    assert target.hswish in get_args(Hswish)
    assert len(target.why) > 20


def test_every_form_has_a_target() -> None:
    assert {target.hswish for target in TARGETS.values()} == set(get_args(Hswish))


@pytest.mark.parametrize(
    ("form", "target", "suited_form"),
    [("delegated", "microcontroller", "fused"), ("fused", "cpu", "fused"), ("fused", "no-hswish", "relu")],
)
def test_a_target_decides_the_form_and_cpu_takes_any(form: Hswish, target: str, suited_form: Hswish) -> None:
    assert suited(Recipe(hswish=form), target).hswish == suited_form


def test_an_unknown_target_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Unsupported, match="'toaster' is not known"):
        target_for("toaster")
