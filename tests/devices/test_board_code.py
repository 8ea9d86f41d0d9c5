"""The code a board gets: what it imports, and that Python 3.9 reads it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

# What worker.py, probe.py and unpack.py draw in. setup puts these on a board, and nothing else of edgemobile.
BOARD = {
    "edgemobile",
    "edgemobile.errors",
    "edgemobile.model_file.file",
    "edgemobile.util.quiet",
    "edgemobile.util.writing",
    "edgemobile.graph",
    "edgemobile.graph.affine",
    "edgemobile.graph.ir",
    "edgemobile.graph.origin",
    "edgemobile.graph.ops",
    "edgemobile.graph.resizing",
    "edgemobile.metrics",
    "edgemobile.metrics.outputs",
    "edgemobile.devices",
    "edgemobile.devices.board",
    "edgemobile.devices.runtimes",
    "edgemobile.model_file",
    "edgemobile.util",
    "edgemobile.devices.runtimes.job",
    "edgemobile.devices.runtimes.latency",
    "edgemobile.devices.runtimes.limits",
    "edgemobile.devices.board.measuring",
    "edgemobile.devices.board.parts",
    "edgemobile.devices.board.probe",
    "edgemobile.devices.board.profiling",
    "edgemobile.devices.board.repair",
    "edgemobile.devices.runtimes.table",
    "edgemobile.devices.runtimes.sessions",
    "edgemobile.devices.board.unpack",
    "edgemobile.devices.board.worker",
}


def _source(repo_root: Path, module: str) -> str:
    path = repo_root / module.replace(".", "/")
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


def _imports(source: str) -> set[str]:
    """Every module imported anywhere, also inside of functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def test_a_worker_draws_in_these_modules_and_numpy(repo_root: Path) -> None:
    # edgemobile's own __init__ imports what is asked of it, later.
    seen, others = {"edgemobile"}, set()
    waiting = ["edgemobile.devices.board.worker", "edgemobile.devices.board.probe", "edgemobile.devices.board.unpack"]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        # Importing a module runs its package's __init__ too.
        waiting.append(module.rpartition(".")[0])
        for name in _imports(_source(repo_root, module)):
            if name.startswith("edgemobile"):
                waiting.append(name)
            else:
                others.add(name.partition(".")[0])
    assert seen == BOARD
    assert others - set(sys.stdlib_module_names) == {"numpy"}


def test_the_probe_needs_no_numpy(repo_root: Path) -> None:
    names = {
        name
        for module in ("board.probe", "runtimes.table")
        for name in _imports(_source(repo_root, f"edgemobile.devices.{module}"))
    }
    names.remove("edgemobile.devices.runtimes.table")
    assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names)


def test_unpacking_needs_no_numpy(repo_root: Path) -> None:
    """A board has none before its first wheel is unpacked."""
    names = _imports(_source(repo_root, "edgemobile.devices.board.unpack")) - {"edgemobile.errors"}
    assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names)


# Keyword -> the call that has it only since Python 3.10.
_NEW_KEYWORDS = {"zip": "strict", "dataclass": "slots", "field": "kw_only", "bisect": "key"}


@pytest.mark.parametrize("module", sorted(BOARD))
def test_python_3_9_reads_it(repo_root: Path, module: str) -> None:
    source = _source(repo_root, module)
    tree = ast.parse(source, feature_version=(3, 9))
    annotations = "from __future__ import annotations" in source
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Match)
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            assert _NEW_KEYWORDS.get(called, "-") not in {keyword.arg for keyword in node.keywords}, ast.unparse(node)
            unions = [one for one in node.args if isinstance(one, ast.BinOp) and isinstance(one.op, ast.BitOr)]
            assert called not in ("isinstance", "issubclass") or not unions, ast.unparse(node)
        if isinstance(node, ast.FunctionDef):
            assert annotations
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.BitOr):
            assert "None" not in ast.unparse(node.value), f"{ast.unparse(node)} is evaluated, not an annotation"
