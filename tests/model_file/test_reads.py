"""Every command reads a model file from disk once: what it says of a file is of the same bytes."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from edgemobile.cli import cli
from edgemobile.exporters import model_files
from edgemobile.model_file.file import read_model

# A hook cannot be taken away again: there is one, which counts the model files of this folder, when it is one.
_folder: Path | None = None
_opened: Counter[str] = Counter()


def _count(event: str, args: tuple[object, ...]) -> None:
    if _folder is None or event != "open" or not isinstance(args[0], str | Path) or _is_written(args[1:]):
        return
    path = Path(args[0]).absolute()
    if path.is_relative_to(_folder) and path.suffix in (".onnx", ".tflite"):
        _opened[path.name] += 1


def _is_written(how: tuple[object, ...]) -> bool:
    mode, flags = how
    return "w" in str(mode or "") or bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR))


sys.addaudithook(_count)


@contextmanager
def _counting(folder: Path) -> Iterator[Counter[str]]:
    global _folder
    _folder = folder
    _opened.clear()
    try:
        yield _opened
    finally:
        _folder = None


@pytest.fixture
def folder(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    colour_model: Callable[..., bytes],
    colour_photos: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The current folder, with two files, a photo of each of three colours, and a gate over both files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    for name in ("one", "two"):
        (tmp_path / f"{name}.onnx").write_bytes(colour_model("bgr"))
    Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(tmp_path / "grey.png")
    (tmp_path / "photos").symlink_to(colour_photos)
    return tmp_path


COMMANDS = {
    "bench": ("bench", "one.onnx", "two.onnx", "--runs", "10", "-q"),
    "parity": ("parity", "one.onnx", "one.onnx", "two.onnx", "--layers", "--images", "2", "-q"),
    "eval": ("eval", "one.onnx", "two.onnx", "--data", "photos", "--baseline", "one.onnx", "-q"),
    "predict": ("predict", "one.onnx", "grey.png"),
    "inspect": ("inspect", "one.onnx", "--diff", "two.onnx"),
}


def _run(*words: str) -> Result:
    result = CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False)
    # Others use this machine: a measurement may be unstable, which is exit code 5.
    assert result.return_value in (0, 5), result.output
    return result


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_opens_each_file_once(folder: Path, command: str) -> None:
    words = COMMANDS[command]
    with _counting(folder) as opened:
        _run(*words)
    assert opened == {word: 1 for word in words if word.endswith(".onnx")}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_gone_once_it_was_read_changes_nothing(
    folder: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The libraries open files too, where no hook sees it."""

    def read_and_remove(path: Path) -> bytes:
        data = read_model(path)
        path.unlink()
        return data

    monkeypatch.setattr(model_files, "read_model", read_and_remove)
    _run(*COMMANDS[command])
    assert not (folder / "one.onnx").exists()


_GATE = """
[gate]
images = 4
[models.colours]
model = "one.onnx"
files = ["one.onnx", "two.onnx"]
size.onnx = "10 KiB"
accuracy = { data = "photos", max_drop = 0 }
[devices.local]
runs = 10
"""


def test_the_gate_reads_each_file_once_for_all_of_its_checks(folder: Path) -> None:
    (folder / "edgemobile.toml").write_text(_GATE)
    for _ in ("measured", "kept"):
        with _counting(folder) as opened:
            _run("ci", "-q")
        assert opened == {"one.onnx": 1, "two.onnx": 1}


def test_the_gate_reads_what_it_exported_once(folder: Path) -> None:
    pytest.importorskip("torch")
    narrow = 'model = "v3-small"\nweights = "random"\nwidth = 0.35\nres = 32\nclasses = 10\nformats = ["onnx"]\n'
    (folder / "edgemobile.toml").write_text(f"[gate]\nimages = 2\n[models.narrow]\n{narrow}")
    for _ in ("exported", "kept"):
        with _counting(folder) as opened:
            _run("ci", "-q")
        assert set(opened.values()) == {1}, opened
        assert len(opened) == 2
