"""Tests docs/ci.md and docs/reference/options.md: their edgemobile.toml is read, and their commands are parsed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from edgemobile.cli import cli
from edgemobile.commands.defaults import defaults_of
from edgemobile.errors import EdgemobileError
from edgemobile.gate.load import load_gate
from edgemobile.util.config_file import read_config


def _blocks(repo_root: Path, kind: str, page: str = "ci.md") -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", (repo_root / "docs" / page).read_text(), re.M | re.S)


def test_its_configuration(repo_root: Path, tmp_path: Path) -> None:
    (gate,) = _blocks(repo_root, "toml")
    (defaults,) = _blocks(repo_root, "toml", "reference/options.md")
    path = tmp_path / "edgemobile.toml"
    path.write_text(gate)
    config = load_gate(read_config(path))
    assert [entry.name for entry in config.models] == ["classifier", "shipped"]
    assert [device.required for device in config.devices] == [True, False]
    path.write_text(defaults)
    assert defaults_of(cli, read_config(path))["export"] == {"int8": True, "calib": "photos.zip", "formats": "tflite"}
    path.write_text(gate.replace("size = {", 'size = { int8 = "4.6 megs",'))
    with pytest.raises(EdgemobileError) as raised:
        load_gate(read_config(path))
    lines = "".join(_blocks(repo_root, "text")).splitlines()
    (said,) = (line for line in lines if line.startswith("error:"))
    assert said == f"error: {str(raised.value).removeprefix(f'{tmp_path}/')}"


def test_every_key_is_in_its_table(repo_root: Path) -> None:
    from edgemobile.gate import load as module

    text = (repo_root / "docs" / "ci.md").read_text()
    rows = {line.split("|")[1].strip(" `"): line for line in text.splitlines() if line.startswith("| `[")}
    for row, keys in (("[gate]", module._GATE), ("[devices.NAME]", module._DEVICE), ("[models.NAME]", module._MODEL)):
        assert set(re.findall(r"`(\w+)`", rows[row])) == set(keys)


def test_its_commands(repo_root: Path) -> None:
    """Every line that begins with edgemobile, in a shell, a workflow or a hook, has an existing command and options."""
    kinds = (("sh", "ci.md"), ("yaml", "ci.md"), ("sh", "reference/options.md"))
    text = "\n".join(block for kind, page in kinds for block in _blocks(repo_root, kind, page))
    lines = re.findall(r"(?:^|run: |entry: |\d |tflite )(edgemobile .*?)(?:$|#)", text, re.M)
    assert len(lines) == 9
    for line in lines:
        words = shlex.split(line)[1:]
        command: click.Command = cli
        while isinstance(command, click.Group) and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        command.make_context(line, words, resilient_parsing=False)


def test_our_own_ci_runs_the_gate(repo_root: Path) -> None:
    assert re.search(r"^step gate edgemobile ci", (repo_root / ".ci" / "run").read_text(), re.M)
