"""What is put on a board: the pins, their exact refusals, and a setup over ssh to the aarch64 userland."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edgemobile.devices.board import unpack
from edgemobile.devices.host import diagnosis, wheels
from edgemobile.devices.host import setup as module
from edgemobile.devices.host.diagnosis import diagnose_board, diagnose_state
from edgemobile.devices.host.local import LocalTransport
from edgemobile.devices.host.profiles import Device
from edgemobile.devices.host.setup import NotSetUp, find_target, payload, probe, ready, setup
from edgemobile.devices.host.transport import Completed
from edgemobile.devices.host.wheels import Target, fetch_wheels, pin_for
from edgemobile.errors import EdgemobileError, Unsupported

_PI5 = Target("aarch64", (3, 11), (2, 36))


class _Told(LocalTransport):
    """A board that says of itself whatever a test tells it to."""

    def __init__(self, root: Path, said: object) -> None:
        super().__init__(root)
        self.said = said

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60, env: Mapping[str, str] | None = None
    ) -> Completed:
        return self.said if isinstance(self.said, Completed) else Completed(0, json.dumps(self.said).encode(), b"")


@pytest.fixture
def board() -> Device:
    return Device("pi5", "ssh://pi5")


@pytest.mark.parametrize("runtime", ["litert", "onnxruntime"])
@pytest.mark.parametrize("python", [(3, minor) for minor in range(9, 15)])
def test_every_python_from_3_9_to_3_14_has_its_pins(runtime: str, python: tuple[int, int]) -> None:
    pin = pin_for(runtime, Target("aarch64", python, (2, 36)))
    assert all("==" in package for package in pin.packages)
    assert len(pin.packages) == 2


def test_tflite_runtime_has_an_old_numpy() -> None:
    assert "numpy==1.26.4" in pin_for("tflite_runtime", _PI5).packages


@pytest.mark.parametrize(
    ("runtime", "target", "said"),
    [
        ("litert", Target("armv7l", (3, 11), (2, 36)), r"armv7l, Python 3.11.*Raspberry Pi OS \(64-bit\)"),
        ("litert", Target("riscv64", (3, 11), (2, 36)), "wheels for aarch64 and x86_64 only"),
        ("litert", Target("aarch64", (3, 11), None), "another C library"),
        ("onnxruntime", Target("aarch64", (3, 15), (2, 36)), r"Python 3.9 to 3.14. Set another Python"),
        ("tflite_runtime", Target("aarch64", (3, 13), (2, 41)), r"Python 3.9 to 3.11.*--runtime litert"),
        ("tflite_runtime", Target("aarch64", (3, 9), (2, 31)), r"glibc 2.31.*need glibc 2.34"),
        ("tensorflow", _PI5, "Known: litert, onnxruntime, tflite_runtime"),
    ],
)
def test_a_board_without_a_wheel_gets_an_exact_answer(runtime: str, target: Target, said: str) -> None:
    with pytest.raises(Unsupported, match=said):
        pin_for(runtime, target)


_KNOWN = ("ai_edge_litert-2.3.0-cp311-cp311-linux_aarch64.whl", "numpy-2.4.6-cp311-cp311-linux_aarch64.whl")


@pytest.fixture
def known_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two wheels that hold their own names."""
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in _KNOWN}
    monkeypatch.setattr(wheels, "_known_wheels", lambda: digests)


@pytest.mark.usefixtures("known_wheels")
def test_a_download_that_fails_leaves_nothing_and_says_where_wheels_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    failed = Completed(1, b"", b"WARNING: Retrying\nERROR: No matching distribution found for numpy\n")
    monkeypatch.setattr(wheels, "bounded_run", lambda *words, **named: failed)
    with pytest.raises(EdgemobileError, match=r"No matching distribution.*put the \.whl files into") as raised:
        fetch_wheels("litert", _PI5)
    assert list((tmp_path / "edgemobile/wheels").iterdir()) == []
    folder = Path(str(raised.value).rpartition("into ")[2])
    folder.mkdir()
    for name in _KNOWN:
        (folder / name).write_bytes(name.encode())
    assert [path.name for path in fetch_wheels("litert", _PI5)] == sorted(_KNOWN)


@pytest.mark.usefixtures("known_wheels")
def test_a_damaged_wheel_is_fetched_again_and_a_wrong_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    served = {name: name.encode() for name in _KNOWN}

    def download(words: list[str], **named: object) -> Completed:
        folder = Path(words[words.index("-d") + 1])
        folder.mkdir()
        for name, data in served.items():
            (folder / name).write_bytes(data)
        return Completed(0, b"", b"")

    monkeypatch.setattr(wheels, "bounded_run", download)
    first, second = fetch_wheels("litert", _PI5)
    first.write_bytes(b"half of it")
    assert fetch_wheels("litert", _PI5)[0].read_bytes() == first.name.encode()
    served[first.name] = b"another one"
    first.write_bytes(b"half of it")
    with pytest.raises(EdgemobileError, match=rf"{first.name} has the sha256 .* expected .* It is not installed"):
        fetch_wheels("litert", _PI5)
    assert second.is_file(), "what was there stays until there is something better"
    first.rename(first.with_name("mine-1.0-py3-none-any.whl"))
    with pytest.raises(EdgemobileError, match=r"mine-1\.0-py3-none-any\.whl is none of the wheels|has the sha256"):
        fetch_wheels("litert", _PI5)


def test_every_pin_has_its_wheels() -> None:
    """A sha256 for each package, Python and machine that a row of PINS stands for."""
    known = list(wheels._known_wheels.__wrapped__())
    for pin in wheels.PINS:
        for minor in range(pin.first[1], pin.last[1] + 1):
            for package in pin.packages:
                name, _, version = package.partition("==")
                start = f"{name.replace('-', '_')}-{version}-cp3{minor}-"
                found = [name for name in known if name.startswith(start)]
                assert {"aarch64" in name for name in found} == {True, False}, start


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (Completed(127, b"", b""), "has no python3. On the board: sudo apt-get install python3"),
        (["aarch64", 8, [3, 7], "glibc 2.28"], "is Python 3.7; 3.9 to 3.14 are supported"),
        (Completed(0, b"[" * 10**5, b""), "does not work"),
        ({"a": 1}, "does not work"),
        (["aarch64", 8, ["x"], "glibc"], "does not work"),
        (Completed(1, b"", b"\x1b[31mbroken"), r"does not work: \?\[31mbroken"),
    ],
)
def test_a_board_whose_python_is_amiss(board: Device, tmp_path: Path, said: object, error: str) -> None:
    with pytest.raises(EdgemobileError, match=error):
        find_target(board, _Told(tmp_path, said))


def test_a_32_bit_system_on_a_64_bit_kernel_is_seen(board: Device, tmp_path: Path) -> None:
    assert find_target(board, _Told(tmp_path, ["aarch64", 4, [3, 11], "glibc 2.36"])).machine == "armv8l"


def test_a_board_that_was_not_set_up_says_how(board: Device, tmp_path: Path) -> None:
    transport = LocalTransport(tmp_path)
    for lie in (None, b"{", b'{"version": 1, "packages": ["evil"]}', b"[" * 9999, b'{"version": 1}'):
        if lie is not None:
            transport.put(lie, "runtimes/litert.json")
        with pytest.raises(NotSetUp, match="Run: edgemobile devices setup pi5 --runtime litert"):
            ready(board, transport, "litert")


def test_a_runtime_that_no_board_gets_is_refused(board: Device, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"tensorflow runs on this machine only\. On pi5: onnxruntime, litert"):
        ready(board, LocalTransport(tmp_path), "tensorflow")


_WANTS_NO_TELEMETRY = "import os; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a wheel that setup takes for onnxruntime's: when imported it does what the code says."""

    def make(code: str) -> Path:
        path = tmp_path / "onnxruntime-1-py3-none-any.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("onnxruntime/__init__.py", code)
            archive.writestr("onnxruntime/noise", os.urandom(2**18))
            archive.writestr("onnxruntime/zeros", bytes(2**22))
        monkeypatch.setattr(module, "fetch_wheels", lambda runtime, target: [path])
        return path

    return make


def _there(root: Path) -> list[str]:
    """What is in runtimes/ and wheels/ of a board."""
    return sorted(
        str(path.relative_to(root)) for folder in ("runtimes", "wheels") for path in (root / folder).iterdir()
    )


def test_a_runtime_is_tried_without_telemetry_and_what_was_cut_off_is_swept(
    board: Device, tmp_path: Path, wheel: Callable[[str], Path]
) -> None:
    root, transport = tmp_path / "root", LocalTransport(tmp_path / "root")
    wheel(_WANTS_NO_TELEMETRY)
    (root / "runtimes/litert.1.partial").mkdir(parents=True)
    (root / "wheels/1").mkdir(parents=True)
    os.utime(root / "wheels/1", (0, 0))
    (root / "wheels/on its way").mkdir(parents=True)
    assert setup(board, transport, ["onnxruntime"])["onnxruntime"].startswith("onnxruntime==")
    assert ready(board, transport, "onnxruntime").env["PYTHONPATH"].endswith(f":{root}/runtimes/onnxruntime")
    assert _there(root) == ["runtimes/onnxruntime", "runtimes/onnxruntime.json", "wheels/on its way"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('no libatomic')", "onnxruntime does not start on pi5: ImportError: no libatomic"),
        ("import os; os.kill(os.getpid(), 4)", "onnxruntime does not start on pi5: SIGILL while importing onnxruntime"),
    ],
)
def test_a_runtime_that_does_not_start_leaves_what_was_there(
    board: Device, tmp_path: Path, wheel: Callable[[str], Path], code: str, said: str
) -> None:
    root, transport = tmp_path / "root", LocalTransport(tmp_path / "root")
    transport.put(b"before", "runtimes/onnxruntime/file")
    wheel(code)
    with pytest.raises(EdgemobileError, match=said):
        setup(board, transport, ["onnxruntime"])
    assert _there(root) == ["runtimes/onnxruntime"]
    assert (root / "runtimes/onnxruntime/file").read_bytes() == b"before"


def test_a_wheel_that_arrives_damaged(board: Device, tmp_path: Path, wheel: Callable[[str], Path]) -> None:
    class Noisy(LocalTransport):
        def put(self, source: Path | bytes, target: str) -> None:
            super().put(b"noise" if target.startswith("wheels") else source, target)

    wheel("")
    with pytest.raises(EdgemobileError, match=r"cannot unpack onnxruntime on pi5: onnxruntime-1.* arrived damaged$"):
        setup(board, Noisy(tmp_path / "root"), ["onnxruntime"])
    assert _there(tmp_path / "root") == []


def test_setups_of_one_board_take_turns(board: Device, tmp_path: Path, wheel: Callable[[str], Path]) -> None:
    """The first does it while the others wait, and find it done."""
    root, tried = tmp_path / "root", tmp_path / "tried"
    wheel(f"import time; time.sleep(1); open({str(tried)!r}, 'a').write('+')")
    with ThreadPoolExecutor() as pool:
        doing = [pool.submit(setup, board, LocalTransport(root), ["onnxruntime"]) for _ in range(3)]
        assert len({done.result()["onnxruntime"] for done in doing}) == 1
    assert tried.read_text() == "+"
    assert _there(root) == ["runtimes/onnxruntime", "runtimes/onnxruntime.json"]


@pytest.mark.parametrize(
    ("room", "said"),
    [(2**21, r"the disk of .* is full\. Make room there, or set a folder on"), (2**18, "cannot write")],
)
def test_a_full_disk_is_told_and_left_clean(
    board: Device, small_disk: Callable[[int], Path], wheel: Callable[[str], Path], room: int, said: str
) -> None:
    """Room for the wheel and not for what is in it; then not even for the wheel."""
    wheel("")
    root = small_disk(room) / "root"
    with pytest.raises(EdgemobileError, match=said):
        setup(board, LocalTransport(root), ["onnxruntime"])
    assert list((root / "wheels").iterdir()) == []
    assert not list((root / "runtimes").glob("*"))


def test_only_a_full_disk_is_called_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runtimes/litert.json").mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    with pytest.raises(IsADirectoryError):
        unpack.main(["litert", "x", "", "1"])
    monkeypatch.setattr(unpack, "_put_there", lambda *_: Path("/dev/full").write_bytes(b"x"))
    assert unpack.main(["litert", "x", "", "1"]) == unpack.NO_SPACE


def test_the_payload_is_small_always_the_same_and_replaced_where_a_board_changed_it(
    board: Device, tmp_path: Path
) -> None:
    data = payload()
    module.payload.cache_clear()
    assert payload() == data
    assert len(data) < 100_000
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    assert "edgemobile/devices/board/worker.py" in names
    assert not [name for name in names if "ssh" in name or "torch" in name]
    transport = LocalTransport(tmp_path)
    path = Path(module._payload(transport))
    path.write_bytes(b"changed")
    assert module._payload(transport) == str(path)
    assert path.read_bytes() == data


def test_what_makes_a_measurement_worth_less_has_its_remedy() -> None:
    calm = list(diagnose_state(governor="performance", temp_c=45, throttled=0, load1=0.1, cores=4))
    assert [finding.remedy for finding in calm] == [""] * 4
    worse = list(diagnose_state(governor="ondemand", temp_c=80, throttled=0x50000, load1=3.5, cores=4))
    assert all(finding.remedy and finding.exit_code == 0 for finding in worse)
    assert "power supply" in next(finding.remedy for finding in worse if finding.what == "throttled")
    assert list(diagnose_state(governor=None, temp_c=None, throttled=None, load1=None, cores=4)) == []


def test_a_board_that_does_not_answer_is_one_finding() -> None:
    from edgemobile.devices.host.ssh import SshTransport

    findings = list(diagnose_board(Device("pi5", "ssh://127.0.0.1:1"), SshTransport("127.0.0.1", port="1", root="/x")))
    assert [(finding.what, finding.exit_code) for finding in findings] == [("connection", 4)]
    assert findings[0].remedy


def _found(device: Device, transport: Any) -> dict[str, Any]:
    return {finding.what: finding for finding in diagnose_board(device, transport)}


def test_disk_and_clock_of_a_board(sshd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device("pi5", "ssh://board", {**sshd.device.options, "python": sys.executable})
    transport = device.row.open(device)
    found = _found(device, transport)
    assert (found["clock"].found, found["clock"].remedy) == ("right", "")
    assert found["disk"].found.endswith(" MiB free")
    real = time.time
    monkeypatch.setattr(diagnosis.time, "time", lambda: real() + 3600)
    behind = _found(device, transport)["clock"]
    assert behind.found in ("3599 s behind", "3600 s behind")
    assert behind.remedy == "on the board: sudo timedatectl set-ntp true"
    transport.close()


def test_a_disk_with_little_room_is_told(board: Device, small_disk: Callable[[int], Path]) -> None:
    root = small_disk(2**22)
    finding = _found(board, LocalTransport(root))["disk"]
    assert (finding.found, finding.remedy, finding.exit_code) == ("4 MiB free", f"make room in {root}", 0)


@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_a_full_disk_names_a_remedy(sshd: Any, small_disk: Callable[[int], Path], kind: str) -> None:
    root = small_disk(2**18)
    device = Device("pi5", "ssh://board", {**sshd.device.options, "root": str(root)})
    transport = LocalTransport(root) if kind == "local" else device.row.open(device)
    with pytest.raises(EdgemobileError, match=rf"cannot write .*: the disk of {root} is full. Make room there"):
        transport.put(bytes(2**19), "files/model")
    assert [path for path in root.rglob("*") if path.is_file()] == []
    transport.close()


def test_a_setup_over_ssh_to_aarch64(arm_sshd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From nothing to numpy and a runtime on a board without pip, and nothing is done twice."""
    device = arm_sshd.device
    transport = device.row.open(device)
    assert transport.run(["uname", "-m"]).stdout == b"aarch64\n"
    target = find_target(device, transport)
    assert target.machine == "aarch64"
    findings = list(diagnose_board(device, transport))
    assert [finding.exit_code for finding in findings if finding.what == "litert"] == [3]
    try:
        fetch_wheels("litert", target)
    except EdgemobileError as error:
        pytest.skip(f"no aarch64 wheels here: {error}")
    assert "ai-edge-litert==" in setup(device, transport, ["litert"])["litert"]
    assert setup(device, transport, ["litert"])["litert"].endswith("was there")
    prepared = ready(device, transport, "litert")
    code = (
        "import numpy, sys, ai_edge_litert.interpreter, edgemobile.devices.runtimes.sessions; print(numpy.__version__)"
    )
    done = transport.run([*prepared.python, "-c", code], env=prepared.env)
    assert done.returncode == 0, done.stderr
    assert f"numpy=={done.stdout.decode().strip()}" in pin_for("litert", target).packages
    told = json.loads(probe(device, transport))
    assert told["facts"]["machine"] == "aarch64"
    assert told["facts"]["runtimes"]["litert"]
    left = {path.name for path in Path(transport.root).iterdir()} | {
        path.name for path in Path(transport.root, "wheels").iterdir()
    }
    assert left == {"lock-setup", "payload", "runtimes", "wheels"}
    transport.close()
