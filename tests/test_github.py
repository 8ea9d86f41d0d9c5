"""The GitHub action that runs the gate for users, and our own workflow: their commands are real ones."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgemobile
from edgemobile.cli import cli

yaml = pytest.importorskip("yaml")

_ONE_SMALL_MODEL = """
[gate]
images = 2

[models.small]
model = "v2"
weights = "random"
width = 0.35
res = 32
formats = ["tflite"]
precisions = ["float32"]

[models.unknown]
model = "v2"
weights = "absent.pth"
"""


def _action(repo_root: Path) -> dict[str, Any]:
    return yaml.safe_load((repo_root / "action.yml").read_text())


def _scripts(repo_root: Path) -> Iterator[str]:
    yield from (step["run"] for step in _action(repo_root)["runs"]["steps"] if "run" in step)
    for path in sorted((repo_root / ".github" / "workflows").glob("*.yml")):
        jobs = yaml.safe_load(path.read_text())["jobs"].values()
        yield from (step["run"] for job in jobs for step in job["steps"] if "run" in step)


def _run_gate(repo_root: Path, folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """The action's last step in `folder`, with its inputs as given or as they are by default."""
    action = _action(repo_root)
    step = action["runs"]["steps"][-1]
    values = {name: row["default"] for name, row in action["inputs"].items()} | inputs
    given = {name: values[text.removeprefix("${{ inputs.").removesuffix(" }}")] for name, text in step["env"].items()}
    programs = folder / "bin"
    programs.mkdir()
    program = programs / "edgemobile"
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(repo_root))} exec {sys.executable} -m edgemobile "$@"\n'
    )
    program.chmod(0o755)
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**env, **given}, check=False)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash, which the action's steps are for")
def test_the_action_runs_the_gate_and_leaves_its_results(repo_root: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("ai_edge_litert")
    (tmp_path / "edgemobile.toml").write_text(_ONE_SMALL_MODEL)
    ran = _run_gate(repo_root, tmp_path, only="small")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "<testsuite" in (tmp_path / "edgemobile-gate.xml").read_text()
    assert "small" in (tmp_path / "summary.md").read_text()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash, which the action's steps are for")
def test_the_action_fails_where_the_gate_fails(repo_root: Path, tmp_path: Path) -> None:
    (tmp_path / "edgemobile.toml").write_text(_ONE_SMALL_MODEL)
    ran = _run_gate(repo_root, tmp_path, only="unknown", junit="out.xml")
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert "absent.pth" in (tmp_path / "out.xml").read_text()


def test_every_input_of_the_action_is_used(repo_root: Path) -> None:
    text = (repo_root / "action.yml").read_text()
    used = set(re.findall(r"inputs\.([\w-]+)", text))
    assert used == set(_action(repo_root)["inputs"])


def test_the_docs_name_this_version_and_every_input(repo_root: Path) -> None:
    page = (repo_root / "docs" / "ci.md").read_text()
    assert re.findall(r"uses: edgemobile/edgemobile@(\S+)", page) == [f"v{edgemobile.__version__}"]
    (listed,) = re.findall(r"Its inputs, all optional: (.*?)\.\n", page, re.DOTALL)
    assert re.findall(r"`([^`]+)`", listed) == list(_action(repo_root)["inputs"])


def test_commands_in_workflows_are_understood(repo_root: Path) -> None:
    lines = [line.strip() for script in _scripts(repo_root) for line in script.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("edgemobile ") and "$" not in line]
    assert len(commands) >= 5
    for name, *words in commands:
        if "--help" in words:
            assert name in cli.commands
        else:
            cli.commands[name].make_context(name, words)


def test_our_workflow_runs_what_a_change_must_hold(repo_root: Path) -> None:
    assert ".ci/run" in list(_scripts(repo_root))
