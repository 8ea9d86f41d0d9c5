"""A file is the old one or the new one, whatever fails between, and is on the disk before its name is."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgemobile.errors import EdgemobileError
from edgemobile.pipeline.artifact import fresh_folder
from edgemobile.util.writing import write_whole


def _failing(calls: list[str], name: str, fail_at: int, error: int) -> Callable[..., Any]:
    """os.NAME that fails at its `fail_at`th call."""
    real = getattr(os, name)

    def call(*args: Any, **named: Any) -> Any:
        calls.append(name)
        if calls.count(name) == fail_at:
            raise OSError(error, os.strerror(error))
        return real(*args, **named)

    return call


@pytest.mark.parametrize(("name", "error"), [("fsync", errno.EIO), ("fsync", errno.ENOSPC), ("replace", errno.EACCES)])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    name: str, error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    write_whole(path, "old")
    monkeypatch.setattr(os, name, _failing([], name, 1, error))
    with pytest.raises(EdgemobileError, match=r"cannot write .*run\.json"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["run.json"]


def test_content_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, _failing(calls, name, 0, 0))
    write_whole(tmp_path / "run.json", "new")
    assert calls == ["fsync", "replace", "fsync"]


def _made(out: Path, text: str, *, overwrite: bool) -> None:
    with fresh_folder(out, overwrite=overwrite) as folder:
        (folder / "a.onnx").write_text(text)
        (folder / "manifest.json").write_text(
            '{"edgemobile": "1", "model": {"labels": null}, "files": [{"file": "a.onnx", "precision": "int8"}]}'
        )


@pytest.mark.parametrize("fail_at", [1, 2])
def test_an_export_that_cannot_be_synced_changes_nothing(
    fail_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the two files is synced before the folder takes its place."""
    out = tmp_path / "out"
    _made(out, "old", overwrite=False)
    monkeypatch.setattr(os, "fsync", _failing([], "fsync", fail_at, errno.EIO))
    with pytest.raises(EdgemobileError, match="no files were left behind"):
        _made(out, "new", overwrite=True)
    assert (out / "a.onnx").read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
