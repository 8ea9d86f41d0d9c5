"""What a board is, and its current operating conditions. Runs on the board, with only Python's standard library.

Values that a board does not report are None, never guessed: a missing `vcgencmd` does not mean "never throttled".
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from edgemobile.devices.runtimes.table import RUNTIMES

__all__ = ["conditions", "facts", "power_w"]

# MIDR_EL1 part numbers of implementer 0x41 (Arm), as /proc/cpuinfo prints them.
_ARM_PARTS = {
    "0xb76": "ARM1176",
    "0xc07": "Cortex-A7",
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
    "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2",
}

# CPU features that determine the speed of a network: the kernel's name -> ours.
_FEATURES = {
    "asimd": "neon",
    "neon": "neon",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "asimdhp": "fp16",
    "bf16": "bf16",
    "sve": "sve",
    "fma": "fma",
    "avx2": "avx2",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "amx_int8": "amx_int8",
}

_ROOT = Path("/")
_POWER_RAIL = re.compile(r"(\S+)_([AV]) (?:current|volt)\(\d+\)=([0-9.]+)")


def facts(root: Path = _ROOT) -> dict[str, Any]:
    """Facts that do not change while the board is up. The board's serial number is not included."""
    cpuinfo = _cpuinfo(root)
    flags = {word for entry in cpuinfo for word in f"{entry.get('features', '')} {entry.get('flags', '')}".split()}
    kinds = [_kind(entry) for entry in cpuinfo if "processor" in entry]
    return {
        "model": _first_text(root, "proc/device-tree/model") or _entry(cpuinfo, "model") or _unknown_model(kinds),
        "soc": _last_compatible(root),
        "machine": platform.machine(),
        "cores": [
            {"cpu": cpu, "kind": kind, "max_mhz": _mhz(root, cpu, "cpuinfo_max_freq")} for cpu, kind in enumerate(kinds)
        ],
        "features": sorted({ours for theirs, ours in _FEATURES.items() if theirs in flags}),
        "memory_mib": _memory_mib(root, "MemTotal"),
        "os": _os_name(root),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "bits": 64 if sys.maxsize > 2**32 else 32,
        "runtimes": dict(_installed()),
    }


def conditions(root: Path = _ROOT) -> dict[str, Any]:
    """Conditions that change. Reads sysfs, which takes microseconds, and runs `vcgencmd` only for what sysfs lacks."""
    cpus = range(len([entry for entry in _cpuinfo(root) if "processor" in entry]))
    governors = {_cpufreq(root, cpu, "scaling_governor") for cpu in cpus} - {None}
    frequencies = [_mhz(root, cpu, "scaling_cur_freq") for cpu in cpus]
    return {
        "governor": "+".join(sorted(str(governor) for governor in governors)) or None,
        "freq_mhz": frequencies if cpus and None not in frequencies else None,
        "temp_c": _temp_c(root),
        "throttled": _throttled(root),
        "load1": _load(),
        "available_mib": _memory_mib(root, "MemAvailable"),
    }


def power_w(root: Path = _ROOT) -> float | None:
    """The current power: from an INA sensor, else the sum of the rails of a Pi 5's power chip."""
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        microwatts = _number(_text(folder / "power1_input"))
        if microwatts is not None and (_text(folder / "name") or "").startswith("ina"):
            return microwatts / 1e6
    rails: dict[str, dict[str, float]] = {}
    for name, what, value in _POWER_RAIL.findall(_vcgencmd("pmic_read_adc") or ""):
        rails.setdefault(name, {})[what] = float(value)
    whole = [rail["A"] * rail["V"] for rail in rails.values() if len(rail) == 2]
    return sum(whole) if whole else None


# ---- the kernel's files ---------------------------------------------------------------------------------------------


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes()[:1_000_000].decode("utf-8", "replace").strip("\0 \n\t")
    except OSError:
        return None


def _first_text(root: Path, *paths: str) -> str | None:
    return next((text for text in (_text(root / path) for path in paths) if text), None)


def _number(text: str | None) -> int | None:
    try:
        return None if text is None else int(text, 0)
    except ValueError:
        return None


def _cpuinfo(root: Path) -> list[dict[str, str]]:
    """One entry per processor, and on ARM one more for the board; keys in lower case."""
    entries = []
    for block in (_text(root / "proc/cpuinfo") or "").split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
        entries.append({key.strip().lower(): value.strip() for key, _, value in pairs})
    return entries


def _entry(cpuinfo: list[dict[str, str]], key: str) -> str | None:
    """A field of the board's own entry; x86 also has a "model", but in each processor's entry, where it is a number."""
    return next((entry[key] for entry in cpuinfo if key in entry and "processor" not in entry), None)


def _kind(entry: dict[str, str]) -> str:
    if "cpu part" not in entry:
        return entry.get("model name", "unknown")
    part, implementer = entry["cpu part"].lower(), entry.get("cpu implementer", "").lower()
    return _ARM_PARTS.get(part, f"part {part}") if implementer == "0x41" else f"{implementer} part {part}"


def _unknown_model(kinds: list[str]) -> str:
    return kinds[0] if kinds else platform.processor() or "unknown"


def _last_compatible(root: Path) -> str | None:
    """The chip, which is the last and most general name: "raspberrypi,5-model-b", "brcm,bcm2712"."""
    text = _text(root / "proc/device-tree/compatible")
    return text.split("\0")[-1] if text else None


def _cpufreq(root: Path, cpu: int, what: str) -> str | None:
    return _text(root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/{what}")


def _mhz(root: Path, cpu: int, what: str) -> float | None:
    khz = _number(_cpufreq(root, cpu, what))
    return None if khz is None else khz / 1000


def _temp_c(root: Path) -> float | None:
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"))
    # Boards also have zones for batteries and radios; the type of the CPU's zone says so, and on a Pi it is the first.
    zones.sort(key=lambda zone: not re.search("cpu|soc|x86_pkg", _text(zone / "type") or ""))
    millidegrees = _number(_text(zones[0] / "temp")) if zones else None
    return None if millidegrees is None else millidegrees / 1000


def _throttled(root: Path) -> int | None:
    """The bits of a Pi's `get_throttled`: 0 under-voltage, 1 capped, 2 throttled, 3 soft limit; 16 to 19 since boot."""
    stated = _text(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    if stated is not None:
        return _number(f"0x{stated.lower().replace('0x', '')}")
    return _number((_vcgencmd("get_throttled") or "").partition("=")[2] or None)


def _vcgencmd(*words: str) -> str | None:
    try:
        done = subprocess.run(["vcgencmd", *words], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _memory_mib(root: Path, what: str) -> float | None:
    found = re.search(rf"^{what}:\s+(\d+) kB", _text(root / "proc/meminfo") or "", re.MULTILINE)
    return int(found.group(1)) / 1024 if found else None


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def _os_name(root: Path) -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)', _text(root / "etc/os-release") or "", re.MULTILINE)
    return found.group(1) if found else platform.system()


def _installed() -> Iterator[tuple[str, str]]:
    distributions = {name: row.distribution for name, row in RUNTIMES.items()}
    for runtime, package in {**distributions, "numpy": "numpy"}.items():
        try:
            yield runtime, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue


if __name__ == "__main__":
    print(json.dumps({"facts": facts(), "conditions": conditions()}))
