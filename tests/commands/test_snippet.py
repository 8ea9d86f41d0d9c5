"""`edgemobile snippet`: what it prints and how it ends. tests/snippets has the code itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")


@pytest.fixture
def model(tmp_path: Path, colour_model: Callable[..., bytes]) -> Path:
    path = tmp_path / "colours.onnx"
    path.write_bytes(colour_model("bgr"))
    return path


def test_it_is_printed_or_written(edgemobile: Callable, model: Path, tmp_path: Path) -> None:
    printed = edgemobile("snippet", model, "--lang", "cpp")
    assert printed.code == 0
    assert printed.out.startswith("// Classify an image with colours.onnx (sha256 ")
    assert 'ORT_TSTR("colours.onnx")' in printed.out
    ran = edgemobile("snippet", model, "--lang", "cpp", "--out", "classify.cpp")
    assert (ran.code, ran.out) == (0, "wrote classify.cpp\n")
    assert (tmp_path / "classify.cpp").read_text() == printed.out


def test_preprocessing_and_labels_asked_for(edgemobile: Callable, model: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\n")
    ran = edgemobile("snippet", model, "--lang", "python", "--labels", "names.txt", "--preprocess", "inception")
    assert '    "two",' in ran.out
    assert "np.array([0.5, 0.5, 0.5], np.float32)" in ran.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("colours.onnx", "--lang", "kotlin"), "is onnx, and kotlin code is for TFLite files"),
        (("absent.onnx", "--lang", "python"), "cannot read absent.onnx"),
        (("colours.onnx", "--lang", "rust"), "'rust' is not one of"),
        (("colours.onnx", "--lang", "cpp", "--out", "colours.onnx"), "is an input"),
    ],
)
def test_what_cannot_be_done(edgemobile: Callable, model: Path, words: tuple[str, ...], said: str) -> None:
    ran = edgemobile("snippet", *words)
    assert ran.code == 2
    assert said in ran.err
    assert model.stat().st_size > 100
