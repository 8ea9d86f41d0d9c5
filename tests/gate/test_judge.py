"""The rows of the gate for a parity report."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from edgemobile.comparison.layers import LayerParity
from edgemobile.comparison.report import FileParity, ParityReport
from edgemobile.gate.checks import Check, Outcome
from edgemobile.gate.judge import parities
from edgemobile.metrics.measures import METRICS

INPUT, LAYER = (LayerParity(name, name, 120.0, 0.0, 1.0) for name in ("input", "conv"))
FILE = FileParity("a.onnx", "onnx", "float32", "onnxruntime", "x86_64", dict.fromkeys(METRICS, 1.0), {})


def _layers(file: FileParity) -> list[Check]:
    model: Any = SimpleNamespace(entry=SimpleNamespace(name="v2"))
    checks = list(parities(model, ParityReport("v2", "4 images", (file,)), False))
    assert checks[0].outcome is Outcome.PASSED, "the outputs are judged by themselves"
    return checks[1:]


@pytest.mark.parametrize("layers", [(), (INPUT,)])
def test_layers_that_cannot_be_compared_are_skipped_with_the_reason(layers: tuple[LayerParity, ...]) -> None:
    (check,) = _layers(replace(FILE, layers=layers, not_compared="Erf (at y) has no lowering"))
    assert (check.outcome, check.outcome.exit_code) == (Outcome.SKIPPED, 0)
    assert check.words == ("Erf (at y) has no lowering",)


def test_layers_that_hold_pass_and_those_that_were_not_asked_for_have_no_row() -> None:
    (check,) = _layers(replace(FILE, layers=(INPUT, LAYER), unmatched=(("mul", "in another form"),)))
    assert check.outcome is Outcome.PASSED
    assert check.words == ("mul is not compared: in another form",)
    assert _layers(FILE) == []
