"""Files are written whole or not at all, and nobody's folder is lost."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from edgemobile.errors import EdgemobileError
from edgemobile.pipeline.artifact import fresh_folder
from edgemobile.util.strict_json import to_json_text


@pytest.fixture(params=["at once", "in two steps"])
def renames(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without a system that exchanges two names."""
    if request.param == "in two steps":
        monkeypatch.setattr("edgemobile.util.renaming._libc_renameat2", lambda: None)


def _nothing() -> None:
    pass


def _export(out: Path, text: str, meanwhile: Callable[[], object] = _nothing, **options: bool) -> None:
    """An export called `text` to `out`; `meanwhile` happens while it runs."""
    with fresh_folder(out, **options) as folder:
        _fill(folder, text)
        meanwhile()


def _fill(folder: Path, text: str, labels: tuple[str, ...] | None = ("cat",)) -> None:
    files = [{"file": f"{text}.onnx", "precision": "float32"}, {"file": f"{text}-int8.onnx", "precision": "int8"}]
    facts = {"version": 1, "edgemobile": "1.0", "model": {"labels": labels}, "files": files}
    (folder / "manifest.json").write_text(json.dumps(facts))
    if labels:
        (folder / "labels.txt").write_text("cat\n")
    for file in files:
        (folder / file["file"]).write_bytes(text.encode())


_FILES = ["labels.txt", "manifest.json"]


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
    assert _names(out) == [*_FILES, "old-int8.onnx", "old.onnx"]
    assert list(tmp_path.iterdir()) == [out]


def test_an_export_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    _export(out, "old")
    monkeypatch.setattr("edgemobile.util.renaming._libc_renameat2", lambda: None)
    rename = Path.rename

    def second_fails(path: Path, target: Path) -> Path:
        if target == out and path.name == "new":
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(EdgemobileError, match="busy"):
        _export(out, "new", overwrite=True)
    assert _names(out) == [*_FILES, "old-int8.onnx", "old.onnx"]
    assert list(tmp_path.iterdir()) == [out]


def test_overwrite_must_be_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "model"
    _export(out, "old")
    with pytest.raises(EdgemobileError, match="--overwrite"):
        _export(out, "new")
    _export(out, "new", overwrite=True)
    assert _names(out) == [*_FILES, "new-int8.onnx", "new.onnx"]
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
    with pytest.raises(EdgemobileError, match=r"was not written by edgemobile \(it has no manifest.json of an export"):
        _export(out, "new", overwrite=True)
    assert (out / "chapter1.tex").read_text() == "years of work"


def test_what_lies_beside_an_export_is_named_and_stays(tmp_path: Path) -> None:
    out = tmp_path / "model"
    _export(out, "old")
    (out / "notes").mkdir()
    with pytest.raises(EdgemobileError, match=r"contains notes, which is not in its manifest.json"):
        _export(out, "new", overwrite=True)
    assert _names(out) == [*_FILES, "notes", "old-int8.onnx", "old.onnx"]


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("years of work")
    with pytest.raises(EdgemobileError, match="was not written by edgemobile"):
        _export(out, "new", overwrite=True)
    assert (out / "chapter1.tex").read_text() == "years of work"


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "model"
    out.write_text("a file")
    with pytest.raises(EdgemobileError, match="was not written by edgemobile"):
        _export(out, "new", overwrite=True)
    with pytest.raises(EdgemobileError, match="cannot write"):
        _export(out / "below", "new")


# ---- while an export runs -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("renames")
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_comes_to_the_folder_while_an_export_runs_stays(tmp_path: Path, overwrite: bool) -> None:
    out = tmp_path / "model"
    if overwrite:
        _export(out, "old")

    def meanwhile() -> None:
        out.mkdir(exist_ok=True)
        (out / "notes.txt").write_text("mine")

    with pytest.raises(EdgemobileError, match="model"):
        _export(out, "new", meanwhile, overwrite=overwrite)
    assert (out / "notes.txt").read_text() == "mine"
    assert "new.onnx" not in _names(out)
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.usefixtures("renames")
def test_an_empty_folder_that_comes_meanwhile_is_somebodys(tmp_path: Path) -> None:
    out = tmp_path / "model"
    with pytest.raises(EdgemobileError, match=r"was created by another program meanwhile, and was not changed"):
        _export(out, "new", out.mkdir)
    assert _names(out) == []


@pytest.mark.usefixtures("renames")
def test_what_comes_between_the_check_and_the_change_undoes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "model"
    _export(out, "old")
    from edgemobile.pipeline import artifact

    check = artifact._check_ours

    def then_a_file_comes(folder: Path, *others: object) -> None:
        check(folder, *others)
        if folder == out:
            (out / "notes.txt").write_text("mine")

    def meanwhile() -> None:
        monkeypatch.setattr(artifact, "_check_ours", then_a_file_comes)

    with pytest.raises(EdgemobileError, match=r"contains notes\.txt"):
        _export(out, "new", meanwhile, overwrite=True)
    assert _names(out) == [*_FILES, "notes.txt", "old-int8.onnx", "old.onnx"]
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.usefixtures("renames")
def test_of_two_exports_to_one_folder_one_is_told_so(tmp_path: Path) -> None:
    out = tmp_path / "model"
    with pytest.raises(EdgemobileError, match="was created by another program meanwhile"):
        _export(out, "second", lambda: _export(out, "first"))
    assert (out / "first.onnx").read_text() == "first"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.usefixtures("renames")
def test_a_link_to_a_folder_keeps_pointing_there(tmp_path: Path) -> None:
    _export(tmp_path / "real", "old")
    (tmp_path / "model").symlink_to("real")
    _export(tmp_path / "model", "new", overwrite=True)
    assert _names(tmp_path / "real") == [*_FILES, "new-int8.onnx", "new.onnx"]
    assert (tmp_path / "model").is_symlink()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_manifest_cannot_name_what_lies_elsewhere(tmp_path: Path) -> None:
    out, precious = tmp_path / "model", tmp_path / "precious.onnx"
    precious.write_text("mine")
    _export(out, "old")
    manifest = out / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"old-int8.onnx"', '"../precious.onnx"'))
    (out / "old-int8.onnx").unlink()
    _export(out, "new", overwrite=True)
    assert precious.read_text() == "mine"


def test_labels_that_no_export_wrote_are_somebodys(tmp_path: Path) -> None:
    out = tmp_path / "model"
    with fresh_folder(out) as folder:
        _fill(folder, "old", labels=None)
    (out / "labels.txt").write_text("mine")
    with pytest.raises(EdgemobileError, match=r"contains labels\.txt, which is not in its manifest"):
        _export(out, "new", overwrite=True)
    assert (out / "labels.txt").read_text() == "mine"


def test_a_folder_by_the_name_of_a_file_is_somebodys(tmp_path: Path) -> None:
    out = tmp_path / "model"
    _export(out, "old")
    (out / "old.onnx").unlink()
    (out / "old.onnx").mkdir()
    with pytest.raises(EdgemobileError, match=r"contains old\.onnx"):
        _export(out, "new", overwrite=True)


def test_files_to_keep_are_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "model"
    _export(out, "old")
    with (
        pytest.raises(EdgemobileError, match=r"contains old\.onnx of an export, which this command does not"),
        fresh_folder(out, overwrite=True, keep=("float32",)),
    ):
        pass
    assert "old.onnx" in _names(out)


# ---- killed ---------------------------------------------------------------------------------------------------------

_KILLED = """
    import os, signal
    from pathlib import Path
    from edgemobile.pipeline import artifact
    from edgemobile.util import renaming
    from test_artifact import _fill

    kill, out = lambda *_: os.kill(os.getpid(), signal.SIGKILL), Path(os.environ["OUT"])
    when = os.environ["WHEN"]
    if when == "between two renames":
        renaming._libc_renameat2 = lambda: None
        onto_nothing = artifact.rename_onto_nothing
        artifact.rename_onto_nothing = lambda new, out: onto_nothing(new, out) if out.exists() else kill()
    if when == "after the exchange":
        artifact._clean = kill
    with artifact.fresh_folder(out, overwrite=True) as folder:
        _fill(folder, "new")
        if when == "half way":
            kill()
"""


@pytest.mark.parametrize(
    ("when", "left"), [("half way", "old"), ("between two renames", "old"), ("after the exchange", "new")]
)
def test_a_kill_loses_no_export_and_the_next_run_cleans_up(tmp_path: Path, when: str, left: str) -> None:
    out = tmp_path / "out" / "model"
    _export(out, "old")
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    environment = {**os.environ, "OUT": str(out), "WHEN": when, "PYTHONPATH": paths}
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(_KILLED)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(out.parent.iterdir())) == (1 if when == "between two renames" else 2)
    with pytest.raises(EdgemobileError, match="exists already"):
        _export(out, "next")
    assert list(out.parent.iterdir()) == [out]
    assert (out / f"{left}.onnx").read_text() == left
    _export(out, "next", overwrite=True)
    assert _names(out) == [*_FILES, "next-int8.onnx", "next.onnx"]
    assert list(out.parent.iterdir()) == [out]


def test_the_next_run_leaves_the_work_of_a_running_one(tmp_path: Path) -> None:
    out = tmp_path / "model"

    def meanwhile() -> None:
        with pytest.raises(EdgemobileError, match="boom"), fresh_folder(out):
            raise EdgemobileError("boom")

    _export(out, "new", meanwhile)
    assert _names(out) == [*_FILES, "new-int8.onnx", "new.onnx"]


def test_json_has_no_infinity() -> None:
    assert json.loads(to_json_text({"a": math.inf, "b": [math.nan, 1.5]})) == {"a": None, "b": [None, 1.5]}
