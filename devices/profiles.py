"""The boards a user named, as rows of ~/.config/edgemobile/devices.toml, and how each kind of address is opened.

    [pi5]
    address = "ssh://pi@raspberrypi.local"
    python = "python3.11"

Add a kind of address here: a row in SCHEMES and a transport. `local` and `emulated:CPU` need no row in the file.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgemobile.devices.adb import AdbTransport
from edgemobile.devices.emulated import EmulatedTransport
from edgemobile.devices.folders import cache_path, config_folder
from edgemobile.devices.local import LocalTransport
from edgemobile.devices.ssh import SshTransport
from edgemobile.devices.transport import Transport
from edgemobile.errors import EdgemobileError

__all__ = ["SCHEMES", "Device", "Scheme", "add_device", "devices_file", "find_device", "load_devices"]
__all__ += ["open_device", "remove_device"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_MAX_FILE_BYTES = 2**20


@dataclass(frozen=True)
class Device:
    """A board: what the user calls it, where it is, and what is special about it (keys of its scheme's `options`)."""

    name: str
    address: str
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name != self.address and not _NAME.fullmatch(self.name):
            raise EdgemobileError(f"device name {self.name!r}. Allowed: up to 64 letters, digits, '_' and '-'")
        row = self.row
        if not re.fullmatch(row.pattern, self.address):
            raise EdgemobileError(f"address {self.address!r} of device {self.name}. Allowed: {row.example}")
        for option, value in self.options.items():
            if option not in row.options:
                allowed = ", ".join(row.options) or "none"
                raise EdgemobileError(f"option {option!r} of device {self.name}. Options of {self.scheme}: {allowed}")
            if not value or any(ord(char) < 32 or ord(char) == 127 for char in value):
                raise EdgemobileError(
                    f"option {option} of device {self.name} is {value!r}; it must be one line of text"
                )

    @property
    def scheme(self) -> str:
        return self.address.partition(":")[0]

    @property
    def row(self) -> Scheme:
        if self.scheme not in SCHEMES:
            allowed = ", ".join(row.example for row in SCHEMES.values())
            raise EdgemobileError(f"address {self.address!r} of device {self.name}. Allowed: {allowed}")
        return SCHEMES[self.scheme]


@dataclass(frozen=True)
class Scheme:
    """A kind of address. `pattern` refuses whatever a program of the way there could take for an option."""

    example: str
    pattern: str
    options: tuple[str, ...]
    open: Callable[[Device], Transport]


def _open_local(device: Device) -> Transport:
    return LocalTransport(device.options.get("root"))


def _open_ssh(device: Device) -> Transport:
    found = re.fullmatch(SCHEMES["ssh"].pattern, device.address)
    assert found is not None
    return SshTransport(
        found["host"].strip("[]"),
        user=found["user"],
        port=found["port"],
        root=device.options.get("root"),
        config=device.options.get("config"),
        name=device.name,
    )


def _open_adb(device: Device) -> Transport:
    return AdbTransport(device.address.removeprefix("adb:"), root=device.options.get("root"), name=device.name)


def _open_emulated(device: Device) -> Transport:
    return EmulatedTransport(device.address.removeprefix("emulated:"))


_HOST = r"[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?\]"

SCHEMES: dict[str, Scheme] = {
    "local": Scheme("local", r"local", ("root",), _open_local),
    "ssh": Scheme(
        "ssh://user@host:port (user and port as in ~/.ssh/config where not given)",
        rf"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*)@)?(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?/?",
        ("root", "python", "config"),
        _open_ssh,
    ),
    "adb": Scheme("adb:SERIAL (see `adb devices`)", r"adb:[A-Za-z0-9][A-Za-z0-9._:-]*", ("root", "python"), _open_adb),
    "emulated": Scheme("emulated:cortex-a72", r"emulated:[a-z0-9][a-z0-9-]*", (), _open_emulated),
}

# What needs no row: this machine, and whatever is an address itself.
_LOCAL = Device("local", "local")


def open_device(name: str) -> tuple[Device, Transport]:
    """The device called `name` (or an address), and the way there. Nothing is connected yet.

    Raises EdgemobileError for a name nobody gave, MissingTool where the way needs a program that is not here.
    """
    device = find_device(name)
    return device, device.row.open(device)


def find_device(name: str) -> Device:
    """The row called `name`; `local` and addresses stand for themselves."""
    if ":" in name:
        return Device(name, name)
    devices = load_devices()
    if name not in devices:
        raise EdgemobileError(
            f"there is no device {name!r}. Known: {', '.join(devices)}. "
            f"Add it: edgemobile devices add {name if _NAME.fullmatch(name) else 'NAME'} ssh://USER@HOST"
        )
    return devices[name]


def devices_file() -> Path:
    """EDGEMOBILE_DEVICES, else devices.toml in our configuration folder."""
    given = os.environ.get("EDGEMOBILE_DEVICES")
    return Path(given) if given else config_folder() / "devices.toml"


def load_devices() -> dict[str, Device]:
    """`local` and the rows of `devices_file`, by name; an absent file has none.

    Raises EdgemobileError with the file and the line for anything a row does not allow.
    """
    return {_LOCAL.name: _LOCAL, **_parse(_text(), devices_file())}


def add_device(device: Device) -> None:
    """Append a row; comments and the other rows stay as they are. Raises EdgemobileError where the name is taken."""
    if device.name in load_devices():
        raise EdgemobileError(
            f"there is a device {device.name} already. Remove it: edgemobile devices remove {device.name}"
        )
    text = _text()
    lines = [f"[{device.name}]", f"address = {_quoted(device.address)}"]
    lines += [f"{option} = {_quoted(value)}" for option, value in device.options.items()]
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    _write(text + gap + "\n".join(lines) + "\n")


def remove_device(name: str) -> Device:
    """Take a row out, with the lines below its header, up to the next one. Returns what was there.

    Raises EdgemobileError for what is no row: `local`, an emulated core, an address.
    """
    rows = _parse(_text(), devices_file())
    if name not in rows:
        raise EdgemobileError(_no_row(name, rows))
    kept: list[str] = []
    dropping = False
    for line in _text().splitlines(keepends=True):
        if line.lstrip().startswith("["):
            dropping = _header(line) == name
        if not dropping:
            kept.append(line)
    _write("".join(kept).rstrip("\n") + "\n" if kept else "")
    return rows[name]


def _no_row(name: str, rows: Iterable[str]) -> str:
    if name == _LOCAL.name:
        return "local is this machine; it has no row to remove"
    if name.startswith("emulated:"):
        folder = cache_path("emulated")
        return f"{name} has no row to remove. To remove what all emulated cores share here, delete the folder {folder}"
    return f"{name} has no row in {devices_file()}. Rows that can be removed: {', '.join(rows) or 'none'}"


def _parse(text: str, file: Path) -> dict[str, Device]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise EdgemobileError(f"{file}: {error}") from error
    devices = {}
    for name, row in tables.items():
        if not isinstance(row, dict):
            raise EdgemobileError(f"{_at(text, file, name)}: {name} must be a row, [NAME], not a value")
        for key, value in row.items():
            if not isinstance(value, str):
                raise EdgemobileError(f"{_at(text, file, name, key)}: {key} of {name} must be text in quotes")
        if "address" not in row:
            raise EdgemobileError(f"{_at(text, file, name)}: [{name}] has no address")
        options = {key: value for key, value in row.items() if key != "address"}
        try:
            if name == _LOCAL.name:
                raise EdgemobileError("local is this machine; choose another name")
            devices[name] = Device(name, row["address"], options)
        except EdgemobileError as error:
            said = str(error)
            wrong = next((key for key in row if f"option {key!r}" in said or f"option {key} " in said), None)
            wrong = wrong or ("address" if said.startswith("address") else None)
            raise EdgemobileError(f"{_at(text, file, name, wrong)}: {error}") from error
    return devices


def _at(text: str, file: Path, name: str, key: str | None = None) -> str:
    """FILE:LINE of a row's header, or of a key in it."""
    header = 0
    for number, line in enumerate(text.splitlines(), 1):
        word = line.partition("=")[0].strip().strip("\"'")
        if line.lstrip().startswith("["):
            header = number if _header(line) == name else 0
            if header and key is None:
                return f"{file}:{number}"
        elif (word == key and header) or (word == name and not header):
            return f"{file}:{number}"
    return str(file)


def _header(line: str) -> str:
    return line.partition("#")[0].strip().strip("[]").strip().strip("\"'")


def _quoted(value: str) -> str:
    # Device allows no control characters, so these two are all a TOML basic string has to escape.
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text() -> str:
    file = devices_file()
    try:
        if file.stat().st_size > _MAX_FILE_BYTES:
            raise EdgemobileError(f"{file} is larger than {_MAX_FILE_BYTES} bytes; it is no list of devices")
        return file.read_text("utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise EdgemobileError(f"{file} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise EdgemobileError(f"cannot read {file}: {error.strerror or error}") from error


def _write(text: str) -> None:
    file = devices_file()
    _parse(text, file)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, "utf-8")
        os.replace(partial, file)
    except OSError as error:
        raise EdgemobileError(f"cannot write {file}: {error.strerror or error}") from error
