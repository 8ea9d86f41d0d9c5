"""JUnit XML, which every CI shows: suites, cases and their text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

__all__ = ["TestCase", "junit_document"]

# XML 1.0 cannot represent these characters.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class TestCase(NamedTuple):
    """One case of a JUnit suite. `missed` fails it, `error` means it could not be run, `skipped` is why it was not run.

    `out` is what was found, `kind` is what is checked (the type of a failure), `wall_s` is the duration.
    """

    name: str
    group: str
    kind: str
    missed: Sequence[str]
    out: str
    error: str = ""
    skipped: str = ""
    wall_s: float = 0.0


def junit_document(title: str, suites: Mapping[str, Sequence[TestCase]]) -> str:
    """JUnit XML of suites by name."""
    root = ElementTree.Element("testsuites", name=_text(title))
    for name, cases in suites.items():
        suite = ElementTree.SubElement(root, "testsuite", attrib={"name": _text(name), **_counts(cases)})
        for case in cases:
            _add_case(suite, case)
    root.attrib |= _counts([case for cases in suites.values() for case in cases])
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _counts(cases: Sequence[TestCase]) -> dict[str, str]:
    return {
        "tests": str(len(cases)),
        "failures": str(sum(bool(case.missed) for case in cases)),
        "errors": str(sum(bool(case.error) for case in cases)),
        "skipped": str(sum(bool(case.skipped) for case in cases)),
        "time": f"{sum(case.wall_s for case in cases):.3f}",
    }


def _add_case(suite: ElementTree.Element, case: TestCase) -> None:
    element = ElementTree.SubElement(
        suite, "testcase", name=_text(case.name), classname=_text(case.group), time=f"{case.wall_s:.3f}"
    )
    if case.missed:
        failure = ElementTree.SubElement(element, "failure", message=_text(case.missed[0]), type=_text(case.kind))
        failure.text = _text("\n".join(case.missed))
    if case.error:
        ElementTree.SubElement(element, "error", message=_text(case.error), type="error")
    if case.skipped:
        ElementTree.SubElement(element, "skipped", message=_text(case.skipped))
    ElementTree.SubElement(element, "system-out").text = _text(case.out)


def _text(text: str) -> str:
    return _NOT_XML.sub("?", text)
