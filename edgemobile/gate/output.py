"""A gate's report for CI and for pull requests: JUnit XML and GitHub's markdown."""

from __future__ import annotations

from edgemobile.gate.checks import Check, GateReport, Outcome
from edgemobile.util.junit import TestCase, junit_document
from edgemobile.util.markdown import markdown_text

__all__ = ["gate_junit", "gate_markdown", "totals"]

_MARKS = {
    Outcome.PASSED: "✅",
    Outcome.SKIPPED: "⏭️",
    Outcome.WOULD_RUN: "▶️",
    Outcome.UNSTABLE: "〰️",
    Outcome.FAILED: "❌",
}
_ERROR_MARK = "⚠️"


def gate_junit(report: GateReport) -> str:
    """One suite per model, one case per check. A check that could not run is an error, an unstable one is a failure."""
    suites: dict[str, list[TestCase]] = {}
    for check in report.checks:
        suites.setdefault(check.model, []).append(_case(check))
    return junit_document("edgemobile ci", suites)


def _case(check: Check) -> TestCase:
    words = check.words or (f"found {check.found}, allowed {check.allowed}",)
    failed = check.outcome in (Outcome.FAILED, Outcome.UNSTABLE)
    skipped = check.outcome in (Outcome.SKIPPED, Outcome.WOULD_RUN)
    error = not failed and not skipped and check.outcome is not Outcome.PASSED
    found = f"{check.found}; allowed: {check.allowed}" if check.allowed else check.found
    return TestCase(
        f"{check.what} on {check.place}",
        check.file or check.model,
        check.what,
        words if failed else (),
        found + ("; not changed, cached from an earlier run" if check.kept else ""),
        "; ".join(words) if error else "",
        "; ".join(words) if skipped else "",
        check.wall_s,
    )


def gate_markdown(report: GateReport) -> str:
    """The checks that did not pass in full, then a table of all checks."""
    lines = [f"### edgemobile ci: {'passed' if report.passed else 'FAILED'}", "", totals(report) + ".", ""]
    lines += [
        f"- {_mark(check)} **{markdown_text(check.model)}** {markdown_text(check.file)} {check.what} on "
        f"{markdown_text(check.place)}: {markdown_text('; '.join(check.words) or check.found)}"
        for check in report.checks
        if check.outcome is not Outcome.PASSED
    ]
    lines += ["", "<details><summary>all checks</summary>", ""]
    lines += ["| | model | file | check | on | found | allowed |", "|---|---|---|---|---|---:|---:|"]
    for check in report.checks:
        cells = (check.model, check.file, check.what, check.place, check.found, check.allowed)
        lines.append(f"| {_mark(check)} | " + " | ".join(map(markdown_text, cells)) + " |")
    return "\n".join([*lines, "", "</details>"]) + "\n"


def totals(report: GateReport) -> str:
    """ "40 checks of 4 models: 39 pass, 1 FAIL; 12 of them not changed since an earlier run"."""
    models = len({check.model for check in report.checks})
    counts = ", ".join(f"{count} {name}" for name, count in report.counts.items())
    kept = sum(check.kept for check in report.checks)
    words = f"{_counted(len(report.checks), 'check')} of {_counted(models, 'model')}: {counts}"
    return f"{words}; {kept} of them not changed since an earlier run" if kept else words


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _mark(check: Check) -> str:
    return _MARKS.get(check.outcome, _ERROR_MARK)
