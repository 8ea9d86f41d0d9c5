"""The emulated cores: what they are, what they refuse, and that an inference's instructions are the same every time."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgemobile.devices.host import emulation as module
from edgemobile.devices.host.counting import parse_counts
from edgemobile.devices.host.emulated import COUNTS_VARIABLE, EmulatedTransport
from edgemobile.devices.host.emulation import CORES, Emulation, get_core, install_emulation
from edgemobile.devices.host.profiles import open_device
from edgemobile.devices.host.transport import Transport
from edgemobile.devices.runtimes.job import INSTRUCTION_CLASSES
from edgemobile.errors import EdgemobileError, Unsupported

_MARK = """
import os
def mark(v):
    try: os.getpriority(0x7e57, v)
    except OSError: pass
for round in range(4):
    mark(2 * round); sum(range(2000)); mark(2 * round + 1)
"""


def _row(v: int, **counts: int) -> bytes:
    row = {name: counts.get(name, 0) for name in INSTRUCTION_CLASSES[1:]}
    return json.dumps({"mark": v, "total": sum(row.values()), **row}).encode() + b"\n"


def test_max_is_refused_with_the_reason() -> None:
    with pytest.raises(Unsupported, match=r"computes wrong results.*SME.*emulated:cortex-a72"):
        get_core("max")
    with pytest.raises(Unsupported, match=r"'cortex-m4'. Supported: emulated:cortex-a53 \(Raspberry Pi 3"):
        get_core("cortex-m4")


@pytest.mark.parametrize("cpu", list(CORES))
def test_the_fixture_says_what_the_core_is(cpu: str) -> None:
    """dotprod on a core without it is a SIGILL in the runtime."""
    files = module._core_files(CORES[cpu])
    assert ("asimddp" in files["proc/cpuinfo"]) is (cpu == "cortex-a76")
    assert files["proc/cpuinfo"].count("processor\t") == 4
    assert "Serial" not in files["proc/cpuinfo"]
    assert not [name for name in files if "thermal" in name or "governor" in name]
    assert cpu in files["proc/device-tree/model"]


def test_counts_of_marks_that_are_whole() -> None:
    data = _row(0, dot=1, fmla=2) + _row(1, dot=5, fmla=2) + b'{"mark":2,"tot'
    first, second = parse_counts(data)
    assert (first.v, second.v) == (0, 1)
    assert second.counts["dot"] - first.counts["dot"] == 4
    assert second.counts["total"] == 7
    assert parse_counts(b"") == []


@pytest.mark.parametrize(
    "data",
    [
        b"[]\n",
        b"nonsense\n",
        b'{"mark":0}\n',
        _row(0).replace(b'"dot": 0', b'"dot": -1'),
        _row(0, dot=1).replace(b'"total": 1', b'"total": 2'),
        _row(0).replace(b'"dot": 0', b'"dot": 0.5'),
        _row(0).replace(b'"sve"', b'"evil"'),
        _row(0, dot=5) + _row(1, dot=4),
        b"[" * 100_000 + b"\n",
    ],
)
def test_counts_that_are_not_the_counters_are_refused(data: bytes) -> None:
    with pytest.raises(EdgemobileError, match=r"line \d of the instruction counts"):
        parse_counts(data)


def test_every_missing_program_is_named_with_one_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda name: None if name in ("qemu-aarch64", "cc") else "/bin/x")
    with pytest.raises(
        EdgemobileError, match="apt-get install --no-install-recommends qemu-user gcc libc6-dev"
    ) as raised:
        install_emulation("cortex-a72")
    assert raised.value.exit_code == 3
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(EdgemobileError, match="Use a Debian"):
        install_emulation("cortex-a72")


def test_a_core_that_is_not_set_up_says_how(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module.shutil, "which", lambda name: "/bin/true")
    with pytest.raises(EdgemobileError, match="Run: edgemobile devices setup emulated:cortex-a76"):
        open_device("emulated:cortex-a76")


def test_a_setup_cut_off_in_the_middle_is_finished(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, emulation: Callable[[str], Emulation]
) -> None:
    """A damaged package is thrown away and the next run starts from it; nothing half unpacked is taken for whole."""
    emulation("cortex-a72")
    made = tmp_path / "deb"
    (made / "DEBIAN").mkdir(parents=True)
    (made / "DEBIAN/control").write_text(
        "Package: x\nVersion: 1\nArchitecture: arm64\nMaintainer: x <x@x>\nDescription: x\n"
    )
    (made / "usr/bin").mkdir(parents=True)
    (made / "usr/bin/python3.11").write_text("")
    good, bad = tmp_path / "good.deb", tmp_path / "bad.deb"
    subprocess.run(["dpkg-deb", "--build", str(made), str(good)], check=True, capture_output=True)
    bad.write_bytes(b"damaged")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_download", lambda folder: [good, bad])
    with pytest.raises(EdgemobileError, match=r"bad.deb is damaged and was removed"):
        install_emulation("cortex-a72")
    assert not bad.exists()
    monkeypatch.setattr(module, "_download", lambda folder: [good])
    installed = install_emulation("cortex-a72")
    assert installed.python.exists()
    monkeypatch.setattr(module, "_download", lambda folder: pytest.fail("downloaded what was there"))
    assert install_emulation("cortex-a76").python.exists()


def test_programs_are_aarch64_and_the_hosts_are_out_of_reach(emulation: Callable[[str], Emulation]) -> None:
    emulation("cortex-a72")
    transport: Transport = EmulatedTransport("cortex-a72")
    assert transport.emulated
    done = transport.run(
        ["python3", "-S", "-c", "import platform, os; print(platform.machine(), 'LS_COLORS' in os.environ)"]
    )
    assert done.stdout == b"aarch64 False\n", done.stderr
    assert transport.run(["ls"]).returncode == 127


def test_instructions_of_the_same_work_are_the_same(emulation: Callable[[str], Emulation]) -> None:
    emulation("cortex-a72")
    transport = EmulatedTransport("cortex-a72")
    totals = []
    for _ in range(2):
        env = {COUNTS_VARIABLE: "jobs/test, counts/counts", "PYTHONHASHSEED": "0"}
        done = transport.run(["python3", "-S", "-c", _MARK], env=env)
        assert done.returncode == 0, done.stderr
        data = transport.read("jobs/test, counts/counts", max_bytes=2**20)
        assert data is not None
        marks = parse_counts(data)
        assert [mark.v for mark in marks] == list(range(8))
        totals.append([marks[v + 1].counts["total"] - marks[v].counts["total"] for v in (4, 6)])
    assert min(totals[0]) > 2000
    assert totals[1] == pytest.approx(totals[0], rel=0.001)
