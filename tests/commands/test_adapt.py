"""`edgemobile adapt` as it is typed: its errors before anything is measured, and what it prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgemobile.adaptation.request import AdaptResult, Net, Step
from edgemobile.printing.adaptation import print_adaptation


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("v3-small", "--budget", "2", "--data", "photos.zip"), "a share must be above 0 and below 1"),
        (("v3-small", "--on", "local", "--budget", "3M-instructions", "--data", "photos.zip"), "local is none"),
        (("v3-small", "--on", "nowhere", "--data", "photos.zip"), "there is no device 'nowhere'"),
        (("v3-small", "--data", "nowhere.zip"), "no data set at nowhere.zip"),
        (("v3-small", "--data", "photos.zip"), "has other classes than v3-small"),
        (
            ("v4-conv-small", "--weights", "random", "--data", "photos.zip"),
            "v4-conv-small cannot be adapted. Supported",
        ),
        (("int8.tflite", "--data", "photos.zip"), "int8.tflite cannot be adapted"),
        (("v9", "--data", "photos.zip"), "unknown model 'v9'"),
        (("v3-small", "--data", "photos.zip", "--resume"), "no interrupted adaptation"),
        (("v3-small",), "Missing option '--data'"),
    ],
)
def test_errors(edgemobile: Callable[..., Any], photos: Path, words: tuple[str, ...], said: str) -> None:
    ran = edgemobile("adapt", *words, "--out", "smaller", "-q")
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert not (photos.parent / "smaller").exists()


def test_what_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    steps = (Step("full", (20e6,), 0.1, 0.95), Step("blocks.3.expand 72 -> 40", (11e6,), 0.2, 0.93))
    nets = (Net("full", (20e6,), 4_000_000, 0.94, None), Net("adapted", (11e6,), 2_000_000, 0.9, 0.935))
    result = AdaptResult(
        Path("smaller/adapted.safetensors"),
        {"emulated:cortex-a72": "instructions"},
        {"emulated:cortex-a72": 0.0022},
        20,
        {"emulated:cortex-a72": 12e6},
        steps,
        nets,
        "100 images (test/ of photos.zip)",
        ("a note",),
    )
    print_adaptation(result)
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split("  ")[0]: line.split() for line in lines}
    assert rows["1"][-5:] == ["11.00", "M", "0.550", "0.2000", "93.0%"]
    assert rows["full"][1:] == ["20.00", "M", "1.000", "4.00", "M", "94.00%", "-"]
    assert rows["adapted"][1:] == ["11.00", "M", "0.550", "2.00", "M", "90.00%", "93.50%"]
    assert any("on 20 other nets was 0.22%" in line for line in lines)
    assert lines[-1] == "next: edgemobile export smaller/adapted.safetensors --int8"
