"""What the tests of the documentation share: its pages, and the code in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

_FENCED = re.compile(r"^([ ]*)```(\w*)\n(.*?)^\1```", re.M | re.S)


def _pages(root: Path) -> list[Path]:
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]


@pytest.fixture(scope="session")
def pages(repo_root: Path) -> dict[str, str]:
    """Page, by its path from the root -> its text."""
    return {str(path.relative_to(repo_root)): path.read_text(encoding="utf-8") for path in _pages(repo_root)}


@pytest.fixture(scope="session")
def blocks(pages: dict[str, str]) -> list[tuple[str, str, str]]:
    """(page, language, text) of every fenced block."""
    return [(page, kind, block) for page, text in pages.items() for _, kind, block in _FENCED.findall(text)]


@pytest.fixture(scope="session")
def prose(pages: dict[str, str]) -> dict[str, str]:
    """Page -> its text without fenced blocks."""
    return {page: _FENCED.sub("", text) for page, text in pages.items()}


@pytest.fixture(scope="session")
def hooks(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """What the build of the site adds to docs/."""
    return load_script("docs/hooks.py")
