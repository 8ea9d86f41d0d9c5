"""Progress in a notebook: a bar below the cell, in HTML that every front end shows without widgets."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgemobile.util.progress import Report

__all__ = ["NotebookProgress", "in_notebook"]

# Minimum time between two updates of a bar: each is a message to the browser.
_UPDATE_S = 0.2
# A step that ends sooner leaves no line.
_KEPT_S = 1.0


def in_notebook() -> bool:
    """Whether this is a notebook kernel, whose output is HTML; IPython in a terminal is not one."""
    module = sys.modules.get("IPython")
    shell = None if module is None else module.get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"


class NotebookProgress:
    """A Progress that displays one bar per step."""

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Report]:
        from IPython.display import HTML, display

        started = shown = time.monotonic()
        handle: Any = display(HTML(_bar(title, 0, total)), display_id=True)

        def report(done: int, total: int | None = total) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown >= _UPDATE_S:
                shown = now
                handle.update(HTML(_bar(title, done, total)))

        try:
            yield report
        finally:
            took = time.monotonic() - started
            handle.update(HTML(f"<div>{html.escape(title)}, {took:.0f} s</div>" if took >= _KEPT_S else ""))


def _bar(title: str, done: int, total: int | None) -> str:
    """Without a total, the browser shows an indeterminate bar."""
    value = f'value="{done}" max="{total}"' if total else ""
    return f"<div><progress {value}></progress> {html.escape(title)}</div>"
