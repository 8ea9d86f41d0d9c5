"""Installs edgemobile on a board: its own light modules as a zip, and one folder per runtime with the pinned wheels.

The board needs only Python: no pip, no venv module, no network. Only a runtime's folder is on Python's path (`-S`
excludes the system's packages), so it is as isolated as a virtual environment.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import sys
import uuid
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgemobile.devices.board.unpack import NO_SPACE, NO_START
from edgemobile.devices.host.processes import NOT_FOUND, exit_reason
from edgemobile.devices.host.transport import Transport, disk_full
from edgemobile.devices.host.wheels import PINS, Pin, Target, fetch_wheels, pin_for
from edgemobile.devices.runtimes.table import CARRIED, RUNTIMES, Runtime
from edgemobile.errors import EdgemobileError, Unsupported, missing
from edgemobile.util.progress import Progress, Silent

if TYPE_CHECKING:
    from edgemobile.devices.host.profiles import Device

__all__ = [
    "PAYLOAD",
    "NotSetUp",
    "Prepared",
    "find_target",
    "payload",
    "prepare_probe",
    "probe",
    "python_of",
    "ready",
    "runtimes_there",
    "setup",
]

# The modules that run on a board, with Python 3.9 and later.
PAYLOAD = (
    "__init__",
    "errors",
    "graph/__init__",
    "graph/affine",
    "graph/ir",
    "graph/origin",
    "graph/ops",
    "graph/resizing",
    "metrics/__init__",
    "metrics/outputs",
    "model_file/__init__",
    "model_file/file",
    "util/__init__",
    "util/quiet",
    "util/writing",
    "devices/__init__",
    "devices/board/__init__",
    "devices/board/measuring",
    "devices/board/parts",
    "devices/board/probe",
    "devices/board/profiling",
    "devices/board/repair",
    "devices/board/unpack",
    "devices/board/worker",
    "devices/runtimes/__init__",
    "devices/runtimes/job",
    "devices/runtimes/latency",
    "devices/runtimes/limits",
    "devices/runtimes/sessions",
    "devices/runtimes/table",
)
_OLDEST_PYTHON = (3, 9)
_MAX_MARKER_BYTES = 2**14
# Another setup of the same board may have to finish first.
_UNPACK_S = 1800

_ASK_TARGET = """
import json, os, platform, struct, sys
libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {}) else None
print(json.dumps([platform.machine(), struct.calcsize("P"), list(sys.version_info[:2]), libc]))
"""


class NotSetUp(EdgemobileError):
    """A board without the runtime."""


@dataclass(frozen=True)
class Prepared:
    """How to start Python on a board with a runtime: the first arguments, and the environment."""

    python: tuple[str, ...]
    env: Mapping[str, str]


def ready(device: Device, transport: Transport, runtime: str) -> Prepared:
    """How to start Python with `runtime` on a board prepared by `setup`; updates edgemobile's modules there.

    Raises NotSetUp with the command if it was not prepared, MissingExtra if `runtime` is not installed here.
    """
    if runtime not in RUNTIMES:
        raise Unsupported(f"runtime {runtime!r}. Known: {', '.join(RUNTIMES)}")
    if device.scheme == "local":
        return _here(RUNTIMES[runtime])
    if runtime not in CARRIED:
        raise Unsupported(f"{runtime} runs on this machine only. On {device.name}: {', '.join(CARRIED)}")
    if _marked(transport, runtime) is None:
        raise NotSetUp(
            f"{device.name} has no {runtime} yet. Run: edgemobile devices setup {device.name} --runtime {runtime}"
        )
    return Prepared(
        (python_of(device), "-S"), {"PYTHONPATH": f"{_payload(transport)}:{transport.root}/runtimes/{runtime}"}
    )


def probe(device: Device, transport: Transport) -> bytes:
    """The output of devices/board/probe.py on the board: JSON, which records.probed reads."""
    prepared = prepare_probe(device, transport)
    done = transport.run([*prepared.python, "-m", "edgemobile.devices.board.probe"], env=prepared.env, timeout_s=120)
    if done.returncode == NOT_FOUND:
        raise EdgemobileError(_no_python(device))
    if done.returncode:
        raise EdgemobileError(f"cannot probe {device.name}: {exit_reason(done)}")
    return done.stdout


def prepare_probe(device: Device, transport: Transport) -> Prepared:
    """How to start Python with edgemobile's modules and every installed runtime, possibly none."""
    if device.scheme == "local":
        return Prepared((sys.executable,), {})
    folders = [f"{transport.root}/runtimes/{runtime}" for runtime in CARRIED if _marked(transport, runtime)]
    return Prepared((python_of(device), "-S"), {"PYTHONPATH": ":".join([_payload(transport), *folders])})


def setup(
    device: Device, transport: Transport, runtimes: Iterable[str], progress: Progress | None = None
) -> dict[str, str]:
    """Install the pinned wheels of `runtimes` on the board and import each there: runtime -> what was done.

    Installed runtimes are kept. Raises EdgemobileError if Python is missing or too old there, Unsupported for a
    runtime without a wheel for it.
    """
    shown = progress or Silent()
    if device.scheme == "local":
        return {runtime: f"{_here(RUNTIMES[runtime]).python[0]} has it" for runtime in runtimes}
    target = find_target(device, transport)
    # Find all wheels before any work, so that a missing wheel does not leave a partial setup.
    pins = {runtime: pin_for(runtime, target) for runtime in runtimes}
    done = {}
    for runtime, pin in pins.items():
        if _marked(transport, runtime) == list(pin.packages):
            done[runtime] = f"{', '.join(pin.packages)} was there"
            continue
        with shown.step(f"{runtime}: wheels for {target}"):
            wheels = fetch_wheels(runtime, target)
        _put_there(device, transport, pin, wheels, shown)
        done[runtime] = ", ".join(pin.packages)
    _payload(transport)
    return done


def runtimes_there(device: Device, transport: Transport) -> dict[str, list[str]]:
    """Runtime -> the packages that `setup` installed on the board; for this machine, those installed in this Python."""
    if device.scheme == "local":
        return {name: [row.package] for name, row in RUNTIMES.items() if importlib.util.find_spec(row.package)}
    marked = {runtime: _marked(transport, runtime) for runtime in CARRIED}
    return {runtime: packages for runtime, packages in marked.items() if packages}


def find_target(device: Device, transport: Transport) -> Target:
    """What the board's Python is. Raises EdgemobileError where there is none or it is older than 3.9."""
    python = python_of(device)
    done = transport.run([python, "-S", "-c", _ASK_TARGET])
    if done.returncode == NOT_FOUND:
        raise EdgemobileError(_no_python(device))
    try:
        machine, pointer, version, libc = json.loads(done.stdout)
        python_version = int(version[0]), int(version[1])
        found = libc.split()[-1].split(".") if libc else None
        # A 32-bit system may run on a 64-bit kernel; uname then shows the kernel's machine.
        machine = "armv8l" if machine == "aarch64" and pointer == 4 else str(machine)[:40]
        target = Target(machine, python_version, (int(found[0]), int(found[1])) if found else None)
    except (ValueError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise EdgemobileError(f"{python} on {device.name} does not work: {exit_reason(done)}") from error
    if target.python < _OLDEST_PYTHON:
        raise Unsupported(
            f"{python} on {device.name} is Python {target.python[0]}.{target.python[1]}; 3.9 to 3.14 are supported. "
            'Install one, or set another in its row (python = "python3.11")'
        )
    return target


@cache
def payload() -> bytes:
    """The modules of PAYLOAD as a zip for Python's path; the same modules give the same bytes."""
    written = io.BytesIO()
    package = resources.files("edgemobile")
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in PAYLOAD:
            # A fixed date: the file's name depends only on the content.
            entry = zipfile.ZipInfo(f"edgemobile/{name}.py", (1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, package.joinpath(*f"{name}.py".split("/")).read_bytes(), zipfile.ZIP_DEFLATED)
    return written.getvalue()


def _payload(transport: Transport) -> str:
    """The path of the payload on the board, copied if it is missing."""
    data = payload()
    name = f"payload/{hashlib.sha256(data).hexdigest()[:16]}.zip"
    if transport.read(name, max_bytes=len(data) + 1) != data:
        transport.put(data, name)
    return f"{transport.root}/{name}"


def python_of(device: Device) -> str:
    """The first word of what starts Python on the device."""
    return sys.executable if device.scheme == "local" else device.options.get("python", "python3")


def _no_python(device: Device) -> str:
    return (
        f"{device.name} has no {python_of(device)}. On the board: sudo apt-get install python3; "
        'or set another in its row (python = "python3.11")'
    )


def _here(runtime: Runtime) -> Prepared:
    if importlib.util.find_spec(runtime.package) is None:
        raise missing(runtime.package, runtime.extra)
    return Prepared((sys.executable,), {})


def _marker(runtime: str) -> str:
    return f"runtimes/{runtime}.json"


def _marked(transport: Transport, runtime: str) -> list[str] | None:
    """The packages of a completely installed runtime; None for anything else."""
    data = transport.read(_marker(runtime), max_bytes=_MAX_MARKER_BYTES)
    known: list[Any] = [{"version": 1, "packages": list(pin.packages)} for pin in PINS if pin.runtime == runtime]
    try:
        value = json.loads(data or b"null")
    except (ValueError, RecursionError):
        return None
    return value["packages"] if value in known else None


def _put_there(device: Device, transport: Transport, pin: Pin, wheels: list[Path], shown: Progress) -> None:
    """Copy the wheels under a name unique to this attempt, and unpack and test them there."""
    attempt, words = uuid.uuid4().hex[:16], []
    try:
        with shown.step(f"{pin.runtime}: copy to {device.name}", len(wheels)) as report:
            for count, wheel in enumerate(wheels, 1):
                transport.put(wheel, f"wheels/{attempt}/{wheel.name}")
                words += [wheel.name, hashlib.sha256(wheel.read_bytes()).hexdigest()]
                report(count)
        with shown.step(f"{pin.runtime}: unpack and test there"):
            _unpack(device, transport, pin, attempt, words)
    except BaseException:
        _clear(device, transport, f"wheels/{attempt}")
        raise


def _unpack(device: Device, transport: Transport, pin: Pin, attempt: str, words: list[str]) -> None:
    marker = json.dumps({"version": 1, "packages": list(pin.packages)})
    argv = [python_of(device), "-S", "-m", "edgemobile.devices.board.unpack"]
    argv += [pin.runtime, RUNTIMES[pin.runtime].module, marker, attempt, *words]
    done = transport.run(argv, env={"PYTHONPATH": _payload(transport)}, timeout_s=_UNPACK_S)
    if done.returncode == NO_START:
        raise EdgemobileError(f"{pin.runtime} does not start on {device.name}: {exit_reason(done)}")
    failed = f"cannot unpack {pin.runtime} on {device.name}"
    if done.returncode == NO_SPACE:
        raise EdgemobileError(f"{failed}: {disk_full(transport.root, movable='root' in device.row.options)}")
    if done.returncode:
        raise EdgemobileError(f"{failed}: {exit_reason(done)}")


def _clear(device: Device, transport: Transport, folder: str) -> None:
    """Try to remove a folder on the board, once: called while another error is handled."""
    code = "import shutil, sys; shutil.rmtree(sys.argv[1], ignore_errors=True)"
    with suppress(EdgemobileError):
        transport.run([python_of(device), "-S", "-c", code, folder])
