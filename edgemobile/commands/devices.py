"""`edgemobile devices`: the boards a user added, what each is, and how to install a runtime on it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from edgemobile.commands.completion import complete_device_rows, complete_devices
from edgemobile.devices.runtimes.table import CARRIED, DEFAULTS, RUNTIMES, runtime_called
from edgemobile.errors import EdgemobileError
from edgemobile.printing.terminal import console, format_table, of_device, print_error, progress
from edgemobile.util.strict_json import to_json_text

if TYPE_CHECKING:
    from edgemobile.devices.host.records import Conditions, Facts

__all__ = ["devices"]


@click.group()
def devices() -> None:
    """The boards to measure on: rows of ~/.config/edgemobile/devices.toml.

    `local` is this machine and `emulated:cortex-a72` an emulated core; neither needs a row.
    """


@devices.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_devices(as_json: bool) -> None:
    """List the boards, without connecting to them."""
    from edgemobile.devices.host.emulation import CORES
    from edgemobile.devices.host.profiles import devices_file, load_devices

    rows = load_devices()
    if as_json:
        listed = [
            {"name": row.name, "address": row.address, **row.options, **({"tags": list(row.tags)} if row.tags else {})}
            for row in rows.values()
        ]
        print(to_json_text(listed), end="")
        return
    table = format_table(escape(str(devices_file())), ["name", "address", "options", "tags"], left=4)
    for row in rows.values():
        options = ", ".join(f"{option} = {value}" for option, value in row.options.items())
        table.add_row(escape(row.name), escape(row.address), escape(options), escape(", ".join(row.tags)))
    for core in CORES.values():
        table.add_row(f"emulated:{core.cpu}", "", f"[dim]the core of {core.board}[/dim]")
    console().print(table)


@devices.command()
@click.argument("name")
@click.argument("address")
@click.option("--root", help="Folder on the board. [default: ~/.cache/edgemobile there]")
@click.option("--python", help="Python on the board. [default: python3]")
@click.option("--ssh-config", help="ssh configuration to use instead of yours.")
@click.option(
    "--tag", "tags", multiple=True, help="A group of boards that this one is in: --on tag:TAG. Repeat it for others."
)
def add(name: str, address: str, tags: tuple[str, ...], **options: str | None) -> None:
    """Add a board called NAME.

    \b
    Examples:
      edgemobile devices add pi5 ssh://pi@raspberrypi.local
      edgemobile devices add pi-1 ssh://pi@10.0.0.11 --tag lab2 --tag pi4
      edgemobile devices add jetson ssh://jetson            a Host of ~/.ssh/config
      edgemobile devices add phone adb:R58M123ABC
    """
    from edgemobile.devices.host.profiles import Device, add_device, devices_file

    device = Device(name, address, {key: value for key, value in options.items() if value is not None}, tags)
    add_device(device)
    screen = console()
    screen.print(f"added {name} to {escape(str(devices_file()))}")
    screen.print(f"next: edgemobile devices setup {name}")


@devices.command()
@click.argument("name", shell_complete=complete_device_rows)
def remove(name: str) -> None:
    """Remove the board called NAME from the list. Nothing on the board is deleted."""
    from edgemobile.devices.host.profiles import remove_device

    device = remove_device(name)
    console().print(f"removed {escape(device.name)} ({escape(device.address)})")


@devices.command()
@click.argument("name", shell_complete=complete_devices)
@click.option(
    "--runtime",
    "runtimes",
    type=click.Choice([name for row in CARRIED for name in (row, *RUNTIMES[row].aliases)]),
    multiple=True,
    help=f"Runtime to install; may be repeated. [default: {' and '.join(DEFAULTS)}]",
)
@click.option("-q", "--quiet", is_flag=True, help="Print only the result, no progress.")
def setup(name: str, runtimes: tuple[str, ...], quiet: bool) -> int:
    """Install edgemobile's modules and pinned runtimes on the board NAME, or on several: 'pi-*', tag:TAG.

    The board needs Python 3.9 to 3.14 on a 64-bit system, and no network: wheels are downloaded here and copied.
    For emulated:CPU the aarch64 userland is installed first. If it is interrupted, run it again to finish. Of several
    boards, one that cannot be set up is reported, and the others are.
    """
    from edgemobile.devices.host.selection import select_devices

    names, code = select_devices(name), 0
    for board in names:
        try:
            _setup(board, runtimes, quiet=quiet)
        except EdgemobileError as error:
            if len(names) == 1:
                raise
            print_error(of_device(error, board))
            code = code or error.exit_code
    return code


def _setup(name: str, runtimes: tuple[str, ...], *, quiet: bool) -> None:
    from edgemobile.devices.host.emulation import install_emulation
    from edgemobile.devices.host.profiles import find_device
    from edgemobile.devices.host.setup import setup as put_runtimes

    device = find_device(name)
    with progress(quiet=quiet) as bars:
        if device.scheme == "emulated":
            install_emulation(device.address.partition(":")[2], bars)
        with closing(device.open()) as transport:
            done = put_runtimes(device, transport, tuple(map(runtime_called, runtimes)) or DEFAULTS, bars)
            root = transport.root
    screen = console()
    for runtime, what in done.items():
        screen.print(f"{runtime:15} {escape(what)}")
    screen.print(f"{escape(name)} is ready; all files of edgemobile are in {escape(root)}")


@devices.command()
@click.argument("name", shell_complete=complete_devices)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def probe(name: str, as_json: bool) -> None:
    """Show the hardware, system and current operating conditions of the board NAME. '-': not reported by the board."""
    from edgemobile.devices.host.profiles import open_device
    from edgemobile.devices.host.records import probed
    from edgemobile.devices.host.setup import probe as ask
    from edgemobile.util.strict_json import encode

    device, transport = open_device(name)
    with closing(transport):
        facts, conditions = probed(ask(device, transport))
    if as_json:
        record = {"facts": encode(facts), "conditions": encode(conditions), "emulated": transport.emulated}
        print(to_json_text(record), end="")
        return
    _print_probe(name, facts, conditions, emulated=transport.emulated)


def _print_probe(name: str, facts: Facts, conditions: Conditions, *, emulated: bool) -> None:
    screen = console()
    screen.print(f"[bold]{escape(name)}[/bold]  {escape(facts.model or '-')}{'  (emulated)' if emulated else ''}")
    kinds: dict[str, int] = {}
    for core in facts.cores:
        clock = f" {core.max_mhz:.0f} MHz" if core.max_mhz else ""
        kinds[f"{core.kind or 'unknown'}{clock}"] = kinds.get(f"{core.kind or 'unknown'}{clock}", 0) + 1
    rows = {
        "SoC": facts.soc,
        "cores": ", ".join(f"{count} x {kind}" for kind, count in kinds.items()),
        "features": " ".join(facts.features),
        "memory": facts.memory_mib and f"{facts.memory_mib:.0f} MiB",
        "system": f"{facts.os}, kernel {facts.kernel}, {facts.machine}, {facts.bits} bit",
        "Python": facts.python,
        "runtimes": ", ".join(f"{key} {version}" for key, version in facts.runtimes.items() if version) or "none",
    }
    if not emulated:
        rows |= {
            "governor": conditions.governor,
            "clock": _shown(conditions.freq_mhz, " MHz"),
            "temperature": _shown(conditions.temp_c, " °C"),
            "throttled": None if conditions.throttled is None else f"0x{conditions.throttled:x}",
            "load": _shown(conditions.load1, ""),
        }
    for what, value in rows.items():
        screen.print(f"  [dim]{what:12}[/dim] {escape(str(value)) if value not in (None, '') else '-'}")


def _shown(value: object, unit: str) -> str | None:
    if value is None or value == ():
        return None
    values = value if isinstance(value, (tuple, list)) else (value,)
    return ", ".join(f"{one:g}{unit}" if isinstance(one, (int, float)) else f"{one}{unit}" for one in values)
