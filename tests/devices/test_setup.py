"""What is put on a board: the pins, their exact refusals, and a setup over ssh to the aarch64 userland."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgemobile.devices import setup as module
from edgemobile.devices import wheels
from edgemobile.devices.diagnosis import diagnose_board, diagnose_state
from edgemobile.devices.local import LocalTransport
from edgemobile.devices.profiles import Device
from edgemobile.devices.setup import NotSetUp, find_target, payload, probe, ready, setup
from edgemobile.devices.transport import Completed
from edgemobile.devices.wheels import Target, fetch_wheels, pin_for
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
        ("onnxruntime", Target("aarch64", (3, 15), (2, 36)), r"Python 3.9 to 3.14. Name another Python"),
        ("tflite_runtime", Target("aarch64", (3, 13), (2, 41)), r"Python 3.9 to 3.11.*--runtime litert"),
        ("tflite_runtime", Target("aarch64", (3, 9), (2, 31)), r"glibc 2.31.*need glibc 2.34"),
        ("tensorflow", _PI5, "Known: litert, onnxruntime, tflite_runtime"),
    ],
)
def test_a_board_without_a_wheel_gets_an_exact_answer(runtime: str, target: Target, said: str) -> None:
    with pytest.raises(Unsupported, match=said):
        pin_for(runtime, target)


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
    (folder / "x.whl").touch()
    assert fetch_wheels("litert", _PI5) == [folder / "x.whl"]


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


def test_a_runtime_is_tried_without_telemetry(board: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, str] = {}
    monkeypatch.setattr(_Told, "run", lambda self, argv, *, env, **_: given.update(env) or Completed(0, b"", b""))
    module._try(board, _Told(tmp_path, {}), "onnxruntime")
    assert given["ORT_DISABLE_TELEMETRY"] == "1"


def test_the_payload_is_small_always_the_same_and_replaced_where_a_board_changed_it(
    board: Device, tmp_path: Path
) -> None:
    data = payload()
    module.payload.cache_clear()
    assert payload() == data
    assert len(data) < 100_000
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    assert "edgemobile/devices/worker.py" in names
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
    from edgemobile.devices.ssh import SshTransport

    findings = list(diagnose_board(Device("pi5", "ssh://127.0.0.1:1"), SshTransport("127.0.0.1", port="1", root="/x")))
    assert [(finding.what, finding.exit_code) for finding in findings] == [("connection", 4)]
    assert findings[0].remedy


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
    code = "import numpy, sys, ai_edge_litert.interpreter, edgemobile.devices.runtimes; print(numpy.__version__)"
    done = transport.run([*prepared.python, "-c", code], env=prepared.env)
    assert done.returncode == 0, done.stderr
    assert f"numpy=={done.stdout.decode().strip()}" in pin_for("litert", target).packages
    told = json.loads(probe(device, transport))
    assert told["facts"]["machine"] == "aarch64"
    assert told["facts"]["runtimes"]["litert"]
    left = {path.name for path in Path(transport.root).iterdir()} | {
        path.name for path in Path(transport.root, "wheels").iterdir()
    }
    assert left == {"payload", "runtimes", "wheels"}
    transport.close()
