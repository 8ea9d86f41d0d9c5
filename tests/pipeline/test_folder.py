"""The folder of an export is taken by its manifest: hashes, missing and extra files, and names that lead elsewhere."""

from __future__ import annotations

import json
import logging
from hashlib import sha256
from pathlib import Path

import pytest

from edgemobile.errors import EdgemobileError
from edgemobile.pipeline.artifact import fresh_folder
from edgemobile.pipeline.folder import expanded, model_files, verify

_FILES = {"net-float32.onnx": b"float", "net-int8.tflite": b"int8"}


def _entry(name: str, data: bytes) -> dict[str, object]:
    return {"file": name, "bytes": len(data), "sha256": sha256(data).hexdigest()}


@pytest.fixture
def manifest() -> dict[str, object]:
    files = [{**_entry(name, data), "format": name.rpartition(".")[2]} for name, data in _FILES.items()]
    return {"version": 1, "edgemobile": "0.1.0", "files": files, "other_files": [_entry("labels.txt", b"cat\n")]}


@pytest.fixture
def folder(tmp_path: Path, manifest: dict[str, object]) -> Path:
    folder = tmp_path / "net"
    folder.mkdir()
    for name, data in {**_FILES, "labels.txt": b"cat\n", "manifest.json": json.dumps(manifest).encode()}.items():
        (folder / name).write_bytes(data)
    return folder


def test_a_folder_as_written(folder: Path) -> None:
    found = verify(folder)
    assert found.passed
    assert [one.file for one in found.intact] == [*_FILES, "labels.txt"]
    assert (found.changed, found.missing, found.extra) == ((), (), ())
    assert model_files(folder) == tuple(folder / name for name in _FILES)
    assert model_files(folder, ("tflite",)) == (folder / "net-int8.tflite",)


def test_what_changed_is_missing_and_is_extra(folder: Path) -> None:
    (folder / "net-float32.onnx").write_bytes(b"flOat")
    (folder / "labels.txt").unlink()
    (folder / "runs").mkdir()
    found = verify(folder)
    assert not found.passed
    assert found.changed[0].words.startswith("net-float32.onnx has sha256 ")
    assert found.changed[0].words.endswith("(the same size)")
    assert [one.file for one in found.missing] == ["labels.txt"]
    assert found.extra == ("runs/",)
    with pytest.raises(EdgemobileError, match=r"net does not match its manifest.json: .*labels.txt is missing. To use"):
        model_files(folder)


def test_an_extra_file_fails_nothing(folder: Path) -> None:
    (folder / "run.json").write_text("{}")
    assert verify(folder).passed
    assert verify(folder).extra == ("run.json",)


def test_no_file_of_a_format(folder: Path, manifest: dict[str, list[dict[str, object]]]) -> None:
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": manifest["files"][:1]}))
    with pytest.raises(EdgemobileError, match=r"has no file in tflite; it has net-float32.onnx"):
        model_files(folder, ("tflite",))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "", "a\\b", "a\0b"])
def test_a_name_that_leads_elsewhere(folder: Path, manifest: dict[str, list], name: str) -> None:
    manifest["files"][0]["file"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EdgemobileError, match=r"files\[0\]"):
        verify(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "not the folder of an export: manifest.json: No such file"),
        ('{"name": "an extension", "version": 1}', "not the manifest of an export"),
        ('{"edgemobile": "1", "files": [], "version": 2}', "version 2; this edgemobile reads 1"),
        ('{"edgemobile": "1", "files": ["a"], "version": 1}', "expected an object"),
        ('{"edgemobile": "1", "files": [{"file": "a"}], "version": 1}', "missing bytes, sha256"),
        ('{"edgemobile": "1", "files": [], "other_files": 3, "version": 1}', "other_files: expected a list"),
        ("{", "not valid JSON"),
    ],
)
def test_a_manifest_that_is_none(folder: Path, text: str | None, said: str) -> None:
    path = folder / "manifest.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(EdgemobileError, match=said):
        verify(folder)


def test_a_folder_stands_for_its_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A reference model's name stays one; with a slash behind it, it is the folder."""
    monkeypatch.chdir(folder.parent)
    folder.rename(folder.parent / "v2")
    files = tuple(f"v2/{name}" for name in _FILES)
    with caplog.at_level(logging.WARNING, "edgemobile"):
        assert expanded(["v2/", "other.onnx"]) == (*files, "other.onnx")
        assert expanded([Path("v2")]) == files
        assert not caplog.messages
        assert expanded(["v2"]) == ("v2",)
    assert caplog.messages == ["v2 means the reference model; for the folder with that name, write v2/"]


def test_nothing_there_is_left_to_the_command(tmp_path: Path) -> None:
    assert expanded([tmp_path / "absent"]) == (str(tmp_path / "absent"),)


def test_overwrite_knows_the_other_files(folder: Path, manifest: dict[str, list[dict[str, object]]]) -> None:
    facts = {
        **manifest,
        "model": {"labels": None},
        "files": [{**one, "precision": "int8"} for one in manifest["files"]],
    }
    facts["other_files"] = [*manifest["other_files"], _entry("predict.py", b"")]
    (folder / "predict.py").touch()
    (folder / "manifest.json").write_text(json.dumps(facts))
    with fresh_folder(folder, overwrite=True) as fresh:
        (fresh / "new.txt").touch()
    assert [path.name for path in folder.iterdir()] == ["new.txt"]
