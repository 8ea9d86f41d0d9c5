"""The boards that the user added, as rows of ~/.config/edgemobile/devices.toml, and how each kind of address is opened.

    [pi5]
    address = "ssh://pi@raspberrypi.local"
    python = "python3.11"
    tags = ["lab2"]

To add a kind of address: a row in SCHEMES and a transport. `local` and `emulated:CPU` need no row in the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgemobile.devices.host.adb import AdbTransport
from edgemobile.devices.host.emulated import EmulatedTransport
from edgemobile.devices.host.folders import cache_path, config_folder
from edgemobile.devices.host.local import LocalTransport
from edgemobile.devices.host.processes import require_posix
from edgemobile.devices.host.ssh import SshTransport
from edgemobile.devices.host.transport import Transport
from edgemobile.errors import EdgemobileError
from edgemobile.util.config_file import ConfigFile, read_config
from edgemobile.util.locking import locked
from edgemobile.util.writing import write_whole

__all__ = ["SCHEMES", "Device", "Scheme", "add_device", "devices_file", "find_device", "load_devices"]
__all__ += ["open_device", "remove_device"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_LAST_PORT = 65535


@dataclass(frozen=True)
class Device:
    """A board: the user's name for it, its address, its options (keys of its scheme's `options`), and the tags that
    group it with others."""

    name: str
    address: str
    options: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name != self.address and not _NAME.fullmatch(self.name):
            raise EdgemobileError(f"device name {self.name!r}. Allowed: up to 64 letters, digits, '_' and '-'")
        for tag in self.tags:
            if not _NAME.fullmatch(tag):
                raise EdgemobileError(
                    f"tag {tag!r} of device {self.name}. Allowed: up to 64 letters, digits, '_' and '-'"
                )
        row = self.row
        found = re.fullmatch(row.pattern, self.address)
        if not found:
            raise EdgemobileError(f"address {self.address!r} of device {self.name}. Allowed: {row.example}")
        port = found.groupdict().get("port")
        if port and not 1 <= int(port) <= _LAST_PORT:
            raise EdgemobileError(
                f"port {port} in address {self.address!r} of device {self.name}. Allowed: 1 to {_LAST_PORT}"
            )
        for option, value in self.options.items():
            if option not in row.options:
                allowed = ", ".join(row.options) or "none"
                raise EdgemobileError(f"option {option!r} of device {self.name}. Options of {self.scheme}: {allowed}")
            if not value or any(ord(char) < 32 or ord(char) == 127 for char in value):
                raise EdgemobileError(
                    f"option {option} of device {self.name} is {value!r}; it must be one line of text"
                )
            if option == "root":
                self._check_root(value)

    def open(self) -> Transport:
        """The transport to the board, not yet connected.

        Raises MissingTool if the transport needs a program that is not installed, Unsupported on Windows.
        """
        require_posix()
        return self.row.open(self)

    def _check_root(self, path: str) -> None:
        if set("~$") & set(path):
            why = "'~' and '$' are not expanded"
        elif not (self.row.has_home or path.startswith("/")):
            why = f"{self.scheme} has no home folder for a relative path"
        else:
            return
        also = ", or one relative to the home there" if self.row.has_home else ""
        raise EdgemobileError(f"option root of device {self.name} is {path!r}; {why}. Allowed: an absolute path{also}")

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
    """A kind of address. `pattern` refuses text that a program of the transport could read as an option. If the
    transport `has_home`, a `root` may be relative to it.
    """

    example: str
    pattern: str
    options: tuple[str, ...]
    open: Callable[[Device], Transport]
    has_home: bool = False


def _open_local(device: Device) -> Transport:
    return LocalTransport(device.options.get("root"))


def _open_ssh(device: Device) -> Transport:
    found = re.fullmatch(SCHEMES["ssh"].pattern, device.address)
    assert found is not None
    config = device.options.get("ssh_config")
    return SshTransport(
        found["host"].strip("[]"),
        user=found["user"],
        port=found["port"],
        root=device.options.get("root"),
        config=str(Path(config).expanduser()) if config else None,
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
        "ssh://user@host:port (default user and port: those of ~/.ssh/config)",
        rf"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*)@)?(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?/?",
        ("root", "python", "ssh_config"),
        _open_ssh,
        has_home=True,
    ),
    "adb": Scheme("adb:SERIAL (see `adb devices`)", r"adb:[A-Za-z0-9][A-Za-z0-9._:-]*", ("root", "python"), _open_adb),
    "emulated": Scheme("emulated:cortex-a72", r"emulated:[a-z0-9][a-z0-9-]*", (), _open_emulated),
}

# Devices without a row: this machine, and addresses.
_LOCAL = Device("local", "local")


def open_device(name: str) -> tuple[Device, Transport]:
    """The device called `name` (or an address), and the transport to it, not yet connected.

    Raises EdgemobileError for an unknown name, and as Device.open does.
    """
    device = find_device(name)
    return device, device.open()


def find_device(name: str) -> Device:
    """The row called `name`; `local` and addresses need no row."""
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
    """EDGEMOBILE_DEVICES, else devices.toml in edgemobile's configuration folder."""
    given = os.environ.get("EDGEMOBILE_DEVICES")
    return Path(given) if given else config_folder() / "devices.toml"


def load_devices() -> dict[str, Device]:
    """`local` and the rows of `devices_file`, by name; a missing file has none.

    Raises EdgemobileError with the file and the line for anything a row does not allow.
    """
    return {_LOCAL.name: _LOCAL, **_rows(_read())}


def add_device(device: Device) -> None:
    """Append a row; comments and the other rows are unchanged. Raises EdgemobileError if the name is taken."""
    with _alone():
        _add(device)


def _add(device: Device) -> None:
    config = _read()
    if device.name in {_LOCAL.name, *_rows(config)}:
        raise EdgemobileError(
            f"device {device.name} exists already. Remove it: edgemobile devices remove {device.name}"
        )
    lines = [f"[{device.name}]", f"address = {_quoted(device.address)}"]
    lines += [f"{option} = {_quoted(value)}" for option, value in device.options.items()]
    lines += [f"tags = [{', '.join(map(_quoted, device.tags))}]"] if device.tags else []
    gap = "" if not config.text else "\n" if config.text.endswith("\n") else "\n\n"
    _write(config.text + gap + "\n".join(lines) + "\n")


def remove_device(name: str) -> Device:
    """Remove a row, with the lines from its header to the next. Returns the removed device.

    Raises EdgemobileError for a device without a row: `local`, an emulated core, an address.
    """
    with _alone():
        config = _read()
        rows = _rows(config)
        if name not in rows:
            raise EdgemobileError(_no_row(name, rows))
        kept = config.without(name).rstrip("\n")
        _write(f"{kept}\n" if kept else "")
    return rows[name]


def _no_row(name: str, rows: Iterable[str]) -> str:
    if name == _LOCAL.name:
        return "local is this machine; it has no row to remove"
    if name.startswith("emulated:"):
        folder = cache_path("emulated")
        return f"{name} has no row to remove. To remove what all emulated cores share here, delete the folder {folder}"
    return f"{name} has no row in {devices_file()}. Rows that can be removed: {', '.join(rows) or 'none'}"


def _read() -> ConfigFile:
    file = devices_file()
    return read_config(file) if file.exists() else ConfigFile(file, "", {})


@contextmanager
def _alone() -> Iterator[None]:
    """Locks the file against other processes."""
    file = Path(os.path.realpath(devices_file()))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgemobileError(f"cannot write {file}: {error.strerror or error}") from error
    with locked(file.with_name(f".{file.name}.lock")):
        yield


def _write(text: str) -> None:
    write_whole(devices_file(), text)


def _rows(config: ConfigFile) -> dict[str, Device]:
    return {name: _row(config, name, row) for name, row in config.tables.items()}


def _row(config: ConfigFile, name: str, row: Any) -> Device:
    if name == _LOCAL.name:
        raise config.wrong((name,), "local is this machine; choose another name")
    if not isinstance(row, dict):
        raise config.wrong((name,), "must be a row, [NAME], not a value")
    tags = row.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise config.wrong((name, "tags"), f'must be a list such as ["lab2"], found {tags!r}')
    texts = {key: value for key, value in row.items() if key != "tags"}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise config.wrong((name, key), f"must be text in quotes, found {value!r}")
    if "address" not in row:
        raise config.wrong((name,), "has no address")
    address = row["address"]
    options = {key: value for key, value in texts.items() if key != "address"}
    # One after another, to find which one is wrong: the name, the address, an option or the tags.
    parts: list[tuple[tuple[str, ...], str, dict[str, str], tuple[str, ...]]] = [
        ((name,), _LOCAL.address, {}, ()),
        ((name, "address"), address, {}, ()),
    ]
    parts += [((name, key), address, {key: value}, ()) for key, value in options.items()]
    parts += [((name, "tags"), address, {}, tuple(tags))]
    for keys, to, having, tagged in parts:
        try:
            Device(name, to, having, tagged)
        except EdgemobileError as error:
            raise config.wrong(keys, str(error)) from error
    return Device(name, address, options, tuple(tags))


def _quoted(value: str) -> str:
    # Device allows no control characters, so only these two need an escape in a TOML basic string.
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
