"""The wheel: what is in it, how big it is, and that it works away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

MAX_WHEEL_MIB = 40
_SOURCES = ("pyproject.toml", "README.md", "LICENSE", "edgemobile", "exporters", "quant", "devices")


def _pip(*words: str, cwd: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def wheel(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, so that the checkout stays clean. Needs no network."""
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path_factory.mktemp("source")
    for name in _SOURCES:
        path = repo_root / name
        if path.is_dir():
            shutil.copytree(path, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    dist = tmp_path_factory.mktemp("dist")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(dist), str(source), cwd=dist)
    return next(dist.glob("edgemobile-*.whl"))


def test_the_wheel_holds_one_package(wheel: Path, repo_root: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"edgemobile"}
    for folder in ("exporters", "quant", "devices"):
        modules = {f"edgemobile/{folder}/{f.name}" for f in (repo_root / folder).glob("*.py")}
        assert modules
        assert modules <= names
    assert {str(f.relative_to(repo_root)) for f in (repo_root / "edgemobile").rglob("*.py")} <= names
    assert "edgemobile/py.typed" in names
    assert [name for name in names if name.endswith("licenses/LICENSE")]
    assert not [name for name in names if "/tests/" in name or "__pycache__" in name]


def test_the_wheel_holds_the_bundled_files(wheel: Path, repo_root: Path) -> None:
    bundled = [
        f for f in (repo_root / "edgemobile" / "bundled").glob("*") if f.suffix in (".json", ".pt", ".safetensors")
    ]
    if not bundled:
        pytest.skip("nothing is bundled")
    assert {f"edgemobile/bundled/{f.name}" for f in bundled} <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < MAX_WHEEL_MIB * 2**20


def test_the_wheel_works_away_from_the_checkout(wheel: Path, repo_root: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    _pip("install", "--no-deps", "--no-index", "--target", str(site), str(wheel), cwd=tmp_path)
    code = """
import edgemobile.models.arch, edgemobile.models.cost, edgemobile.devices, edgemobile.exporters, edgemobile.quant
print(edgemobile.__file__)
print(edgemobile.exporters.__file__)
print(edgemobile.models.cost.total(edgemobile.models.cost.arch_costs(edgemobile.models.arch.get_arch("v1"))).params)
"""
    env = {**os.environ, "PYTHONPATH": str(site)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env, check=False
    )
    assert result.returncode == 0, result.stderr
    package, exporters, params = result.stdout.splitlines()
    assert Path(package).is_relative_to(site)
    assert Path(exporters) == site / "edgemobile" / "exporters" / "__init__.py"
    assert params == "4231976"


def test_the_version_is_stated_once_and_the_same(repo_root: Path) -> None:
    import tomllib

    import edgemobile

    project = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]
    assert project["version"] == edgemobile.__version__
