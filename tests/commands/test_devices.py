"""`edgemobile devices` and `edgemobile doctor` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgemobile.cli import cli
from edgemobile.devices.host import diagnosis
from edgemobile.errors import EdgemobileError


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEMOBILE_DEVICES", str(tmp_path / "devices.toml"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "devices.toml"


def _run(*words: str) -> Result:
    return CliRunner().invoke(cli, words, standalone_mode=False)


def test_add_list_remove(file: Path) -> None:
    result = _run("devices", "add", "pi5", "ssh://pi@raspberrypi.local", "--python", "python3.11")
    assert "next: edgemobile devices setup pi5" in result.output
    rows = json.loads(_run("devices", "list", "--json").output)
    assert rows[1] == {"name": "pi5", "address": "ssh://pi@raspberrypi.local", "python": "python3.11"}
    assert "emulated:cortex-a76" in _run("devices", "list").output
    _run("devices", "add", "pi4", "ssh://pi4", "--tag", "lab2", "--tag", "slow")
    assert json.loads(_run("devices", "list", "--json").output)[2]["tags"] == ["lab2", "slow"]
    assert "lab2, slow" in _run("devices", "list").output
    _run("devices", "remove", "pi4")
    assert "removed pi5" in _run("devices", "remove", "pi5").output
    assert file.read_text().strip() == ""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("local", "local is this machine; it has no row to remove"),
        ("emulated:cortex-a72", "delete the folder {cache}/edgemobile/emulated"),
        ("ssh://pi@nowhere", "ssh://pi@nowhere has no row in {file}. Rows that can be removed: pi5"),
        ("pi4", "pi4 has no row in {file}. Rows that can be removed: pi5"),
    ],
)
def test_only_rows_are_removed(file: Path, tmp_path: Path, name: str, said: str) -> None:
    file.write_text('[pi5]\naddress = "ssh://pi5"\n')
    result = _run("devices", "remove", name)
    assert isinstance(result.exception, EdgemobileError)
    assert said.format(cache=tmp_path / "cache", file=file) in str(result.exception)
    assert file.read_text() == '[pi5]\naddress = "ssh://pi5"\n'
    assert not (tmp_path / "cache").exists()


def test_probe_of_this_machine() -> None:
    told = json.loads(_run("devices", "probe", "local", "--json").output)
    assert told["facts"]["cores"]
    assert told["emulated"] is False
    shown = _run("devices", "probe", "local").output
    assert told["facts"]["python"] in shown


def test_setup_of_what_is_refused() -> None:
    result = _run("devices", "setup", "emulated:max")
    assert isinstance(result.exception, EdgemobileError)
    assert "SME" in str(result.exception)


def test_setup_of_several_reports_those_that_do_not_answer() -> None:
    """`here` is this machine under another name, which has what it needs."""
    for name, address in (("off-1", "ssh://127.0.0.1:1"), ("here", "local"), ("off-2", "ssh://127.0.0.1:1")):
        _run("devices", "add", name, address, "--tag", "lab2")
    result = _run("devices", "setup", "tag:lab2", "--runtime", "onnxruntime", "-q")
    assert result.return_value == 4
    assert "here is ready" in result.output
    assert "error: off-1 is not reachable" in result.output
    assert "error: off-2 is not reachable" in result.output
    assert isinstance(_run("devices", "setup", "off-1").exception, EdgemobileError)


def test_doctor_of_a_machine_that_has_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"ai-edge-litert": "2.3.0"}
    monkeypatch.setattr(diagnosis, "_version", versions.get)
    result = _run("doctor")
    assert result.return_value == 0
    assert "pip install 'edgemobile[onnxruntime]'" in result.output


def test_doctor_says_what_is_missing_and_what_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_version", lambda package: None)
    monkeypatch.setattr(diagnosis.shutil, "which", lambda program: None)
    _run("devices", "add", "phone", "adb:R58M")
    result = _run("doctor", "--json")
    told = json.loads(result.output)
    assert result.return_value == told["exit_code"] == 3
    by_name = {finding["what"]: finding for finding in told["findings"]}
    assert by_name["adb"]["remedy"] == "sudo apt-get install adb"
    assert "ssh" not in by_name
    assert by_name["litert"]["remedy"] == "pip install 'edgemobile[litert]'"


def test_doctor_of_a_board_that_does_not_answer() -> None:
    _run("devices", "add", "off", "ssh://127.0.0.1:1")
    result = _run("doctor", "--on", "off")
    assert result.return_value == 4
    assert "Connection refused" in result.output
    assert "sudo systemctl enable --now ssh" in result.output
    _run("devices", "add", "off-2", "ssh://127.0.0.1:1")
    result = _run("doctor", "--on", "off*", "--json")
    whats = [finding["what"] for finding in json.loads(result.output)["findings"]]
    assert whats[-2:] == ["off: connection", "off-2: connection"]
