"""A parity report for machines and for people who look at a pull request: JUnit XML and GitHub's markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from edgemobile.metrics import METRICS
from edgemobile.parity.layers import LayerParity
from edgemobile.parity.report import FileParity, ParityReport

__all__ = ["TestCase", "junit_document", "junit_xml", "markdown", "markdown_cell", "shown", "worst_layers"]

# Only the layers around the first that parts help in a summary.
_SHOWN_LAYERS = 8
# XML 1.0 has no word for these.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class TestCase(NamedTuple):
    """One case of a JUnit suite. `missed` fails it, `error` means it could not be tried, `skipped` says why it was not.

    `out` is what was found.
    """

    name: str
    group: str
    missed: Sequence[str]
    out: str
    error: str = ""
    skipped: str = ""


def junit_xml(report: ParityReport) -> str:
    """A test suite a report: a case for the outputs of each file and, where they were compared, one for its layers."""
    cases = [case for file in report.files for case in _cases(file)]
    return junit_document("edgemobile parity", {f"parity with {report.reference}": cases})


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
        "time": "0",
    }


def _add_case(suite: ElementTree.Element, case: TestCase) -> None:
    element = ElementTree.SubElement(suite, "testcase", name=_text(case.name), classname=_text(case.group), time="0")
    if case.missed:
        failure = ElementTree.SubElement(element, "failure", message=_text(case.missed[0]), type="parity")
        failure.text = _text("\n".join(case.missed))
    if case.error:
        ElementTree.SubElement(element, "error", message=_text(case.error), type="error")
    if case.skipped:
        ElementTree.SubElement(element, "skipped", message=_text(case.skipped))
    ElementTree.SubElement(element, "system-out").text = _text(case.out)


def _cases(file: FileParity) -> list[TestCase]:
    group = f"{Path(file.file).name} on {file.place}"
    inner = [missed for missed in file.missed if missed.startswith(("layer", "no layer"))]
    outer = [missed for missed in file.missed if missed not in inner]
    found = ", ".join(f"{name} {shown(name, value)}" for name, value in file.metrics.items())
    cases = [TestCase("outputs", group, outer, found)]
    if file.layers or inner:
        cases.append(TestCase("layers", group, inner, f"{len(file.layers)} compared, {len(file.unmatched)} not"))
    return cases


def _text(text: str) -> str:
    return _NOT_XML.sub("?", text)


def markdown(report: ParityReport) -> str:
    """A table of the files and, of those that part by a layer, the layers around it."""
    lines = [f"### Parity with {markdown_cell(report.reference)}: {'passed' if report.passed else 'FAILED'}", ""]
    lines += [f"{markdown_cell(report.images)}.", "", "| | file | runs on | " + " | ".join(METRICS) + " |"]
    lines.append("|---|---|---|" + "---:|" * len(METRICS))
    for file in report.files:
        values = " | ".join(shown(name, file.metrics[name]) for name in METRICS)
        mark = "✅" if file.passed else "❌"
        lines.append(f"| {mark} | {markdown_cell(file.file)} | {markdown_cell(file.place)} | {values} |")
    for file in report.files:
        lines += _details(file)
    return "\n".join(lines) + "\n"


def _details(file: FileParity) -> list[str]:
    if file.passed:
        return []
    lines = [
        "",
        f"**{markdown_cell(file.file)}** on {markdown_cell(file.place)}",
        "",
        *(f"- {markdown_cell(missed)}" for missed in file.missed),
    ]
    if file.first_parted is not None:
        lines += [
            "",
            "| layer | op | drift dB | own dB | with the reference's weights dB |",
            "|---|---|---:|---:|---:|",
        ]
        for layer in worst_layers(file):
            numbers = (layer.sqnr_db, layer.own_db, layer.constants_db)
            cells = " | ".join("-" if number is None else f"{number:.1f}" for number in numbers)
            name = f"**{layer.name}**" if layer.parted else layer.name
            lines.append(f"| {markdown_cell(name)} | {layer.op} | {cells} |")
    return lines


def worst_layers(file: FileParity) -> list[LayerParity]:
    """The layers around the first that parts; the noisiest ones where none does."""
    first = file.first_parted
    if first is None:
        return sorted(file.layers, key=lambda layer: layer.sqnr_db)[:_SHOWN_LAYERS]
    start = max(0, file.layers.index(first) - _SHOWN_LAYERS // 2)
    return list(file.layers[start : start + _SHOWN_LAYERS])


def shown(metric: str, value: float) -> str:
    """A metric for people: as many digits as say something."""
    if metric == "top1_agree":
        return f"{value:.1%}"
    if metric == "cosine":
        return f"{value:.5f}"
    return f"{value:.1f}" if METRICS[metric].unit == "dB" else f"{value:.2g}"


def markdown_cell(text: str) -> str:
    return re.sub(r"([|<>*_`\[\]\\])", r"\\\1", text).replace("\n", " ").replace(r"\*\*", "**")
