"""A parity report for CI and for pull requests: JUnit XML and GitHub's markdown."""

from __future__ import annotations

from pathlib import Path

from edgemobile.comparison.layers import LayerParity
from edgemobile.comparison.report import FAIL, NOT_COMPARED, PASS, REFUSED, FileParity, ParityReport
from edgemobile.metrics.measures import METRICS
from edgemobile.util.junit import TestCase, junit_document
from edgemobile.util.markdown import markdown_text

__all__ = ["junit_xml", "markdown", "shown", "worst_layers"]

# A summary shows only the layers around the first that diverges.
_SHOWN_LAYERS = 8
_MARKS = {PASS: "✅", NOT_COMPARED: "➖", FAIL: "❌", REFUSED: "refused"}


def junit_xml(report: ParityReport) -> str:
    """One test suite per report: a case for the outputs of each file, and one for its layers if they were compared."""
    cases = [case for file in report.files for case in _cases(file)]
    return junit_document("edgemobile parity", {f"parity with {report.reference}": cases})


def _cases(file: FileParity) -> list[TestCase]:
    group = f"{Path(file.file).name} on {file.place or 'no runtime'}"
    if file.refused:
        return [TestCase("outputs", group, "parity", (), "", error=file.refused)]
    inner = file.missed_layers
    found = ", ".join(f"{name} {shown(name, value)}" for name, value in file.metrics.items())
    cases = [TestCase("outputs", group, "parity", file.missed_outputs, found)]
    if file.layers or inner or file.not_compared:
        out = f"{len(file.layers)} compared, {len(file.unmatched)} not"
        cases.append(TestCase("layers", group, "parity", inner, out, skipped="" if inner else file.not_compared))
    return cases


def markdown(report: ParityReport) -> str:
    """A table of the files and, of those that diverge at a layer, the layers around it."""
    lines = [f"### Parity with {markdown_text(report.reference)}: {'passed' if report.passed else 'FAILED'}", ""]
    lines += [f"{markdown_text(report.images)}.", "", "| | file | runs on | " + " | ".join(METRICS) + " |"]
    lines.append("|---|---|---|" + "---:|" * len(METRICS))
    for file in report.files:
        values = " | ".join("-" if file.lacks(name) else shown(name, file.metrics[name]) for name in METRICS)
        mark = _MARKS[file.verdict]
        lines.append(f"| {mark} | {markdown_text(file.file)} | {markdown_text(file.place)} | {values} |")
    for file in report.files:
        lines += _details(file)
    return "\n".join(lines) + "\n"


def _details(file: FileParity) -> list[str]:
    if file.verdict == PASS:
        return []
    lines = [
        "",
        f"**{markdown_text(file.file)}** on {markdown_text(file.place)}",
        "",
        *(f"- {markdown_text(words)}" for words in file.reasons),
    ]
    if file.first_diverging is not None:
        lines += [
            "",
            "| layer | op | drift dB | own dB | with the reference's weights dB |",
            "|---|---|---:|---:|---:|",
        ]
        for layer in worst_layers(file):
            numbers = (layer.sqnr_db, layer.arithmetic_sqnr_db, layer.weights_sqnr_db)
            cells = " | ".join("-" if number is None else f"{number:.1f}" for number in numbers)
            name = markdown_text(layer.name)
            lines.append(f"| {f'**{name}**' if layer.diverges_in else name} | {layer.op} | {cells} |")
    return lines


def worst_layers(file: FileParity) -> list[LayerParity]:
    """The layers around the first that diverges; if none does, those with the lowest SQNR."""
    first = file.first_diverging
    if first is None:
        return sorted(file.layers, key=lambda layer: layer.sqnr_db)[:_SHOWN_LAYERS]
    start = max(0, file.layers.index(first) - _SHOWN_LAYERS // 2)
    return list(file.layers[start : start + _SHOWN_LAYERS])


def shown(metric: str, value: float) -> str:
    """A metric for display, rounded to its significant digits."""
    if metric == "top1_agree":
        return f"{value:.1%}"
    if metric == "cosine":
        return f"{value:.5f}"
    return f"{value:.1f}" if METRICS[metric].unit == "dB" else f"{value:.2g}"
