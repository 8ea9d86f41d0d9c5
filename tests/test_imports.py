"""What may import what: the command line starts light, a board needs no torch, and the layers point down."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from edgemobile.devices.host.setup import PAYLOAD

EXTRAS = ["torch", "onnx", "onnxscript", "onnxruntime", "tensorflow", "ai_edge_litert"]
HEAVY = [*EXTRAS, "numpy", "PIL"]
# What boards run (PAYLOAD), and what is as light: numpy, Pillow and one runtime, never what only an export needs.
LIGHT = ["graph", "images", "metrics", "model_file", "preprocess"]
EXPORT_ONLY = ["torch", "onnx", "onnxscript", "tensorflow"]


def _python(code: str, cwd: Path) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def _modules(repo_root: Path, part: str) -> list[str]:
    """`part` as module names: a module of edgemobile, or a package and everything in it."""
    inside = (repo_root / "edgemobile" / part.replace(".", "/")).glob("[!_]*.py")
    return [f"edgemobile.{part}", *(f"edgemobile.{part}.{module.stem}" for module in inside)]


def _payload() -> list[str]:
    """The modules that run on a board."""
    return [f"edgemobile.{name.replace('/', '.')}".removesuffix(".__init__") for name in PAYLOAD]


def test_the_command_line_starts_light(repo_root: Path) -> None:
    if importlib.util.find_spec("edgemobile.cli") is None:
        pytest.skip("there is no edgemobile.cli")
    code = f"""
import sys
import click.testing
from edgemobile.cli import cli
for words in ([], ["--help"], ["--version"], *([name, "--help"] for name in cli.commands)):
    result = click.testing.CliRunner().invoke(cli, words)
    assert result.output and result.exit_code in (0, 2), (words, result.exception)
print([name for name in {HEAVY} if name in sys.modules])
"""
    assert _python(code, repo_root).strip() == "[]"


def test_a_board_needs_neither_torch_nor_onnx_nor_tensorflow(repo_root: Path) -> None:
    modules = [*_payload(), *(module for part in LIGHT for module in _modules(repo_root, part))]
    assert {"edgemobile.graph", "edgemobile.graph.interpreter", "edgemobile.devices.board.worker"} <= set(modules)
    code = f"""
import sys
for name in {EXPORT_ONLY}:
    sys.modules[name] = None
import importlib
for name in {modules}:
    importlib.import_module(name)
"""
    _python(code, repo_root)


def test_the_contract_of_boards_covers_all_that_runs_there(repo_root: Path) -> None:
    contracts = tomllib.loads((repo_root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (covered,) = (one["source_modules"] for one in contracts if one["name"] == "A board needs numpy and one runtime")
    for module in _payload():
        assert module == "edgemobile" or any(f"{module}.".startswith(f"{name}.") for name in covered), module


def test_library_modules_import_without_any_extra(repo_root: Path) -> None:
    """The tables are for everyone; only a named format, net or runtime costs an extra."""
    code = f"""
import sys
for name in {EXTRAS}:
    sys.modules[name] = None
import edgemobile, edgemobile.models.arch, edgemobile.models.cost, edgemobile.graph.interpreter
import edgemobile.exporters, edgemobile.lower, edgemobile.pipeline.export, edgemobile.api
assert edgemobile.exporters.FORMATS
"""
    _python(code, repo_root)


def test_imports_point_down(repo_root: Path) -> None:
    """The contracts in pyproject.toml; what breaks them is printed."""
    pytest.importorskip("importlinter")
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repo_root, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_folders_are_reached_by_one_name_only(repo_root: Path) -> None:
    """edgemobile/exporters and its like are relative links to the real folders, and nothing imports the bare names."""
    for name in ("exporters", "quant", "devices"):
        link = repo_root / "edgemobile" / name
        assert link.is_symlink()
        assert link.readlink() == Path("..") / name
    sources = [f for d in ("edgemobile", "exporters", "quant", "devices") for f in (repo_root / d).rglob("*.py")]
    bare = ("import exporters", "import quant", "import devices", "from exporters", "from quant", "from devices")
    assert not [f for f in sources if any(line.lstrip().startswith(bare) for line in f.read_text().splitlines())]


def test_nothing_of_a_model_is_sent_to_the_maker_of_onnxruntime(
    repo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os, edgemobile; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    assert _python(code, repo_root).strip() == "1"
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    assert _python(code, repo_root).strip() == "0"
