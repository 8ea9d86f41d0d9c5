"""What a command writes for CI besides its own output: JUnit XML, and markdown for GitHub's job summary."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from edgemobile.commands.writable import check_writable
from edgemobile.errors import EdgemobileError, in_a_line
from edgemobile.util.strict_json import to_json_text
from edgemobile.util.writing import write_whole

__all__ = ["tell_ci", "telling_errors"]

_UNFINISHED = "did not finish: it is still running, or was killed"
_XML = b"<?xml"


@contextmanager
def telling_errors(
    title: str, junit: Path | None, *, as_json: bool, inputs: Sequence[Path | str | None] = ()
) -> Iterator[None]:
    """Write to `junit` at the start that the block did not finish, and the error if it ends without a report.

    `title` is the command's. With `as_json` an EdgemobileError is also printed to standard output. A `junit` that is
    one of the command's `inputs`, or an existing file that is not JUnit XML, is refused and not changed.
    """
    ours = False
    try:
        check_writable("--junit", junit, inputs)
        _check_replaceable(junit)
        ours = junit is not None
        # Only for files: a pipe's reader expects one document. A file may contain an earlier run's result if this run
        # is killed.
        if junit is not None and (junit.is_file() or not junit.exists()):
            write_whole(junit, _error_xml(title, _UNFINISHED))
        yield
    except BaseException as error:
        if junit is not None and ours:
            # If it cannot be written, the error being raised is the more useful one.
            with suppress(EdgemobileError):
                write_whole(junit, _error_xml(title, _words(error)))
        if as_json and isinstance(error, EdgemobileError):
            print(to_json_text({"error": str(error), "exit_code": error.exit_code}), end="")
        raise


def _check_replaceable(junit: Path | None) -> None:
    """Raises EdgemobileError for an existing file that is not JUnit XML, such as a path from a wrong configuration."""
    if junit is None or not junit.is_file():
        return
    try:
        with junit.open("rb") as file:
            start = file.read(len(_XML))
    except OSError as error:
        raise EdgemobileError(f"--junit {junit}: cannot read what is there: {error.strerror or error}") from error
    if start and start != _XML:
        raise EdgemobileError(f"--junit {junit} is not a JUnit file, and would be overwritten: choose another file")


def _words(error: BaseException) -> str:
    name = type(error).__name__
    if isinstance(error, EdgemobileError):
        return str(error)
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
