"""A real aarch64 userland on this machine: qemu's user emulation, Debian's arm64 packages, a core's own /proc/cpuinfo.

    ~/.cache/edgemobile/emulated/
        debs/                the packages, as downloaded
        userland/            the packages, unpacked
        cores/cortex-a72/    the / of that core's programs: links to userland, and the core's own proc/ and sys/
        armcount-<hash>-<interface>.so   the plugin that counts instructions (counting.py)

The host's dpkg and apt are not changed, and root is not needed. To add a core: a row in CORES.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgemobile.devices.host.counting import compile_plugin, plugin_path, plugin_words
from edgemobile.devices.host.folders import cache_folder
from edgemobile.devices.host.processes import MissingTool, bounded_run, exit_reason
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.util.progress import Progress, Report, Silent

__all__ = ["CORES", "Core", "Emulation", "find_emulation", "get_core", "install_emulation"]


@dataclass(frozen=True)
class Cache:
    """A data cache with lines of 64 bytes."""

    bytes: int
    ways: int


@dataclass(frozen=True)
class Core:
    """An Arm core by its name in qemu, with the contents of /proc/cpuinfo on the board with that core.

    `caches` are the data caches that one core uses, from L1 on; L2 of a Pi 3 and 4 and L3 are shared by the four cores.
    """

    cpu: str
    board: str
    part: str
    variant: str
    revision: str
    features: str
    max_mhz: int
    min_mhz: int
    caches: tuple[Cache, ...]
    count: int = 4


_V8 = "fp asimd evtstrm crc32 cpuid"
_V82 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"

# L1 and L2 of the A72 are from Raspberry Pi's page about the BCM2711; the other sizes, and all ways, are the usual ones
# of these cores and were not checked against the chips' manuals.
_KIB = 1024
_A53 = (Cache(32 * _KIB, 4), Cache(512 * _KIB, 16))
_A72 = (Cache(32 * _KIB, 2), Cache(1024 * _KIB, 16))
_A76 = (Cache(64 * _KIB, 4), Cache(512 * _KIB, 8), Cache(2048 * _KIB, 16))

# The features must be the core's own: a runtime relies on them, and a missing instruction raises SIGILL.
CORES = {
    core.cpu: core
    for core in (
        Core("cortex-a53", "Raspberry Pi 3 and Zero 2 W", "0xd03", "0x0", "4", _V8, 1400, 600, _A53),
        Core("cortex-a72", "Raspberry Pi 4", "0xd08", "0x0", "3", _V8, 1800, 600, _A72),
        Core("cortex-a76", "Raspberry Pi 5", "0xd0b", "0x4", "1", _V82, 2400, 1500, _A76),
    )
}

_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1", "libatomic1")
# program -> the Debian package that has it.
_TOOLS = {"qemu-aarch64": "qemu-user", "cc": "gcc libc6-dev", "apt-get": "apt", "dpkg-deb": "dpkg"}
_APT_S = 1800
# Other top-level folders of userland come from the core.
_OWN = ("proc", "sys")


@dataclass(frozen=True)
class Emulation:
    """An installed userland: `sysroot` is the guest's /, `python` its interpreter, `plugin` counts instructions; None
    for a qemu without plugins.
    """

    core: Core
    qemu: Path
    sysroot: Path
    python: Path
    plugin: Path | None

    def command(self, argv: Sequence[str], counts: Path | None = None) -> list[str]:
        """`argv` under qemu; its program is one of the userland's. `counts` is the file for instruction counts."""
        words = [] if counts is None else self._counting(counts)
        return [str(self.qemu), "-L", str(self.sysroot), *words, str(self.program(argv[0])), *argv[1:]]

    def _counting(self, counts: Path) -> list[str]:
        if self.plugin is None:
            raise Unsupported(
                f"{self.qemu} does not support plugins, so it cannot count instructions (Debian 13's "
                "qemu-user is built so). "
                "Inference works. To count, put a qemu-aarch64 that is built with --enable-plugins first on PATH: "
                "qemu-user of Debian 12, or your own of qemu 5 or later"
            )
        return plugin_words(self.plugin, counts, [(one.bytes, one.ways) for one in self.core.caches])

    def program(self, name: str) -> Path:
        """The path of `name` in the userland, where it may be missing."""
        return self.python if name == "python3" else self.sysroot / "usr/bin" / Path(name).name

    @property
    def environment(self) -> dict[str, str]:
        """The complete environment of a guest: the host's would refer to the host's Python and libraries."""
        words = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": os.environ.get("HOME", "/")}
        return {**words, "QEMU_CPU": self.core.cpu, "QEMU_LD_PREFIX": str(self.sysroot)}


def get_core(cpu: str) -> Core:
    """The row of CORES. Raises Unsupported for other cores, with the reason for `max`."""
    if cpu == "max":
        raise Unsupported(
            "emulated:max computes wrong results: LiteRT's int8 kernels fail with the SME of that core, and no board "
            f"has such a core. Supported: {', '.join(f'emulated:{name}' for name in CORES)}"
        )
    if cpu not in CORES:
        rows = ", ".join(f"emulated:{core.cpu} ({core.board})" for core in CORES.values())
        raise Unsupported(f"emulated core {cpu!r}. Supported: {rows}")
    return CORES[cpu]


def find_emulation(cpu: str) -> Emulation:
    """The result of `install_emulation`. Raises MissingTool with the command if it is missing or incomplete."""
    core = get_core(cpu)
    folder = _folder()
    sysroot, python = folder / "cores" / cpu, _python(folder / "userland")
    qemu = shutil.which("qemu-aarch64")
    if qemu is None:
        raise MissingTool(_missing(["qemu-aarch64"]))
    plugin = plugin_path(folder, Path(qemu))
    if python is None or not (sysroot / "proc/cpuinfo").is_file() or (plugin and not plugin.is_file()):
        raise MissingTool(f"emulated:{cpu} is not set up here. Run: edgemobile devices setup emulated:{cpu}")
    return Emulation(core, Path(qemu), sysroot, sysroot / python.relative_to(folder / "userland"), plugin)


def install_emulation(cpu: str, progress: Progress | None = None) -> Emulation:
    """Download and unpack the userland, write the core's files, compile the plugin. Existing parts are kept.

    Raises MissingTool with every missing program and the one command that installs them, Unsupported for a core that
    is not in CORES, EdgemobileError with apt's or cc's last line if they fail.
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
            compile_plugin(folder, Path(shutil.which("qemu-aarch64") or "qemu-aarch64"))
    return find_emulation(cpu)


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


def _python(userland: Path) -> Path | None:
    """python3.N in an unpacked userland; None if it is incomplete."""
    if not (userland / "complete").is_file():
        return None
    found = sorted((userland / "usr/bin").glob("python3.[0-9]*"))
    return next((path for path in found if not path.is_symlink()), None)


def _download(folder: Path) -> list[Path]:
    """Download the .deb files of _PACKAGES and their dependencies, with a separate state of apt."""
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
    # A source without arm64, such as a private repository, makes update fail; only the result of install matters.
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
    """Create the / of programs on `core`: links to the userland, and the files from which a runtime reads the CPU."""
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

    They contain no temperature and no governor: an emulated core has none.
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


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Serializes simultaneous setups."""
    import fcntl

    with lock.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
