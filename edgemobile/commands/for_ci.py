"""What a command leaves for CI beside its own output: JUnit XML, and markdown where GitHub shows it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from edgemobile.errors import EdgemobileError

__all__ = ["tell_ci"]


def tell_ci(
    junit: Path | None,
    junit_xml: Callable[[], str],
    github_summary: bool,
    markdown: Callable[[], str],
    *,
    on_screen: bool,
) -> None:
    """Write `junit`, and with `github_summary` append to $GITHUB_STEP_SUMMARY, or print where there is none."""
    try:
        if junit is not None:
            junit.write_text(junit_xml(), encoding="utf-8")
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if github_summary and summary:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(markdown())
        elif github_summary and on_screen:
            print(markdown())
    except OSError as error:
        raise EdgemobileError(f"cannot write {error.filename}: {error.strerror}") from error
