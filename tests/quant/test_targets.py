"""Every target states its settings and the reason for them."""

from __future__ import annotations

import inspect
from typing import get_args

import pytest

from edgemobile.errors import Unsupported
from edgemobile.quant.recipe import Hswish, Recipe
from edgemobile.quant.targets import DEFAULT_TARGET, TARGETS, suited, target_for


@pytest.mark.parametrize("name", TARGETS)
def test_a_row_is_complete(name: str) -> None:
    target = target_for(name)
    assert target.name == name
    assert target.hswish in get_args(Hswish)
    assert len(target.why) > 20


def test_every_form_has_a_target() -> None:
    assert {target.hswish for target in TARGETS.values()} == set(get_args(Hswish))


@pytest.mark.parametrize(
    ("form", "target", "suited_form"),
    [
        ("delegated", "microcontroller", "fused"),
        ("fused", "cpu", "fused"),
        ("fused", "arm", "fused"),
        ("fused", "x86-vnni", "fused"),
        ("fused", "no-hswish", "relu"),
    ],
)
def test_a_target_determines_the_form_unless_it_runs_any(form: Hswish, target: str, suited_form: Hswish) -> None:
    assert suited(Recipe(hswish=form), target).hswish == suited_form


def test_the_default_target_is_the_fastest_on_a_board() -> None:
    """It needs a quarter fewer instructions in onnxruntime than "cpu" (see the table in quant/targets.py)."""
    assert target_for(DEFAULT_TARGET).onnx["weights"] == "int8"
    assert not target_for("cpu").needs_exact_sums


@pytest.mark.parametrize("command", ["export", "quantize"])
def test_the_command_line_python_and_the_gate_have_the_same_default(command: str) -> None:
    import edgemobile
    from edgemobile.cli import cli
    from edgemobile.gate.config import ModelEntry
    from edgemobile.pipeline.request import ExportRequest

    (option,) = (option for option in cli.commands[command].params if option.name == "target")
    assert list(option.type.choices) == list(TARGETS)  # type: ignore[attr-defined]
    signature = inspect.signature(getattr(edgemobile, command))
    defaults = {option.default, signature.parameters["target"].default, ModelEntry.target, ExportRequest.target}
    assert defaults == {DEFAULT_TARGET}


def test_an_unknown_target_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Unsupported, match="'toaster' is not known"):
        target_for("toaster")
