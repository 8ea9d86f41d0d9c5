"""A real aarch64 userland on this machine: qemu's user emulation, Debian's arm64 packages, a core's own /proc/cpuinfo.

    ~/.cache/edgemobile/emulated/
        debs/                the packages, as downloaded
        userland/            the packages, unpacked
        cores/cortex-a72/    what that core's programs see as /: links to userland, and the core's own proc/ and sys/
        armcount-<hash>.so   the plugin that counts instructions

Nothing of the host's dpkg and apt is touched, and root is not needed. Add a core here: a row in CORES.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from edgemobile.devices.host.folders import cache_folder
from edgemobile.devices.host.processes import MissingTool, bounded_run, exit_reason
from edgemobile.devices.runtimes.job import INSTRUCTION_CLASSES, MAX_COUNTS_BYTES
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.util.progress import Progress, Report, Silent

__all__ = ["CORES", "Core", "Emulation", "Mark", "find_emulation", "get_core", "install_emulation", "parse_counts"]


@dataclass(frozen=True)
class Core:
    """An Arm core as qemu knows it, and what /proc/cpuinfo says on the board that has it."""

    cpu: str
    board: str
    part: str
    variant: str
    revision: str
    features: str
    max_mhz: int
    min_mhz: int
    count: int = 4


_V8 = "fp asimd evtstrm crc32 cpuid"
_V82 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"

# The features must be the core's own: a runtime believes them, and an instruction the core lacks is a SIGILL.
CORES = {
    core.cpu: core
    for core in (
        Core("cortex-a53", "Raspberry Pi 3 and Zero 2 W", "0xd03", "0x0", "4", _V8, 1400, 600),
        Core("cortex-a72", "Raspberry Pi 4", "0xd08", "0x0", "3", _V8, 1800, 600),
        Core("cortex-a76", "Raspberry Pi 5", "0xd0b", "0x4", "1", _V82, 2400, 1500),
    )
}

_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1", "libatomic1")
# program -> the Debian package that has it.
_TOOLS = {"qemu-aarch64": "qemu-user", "cc": "gcc libc6-dev", "apt-get": "apt", "dpkg-deb": "dpkg"}
_APT_S = 1800
# What userland has at its top besides these comes from the core.
_OWN = ("proc", "sys")
# qemu 9 took the plugin interface away that armcount.c is written for.
_PLUGIN_QEMU = range(5, 9)


@dataclass(frozen=True)
class Emulation:
    """An installed userland: `sysroot` is the guest's /, `python` its interpreter, `plugin` the counter."""

    core: Core
    qemu: Path
    sysroot: Path
    python: Path
    plugin: Path

    def command(self, argv: Sequence[str], counts: Path | None = None) -> list[str]:
        """`argv` under qemu; its program is one of the userland's. `counts` is where instruction counts go."""
        words = [] if counts is None else self._counting(counts)
        return [str(self.qemu), "-L", str(self.sysroot), *words, str(self.program(argv[0])), *argv[1:]]

    def _counting(self, counts: Path) -> list[str]:
        version = _qemu_version(self.qemu)
        if version[0] not in _PLUGIN_QEMU:
            raise Unsupported(
                f"qemu {version[0]}.{version[1]} has another plugin interface than the instruction counter. Supported: "
                f"qemu {_PLUGIN_QEMU[0]} to {_PLUGIN_QEMU[-1]} (Debian 11 and 12); inference works with any"
            )
        # The option's own syntax doubles a comma.
        plugin, target = (str(path).replace(",", ",,") for path in (self.plugin, counts))
        return ["-plugin", f"{plugin},out={target}"]

    def program(self, name: str) -> Path:
        """Where the userland has `name`, which may be missing there."""
        return self.python if name == "python3" else self.sysroot / "usr/bin" / Path(name).name

    @property
    def environment(self) -> dict[str, str]:
        """All of a guest's environment: the host's would tell it of the host's Python and libraries."""
        words = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": os.environ.get("HOME", "/")}
        return {**words, "QEMU_CPU": self.core.cpu, "QEMU_LD_PREFIX": str(self.sysroot)}


def get_core(cpu: str) -> Core:
    """The row of CORES. Raises Unsupported for others, with the reason for `max`."""
    if cpu == "max":
        raise Unsupported(
            "emulated:max would compute garbage: with the SME that qemu gives it LiteRT's int8 kernels go wrong, and "
            f"no board is like it. Supported: {', '.join(f'emulated:{name}' for name in CORES)}"
        )
    if cpu not in CORES:
        rows = ", ".join(f"emulated:{core.cpu} ({core.board})" for core in CORES.values())
        raise Unsupported(f"emulated core {cpu!r}. Supported: {rows}")
    return CORES[cpu]


def find_emulation(cpu: str) -> Emulation:
    """What `install_emulation` installed. Raises MissingTool with the command where it has not, or not all of it."""
    core = get_core(cpu)
    folder = _folder()
    sysroot, plugin = folder / "cores" / cpu, folder / _plugin_name()
    python = _python(folder / "userland")
    qemu = shutil.which("qemu-aarch64")
    if qemu is None:
        raise MissingTool(_missing(["qemu-aarch64"]))
    if python is None or not (sysroot / "proc/cpuinfo").is_file() or not plugin.is_file():
        raise MissingTool(f"emulated:{cpu} is not set up here. Run: edgemobile devices setup emulated:{cpu}")
    return Emulation(core, Path(qemu), sysroot, sysroot / python.relative_to(folder / "userland"), plugin)


def install_emulation(cpu: str, progress: Progress | None = None) -> Emulation:
    """Download and unpack the userland, write the core's files, compile the plugin. What is there already is kept.

    Raises MissingTool naming every program that is not here with the one command that installs them, Unsupported for
    a core that is not in CORES, EdgemobileError with apt's or cc's own last line where they fail.
    """
    core = get_core(cpu)
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise MissingTool(_missing(missing))
    shown = progress or Silent()
    folder = _folder()
    with _alone(folder / "lock"):
        if _python(folder / "userland") is None:
            with shown.step("aarch64 packages of Debian"):
                debs = _download(folder)
            with shown.step("unpacking them", len(debs)) as report:
                _unpack(debs, folder / "userland", report)
        _write_core(core, folder)
        with shown.step("instruction counter"):
            _compile(folder / _plugin_name())
    return find_emulation(cpu)


# --- instruction counts ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mark:
    """Instructions executed by the moment of mark `v`, by class; "total" is their sum."""

    v: int
    counts: Mapping[str, int]


def parse_counts(data: bytes) -> list[Mark]:
    """What the plugin wrote, a line a mark. A last line without its end is still being written and is left out.

    Raises EdgemobileError with the line for anything the plugin does not write: another class, a count that falls.
    """
    if len(data) > MAX_COUNTS_BYTES:
        raise EdgemobileError(f"instruction counts of more than {MAX_COUNTS_BYTES} bytes, which is refused")
    marks: list[Mark] = []
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
            v = row.pop("mark")
            whole = all(type(value) is int and value >= 0 for value in (v, *row.values()))
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            whole = False
        if not whole or set(row) != set(INSTRUCTION_CLASSES) or row["total"] != sum(row.values()) - row["total"]:
            raise EdgemobileError(f"line {number} of the instruction counts is not one of the counter's")
        if marks and any(row[name] < marks[-1].counts[name] for name in INSTRUCTION_CLASSES):
            raise EdgemobileError(f"line {number} of the instruction counts falls below the line before it")
        marks.append(Mark(v, row))
    return marks


# --- the parts of an installation -----------------------------------------------------------------------------------


def _folder() -> Path:
    return cache_folder("emulated")


def _missing(tools: Sequence[str]) -> str:
    names = " and ".join(tools)
    if not {"apt-get", "dpkg-deb"}.isdisjoint(tools):
        return (
            f"{names} not found: the aarch64 userland is made of Debian's packages. Use a Debian or a Debian container"
        )
    packages = " ".join(_TOOLS[tool] for tool in tools)
    return f"{names} not found, and emulation needs it. Run: sudo apt-get install --no-install-recommends {packages}"


@cache
def _qemu_version(qemu: Path) -> tuple[int, int]:
    """(major, minor) of a qemu binary; (0, 0) where it does not say."""
    found = re.search(rb"version (\d+)\.(\d+)", bounded_run([str(qemu), "--version"]).stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _python(userland: Path) -> Path | None:
    """python3.N in an unpacked userland; None where it is not whole."""
    if not (userland / "complete").is_file():
        return None
    found = sorted((userland / "usr/bin").glob("python3.[0-9]*"))
    return next((path for path in found if not path.is_symlink()), None)


def _download(folder: Path) -> list[Path]:
    """The .deb files of _PACKAGES and what they depend on, through apt with a state of its own."""
    debs, state = folder / "debs", folder / "apt"
    for part in (debs / "partial", state / "lists/partial", state / "empty"):
        part.mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Install-Recommends": "0",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Debug::NoLocking": "1",
        "Dir::State": str(state),
        "Dir::State::status": str(state / "status"),
        "Dir::Cache": str(state),
        "Dir::Cache::archives": str(debs),
    }
    words = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    # A source without arm64 (somebody's own repository) makes update complain; what counts is whether install works.
    updated = bounded_run(["apt-get", *words, "-qq", "update"], timeout_s=_APT_S)
    done = bounded_run(["apt-get", *words, "-qq", "-y", "--download-only", "install", *_PACKAGES], timeout_s=_APT_S)
    shutil.rmtree(state)
    found = sorted(debs.glob("*.deb"))
    if done.returncode or not found:
        why = exit_reason(updated) if updated.returncode else exit_reason(done)
        raise EdgemobileError(
            f"apt cannot download Debian's arm64 packages: {why}. It reads this machine's own sources, which must be "
            f"Debian's and reachable (sudo apt-get update shows); without a network, put the .deb files into {debs}"
        )
    return found


def _unpack(debs: Sequence[Path], userland: Path, report: Report) -> None:
    with tempfile.TemporaryDirectory(dir=userland.parent, prefix=".userland-") as partial:
        root = Path(partial, "root")
        for index, deb in enumerate(debs, 1):
            done = bounded_run(["dpkg-deb", "-x", str(deb), str(root)], timeout_s=300)
            if done.returncode:
                deb.unlink()
                raise EdgemobileError(f"{deb.name} is damaged and was removed ({exit_reason(done)}). Repeat the setup")
            report(index)
        (root / "complete").write_text("\n".join(deb.name for deb in debs) + "\n")
        if userland.exists():
            shutil.rmtree(userland)
        root.rename(userland)


def _write_core(core: Core, folder: Path) -> None:
    """The root that programs on `core` see: links to the userland, and the files a runtime asks about the CPU."""
    root = folder / "cores" / core.cpu
    root.mkdir(parents=True, exist_ok=True)
    for entry in (folder / "userland").iterdir():
        link = root / entry.name
        if entry.name not in _OWN and entry.name != "complete" and not link.is_symlink():
            link.symlink_to(Path("../../userland", entry.name))
    for name, text in _core_files(core).items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def _core_files(core: Core) -> dict[str, str]:
    """/proc/cpuinfo and /sys/devices/system/cpu of `core`. Without them a runtime reads the host's and crashes.

    There is no temperature and no governor among them: an emulated core has none to tell.
    """
    every = f"0-{core.count - 1}"
    model = f"qemu {core.cpu}, the core of {core.board}"
    entry = (
        f"BogoMIPS\t: 108.00\nFeatures\t: {core.features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        f"CPU variant\t: {core.variant}\nCPU part\t: {core.part}\nCPU revision\t: {core.revision}\n\n"
    )
    cpus = "sys/devices/system/cpu"
    files = {
        "proc/cpuinfo": "".join(f"processor\t: {index}\n{entry}" for index in range(core.count))
        + f"Model\t\t: {model}\n",
        "proc/device-tree/model": f"{model}\0",
        f"{cpus}/possible": every,
        f"{cpus}/present": every,
        f"{cpus}/online": every,
        f"{cpus}/kernel_max": str(core.count - 1),
    }
    for index in range(core.count):
        one = f"{cpus}/cpu{index}"
        files |= {f"{one}/topology/{name}": every for name in ("core_siblings_list", "package_cpus_list")}
        files |= {
            f"{one}/topology/{name}": str(index) for name in ("core_id", "thread_siblings_list", "core_cpus_list")
        }
        files[f"{one}/topology/physical_package_id"] = "0"
        files[f"{one}/cpufreq/cpuinfo_max_freq"] = str(core.max_mhz * 1000)
        files[f"{one}/cpufreq/cpuinfo_min_freq"] = str(core.min_mhz * 1000)
    return {name: text if text.endswith("\0") else text.rstrip("\n") + "\n" for name, text in files.items()}


def _source() -> bytes:
    return resources.files("edgemobile.devices.host").joinpath("armcount.c").read_bytes()


def _plugin_name() -> str:
    return f"armcount-{hashlib.sha256(_source()).hexdigest()[:12]}.so"


def _compile(plugin: Path) -> None:
    if plugin.is_file():
        return
    with tempfile.TemporaryDirectory(dir=plugin.parent, prefix=".armcount-") as partial:
        source, made = Path(partial, "armcount.c"), Path(partial, plugin.name)
        source.write_bytes(_source())
        done = bounded_run(["cc", "-O2", "-shared", "-fPIC", "-o", str(made), str(source)], timeout_s=120)
        if done.returncode:
            raise EdgemobileError(f"cc cannot compile armcount.c: {exit_reason(done)}. Install gcc and libc6-dev")
        made.rename(plugin)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Two setups at once take turns."""
    import fcntl

    with lock.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
