"""A parity report for machines and for people who look at a pull request: JUnit XML and GitHub's markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from edgemobile.layer_parity import LayerParity
from edgemobile.metrics import METRICS
from edgemobile.parity_report import FileParity, ParityReport

__all__ = ["junit_xml", "markdown", "shown", "worst_layers"]

# Only the layers around the first that parts help in a summary.
_SHOWN_LAYERS = 8
# XML 1.0 has no word for these.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(report: ParityReport) -> str:
    """A test suite a report: a case for the outputs of each file and, where they were compared, one for its layers."""
    suites = ElementTree.Element("testsuites", name="edgemobile parity")
    suite = ElementTree.SubElement(suites, "testsuite", name=_text(f"parity with {report.reference}"))
    cases = [case for file in report.files for case in _cases(file)]
    for name, group, missed, out in cases:
        case = ElementTree.SubElement(suite, "testcase", name=_text(name), classname=_text(group), time="0")
        if missed:
            failure = ElementTree.SubElement(case, "failure", message=_text(missed[0]), type="parity")
            failure.text = _text("\n".join(missed))
        ElementTree.SubElement(case, "system-out").text = _text(out)
    failures = sum(bool(missed) for _, _, missed, _ in cases)
    for element in (suites, suite):
        element.attrib |= {"tests": str(len(cases)), "failures": str(failures), "errors": "0", "time": "0"}
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _cases(file: FileParity) -> list[tuple[str, str, Sequence[str], str]]:
    """(name, group, what was missed, what was found) of each test case."""
    group = f"{Path(file.file).name} on {file.place}"
    inner = [missed for missed in file.missed if missed.startswith(("layer", "no layer"))]
    outer = [missed for missed in file.missed if missed not in inner]
    found = ", ".join(f"{name} {shown(name, value)}" for name, value in file.metrics.items())
    cases: list[tuple[str, str, Sequence[str], str]] = [("outputs", group, outer, found)]
    if file.layers or inner:
        cases.append(("layers", group, inner, f"{len(file.layers)} compared, {len(file.unmatched)} not"))
    return cases


def _text(text: str) -> str:
    return _NOT_XML.sub("?", text)


def markdown(report: ParityReport) -> str:
    """A table of the files and, of those that part by a layer, the layers around it."""
    lines = [f"### Parity with {_cell(report.reference)}: {'passed' if report.passed else 'FAILED'}", ""]
    lines += [f"{_cell(report.images)}.", "", "| | file | runs on | " + " | ".join(METRICS) + " |"]
    lines.append("|---|---|---|" + "---:|" * len(METRICS))
    for file in report.files:
        values = " | ".join(shown(name, file.metrics[name]) for name in METRICS)
        mark = "✅" if file.passed else "❌"
        lines.append(f"| {mark} | {_cell(file.file)} | {_cell(file.place)} | {values} |")
    for file in report.files:
        lines += _details(file)
    return "\n".join(lines) + "\n"


def _details(file: FileParity) -> list[str]:
    if file.passed:
        return []
    lines = [
        "",
        f"**{_cell(file.file)}** on {_cell(file.place)}",
        "",
        *(f"- {_cell(missed)}" for missed in file.missed),
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
            lines.append(f"| {_cell(name)} | {layer.op} | {cells} |")
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


def _cell(text: str) -> str:
    return re.sub(r"([|<>*_`\[\]\\])", r"\\\1", text).replace("\n", " ").replace(r"\*\*", "**")
