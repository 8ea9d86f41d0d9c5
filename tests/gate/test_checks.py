"""Outcomes, from the least to the most serious."""

from __future__ import annotations

from itertools import permutations

from edgemobile.gate.checks import Check, GateReport, Outcome, worst


def test_the_most_serious_outcome_is_the_row_s_and_the_gate_s() -> None:
    for outcomes in permutations((Outcome.PASSED, Outcome.UNSTABLE, Outcome.FAILED, Outcome.UNREACHABLE)):
        checks = tuple(Check("v1", "a.onnx", "size", "here", outcome) for outcome in outcomes)
        assert worst(checks) is Outcome.FAILED
        assert GateReport("edgemobile.toml", checks, 0, 0).exit_code == 1
    assert worst(()) is Outcome.PASSED
