"""Names of models that are none: what each is, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemobile.errors import EdgemobileError
from edgemobile.loading.model_spec import check_readable


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("saved", r"saved is a SavedModel of TensorFlow\. Convert it to TFLite: tf\.lite"),
        ("pretrained", r"pretrained is a folder\. Name the file: pretrained/model\.safetensors$"),
        ("net.engine", r"net\.engine is a file of a kind that is not read\. Read are \.onnx, \.tflite, \.keras.*\.pth"),
        ("https://example.org/my.pth", r"is an address\. Download the file"),
    ],
)
def test_a_file_that_is_not_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("saved").mkdir()
    Path("saved", "saved_model.pb").write_bytes(b"")
    Path("net.engine").write_bytes(b"")
    Path("pretrained").mkdir()
    for file in ("model.safetensors", "config.json"):
        Path("pretrained", file).write_bytes(b"")
    with pytest.raises(EdgemobileError, match=message):
        check_readable(name)


@pytest.mark.parametrize("name", ["v3-large", "my.pth", "theirs.keras", "theirs.onnx", "package.module:factory"])
def test_what_may_be_read_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    # A folder of an earlier export has the name of its model.
    Path("v3-large").mkdir()
    Path("my.pth").write_bytes(b"")
    check_readable(name)
