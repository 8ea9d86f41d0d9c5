"""The wheel and the sdist: what is in them, what an index shows of them, and that they work away from the checkout."""

from __future__ import annotations

import email
import email.policy
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

MAX_WHEEL_MIB = 40
_PACKAGES = ("edgemobile", "exporters", "quant", "devices")
_SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE", *_PACKAGES)
_REPOSITORY = "https://github.com/edgemobile/edgemobile"
# Some moment after 1980, where the times of a zip begin.
_ENVIRONMENT = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}


def _python(*words: str, cwd: Path, **variables: str) -> str:
    command, env = [sys.executable, *words], {**_ENVIRONMENT, **variables}
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def _pip(*words: str, cwd: Path, **variables: str) -> None:
    _python("-m", "pip", "--disable-pip-version-check", *words, cwd=cwd, **variables)


@pytest.fixture(scope="module")
def wheel(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, so that the checkout stays clean. Needs no network."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    return _built(_copied(repo_root, folder / "source"), folder / "dist")


def _copied(repo_root: Path, source: Path) -> Path:
    source.mkdir()
    for name in _SOURCES:
        path = repo_root / name
        if path.is_dir():
            shutil.copytree(path, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    return source


def _built(source: Path, dist: Path, **variables: str) -> Path:
    dist.mkdir()
    words = ("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(dist), str(source))
    _pip(*words, cwd=dist, **variables)
    return next(dist.glob("edgemobile-*.whl"))


@pytest.fixture(scope="module")
def sdist(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python -m build --sdist` makes, by the hook it calls."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("sdist")
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    _python("-c", code, str(folder), cwd=_copied(repo_root, folder / "source"))
    return next(folder.glob("edgemobile-*.tar.gz"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed; what it depends on is this Python's."""
    site = tmp_path_factory.mktemp("installed") / "site"
    _pip("install", "--no-deps", "--no-index", "--target", str(site), str(wheel), cwd=site.parent)
    return site


def _contents(wheel: Path) -> dict[str, bytes]:
    archive = zipfile.ZipFile(wheel)
    return {name: archive.read(name) for name in archive.namelist()}


def _metadata(wheel: Path) -> EmailMessage:
    (data,) = (data for name, data in _contents(wheel).items() if name.endswith(".dist-info/METADATA"))
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def _description(wheel: Path) -> str:
    return str(_metadata(wheel).get_payload())


def test_the_wheel_holds_one_package(wheel: Path, repo_root: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"edgemobile"}
    for folder in ("exporters", "quant", "devices"):
        modules = {f"edgemobile/{f.relative_to(repo_root)}" for f in (repo_root / folder).rglob("*.py")}
        assert modules
        assert modules <= names
    assert {str(f.relative_to(repo_root)) for f in (repo_root / "edgemobile").rglob("*.py")} <= names
    assert "edgemobile/py.typed" in names
    assert [name for name in names if name.endswith("licenses/LICENSE")]
    assert not [name for name in names if "/tests/" in name or "__pycache__" in name]


def test_the_wheel_holds_the_bundled_files(wheel: Path, repo_root: Path) -> None:
    bundled = [
        f
        for f in (repo_root / "edgemobile" / "bundled").glob("*")
        if f.suffix in (".json", ".pt", ".safetensors", ".zip")
    ]
    if not bundled:
        pytest.skip("nothing is bundled")
    assert {f"edgemobile/bundled/{f.name}" for f in bundled} <= set(zipfile.ZipFile(wheel).namelist())


def test_a_checkout_without_links_gives_the_same_wheel(wheel: Path, repo_root: Path, tmp_path: Path) -> None:
    """Where links cannot be made, as on Windows, git writes a text file with the link's target in its place."""
    source = _copied(repo_root, tmp_path / "source")
    for link in [path for path in (source / "edgemobile").iterdir() if path.is_symlink()]:
        target = str(link.readlink())
        link.unlink()
        link.write_text(target)
    assert _contents(_built(source, tmp_path / "dist")) == _contents(wheel)


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < MAX_WHEEL_MIB * 2**20


def test_the_same_sources_give_the_same_wheel(wheel: Path, repo_root: Path, tmp_path: Path) -> None:
    """Byte for byte, where SOURCE_DATE_EPOCH says the time: so anyone can check what was published.

    Times and modes of files, and the time zone, are others for everybody.
    """
    before = os.umask(0o077)
    try:
        source = _copied(repo_root, tmp_path / "elsewhere")
        for path in source.rglob("*.py"):
            os.utime(path)
            path.chmod(0o600)
        again = _built(source, tmp_path / "dist", TZ="Asia/Tokyo")
    finally:
        os.umask(before)
    assert again.read_bytes() == wheel.read_bytes()


def test_the_sdist_builds_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.glob("edgemobile-*")
    assert (source / "CHANGELOG.md").is_file()
    assert not (source / "tests").exists()
    assert _contents(_built(source, tmp_path / "dist")) == _contents(wheel)


def test_the_wheel_works_away_from_the_checkout(site: Path, tmp_path: Path) -> None:
    code = """
import edgemobile.models.arch, edgemobile.models.cost, edgemobile.devices, edgemobile.exporters, edgemobile.quant
print(edgemobile.__file__)
print(edgemobile.exporters.__file__)
print(edgemobile.models.cost.total(edgemobile.models.cost.arch_costs(edgemobile.models.arch.get_arch("v1"))).params)
"""
    package, exporters, params = _python("-c", code, cwd=tmp_path, PYTHONPATH=str(site)).splitlines()
    assert Path(package).is_relative_to(site)
    assert Path(exporters) == site / "edgemobile" / "exporters" / "__init__.py"
    assert params == "4231976"


def test_the_installed_program_does_the_main_job(site: Path, tmp_path: Path) -> None:
    for package in ("torch", "ai_edge_litert", "flatbuffers"):
        pytest.importorskip(package)
    program = str(site / "bin" / "edgemobile")
    _python(program, "export", "v3-small", "--int8", "--to", "tflite", cwd=tmp_path, PYTHONPATH=str(site))
    written = {file.name for file in (tmp_path / "v3-small").iterdir()}
    models = {"v3-small-float32.tflite", "v3-small-int8.tflite"}
    assert written == {*models, "labels.txt", "manifest.json", "predict.py", "README.md", "sample.png"}


def test_an_index_is_told_what_the_package_is(wheel: Path, repo_root: Path) -> None:
    metadata = _metadata(wheel)
    urls = dict(str(line).split(", ") for line in metadata.get_all("Project-URL", []))
    assert set(urls) == {"Homepage", "Documentation", "Changelog", "Issues"}
    assert {url[: len(_REPOSITORY)] for url in urls.values()} == {_REPOSITORY}
    assert metadata["Author"] == "edgemobile authors"
    assert metadata["Description-Content-Type"] == "text/markdown"
    classifiers = {str(line) for line in metadata.get_all("Classifier", [])}
    assert {"Typing :: Typed", "Programming Language :: Python :: 3.14"} <= classifiers
    lowest = metadata["Requires-Python"].removeprefix(">=")
    assert min(re.findall(r":: (3\.\d+)", " ".join(classifiers))) == lowest


def test_links_of_the_long_description_lead_somewhere(wheel: Path, repo_root: Path) -> None:
    """They are absolute, of this version, and name a file of the checkout."""
    description = re.sub(r"^```.*?^```$", "", _description(wheel), flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", description) if not link.startswith("#")]
    assert links
    version = _metadata(wheel)["Version"]
    for link in links:
        assert link.startswith("https://"), link
        here = re.fullmatch(rf"{_REPOSITORY}/(?:blob|raw)/v{re.escape(version)}/([^#]+)(?:#.*)?", link)
        assert here is None or (repo_root / here[1]).exists(), link
    for line in _description(wheel).splitlines():
        assert not re.match(r"\[[^\]]+\]: (?!https://)", line), line


def test_the_long_description_renders(wheel: Path) -> None:
    """As an index renders it, whose sanitizer drops what it does not allow."""
    markdown = pytest.importorskip("readme_renderer.markdown")
    page = markdown.render(_description(wheel))
    assert page is not None
    title = _description(wheel).splitlines()[0].removeprefix("# ")
    assert re.search(rf"<h1[^>]*>(?:<a[^>]*></a>)?{title}", page)
    assert page.count("<table") == len(re.findall(r"^\|(?:\s*:?-+:?\s*\|)+$", _description(wheel), re.MULTILINE))


def test_every_extra_is_made_of_real_ones(repo_root: Path) -> None:
    """`edgemobile[a,b]` of an extra that does not exist installs nothing, and pip only warns."""
    extras: dict[str, Any] = _project(repo_root)["optional-dependencies"]
    named = {name for lines in extras.values() for line in lines for name in _extras_of(line)}
    assert named
    assert named <= set(extras)


def _extras_of(requirement: str) -> list[str]:
    found = re.match(r"edgemobile\[([^\]]+)\]", requirement)
    return found[1].split(",") if found else []


def _project(repo_root: Path) -> dict[str, Any]:
    return tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]


def test_the_changelog_has_a_section_for_this_version(repo_root: Path) -> None:
    sections = re.findall(r"^## (\S+)", (repo_root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] == _project(repo_root)["version"]
    assert len(set(sections)) == len(sections)


def test_the_version_is_stated_once_and_the_same(repo_root: Path) -> None:
    import edgemobile

    assert _project(repo_root)["version"] == edgemobile.__version__


# ---- the lock -------------------------------------------------------------------------------------------------------


def _locked(repo_root: Path) -> dict[str, tuple[str, int]]:
    """The packages of requirements.lock: name -> (version, how many hashes)."""
    text = (repo_root / "requirements.lock").read_text().replace("\\\n", " ")
    rows = [line for line in text.splitlines() if line and not line.startswith("#")]
    found: dict[str, tuple[str, int]] = {}
    for row in rows:
        requirement = re.fullmatch(
            r"([a-z0-9.-]+)==(\S+)( ; [^\\]*?)?((?: +--hash=sha256:[0-9a-f]{64})+)", row.rstrip()
        )
        assert requirement is not None, f"not a package with its hashes: {row[:80]}"
        found[requirement[1]] = requirement[2], requirement[4].count("--hash")
    return found


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_has_the_versions_of_the_constraints(repo_root: Path) -> None:
    locked = _locked(repo_root)
    lines = (repo_root / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    for name, version in pinned.items():
        if name != "torch":
            assert locked[_normalized(name)][0] == version, f"{name}: run .ci/lock"


def test_the_lock_has_every_dependency(repo_root: Path) -> None:
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(row for name in extras if name != "tflite-runtime" for row in extras[name])]
    names = {_normalized(re.match(r"[A-Za-z0-9._-]+", row)[0]) for row in wanted}
    assert names - {"edgemobile", "torch"} <= set(_locked(repo_root)), "run .ci/lock"
