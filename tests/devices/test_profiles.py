"""devices.toml: written, read back, and refused with the line that is wrong."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgemobile.devices.host import profiles
from edgemobile.devices.host.local import LocalTransport
from edgemobile.devices.host.profiles import (
    Device,
    add_device,
    devices_file,
    find_device,
    load_devices,
    open_device,
    remove_device,
)
from edgemobile.devices.host.ssh import SshTransport
from edgemobile.errors import EdgemobileError
from edgemobile.util.writing import write_whole


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEMOBILE_DEVICES", str(tmp_path / "devices.toml"))
    return tmp_path / "devices.toml"


def test_the_file_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGEMOBILE_DEVICES")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert devices_file() == tmp_path / "edgemobile/devices.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert devices_file() == Path.home() / ".config/edgemobile/devices.toml"


def test_rows_added_at_the_same_time_are_all_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(path: Path, text: str) -> None:
        time.sleep(0.02)
        write_whole(path, text)

    monkeypatch.setattr(profiles, "write_whole", slowly)
    add_device(Device("gone", "ssh://gone"))
    with ThreadPoolExecutor(9) as pool:
        done = [pool.submit(add_device, Device(f"pi{number}", f"ssh://pi{number}")) for number in range(8)]
        done.append(pool.submit(remove_device, "gone"))
    for one in done:
        one.result()
    assert set(load_devices()) == {"local", *(f"pi{number}" for number in range(8))}


def test_rows_go_in_and_out_and_leave_the_rest_alone(file: Path) -> None:
    file.write_text('# mine\n[pi4]\naddress = "ssh://pi4" # old\n')
    options = {"root": 'a "quoted" \\ folder', "python": "python3.11"}
    row = Device("pi5", "ssh://pi@raspberrypi.local:2222", options, ("lab2", "fast"))
    add_device(row)
    assert load_devices() == {"local": Device("local", "local"), "pi4": Device("pi4", "ssh://pi4"), "pi5": row}
    assert file.read_text().startswith('# mine\n[pi4]\naddress = "ssh://pi4" # old\n')
    with pytest.raises(EdgemobileError, match="devices remove pi5"):
        add_device(row)
    assert remove_device("pi5") == row
    assert file.read_text() == '# mine\n[pi4]\naddress = "ssh://pi4" # old\n'
    remove_device("pi4")
    assert list(load_devices()) == ["local"]
    with pytest.raises(EdgemobileError, match="pi4 has no row"):
        remove_device("pi4")


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        ('pi5.address = "ssh://pi5"\npi5.root = """\n[x]"""\n', ""),
        ('# of pi5\npi5 = { address = "ssh://pi5" }\n', "# of pi5\n"),
        ('"pi5".address = "ssh://pi5"\n[pi4]\naddress = "ssh://pi4"\n', '[pi4]\naddress = "ssh://pi4"\n'),
        ('[ "pi5" ] # mine\naddress = "ssh://pi5"\n\n[pi4]\naddress = "ssh://pi5"\n', '[pi4]\naddress = "ssh://pi5"\n'),
    ],
)
def test_a_row_goes_however_it_is_written(file: Path, row: str, kept: str) -> None:
    file.write_text(row)
    remove_device("pi5")
    assert file.read_text() == kept
    assert "pi5" not in load_devices()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a]\naddress = \n", ":2: not TOML"),
        ('[a]\naddress = "local"\n\n[b]\nadress = "x"\n', ":4: b: has no address"),
        (
            '[a]\naddress = "local"\n[b]\naddress = "ftp://x"\n',
            ":4: b.address: address 'ftp://x' of device b. Allowed: local, ssh://",
        ),
        ('[a]\naddress = "local"\nport = 3\n', ":3: a.port: must be text in quotes, found 3"),
        (
            '[a]\naddress = "local"\ncolour = "red"\n',
            ":3: a.colour: option 'colour' of device a. Options of local: root",
        ),
        ('a = "local"\n', ":1: a: must be a row"),
        ('["a b"]\naddress = "local"\n', ":1: \"a b\": device name 'a b'"),
        ('[local]\naddress = "ssh://x"\n', ":1: local: local is this machine"),
        ('[a]\naddress = "ssh://x"\nroot = "a\\nb"\n', ":3: a.root: option root of device a"),
        ('[a]\naddress = "ssh://x"\nroot = "~/em"\n', "Allowed: an absolute path, or one relative to the home there"),
        ('[a]\naddress = "adb:x"\nroot = "/data/$USER"\n', ":3: a.root: option root of device a is '/data/$USER'; '~'"),
        (
            '[a]\naddress = "adb:x"\nroot = "em"\n',
            "root of device a is 'em'; adb has no home folder for a relative path",
        ),
        ('[a]\naddress = "local"\nroot = "em"\n', "Allowed: an absolute path"),
        (
            '[a]\naddress = "ssh://x:65536"\n',
            ":2: a.address: port 65536 in address 'ssh://x:65536' of device a. Allowed: 1 to 65535",
        ),
        ('[a]\naddress = "ssh://x:0"\n', "port 0 in address"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(EdgemobileError) as raised:
        load_devices()
    assert str(file) in str(raised.value)
    assert said in str(raised.value)


def test_comments_above_the_next_row_stay(file: Path) -> None:
    pi4 = '# of pi4\n  # and more\n[pi4]\naddress = "ssh://pi4"\n'
    file.write_text(f'[pi5]\n# of an option\naddress = "ssh://pi5"\n# after it\n\n{pi4}')
    remove_device("pi5")
    assert file.read_text() == pi4


def test_an_ssh_configuration_in_ones_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    device = Device("a", "ssh://x", {"ssh_config": "~/lab/config"})
    transport = device.row.open(device)
    assert isinstance(transport, SshTransport)
    assert transport._where == ["-F", f"{tmp_path}/lab/config"]


def test_a_file_that_is_no_list_of_devices(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(EdgemobileError, match="not UTF-8"):
        load_devices()
    file.write_bytes(b"#" * 2**21)
    with pytest.raises(EdgemobileError, match="larger than"):
        load_devices()


@pytest.mark.parametrize("name", ["", "-x", "a/b", "a b", "x" * 65, "a\n", "ü"])
def test_names_that_would_not_do(name: str) -> None:
    with pytest.raises(EdgemobileError, match="device name"):
        Device(name, "local")


def test_local_and_addresses_need_no_row() -> None:
    device, transport = open_device("local")
    assert isinstance(transport, LocalTransport)
    assert device.scheme == "local"
    assert find_device("ssh://pi@host").address == "ssh://pi@host"
    with pytest.raises(EdgemobileError, match="edgemobile devices add pi9 ssh://USER@HOST"):
        open_device("pi9")
