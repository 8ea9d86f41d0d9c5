"""Relative links lead to files that are there, in the repository as in the site, and anchors to headings."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_NAV = re.compile(r"^ +- .+: ([\w/-]+\.md)$", re.M)


def _anchors(text: str) -> set[str]:
    """As GitHub and Python-Markdown make them of headings without markup or punctuation inside words."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[ ]+", "-", re.sub(r"[^\w -]", "", heading).strip().lower()) for heading in headings}


def test_relative_links_resolve(prose: dict[str, str], repo_root: Path) -> None:
    found, wrong = 0, []
    for page, text in prose.items():
        for link in _LINK.findall(text):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
            found += 1
            if not (repo_root / target).exists():
                wrong.append(f"{page}: {link}: there is no {target}")
            elif anchor and anchor not in _anchors((repo_root / target).read_text(encoding="utf-8")):
                wrong.append(f"{page}: {link}: {target} has no heading #{anchor}")
    assert not wrong, "\n".join(wrong)
    assert found > 40


def test_pages_link_to_pages(prose: dict[str, str]) -> None:
    """A page in docs/ links to docs/ only: what is outside is no page of the site."""
    for page, text in prose.items():
        if page.startswith("docs/"):
            for link in _LINK.findall(text):
                path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link.partition("#")[0]))
                assert link.startswith("#") or path.startswith("docs/"), f"{page}: {link}"


def test_every_page_is_in_the_navigation(
    repo_root: Path, load_script: Callable[[str], ModuleType], pages: dict[str, str]
) -> None:
    nav = _NAV.findall((repo_root / "mkdocs.yml").read_text(encoding="utf-8"))
    assert len(nav) == len(set(nav))
    generated = set(load_script("docs/hooks.py")._ROOT_PAGES.values())
    assert set(nav) == generated | {page.removeprefix("docs/") for page in pages if page.startswith("docs/")}


def test_root_pages_have_the_links_of_docs(load_script: Callable[[str], ModuleType]) -> None:
    text = "[a](docs/parity.md#b), [c](CONTRIBUTING.md), [d](https://e/docs/)"
    moved = "[a](parity.md#b), [c](contributing.md), [d](https://e/docs/)"
    assert load_script("docs/hooks.py").links_from_docs(text) == moved
