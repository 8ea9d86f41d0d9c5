"""Problems of this machine or of a board, each with the command that fixes it."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from edgemobile.devices.host.emulation import CORES, find_emulation
from edgemobile.devices.host.folders import cache_path
from edgemobile.devices.host.llvm_mca import find_llvm
from edgemobile.devices.host.processes import exit_reason
from edgemobile.devices.host.profiles import Device, load_devices
from edgemobile.devices.host.setup import find_target, python_of, runtimes_there
from edgemobile.devices.host.transport import DeviceUnreachable, Transport
from edgemobile.devices.host.wheels import PINS, pin_for
from edgemobile.devices.runtimes.table import DEFAULTS, RUNTIMES
from edgemobile.errors import EdgemobileError, MissingExtra

__all__ = ["Finding", "diagnose_board", "diagnose_host", "diagnose_state"]

MISSING, UNREACHABLE = MissingExtra.exit_code, DeviceUnreachable.exit_code
_PERFORMANCE = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
# Above this load per core, a board is busy with something else.
_BUSY = 0.5
_HOT_C = 70
# numpy with one runtime takes about 170 MB unpacked.
_LEAST_FREE_MIB = 500
# Old files on the board are removed by their age, so its clock must be about right.
_CLOCK_OFF_S = 60
_ASK_ROOM = "import json, shutil, time; print(json.dumps([shutil.disk_usage('.').free, time.time()]))"


@dataclass(frozen=True)
class Finding:
    """`exit_code` is 0 if work is possible without a fix: there is no problem (`remedy` is empty), or a minor one."""

    what: str
    found: str
    remedy: str = ""
    exit_code: int = 0


def diagnose_host() -> Iterator[Finding]:
    """This machine: runtimes, the programs that reach the boards of devices.toml, emulation, room in the cache."""
    yield _disk(_free_bytes(cache_path("")), str(cache_path("")))
    versions = {name: _version(RUNTIMES[name].distribution) for name in DEFAULTS}
    there = [f"{name} {version}" for name, version in versions.items() if version]
    for name, version in versions.items():
        if version:
            yield Finding(name, version)
        else:
            needed = "" if there else "no runtime is installed, so no file can be run here"
            yield Finding(name, needed or "not installed", f"pip install 'edgemobile[{name}]'", 0 if there else MISSING)
    if importlib.util.find_spec("torch"):
        yield Finding("export", f"torch {_version('torch')}")
    else:
        yield Finding("export", "torch is not installed; existing files can be run", "pip install 'edgemobile[export]'")
    rows = load_devices()
    for scheme, program, package in (("ssh", "ssh", "openssh-client"), ("adb", "adb", "adb")):
        users = [row.name for row in rows.values() if row.scheme == scheme]
        path = shutil.which(program)
        if path:
            yield Finding(program, path)
        elif users:
            needed = f"not installed; {', '.join(users)} needs it"
            yield Finding(program, needed, f"sudo apt-get install {package}", MISSING)
    yield from _emulation([row.address.partition(":")[2] for row in rows.values() if row.scheme == "emulated"])


def diagnose_board(device: Device, transport: Transport) -> Iterator[Finding]:
    """Check a board: its connection, Python, disk, clock, and the runtimes that fit and are installed.

    A check that makes the later ones impossible is the last one.
    """
    try:
        target = find_target(device, transport)
    except DeviceUnreachable as error:
        message, _, remedy = str(error).partition("; ")
        yield Finding("connection", message, remedy or "ping it", UNREACHABLE)
        return
    except EdgemobileError as error:
        message, _, remedy = str(error).partition(". ")
        yield Finding("python", message, remedy, MISSING)
        return
    yield Finding("connection", device.address)
    yield Finding("python", str(target))
    yield from _room_and_clock(device, transport)
    there = runtimes_there(device, transport)
    for runtime in dict.fromkeys(pin.runtime for pin in PINS):
        setup = f"edgemobile devices setup {device.name} --runtime {runtime}"
        if runtime in there:
            yield Finding(runtime, ", ".join(there[runtime]))
            continue
        try:
            pin_for(runtime, target)
            yield Finding(runtime, "not set up", setup, 0 if there else MISSING)
        except EdgemobileError as error:
            message, _, remedy = str(error).partition(": ")
            yield Finding(runtime, message, remedy, 0 if runtime == "tflite_runtime" or there else MISSING)


def diagnose_state(
    *, governor: str | None, temp_c: float | None, throttled: int | None, load1: float | None, cores: int
) -> Iterator[Finding]:
    """Conditions of a board that make a measurement less reliable. None means not reported."""
    if governor is not None:
        steady = governor in ("performance", "userspace")
        yield Finding("governor", governor, "" if steady else f"on the board: {_PERFORMANCE}")
    if temp_c is not None:
        yield Finding("temperature", f"{temp_c:.1f} °C", "let it cool, or fit a heat sink" if temp_c >= _HOT_C else "")
    if throttled is not None:
        remedies = {
            0: "use the board's own power supply: it has too little voltage now",
            2: "let it cool, or fit a fan: it is throttled now",
            16: "use the board's own power supply (its voltage was too low since it started), then restart it",
            18: "let it cool, or fit a fan (it was throttled since it started), then restart it",
        }
        remedy = next((text for bit, text in remedies.items() if throttled >> bit & 1), "")
        yield Finding("throttled", f"0x{throttled:x}", remedy)
    if load1 is not None:
        busy = load1 > _BUSY * max(cores, 1)
        yield Finding("load", f"{load1:.2f} on {cores} cores", "stop what runs there: top" if busy else "")


def _room_and_clock(device: Device, transport: Transport) -> Iterator[Finding]:
    asked = time.time()
    done = transport.run([python_of(device), "-S", "-c", _ASK_ROOM])
    answered = time.time()
    try:
        free, now = json.loads(done.stdout)
        room, early_s, late_s = _disk(int(free), transport.root), asked - float(now), float(now) - answered
    except (ValueError, TypeError, OverflowError, RecursionError):
        yield Finding("disk", f"unknown: {exit_reason(done)}", "on the board: df -h")
        return
    yield room
    off_s = max(early_s, late_s, 0.0)
    remedy = "on the board: sudo timedatectl set-ntp true" if off_s > _CLOCK_OFF_S else ""
    way = "behind" if early_s > late_s else "ahead"
    yield Finding("clock", f"{off_s:.0f} s {way}" if remedy else "right", remedy)


def _disk(free: int, folder: str) -> Finding:
    mib = free / 2**20
    return Finding("disk", f"{mib:.0f} MiB free", f"make room in {folder}" if mib < _LEAST_FREE_MIB else "")


def _free_bytes(folder: Path) -> int:
    """Of the disk that `folder` is or would be on."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def _emulation(named: list[str]) -> Iterator[Finding]:
    for cpu in CORES:
        try:
            find_emulation(cpu)
            yield Finding(f"emulated:{cpu}", "set up")
        except EdgemobileError as error:
            message, _, remedy = str(error).partition(". Run: ")
            yield Finding(f"emulated:{cpu}", message, remedy, MISSING if cpu in named else 0)
    try:
        yield Finding("estimates", f"llvm {find_llvm().version}")
    except EdgemobileError as error:
        message, _, remedy = str(error).partition(". Run: ")
        yield Finding("estimates", message, remedy)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
