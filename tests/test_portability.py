"""A system without POSIX's modules, as Windows is: everything can be imported, and only devices are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Python on Windows has none of these; `posix` itself is missing from the list because this system's Python needs it.
_POSIX_ONLY = ["fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"]
# Only started on boards, by the commands that are refused.
_BOARD_PROGRAMS = ["edgemobile.devices.board.worker"]
_WITHOUT = f"""
import sys
for name in {_POSIX_ONLY}:
    sys.modules[name] = None
"""


def _python(code: str, cwd: Path, repo_root: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(repo_root), "EDGEMOBILE_DEVICES": str(cwd / "devices.toml")}
    command = [sys.executable, "-c", _WITHOUT + code]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, check=False)


@pytest.fixture
def edgemobile(repo_root: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command in `tmp_path`."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        line = ["edgemobile", *map(str, words)]
        return _python(f"from edgemobile.cli import main\nsys.argv = {line}\nmain()", tmp_path, repo_root)

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small classifier as TFLite."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("ai_edge_litert")
    from edgemobile.exporters import FORMATS
    from edgemobile.lower import export_program, lower

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, stride=8), torch.nn.Flatten(), torch.nn.Linear(64, 5)).eval()
    path = tmp_path / "small.tflite"
    path.write_bytes(FORMATS["tflite"].load().to_bytes(lower(export_program(net, (1, 3, 32, 32))), metadata={}))
    return path


def test_every_module_can_be_imported(repo_root: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    root = repo_root / "edgemobile"
    files = [Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names]
    modules = sorted(
        ".".join(file.relative_to(repo_root).with_suffix("").parts) for file in files if file.suffix == ".py"
    )
    wanted = [name for name in modules if not name.endswith(("__init__", "__main__")) and name not in _BOARD_PROGRAMS]
    assert "edgemobile.devices.host.emulation" in wanted
    done = _python(f"import importlib\nfor name in {wanted}:\n    importlib.import_module(name)", tmp_path, repo_root)
    assert done.returncode == 0, done.stderr


def test_every_command_tells_its_options(repo_root: Path, tmp_path: Path) -> None:
    code = """
import click.testing
from edgemobile.cli import cli
paths = [[name] for name in cli.commands]
paths += [[name, sub] for name, group in cli.commands.items() for sub in getattr(group, "commands", ())]
for path in paths:
    result = click.testing.CliRunner().invoke(cli, [*path, "--help"])
    assert result.exit_code == 0 and result.output.startswith("Usage: "), (path, result.exception)
assert ["bench"] in paths and ["devices", "setup"] in paths
"""
    done = _python(code, tmp_path, repo_root)
    assert done.returncode == 0, done.stderr


def test_files_are_compared_on_this_machine(
    edgemobile: Callable[..., subprocess.CompletedProcess[str]], model: Path
) -> None:
    done = edgemobile("parity", model, model, "--layers", "--images", 2)
    assert done.returncode == 0, done.stderr
    assert "pass  small.tflite" in done.stdout


def test_devices_are_listed_and_the_host_is_diagnosed(
    edgemobile: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    assert edgemobile("devices", "add", "pi5", "ssh://pi@raspberrypi.local").returncode == 0
    listed = edgemobile("devices", "list")
    assert listed.returncode == 0, listed.stderr
    assert "raspberrypi.local" in listed.stdout
    assert edgemobile("doctor").returncode in (0, 3)


@pytest.mark.parametrize(
    "words", [("bench", "small.tflite"), ("devices", "setup", "local"), ("devices", "probe", "ssh://pi@board")]
)
def test_work_on_a_device_is_refused_in_a_line(
    edgemobile: Callable[..., subprocess.CompletedProcess[str]], model: Path, words: tuple[str, ...]
) -> None:
    done = edgemobile(*words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "are reached from Linux and macOS" in done.stderr
    assert "Traceback" not in done.stderr
