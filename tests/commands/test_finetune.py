"""`edgemobile finetune`: its table, its JSON, its errors, and the export after it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_SMALL = ("v3-small", "--weights", "random", "--width", "0.35", "--res", "32", "--batch", "6", "--threads", "1", "-q")


def test_it_trains_prints_the_gain_and_the_export_uses_it(edgemobile: Callable[..., Any], photos: Path) -> None:
    ran = edgemobile(
        "finetune", *_SMALL, "--data", photos, "--int8", "--float-epochs", "1", "--epochs", "1", "--out", "tuned"
    )
    assert (ran.code, ran.err) == (0, "")
    assert [line.split("  ")[0] for line in ran.out.splitlines() if "%" in line] == ["float", "int8, before", "int8"]
    assert "12 images (test/ of photos.zip)" in ran.out
    assert "skipped test/cat/broken.png" in ran.out
    assert "the last layer is new" in ran.out
    assert "next: edgemobile export tuned/v3-small.safetensors --int8" in ran.out
    exported = edgemobile("export", "tuned/v3-small.safetensors", "--int8", "--to", "tflite", "-q")
    assert "the integers trained with v3-small.safetensors" in exported.out
    asked = ("--int8", "--to", "tflite", "--hswish", "fused", "--overwrite", "-q")
    assert "is not used: an option" in edgemobile("export", "tuned/v3-small.safetensors", *asked).out


def test_json_and_an_output_that_exists(edgemobile: Callable[..., Any], photos: Path) -> None:
    words = ("finetune", *_SMALL, "--data", photos, "--epochs", "1", "--out", "tuned", "--json")
    result = json.loads(edgemobile(*words).out)
    assert result["checkpoint"] == "tuned/v3-small.safetensors"
    assert [row["net"] for row in result["rows"]] == ["float"]
    again = edgemobile(*words)
    assert (again.code, again.out) == (2, "")
    assert "tuned exists already. Use --overwrite" in again.err
    assert edgemobile(*words, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--data", "nowhere"), "no data set at nowhere"),
        (("--data", "photos.zip", "--epochs", "0"), "--epochs must be at least 1, found 0"),
        (("--data", "photos.zip", "--batch", "99"), "18 training images, fewer than a --batch of 99"),
        (("--data", "photos.zip", "--int8"), "add --float-epochs"),
        (("--data", "photos.zip", "--resume"), "no interrupted training"),
        ((), "Missing option '--data'"),
    ],
)
def test_errors(edgemobile: Callable[..., Any], photos: Path, options: tuple[str, ...], words: str) -> None:
    ran = edgemobile("finetune", *_SMALL, "--out", "tuned", *options)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert ran.err.count("\n") == 1
    assert not (photos.parent / "tuned").exists()
