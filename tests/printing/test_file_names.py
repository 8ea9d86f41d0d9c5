"""Files in a table are told apart, and called no longer than that needs."""

from __future__ import annotations

import pytest

from edgemobile.printing.file_names import shown_names


@pytest.mark.parametrize(
    ("files", "shown"),
    [
        ((), []),
        (("x/a.onnx",), ["a.onnx"]),
        (("x/a.onnx", "x/b.onnx"), ["a.onnx", "b.onnx"]),
        (("x/a.onnx", "y/a.onnx", "z/b.onnx"), ["x/a.onnx", "y/a.onnx", "b.onnx"]),
        (("/1/x/a.onnx", "/2/x/a.onnx"), ["1/x/a.onnx", "2/x/a.onnx"]),
        (("a.onnx", "x/a.onnx"), ["a.onnx", "x/a.onnx"]),
        (("x/a.onnx", "x/a.onnx"), ["a.onnx"]),
    ],
)
def test_names(files: tuple[str, ...], shown: list[str]) -> None:
    found = shown_names(files)
    assert list(found.values()) == shown
    assert len(set(found.values())) == len(set(files))
