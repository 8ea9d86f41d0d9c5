"""benchmarks/third_party_files.py: how it tells a refusal from a hang, a traceback and a file called damaged."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("benchmarks/third_party_files.py")


@pytest.mark.parametrize(
    ("code", "text", "outcome"),
    [
        (0, "a table", "ok"),
        (5, "unstable: few values", "ok"),
        (1, "missed: sqnr_db 3 dB", "fell short"),
        (2, "error: it has 2 outputs", "refused"),
        (3, "error: tensorflow is not installed", "refused"),
        (2, "error: damaged TFLite file of 9 bytes", "damaged"),
        (1, "Traceback (most recent call last):\n  ...\nTypeError: oh", "traceback"),
        (-11, "", "crash"),
    ],
)
def test_an_outcome_is_told_by_code_and_words(script: ModuleType, code: int, text: str, outcome: str) -> None:
    assert script.outcome_of(code, text) == outcome


def test_a_command_without_end_hangs(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    result = script._result("package", tmp_path / "a.onnx", "inspect", 0.2)
    assert (result.outcome, result.words) == ("hang", "no end after 0.2 s")


def test_the_tables_count_and_name(script: ModuleType) -> None:
    commands = ("inspect", "bench", "parity")
    results = [script.Result("p", "a.onnx", command, "ok") for command in commands]
    results += [script.Result("p", "b|.onnx", command, "hang", "no | end") for command in commands]
    assert list(script.by_package(results))[2:] == [
        "| p | 2 | 1 ok, 1 hang | 1 ok, 1 hang | 1 ok, 1 hang |",
        "| **all** | 2 | 1 ok, 1 hang | 1 ok, 1 hang | 1 ok, 1 hang |",
    ]
    assert list(script.by_file(results))[2:] == [f"| p | b|.onnx | {one} | hang | no \\| end |" for one in commands]
