"""The long description: README.md with absolute links, since on a package index a relative one leads nowhere.

Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

from setuptools import setup

_ROOT = Path(__file__).parent
# [text](target) and ![text](target); a target with a scheme or of this page is absolute already.
_RELATIVE_LINK = re.compile(r"(?P<picture>!?)(?P<text>\[[^\]]*\])\((?P<target>(?![a-z]+:|#)[^)\s]+)\)")
_FENCED_BLOCK = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def _long_description() -> str:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # The pages of this version: those of the main branch move on.
    pages, pictures = (f"{project['urls']['Homepage']}/{kind}/v{project['version']}" for kind in ("blob", "raw"))

    def absolute(link: re.Match[str]) -> str:
        base = pictures if link["picture"] else pages
        return f"{link['picture']}{link['text']}({base}/{link['target']})"

    parts = _FENCED_BLOCK.split((_ROOT / "README.md").read_text(encoding="utf-8"))
    return "".join(part if part.startswith("```") else _RELATIVE_LINK.sub(absolute, part) for part in parts)


# setuptools copies files with the modes of whoever builds, and the wheel has them: the same wheel for everybody.
os.umask(0o022)
setup(long_description=_long_description(), long_description_content_type="text/markdown")
