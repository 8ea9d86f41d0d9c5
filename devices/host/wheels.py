"""The pinned wheels of each runtime for boards, and their download to the host: the board needs no network and no pip.

To add a version: a row in PINS, newest Python first, and the sha256 of its wheels in wheels.sha256: the output of
`sha256sum *.whl` for the files that pip downloads for every Python and machine.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from edgemobile.devices.host.folders import cache_folder
from edgemobile.devices.host.processes import bounded_run, exit_reason
from edgemobile.errors import EdgemobileError, Unsupported

__all__ = ["PINS", "Pin", "Target", "fetch_wheels", "pin_for"]


@dataclass(frozen=True)
class Target:
    """What a wheel must match: `machine` as in uname, Python and glibc as (major, minor)."""

    machine: str
    python: tuple[int, int]
    glibc: tuple[int, int] | None

    def __str__(self) -> str:
        libc = "no glibc" if self.glibc is None else f"glibc {_dotted(self.glibc)}"
        return f"{self.machine}, Python {_dotted(self.python)}, {libc}"

    @property
    def platforms(self) -> list[str]:
        """Every manylinux tag that runs there, newest first: PEP 600 guarantees manylinux_2_N if glibc >= 2.N."""
        assert self.glibc is not None
        return [f"manylinux_2_{minor}_{self.machine}" for minor in range(self.glibc[1], 16, -1)] + [
            f"manylinux2014_{self.machine}"
        ]


@dataclass(frozen=True)
class Pin:
    """The exact packages of a runtime for Python `first` to `last`, and the oldest glibc their wheels run on."""

    runtime: str
    first: tuple[int, int]
    last: tuple[int, int]
    glibc: tuple[int, int]
    packages: tuple[str, ...]


# Wheels of 64-bit ARM and x86-64. numpy 2 breaks tflite-runtime, whose last release is 2.14.
PINS = (
    Pin("litert", (3, 11), (3, 14), (2, 28), ("ai-edge-litert==2.3.0", "numpy==2.4.6")),
    Pin("litert", (3, 10), (3, 10), (2, 27), ("ai-edge-litert==2.3.0", "numpy==2.2.6")),
    Pin("litert", (3, 9), (3, 9), (2, 27), ("ai-edge-litert==2.1.0", "numpy==2.0.2")),
    Pin("onnxruntime", (3, 11), (3, 14), (2, 28), ("onnxruntime==1.32.0", "numpy==2.4.6")),
    Pin("onnxruntime", (3, 10), (3, 10), (2, 27), ("onnxruntime==1.23.2", "numpy==2.2.6")),
    Pin("onnxruntime", (3, 9), (3, 9), (2, 27), ("onnxruntime==1.19.2", "numpy==2.0.2")),
    Pin("tflite_runtime", (3, 9), (3, 11), (2, 34), ("tflite-runtime==2.14.0", "numpy==1.26.4")),
)
_MACHINES = ("aarch64", "x86_64")
_DOWNLOAD_S = 1800


def pin_for(runtime: str, target: Target) -> Pin:
    """The matching row of PINS. Raises Unsupported with the part of `target` that does not match, and what would."""
    rows = [pin for pin in PINS if pin.runtime == runtime]
    if not rows:
        known = ", ".join(dict.fromkeys(pin.runtime for pin in PINS))
        raise Unsupported(f"runtime {runtime!r}. Known: {known}")
    if target.machine not in _MACHINES:
        raise Unsupported(f"{runtime} on a board that is {target}: {_why_no_machine(target.machine)}")
    if target.glibc is None:
        raise Unsupported(
            f"{runtime} on a board that is {target}: the wheels of {runtime} need glibc "
            "(Android's own userland and Alpine have another C library). Use a Debian or Ubuntu, in a chroot if need be"
        )
    fitting = [pin for pin in rows if pin.first <= target.python <= pin.last]
    if not fitting:
        low, high = min(pin.first for pin in rows), max(pin.last for pin in rows)
        raise Unsupported(
            f"{runtime} has no wheel for a board that is {target}. Its wheels: Python {_dotted(low)} to "
            f'{_dotted(high)}. Set another Python of the board in its row (python = "python{_dotted(high)}")'
            + (", or use --runtime litert" if runtime == "tflite_runtime" else "")
        )
    if target.glibc < fitting[0].glibc:
        raise Unsupported(
            f"{runtime} has no wheel for a board that is {target}. Its wheels need glibc {_dotted(fitting[0].glibc)}: "
            "upgrade the board's system to a newer release"
            + (", or use --runtime litert" if runtime == "tflite_runtime" else "")
        )
    return fitting[0]


def fetch_wheels(runtime: str, target: Target) -> list[Path]:
    """The wheels of `runtime` for `target`, from the cache or downloaded into it atomically.

    Each is checked against its sha256 every time: a damaged cache is downloaded again. Raises Unsupported if there are
    none, EdgemobileError if pip is missing, cannot reach its index, or gets another file.
    """
    pin = pin_for(runtime, target)
    name = f"{'+'.join(pin.packages)}-cp{_dotted(target.python).replace('.', '')}-{target.machine}"
    folder = cache_folder("wheels") / name
    wrong = _wrong(folder, pin) if folder.is_dir() else ""
    if wrong or not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as partial:
            try:
                _download(pin, target, Path(partial), folder)
            except EdgemobileError as error:
                raise EdgemobileError(f"{wrong}; {error}" if wrong else str(error)) from error
            if other := _wrong(Path(partial, "done"), pin):
                raise EdgemobileError(f"{other}. It is not installed: look at the index that pip is set to")
            shutil.rmtree(folder, ignore_errors=True)
            try:
                Path(partial, "done").rename(folder)
            except OSError:
                # Another process was first; its wheels are the same.
                if not folder.is_dir():
                    raise
    return sorted(folder.glob("*.whl"))


def _wrong(folder: Path, pin: Pin) -> str:
    """What is wrong with the wheels in `folder`; "" for nothing."""
    wheels, known = sorted(folder.glob("*.whl")), _known_wheels()
    if len(wheels) != len(pin.packages):
        return f"{folder} has {len(wheels)} wheels, not one each of {', '.join(pin.packages)}"
    for wheel in wheels:
        if wheel.name not in known:
            return f"{wheel.name} is none of the wheels that edgemobile knows the sha256 of"
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != known[wheel.name]:
            return f"{wheel.name} has the sha256 {found[:16]}..., expected {known[wheel.name][:16]}..."
    return ""


@cache
def _known_wheels() -> dict[str, str]:
    """Name -> sha256."""
    text = files("edgemobile.devices.host").joinpath("wheels.sha256").read_text(encoding="utf-8")
    return {name: digest for digest, name in map(str.split, text.splitlines())}


def _download(pin: Pin, target: Target, partial: Path, folder: Path) -> None:
    words = ["--python-version", _dotted(target.python), "--implementation", "cp"]
    for platform in target.platforms:
        words += ["--platform", platform]
    # Dependencies are listed in PINS: pip would evaluate their markers for its own Python, not the board's.
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", *words, "-d", str(partial / "done"), *pin.packages]
    done = bounded_run(command, timeout_s=_DOWNLOAD_S, named="pip download")
    if done.returncode:
        remedy = (
            "Install pip: python -m ensurepip" if b"No module named pip" in done.stderr else "Fix that and run it again"
        )
        shutil.rmtree(partial / "done", ignore_errors=True)
        raise EdgemobileError(
            f"cannot download {' and '.join(pin.packages)} for {target}: {exit_reason(done)}. {remedy}; "
            f"without a network, put the .whl files into {folder}"
        )


def _why_no_machine(machine: str) -> str:
    if machine.startswith("armv"):
        return (
            "a 32-bit system, for which there are no wheels of litert and onnxruntime, nor of a numpy that "
            "tflite_runtime takes. Pi 3, Zero 2 W and later run a 64-bit system: install Raspberry Pi OS (64-bit)"
        )
    return f"there are wheels for {' and '.join(_MACHINES)} only"


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
