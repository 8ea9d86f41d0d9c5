"""Files are written whole or not at all, and nobody's folder is lost."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path

import pytest

from edgemobile.errors import EdgemobileError
from edgemobile.pipeline.artifact import fresh_folder
from edgemobile.util.strict_json import to_json_text


def _export(out: Path, text: str, **options: bool) -> None:
    facts = {"version": 1, "edgemobile": "1.0", "files": [{"file": f"{text}.onnx"}]}
    with fresh_folder(out, **options) as folder:
        (folder / "manifest.json").write_text(json.dumps(facts))
        (folder / "labels.txt").write_text("cat\n")
        (folder / f"{text}.onnx").write_bytes(b"")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "model"
    with fresh_folder(out) as folder:
        (folder / "manifest.json").write_text("{}")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["manifest.json"]
    assert [path.name for path in out.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("boom")])
def test_an_interruption_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def interrupted() -> None:
        with fresh_folder(tmp_path / "model") as folder:
            (folder / "half.onnx").write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_keeps_the_old_export(tmp_path: Path) -> None:
    out = tmp_path / "model"
    _export(out, "old")
    with pytest.raises(EdgemobileError, match="No space left") as refusal, fresh_folder(out, overwrite=True):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "\n" not in str(refusal.value)
    assert _names(out) == ["labels.txt", "manifest.json", "old.onnx"]
    assert list(tmp_path.iterdir()) == [out]


def test_an_export_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    _export(out, "old")
    rename = Path.rename

    def second_fails(path: Path, target: Path) -> Path:
        if target == out and path.name != "old":
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(EdgemobileError, match="busy"), fresh_folder(out, overwrite=True) as folder:
        (folder / "new.onnx").write_bytes(b"")
    assert _names(out) == ["labels.txt", "manifest.json", "old.onnx"]
    assert list(tmp_path.iterdir()) == [out]


def test_overwrite_must_be_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "model"
    _export(out, "old")
    with pytest.raises(EdgemobileError, match="--overwrite"):
        _export(out, "new")
    _export(out, "new", overwrite=True)
    assert _names(out) == ["labels.txt", "manifest.json", "new.onnx"]
    assert list(tmp_path.iterdir()) == [out]


def test_an_empty_folder_is_free(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    _export(tmp_path / "model", "new", overwrite=True)
    assert "new.onnx" in _names(tmp_path / "model")


@pytest.mark.parametrize(
    "manifest",
    [
        {"manifest_version": 3, "name": "A browser's extension", "version": "1.0"},
        {"version": 1, "files": [{"file": "chapter1.tex"}]},
        {"edgemobile": "1.0", "files": "chapter1.tex"},
        ["edgemobile"],
        None,
    ],
)
def test_a_manifest_of_somebody_else_is_none(tmp_path: Path, manifest: object) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("years of work")
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EdgemobileError, match=r"not a folder edgemobile wrote \(no manifest.json of an export"):
        _export(out, "new", overwrite=True)
    assert (out / "chapter1.tex").read_text() == "years of work"


def test_what_lies_beside_an_export_is_named_and_stays(tmp_path: Path) -> None:
    out = tmp_path / "model"
    _export(out, "old")
    (out / "notes").mkdir()
    with pytest.raises(EdgemobileError, match=r"holds notes, which its manifest.json does not name"):
        _export(out, "new", overwrite=True)
    assert _names(out) == ["labels.txt", "manifest.json", "notes", "old.onnx"]


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("years of work")
    with pytest.raises(EdgemobileError, match="not a folder edgemobile wrote"):
        _export(out, "new", overwrite=True)
    assert (out / "chapter1.tex").read_text() == "years of work"


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "model"
    out.write_text("a file")
    with pytest.raises(EdgemobileError, match="not a folder"):
        _export(out, "new", overwrite=True)
    with pytest.raises(EdgemobileError, match="cannot write"):
        _export(out / "below", "new")


def test_json_has_no_infinity() -> None:
    assert json.loads(to_json_text({"a": math.inf, "b": [math.nan, 1.5]})) == {"a": None, "b": [None, 1.5]}
