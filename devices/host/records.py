"""Records of a measurement: raw values, their device and conditions. Nothing is averaged here.

A Run is one measurement on one board. Its JSON has a version; a file with another version is refused.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from edgemobile.devices.host.estimating import Estimate
from edgemobile.devices.runtimes.job import INSTRUCTION_CLASSES
from edgemobile.errors import EdgemobileError
from edgemobile.util.strict_json import decode, encode, parse, to_text
from edgemobile.util.writing import write_whole

__all__ = [
    "MAX_RUN_BYTES",
    "RUN_VERSION",
    "Case",
    "Conditions",
    "Core",
    "Facts",
    "OpTime",
    "Prefix",
    "Refusal",
    "Run",
    "Sample",
    "Settings",
    "check_figures",
    "load_run",
    "probed",
    "save_run",
]

RUN_VERSION = 6
MAX_RUN_BYTES = 64 * 2**20
_MAX_PROBE_BYTES = 2**20
_MOST_BATCH = 2**16


@dataclass(frozen=True)
class Core:
    cpu: int
    kind: str
    max_mhz: float | None


@dataclass(frozen=True)
class Facts:
    """What a board is. `features` are those that determine the speed of a network: dotprod, i8mm, fp16, avx2,
    avx512_vnni...

    `runtimes` is runtime -> version, of the Python that measured.
    """

    model: str
    soc: str | None
    machine: str
    cores: tuple[Core, ...]
    features: tuple[str, ...]
    memory_mib: float | None
    os: str
    kernel: str
    python: str
    bits: int
    runtimes: Mapping[str, str]

    @property
    def int8_isa(self) -> str:
        """Features that int8 kernels can use, the best first: "i8mm, dotprod", "neon, no dotprod", "avx2, no VNNI"."""
        fast = [name for name in ("i8mm", "dotprod", "amx_int8", "avx512_vnni", "avx_vnni") if name in self.features]
        if fast:
            return ", ".join(fast)
        plain = next((name for name in ("avx512f", "avx2", "neon") if name in self.features), "")
        lacks = "dotprod" if self.machine.startswith(("aarch64", "arm")) else "VNNI"
        return f"{plain}, no {lacks}" if plain else f"no {lacks}"

    @property
    def has_int8_dot(self) -> bool:
        return not self.int8_isa.endswith(("no dotprod", "no VNNI"))


@dataclass(frozen=True)
class Conditions:
    """The operating conditions of a board; None if not reported. `throttled` are the bits of a Raspberry Pi's
    get_throttled.
    """

    governor: str | None
    freq_mhz: tuple[float, ...] | None
    temp_c: float | None
    throttled: int | None
    load1: float | None
    available_mib: float | None


@dataclass(frozen=True)
class Sample:
    """Conditions at a moment: "before", "during" or "after" the measurement, `at_s` seconds after its start."""

    when: str
    at_s: float
    conditions: Conditions

    def __post_init__(self) -> None:
        if self.when not in ("before", "during", "after") or self.at_s < 0:
            raise ValueError(f"a sample is before, during or after, at_s >= 0; found {self.when!r} at {self.at_s}")


@dataclass(frozen=True)
class Settings:
    """The settings of a run. Either `runs` or `seconds`, both per case, is given; None takes the default.

    `processes` is the number of processes that share the inferences. `shapes` are inputs with dynamic dimensions, by
    name, with their full shape. `clock_mhz` is for the estimate of an emulated core.
    """

    threads: tuple[int, ...] = (1,)
    cores: str | None = None
    runtime: str | None = None
    runs: int | None = None
    seconds: float | None = None
    processes: int | None = None
    memory: bool = False
    cooldown_c: float | None = None
    sustained_s: float | None = None
    profile: bool = False
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    clock_mhz: float | None = None

    def __post_init__(self) -> None:
        if not self.threads or min(self.threads) < 1 or len(set(self.threads)) != len(self.threads):
            raise ValueError(f"threads must be different numbers of at least 1, found {list(self.threads)}")
        for name in ("runs", "seconds", "sustained_s", "processes", "clock_mhz"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be more than 0, found {value}")
        if sum(value is not None for value in (self.runs, self.seconds, self.sustained_s)) > 1:
            raise ValueError("set only one of runs, seconds and sustained")
        if self.sustained_s is not None and self.processes not in (None, 1):
            raise ValueError("a sustained run uses one process; omit processes")
        for name, shape in self.shapes.items():
            if min(shape, default=1) < 1:
                raise ValueError(f"the sizes of input {name} must be at least 1, found {list(shape)}")


@dataclass(frozen=True)
class OpTime:
    """Median time of one op in one inference, by the runtime's own profiler, which itself slows the inference down."""

    name: str
    op: str
    ns: float


@dataclass(frozen=True)
class Prefix:
    """The counts of one inference of a file that was cut behind a layer (exporters.prefixes), emulated boards only.

    `layer` is the last value the layer computes and `op` its kind; both are "" for the file without any op. `macs` and
    `dtype` are the layer's, macs None where a size is dynamic. `instructions` are those of each inference, and
    `estimate` is of the one with the median of them, both for the whole prefix: the layer's own cost is the difference
    from the prefix before it.
    """

    layer: str
    op: str
    macs: int | None
    dtype: str
    instructions: tuple[int, ...]
    estimate: Estimate | None

    def __post_init__(self) -> None:
        if not self.instructions or min(self.instructions) < 1 or (self.macs or 0) < 0:
            raise ValueError("a prefix has instructions, at least 1, and no negative multiply-accumulates")

    @property
    def instructions_median(self) -> float:
        return statistics.median(self.instructions)


@dataclass(frozen=True)
class Case:
    """One file with one number of threads. Times are wall clock in ns, in the order measured, nothing discarded.

    `load_ns` opens the file in a runtime already imported; `warmup_ns` are the inferences after the first until it is
    steady, and the first one of each round, which refills the caches; `rounds_ns` are the inferences that count.
    `rounds_per_process` is the number of rounds of each process, in order; `load_ns` and `first_ns` are of the first
    process. `rounds_wall_ns` and `rounds_cpu_ns` are the wall time of each round and the CPU time of all threads of the
    process in it; () if not measured. `peak_mib` is the peak memory of a separate process, `runtime_mib` its peak
    before opening the file. `partitions` is the number of partitions of the delegate, `outside` counts the ops that run
    outside of them. `instructions` (emulated boards only) are those of each inference, by class; emulated boards have
    no times. `estimate` is of the inference with the median number of instructions, None without LLVM. `prefixes`
    (emulated boards with --profile only) begin with the file without ops and end with the whole file.
    """

    file: str
    sha256: str
    bytes: int
    format: str
    precision: str
    input: str
    batch: int
    runtime: str
    version: str
    threads: int
    load_ns: int | None
    first_ns: int | None
    warmup_ns: tuple[int, ...]
    rounds_ns: tuple[tuple[int, ...], ...]
    rounds_per_process: tuple[int, ...]
    peak_mib: float | None
    runtime_mib: float | None
    partitions: int | None
    outside: Mapping[str, int] | None
    instructions: tuple[Mapping[str, int], ...] | None
    profile: tuple[OpTime, ...] | None
    energy_mj: float | None
    idle_w: float | None
    estimate: Estimate | None
    rounds_wall_ns: tuple[int, ...] = ()
    rounds_cpu_ns: tuple[int, ...] = ()
    prefixes: tuple[Prefix, ...] = ()

    def __post_init__(self) -> None:
        times = (self.load_ns or 0, self.first_ns or 0, *self.warmup_ns)
        if min(times) < 0 or min(self.values_ns, default=1) < 1 or any(not taken for taken in self.rounds_ns):
            raise ValueError("an inference takes at least 1 ns, no time is negative, and no round is empty")
        if not all(
            value is None or value >= 0 for value in (self.peak_mib, self.runtime_mib, self.energy_mj, self.idle_w)
        ):
            raise ValueError("memory, energy and power must not be negative")
        if sum(self.rounds_per_process) != len(self.rounds_ns) or min(self.rounds_per_process, default=1) < 1:
            raise ValueError(
                f"rounds_per_process is {list(self.rounds_per_process)}, and there are {len(self.rounds_ns)} rounds"
            )
        taken = (len(self.rounds_wall_ns), len(self.rounds_cpu_ns))
        if taken not in ((0, 0), (len(self.rounds_ns),) * 2):
            raise ValueError(
                f"there are {len(self.rounds_ns)} rounds, with {taken[0]} wall and {taken[1]} CPU times; "
                "allowed: one of each for every round, or none"
            )
        if min((*self.rounds_wall_ns, *self.rounds_cpu_ns), default=0) < 0:
            raise ValueError("wall and CPU times must not be negative")
        if (
            self.batch > _MOST_BATCH
            or self.batch < 1
            or self.threads < 1
            or (self.partitions or 0) < 0
            or not _is_sha256(self.sha256)
        ):
            raise ValueError(
                f"batch is 1 to {_MOST_BATCH}, threads at least 1, partitions at least 0, sha256 64 hexadecimal digits"
            )
        for counts in self.instructions or ():
            if tuple(counts) != INSTRUCTION_CLASSES or min(counts.values()) < 0:
                raise ValueError(f"instructions are counts of exactly {', '.join(INSTRUCTION_CLASSES)}")

    @property
    def values_ns(self) -> tuple[int, ...]:
        return tuple(chain.from_iterable(self.rounds_ns))

    @property
    def median_ns(self) -> float:
        return statistics.median(self.values_ns)

    @property
    def images_per_s(self) -> float:
        """By wall time: the mean includes interrupted inferences, which the median hides."""
        return self.batch * 1e9 * len(self.values_ns) / sum(self.values_ns)

    @property
    def cpu_share(self) -> float | None:
        """CPU time over wall time; with one thread, 1 if nothing else ran on its core. None if not measured."""
        return sum(self.rounds_cpu_ns) / sum(self.rounds_wall_ns) if sum(self.rounds_wall_ns) else None

    @property
    def instructions_median(self) -> dict[str, float]:
        """The median of each class; {} without counts."""
        counted = self.instructions or ()
        return {name: statistics.median(one[name] for one in counted) for name in INSTRUCTION_CLASSES if counted}


@dataclass(frozen=True)
class Refusal:
    """A file that its runtime does not open or run, and why. The other files of the run are still measured."""

    file: str
    sha256: str
    runtime: str
    reason: str


@dataclass(frozen=True)
class Run:
    """One measurement on one board. `created` is UTC, ISO 8601; `device` is the name the user gave the board."""

    version: int
    edgemobile: str
    created: str
    device: str
    emulated: bool
    facts: Facts
    settings: Settings
    conditions: tuple[Sample, ...]
    cases: tuple[Case, ...]
    notes: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()

    def __post_init__(self) -> None:
        if self.version != RUN_VERSION:
            raise ValueError(f"a run of version {self.version}; this edgemobile reads version {RUN_VERSION}")
        check_figures(self.cases, emulated=self.emulated)

    def to_text(self) -> str:
        return to_text(encode(self))


def check_figures(cases: Sequence[Case], *, emulated: bool) -> None:
    """Raises ValueError if a case has a time under emulation, or instructions without emulation."""
    for case in cases:
        timed = case.load_ns is not None or case.first_ns is not None or case.warmup_ns or case.rounds_ns
        if emulated and (timed or not case.instructions):
            raise ValueError(f"{case.file}: an emulated board has no times, only counted instructions")
        if not emulated and (case.instructions is not None or not case.rounds_ns):
            raise ValueError(f"{case.file}: a board that is not emulated has times, and no instructions")
        if not emulated and (case.estimate is not None or case.prefixes):
            raise ValueError(f"{case.file}: a board that is not emulated has times, and no estimate and no prefixes")


def load_run(path: Path) -> Run:
    """Raises EdgemobileError for a file that cannot be read, is not a valid run, or has another version."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RUN_BYTES + 1)
    except OSError as error:
        raise EdgemobileError(f"cannot read {path}: {error.strerror or error}. Give a run saved with --out") from error
    value = parse(data, str(path), MAX_RUN_BYTES)
    if not isinstance(value, dict) or not {"version", "facts", "cases"} <= value.keys():
        raise EdgemobileError(f"{path} is not a valid run: save one with `edgemobile bench ... --out {path.name}`")
    if value["version"] != RUN_VERSION:
        raise EdgemobileError(
            f"{path} is a run of a version other than {RUN_VERSION}; measure again with this edgemobile"
        )
    return decode(Run, value, path.name)


def save_run(run: Run, path: Path) -> None:
    """Raises EdgemobileError if it cannot be written."""
    write_whole(path, run.to_text())


@dataclass(frozen=True)
class _Probe:
    facts: Facts
    conditions: Conditions


def probed(data: bytes) -> tuple[Facts, Conditions]:
    """Parse the output of `python -m edgemobile.devices.board.probe` on a board. Raises EdgemobileError for anything
    else.
    """
    found = decode(_Probe, parse(data, "the board's probe", _MAX_PROBE_BYTES), "probe")
    return found.facts, found.conditions


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")
