"""Text in markdown."""

from __future__ import annotations

import re

__all__ = ["markdown_text"]


def markdown_text(text: str) -> str:
    """On one line, with the markup of markdown and HTML escaped."""
    flat = re.sub(r"\s+", " ", "".join(char if char.isprintable() else " " for char in text))
    return re.sub(r"([\\`*\[\]|<>#&~]|(?<!\w)_|_(?!\w))", r"\\\1", flat)
