"""What a command leaves for CI beside its own output: JUnit XML, and markdown where GitHub shows it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgemobile.errors import EdgemobileError, in_a_line
from edgemobile.util.strict_json import to_json_text
from edgemobile.util.writing import write_whole

__all__ = ["tell_ci", "telling_errors"]


@contextmanager
def telling_errors(title: str, junit: Path | None, *, as_json: bool) -> Iterator[None]:
    """What ends the block without a report stands in `junit`, where an earlier run may have left a green one.

    `title` is the command's. With `as_json` an EdgemobileError is on standard output, too.
    """
    try:
        yield
    except BaseException as error:
        known = isinstance(error, EdgemobileError)
        if junit is not None:
            # Where it cannot be written, the error that is on its way says more.
            with suppress(EdgemobileError):
                write_whole(junit, _error_xml(title, str(error) if known else _named(error)))
        if as_json and isinstance(error, EdgemobileError):
            print(to_json_text({"error": str(error), "exit_code": error.exit_code}), end="")
        raise


def _named(error: BaseException) -> str:
    name = type(error).__name__
    return name if in_a_line(error) == name else f"{name}: {in_a_line(error)}"


def _error_xml(title: str, words: str) -> str:
    from edgemobile.util.junit import TestCase, junit_document

    return junit_document(title, {title: [TestCase("run", title, "", (), "", error=words)]})


def tell_ci(
    junit: Path | None,
    junit_xml: Callable[[], str],
    github_summary: bool,
    markdown: Callable[[], str],
    *,
    on_screen: bool,
) -> None:
    """Write `junit`, and with `github_summary` append to $GITHUB_STEP_SUMMARY, or print where there is none."""
    if junit is not None:
        write_whole(junit, junit_xml())
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if github_summary and summary:
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(markdown())
        except OSError as error:
            raise EdgemobileError(f"cannot write {summary}: {error.strerror or error}") from error
    elif github_summary and on_screen:
        print(markdown())
