"""The messages between host and board, and their limits, for both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict, get_args

__all__ = [
    "EVENTS",
    "INSTRUCTION_CLASSES",
    "JOB_VERSION",
    "MAX_COUNTS_BYTES",
    "MAX_LINE_BYTES",
    "MAX_PROGRESS_BYTES",
    "BenchJob",
    "EventName",
    "InferJob",
    "Job",
    "JobFile",
    "JobSettings",
]

# Of job.json and run.json.
JOB_VERSION = 2
# Of progress.jsonl, and of one event in it.
MAX_PROGRESS_BYTES, MAX_LINE_BYTES = 4 * 2**20, 2**16
# Of the counts of an emulated core.
MAX_COUNTS_BYTES = 64 * 2**20

# The classes of counted instructions, in the order shown.
INSTRUCTION_CLASSES = (
    "total",
    "dp_imm",
    "branch_sys",
    "ldst_gpr",
    "ldst_simd",
    "dp_reg",
    "fmla",
    "dot",
    "mmla",
    "mlal_mull",
    "simd_fp_other",
    "sve",
    "sme",
    "other",
)

# The kinds of lines in progress.jsonl.
EventName = Literal["opening", "opened", "memory", "waiting", "cooling", "round", "energy", "profile", "chunk", "ended"]
EVENTS: tuple[str, ...] = get_args(EventName)


class JobFile(TypedDict):
    """A model file: `file` is the user's name for it, `path` its path below the board's root."""

    file: str
    path: str
    sha256: str
    bytes: int
    format: str
    precision: str


class JobSettings(TypedDict):
    """The settings of a bench, as in devices.host.records.Settings; `cores` are numbers, None means all."""

    threads: Sequence[int]
    cores: Sequence[int] | None
    runtime: str | None
    runs: int | None
    seconds: float | None
    processes: int | None
    memory: bool
    cooldown_c: float | None
    sustained_s: float | None
    profile: bool
    shapes: Mapping[str, Sequence[int]]


class Job(TypedDict):
    """job.json. The host writes it with a new `token` for every attempt."""

    version: int
    kind: Literal["bench", "infer"]
    emulated: bool
    files: Sequence[JobFile]


class _Displaced(TypedDict, total=False):
    displaced_bytes: Sequence[int]


class BenchJob(Job, _Displaced):
    """Measure the files.

    `displaced_bytes` is for counting, a number for each file: this amount of other memory is read before each
    inference, which displaces the data of the previous inference from the caches.
    """

    id: str
    settings: JobSettings


class InferJob(Job):
    """Run images through the one file; with `layers`, return all of its outputs."""

    runtime: str | None
    threads: int
    layers: bool
