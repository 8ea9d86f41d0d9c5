"""`edgemobile doctor`: what is missing here or on a board, and the command that fixes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from edgemobile.commands.completion import complete_devices
from edgemobile.printing.terminal import console
from edgemobile.util.strict_json import to_json_text

if TYPE_CHECKING:
    from edgemobile.devices.host.diagnosis import Finding

__all__ = ["doctor"]


@click.command()
@click.option(
    "--on",
    metavar="DEVICE,...",
    shell_complete=complete_devices,
    help="Check these boards as well: names, patterns such as 'pi-*', tag:TAG (see `edgemobile devices list`).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(on: str | None, as_json: bool) -> int:
    """List what is missing here or on boards, each with the command that fixes it.

    The exit code is 0 when everything needed is there, 3 when something is missing, 4 when a board does not answer.
    """
    findings = list(_findings(on))
    code = max(finding.exit_code for finding in findings)
    if as_json:
        print(to_json_text({"findings": [asdict(finding) for finding in findings], "exit_code": code}), end="")
        return code
    screen = console()
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        sign = "[red]✗[/red]" if finding.exit_code else "[yellow]![/yellow]" if finding.remedy else "[green]✓[/green]"
        screen.print(f"{sign} {escape(finding.what.ljust(width))}  {escape(finding.found)}")
        if finding.remedy:
            screen.print(f"  {' ' * width}  [bold]{escape(finding.remedy)}[/bold]")
    return code


def _findings(on: str | None) -> Iterator[Finding]:
    from edgemobile.devices.host.diagnosis import diagnose_host
    from edgemobile.devices.host.selection import select_devices

    names = () if on is None else select_devices(on)
    yield from diagnose_host()
    for name in names:
        for finding in _of_board(name):
            yield replace(finding, what=f"{name}: {finding.what}") if len(names) > 1 else finding


def _of_board(name: str) -> Iterator[Finding]:
    from edgemobile.devices.host.diagnosis import diagnose_board, diagnose_state
    from edgemobile.devices.host.profiles import open_device
    from edgemobile.devices.host.records import probed
    from edgemobile.devices.host.setup import probe

    device, transport = open_device(name)
    with closing(transport):
        about = list(diagnose_board(device, transport))
        yield from about
        if transport.emulated or any(finding.what == "connection" and finding.exit_code for finding in about):
            return
        if not any(finding.what == "python" and finding.exit_code for finding in about):
            facts, now = probed(probe(device, transport))
            yield from diagnose_state(
                governor=now.governor,
                temp_c=now.temp_c,
                throttled=now.throttled,
                load1=now.load1,
                cores=len(facts.cores),
            )
