"""No output takes the place of an input, by whatever name; no earlier verdict outlives the start of the next run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from edgemobile.cli import main
from edgemobile.commands.writable import check_writable
from edgemobile.errors import EdgemobileError

pytest.importorskip("onnxruntime")


@pytest.fixture
def gate_folder(colour_model, tmp_path: Path) -> Path:
    """`me.onnx`, an edgemobile.toml that checks it against itself, and other names of both."""
    (tmp_path / "me.onnx").write_bytes(colour_model("bgr"))
    text = '[gate]\nimages = 2\nlayers = false\n[models.colours]\nmodel = "me.onnx"\nfiles = ["me.onnx"]\n'
    (tmp_path / "edgemobile.toml").write_text(text)
    for name in ("me.onnx", "edgemobile.toml"):
        (tmp_path / f"symlink-{name}").symlink_to(name)
        os.link(tmp_path / name, tmp_path / f"hardlink-{name}")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "labels.txt").write_text("mine")
    return tmp_path


_BENCH = ("bench", "me.onnx", "--runs", "2", "--processes", "1")


@pytest.mark.parametrize("name", ["", "symlink-", "hardlink-", "./", "photos/../"])
@pytest.mark.parametrize(
    ("command", "output"),
    [
        (("parity", "me.onnx", "me.onnx", "--images", "2", "--junit"), "me.onnx"),
        (("parity", "v3-large", "me.onnx", "--weights", "me.onnx", "--junit"), "me.onnx"),
        (("ci", "--junit"), "edgemobile.toml"),
        (("ci", "--junit"), "me.onnx"),
        ((*_BENCH, "--out"), "me.onnx"),
        (("report", "me.onnx", "--html"), "me.onnx"),
    ],
)
def test_an_output_that_is_an_input_is_refused(
    edgemobile, gate_folder: Path, command: tuple[str, ...], output: str, name: str
) -> None:
    before = {path: path.read_bytes() for path in gate_folder.iterdir() if path.is_file()}
    ran = edgemobile(*command, f"{name}{output}")
    assert ran.code == 2, ran.out
    assert ran.err.count("\n") == 1
    assert f"{name.removeprefix('./')}{output}" in ran.err
    assert {path: path.read_bytes() for path in gate_folder.iterdir() if path.is_file()} == before
    assert not (gate_folder / f"symlink-{output}").is_file() or (gate_folder / f"symlink-{output}").is_symlink()


def test_an_output_inside_of_an_input_is_refused(edgemobile, gate_folder: Path) -> None:
    ran = edgemobile("parity", "me.onnx", "me.onnx", "--data", "photos", "--junit", "photos/labels.txt")
    assert (ran.code, "photos/labels.txt is inside photos" in ran.err) == (2, True)
    assert (gate_folder / "photos" / "labels.txt").read_text() == "mine"


def test_a_folder_by_the_name_of_a_model_is_no_input(tmp_path: Path) -> None:
    (tmp_path / "v3-large").mkdir()
    check_writable("--junit", tmp_path / "v3-large" / "out.xml", [str(tmp_path / "v3-large"), None, "v2"])
    with pytest.raises(EdgemobileError, match="is inside"):
        check_writable("--junit", tmp_path / "v3-large" / "out.xml", [tmp_path / "v3-large"])


def test_a_file_that_is_no_junit_is_not_replaced_by_one(edgemobile, gate_folder: Path) -> None:
    (gate_folder / "notes.txt").write_text("mine")
    for command in (("ci",), ("parity", "me.onnx", "me.onnx")):
        ran = edgemobile(*command, "--junit", "notes.txt")
        assert (ran.code, "notes.txt is not a JUnit file" in ran.err) == (2, True)
        assert (gate_folder / "notes.txt").read_text() == "mine"


def test_a_configuration_that_cannot_be_read_is_not_overwritten(edgemobile, gate_folder: Path) -> None:
    (gate_folder / "edgemobile.toml").write_text("]")
    assert edgemobile("ci", "--junit", "me.onnx").code == 2
    assert (gate_folder / "me.onnx").read_bytes() == (gate_folder / "hardlink-me.onnx").read_bytes()


@pytest.mark.parametrize(
    ("command", "where"),
    [
        (("ci", "--force"), "edgemobile.comparison.run.parity"),
        (("parity", "me.onnx", "me.onnx"), "edgemobile.comparison.run.parity"),
    ],
)
def test_an_earlier_verdict_does_not_outlive_the_start_of_a_run(
    edgemobile, gate_folder: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], where: str
) -> None:
    """What a kill, or a crash of the machine, leaves is what stands there while the run goes on."""
    assert edgemobile(*command, "--junit", "out.xml").code == 0
    meanwhile: list[ElementTree.Element] = []

    def look(*args: Any) -> None:
        meanwhile.append(ElementTree.parse("out.xml").getroot())
        raise KeyboardInterrupt

    monkeypatch.setattr(where, look)
    assert edgemobile(*command, "--junit", "out.xml").code == 130
    (left,) = meanwhile
    assert (left.get("tests"), left.get("errors")) == ("1", "1")
    assert "did not finish" in str(next(left.iter("error")).get("message"))


@pytest.mark.parametrize(
    ("command", "where"),
    [
        (("ci",), "edgemobile.gate.output.gate_junit"),
        (("parity", "me.onnx", "me.onnx", "--images", "2"), "edgemobile.comparison.output.junit_xml"),
    ],
)
def test_a_crash_while_the_result_is_told_leaves_nothing_green(
    edgemobile, gate_folder: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], where: str
) -> None:
    def crash(*args: Any) -> None:
        raise MemoryError

    assert edgemobile(*command, "--junit", "out.xml").code == 0
    monkeypatch.setattr(where, crash)
    monkeypatch.setattr("sys.argv", ["edgemobile", *command, "--junit", "out.xml"])
    with pytest.raises(SystemExit) as exit_code:
        main()
    assert exit_code.value.code == 70
    assert ElementTree.parse(gate_folder / "out.xml").getroot().get("errors") == "1"
