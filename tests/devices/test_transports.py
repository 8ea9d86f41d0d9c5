"""What every transport promises, asked of each: local, ssh to a real sshd, adb with a stand-in for its binary."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgemobile.devices.host.adb import AdbTransport
from edgemobile.devices.host.local import LocalTransport
from edgemobile.devices.host.profiles import Device
from edgemobile.devices.host.ssh import SshTransport
from edgemobile.devices.host.transport import DeviceUnreachable, Transport
from edgemobile.errors import EdgemobileError

# Names and arguments a shell would do something about.
HOSTILE = ["a; touch PWNED", "$(touch PWNED)", "`touch PWNED`", "it's", '"', "-rf", "*", "a && b", "\\", "ü 😀", " "]

# `adb shell` runs its words, joined by spaces, in the board's sh: so does this.
_FAKE_ADB = """#!/bin/sh
[ "$1" = -s ] || exit 9
case "$2" in gone) echo "adb: device 'gone' not found" >&2; exit 1;; esac
[ "$3 $4" = "shell -T" ] || exit 9
shift 4
exec sh -c "$*"
"""


@pytest.fixture
def fake_adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "adb").write_text(_FAKE_ADB)
    (folder / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.fixture(params=["local", "ssh", "adb"])
def transport(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Transport]:
    made: Transport
    if request.param == "local":
        made = LocalTransport(tmp_path / "root")
    elif request.param == "adb":
        request.getfixturevalue("fake_adb")
        made = AdbTransport("R58M", root=str(tmp_path / "root"))
    else:
        board = request.getfixturevalue("sshd")
        made = SshTransport("board", config=str(board.config), root=str(tmp_path / "root"))
    yield made
    made.close()


def test_arguments_arrive_as_they_are(transport: Transport) -> None:
    code = "import sys, os; print(sys.argv[1:], os.environ['ASKED'], sys.stdin.read())"
    done = transport.run([sys.executable, "-c", code, *HOSTILE], stdin=b"in\0put", env={"ASKED": "$HOME; '"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == f"{HOSTILE} $HOME; ' in\0put\n"
    assert not Path(transport.root, "PWNED").exists()


def test_files_of_any_name_come_back_as_they_were(transport: Transport) -> None:
    names = [name for name in HOSTILE if name != " "]
    for name in names:
        data = name.encode() + bytes(range(256)) * 300
        transport.put(data, f"files/{name}")
        assert transport.read(f"files/{name}", max_bytes=len(data) + 1) == data, name
        assert transport.read(f"files/{name}", offset=len(data) - 1, max_bytes=2) == b"\xff", name
    assert sorted(file.name for file in Path(transport.root).rglob("*") if file.is_file()) == sorted(names)


def test_what_has_to_survive_a_power_cut_is_synced_before_its_name(
    fake_adb: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    for name in ("sync", "mv"):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\necho {name} "${{1%%[0-9]*}}" >> {told}\nexec {shutil.which(name)} "$@"\n')
        program.chmod(0o755)
    transport = AdbTransport("R58M", root=str(tmp_path / "root"))
    transport.put(b"x", "jobs/a/job.json")
    assert told.read_text().splitlines() == ["sync ./jobs/a/job.json.", "mv -f", "sync ./jobs/a"]
    told.unlink()
    transport.put(b"x", "jobs/a/input-0.npy", durable=False)
    assert told.read_text().splitlines() == ["mv -f"]


def test_a_system_without_sync_takes_files_all_the_same(fake_adb: None, tmp_path: Path) -> None:
    broken = tmp_path / "bin" / "sync"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    transport = AdbTransport("R58M", root=str(tmp_path / "root"))
    transport.put(b"x", "file")
    assert transport.read("file", max_bytes=2) == b"x"


def test_a_file_that_is_not_there(transport: Transport) -> None:
    transport.put(b"x", "folder/file")
    assert transport.read("nothing", max_bytes=9) is None
    assert transport.read("folder", max_bytes=9) is None
    assert transport.read("folder/file", offset=1, max_bytes=9) == b""


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", "a//b", "a\nb", "a\0b"])
def test_paths_outside_are_refused(transport: Transport, path: str) -> None:
    for act in (lambda: transport.put(b"x", path), lambda: transport.read(path, max_bytes=1)):
        with pytest.raises(EdgemobileError, match="leaves edgemobile's folder"):
            act()


def test_exit_codes_are_the_programs_own(transport: Transport) -> None:
    for code in (0, 1, 3, 255):
        assert transport.run(["sh", "-c", f"exit {code}"]).returncode == code
    assert transport.run(["no-such-program"]).returncode == 127


def test_what_says_too_much_or_takes_too_long_is_ended(transport: Transport) -> None:
    with pytest.raises(EdgemobileError, match="more than the limit of"):
        transport.run(["cat", "/dev/zero"], timeout_s=30)
    started = time.monotonic()
    with pytest.raises(DeviceUnreachable, match="did not end within"):
        transport.run(["sleep", "20"], timeout_s=0.5)
    assert time.monotonic() - started < 10


def test_what_was_started_outlives_the_connection(transport: Transport) -> None:
    transport.start(["sh", "-c", "echo $ONE; sleep 0.5; echo two"], log="jobs/1/log", env={"ONE": "one"})
    transport.close()
    wanted = b"one\ntwo\n"
    for _ in range(50):
        if transport.read("jobs/1/log", max_bytes=99) == wanted:
            break
        time.sleep(0.1)
    assert transport.read("jobs/1/log", max_bytes=99) == wanted


def test_a_file_cut_off_on_its_way_is_not_there(sshd: Any, tmp_path: Path) -> None:
    """The far side cannot tell a cut from the end of a file; the size does."""
    root = tmp_path / "root"
    transport = SshTransport("board", config=str(sshd.config), root=str(root))
    transport.put(b"before", "file")
    real = transport._shell

    def half(script: str, **words: object) -> object:
        return real(script, **{**words, "stdin": b"a"})  # type: ignore[arg-type]

    transport._shell = half  # type: ignore[method-assign, assignment]
    with pytest.raises(DeviceUnreachable, match="lost during: write file"):
        transport.put(b"after", "file")
    assert [file.name for file in root.iterdir()] == ["file"]
    assert (root / "file").read_bytes() == b"before"
    transport.close()


def test_a_cut_connection_is_told_and_the_next_call_connects_again(sshd: Any, tmp_path: Path) -> None:
    transport = SshTransport("board", config=str(sshd.config), root=str(tmp_path / "root"))
    assert transport.run(["true"]).returncode == 0
    transport.start(["sh", "-c", "sleep 1.5; echo survived"], log="log")
    cutting = threading.Timer(0.5, sshd.cut)
    cutting.start()
    with pytest.raises(DeviceUnreachable, match="board is not reachable"):
        transport.run(["sleep", "20"])
    cutting.join()
    time.sleep(1.5)
    assert transport.read("log", max_bytes=99) == b"survived\n"
    transport.close()


def test_an_unknown_host_key_is_refused(sshd: Any, tmp_path: Path) -> None:
    config = tmp_path / "config"
    text = sshd.config.read_text()
    config.write_text(text.replace(str(sshd.folder / "known"), str(tmp_path / "none")))
    transport = SshTransport("board", config=str(config), root="/tmp/unused")
    with pytest.raises(DeviceUnreachable, match="host key is not known here; log in once and compare it: ssh -F"):
        transport.run(["true"])
    assert not (tmp_path / "none").exists()


def test_a_changed_host_key_is_taken_out_by_the_name_it_has(sshd: Any, tmp_path: Path) -> None:
    """The command in the words, run as it is, takes it out."""
    config, known = tmp_path / "config", tmp_path / "known"
    config.write_text(sshd.config.read_text().replace(str(sshd.folder / "known"), str(known)))
    known.write_text(f"[127.0.0.1]:{sshd.port} {(sshd.folder / 'user.pub').read_text()}")
    with pytest.raises(DeviceUnreachable, match="its host key changed; if you installed it anew: ssh-keygen") as raised:
        SshTransport("board", config=str(config), root="/tmp/unused").run(["true"])
    command = str(raised.value).partition("anew: ")[2]
    assert command == f"ssh-keygen -f {known} -R '[127.0.0.1]:{sshd.port}'"
    subprocess.run(shlex.split(command), check=True, capture_output=True)
    assert known.read_text() == ""


@pytest.mark.parametrize(("port", "name"), [("2222", "'[pi5]:2222'"), ("22", "pi5"), (None, "pi5")])
def test_known_hosts_has_a_port_in_the_name_unless_it_is_22(port: str | None, name: str) -> None:
    assert SshTransport("pi5", port=port)._forget("HOST IDENTIFICATION HAS CHANGED") == f"ssh-keygen -R {name}"


def test_nothing_listening_is_unreachable() -> None:
    transport = SshTransport("127.0.0.1", port="1", root="/tmp/unused")
    with pytest.raises(DeviceUnreachable, match=r"Connection refused; no ssh server is running there") as raised:
        transport.run(["true"])
    assert raised.value.exit_code == 4


def test_an_adb_board_that_is_gone(fake_adb: None) -> None:
    with pytest.raises(DeviceUnreachable, match=r"gone is not reachable.*adb devices"):
        AdbTransport("gone").run(["true"])


@pytest.mark.parametrize(
    "address",
    [
        "ssh://-oProxyCommand=touch",
        "ssh://-l@host",
        "ssh://a b",
        "ssh://host;rm",
        "adb:-a",
        "adb:",
        "ftp://x",
        "emulated:",
    ],
)
def test_addresses_a_program_would_take_for_options_are_refused(address: str) -> None:
    with pytest.raises(EdgemobileError, match="Allowed"):
        Device("x", address)


def test_missing_binaries_say_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    makers: list[Callable[[], object]] = [lambda: SshTransport("x"), lambda: AdbTransport("x")]
    for make in makers:
        with pytest.raises(EdgemobileError, match="is required and not installed") as raised:
            make()
        assert raised.value.exit_code == 3
