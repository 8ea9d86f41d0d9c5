"""The plugin that makes qemu count the instructions of a guest, and the parsers of its output.

It writes two files: the counts by class at every mark (`parse_counts`), and the blocks that ran between each two marks
(`parse_executions`). armcount.c documents their format.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

from edgemobile.devices.host.processes import bounded_run, exit_reason
from edgemobile.devices.runtimes.job import INSTRUCTION_CLASSES, MAX_COUNTS_BYTES
from edgemobile.errors import EdgemobileError

__all__ = [
    "BLOCKS_SUFFIX",
    "Block",
    "CacheMisses",
    "Execution",
    "Mark",
    "compile_plugin",
    "parse_counts",
    "parse_executions",
    "plugin_path",
    "plugin_words",
]

# The blocks are written next to the counts, with this suffix.
BLOCKS_SUFFIX = ".blocks"

_SOURCE, _INCLUDED = "armcount.c", "armcaches.h"
# The first qemu of each plugin interface that armcount.c supports; versions older than the first row are not supported.
_INTERFACES = (((5, 0), 1), ((9, 0), 2), ((9, 1), 3))
_WORD = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class Mark:
    """Instructions executed up to mark `v`, by class; "total" is their sum."""

    v: int
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Block:
    """A block of consecutive instructions, as qemu translated it. `words` are their encodings, in hex."""

    address: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class CacheMisses:
    """Misses of one level of data cache; `streamed` of them follow a stream, so a prefetcher hides their latency."""

    misses: int
    streamed: int

    def __post_init__(self) -> None:
        if not 0 <= self.streamed <= self.misses:
            raise ValueError(f"streamed misses are some of all: found {self.streamed} of {self.misses}")


@dataclass(frozen=True)
class Execution:
    """The executions between two marks: blocks with their counts, and the misses of every level of cache from L1 on."""

    runs: Mapping[Block, int]
    caches: tuple[CacheMisses, ...] = field(default=())

    @property
    def instructions(self) -> int:
        return sum(len(block.words) * count for block, count in self.runs.items())


def plugin_words(plugin: Path, counts: Path, caches: Sequence[tuple[int, int]]) -> list[str]:
    """The arguments of qemu that load the plugin. `caches` are (bytes, ways) from L1 on."""
    # The option's own syntax doubles a comma.
    names = [str(path).replace(",", ",,") for path in (plugin, counts, f"{counts}{BLOCKS_SUFFIX}")]
    levels = "".join(f",l{number}={size}:{ways}" for number, (size, ways) in enumerate(caches, 1))
    return ["-plugin", f"{names[0]},out={names[1]},blocks={names[2]}{levels}"]


# --- the plugin's output --------------------------------------------------------------------------------------------


def parse_counts(data: bytes) -> list[Mark]:
    """Parse the counts, one line per mark. A last line without its end is still being written and is ignored.

    Raises EdgemobileError with the line for anything the plugin does not write: another class, a decreasing count.
    """
    _check_size(data)
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


def parse_executions(data: bytes) -> dict[int, Execution]:
    """The executions, by the mark that ended them.

    Raises EdgemobileError with the line for anything the plugin does not write: a block it has not described.
    """
    _check_size(data)
    blocks: dict[int, Block] = {}
    found: dict[int, Execution] = {}
    runs: dict[Block, int] = {}
    caches: list[CacheMisses] = []
    for number, line in enumerate(data.decode("ascii", "replace").splitlines(), 1):
        kind, *words = line.split()
        try:
            if kind == "block":
                blocks[int(words[0])] = _block(words)
            elif kind == "mark":
                runs, caches = {}, []
                found[int(words[0])] = Execution(runs)
                at = int(words[0])
            elif kind == "ran":
                # A block may be translated twice.
                block = blocks[int(words[0])]
                runs[block] = runs.get(block, 0) + _count(words[1])
            elif kind == "cache":
                caches.append(CacheMisses(_count(words[1]), _count(words[2])))
                found[at] = Execution(runs, tuple(caches))
            else:
                raise ValueError(kind)
        except (ValueError, KeyError, IndexError, UnboundLocalError):
            raise EdgemobileError(f"line {number} of the blocks that ran is not one of the counter's") from None
    return found


def _block(words: Sequence[str]) -> Block:
    if len(words) < 3 or not all(map(_WORD.fullmatch, words[2:])):
        raise ValueError(words)
    return Block(int(words[1], 16), tuple(words[2:]))


def _count(word: str) -> int:
    if not word.isdecimal():
        raise ValueError(word)
    return int(word)


def _check_size(data: bytes) -> None:
    if len(data) > MAX_COUNTS_BYTES:
        raise EdgemobileError(f"instruction counts of more than {MAX_COUNTS_BYTES} bytes, which is refused")


# --- the plugin -----------------------------------------------------------------------------------------------------


def plugin_path(folder: Path, qemu: Path) -> Path | None:
    """The path in `folder` of the compiled plugin for this qemu; None for a qemu without plugins.

    The name changes with the source and with qemu's plugin interface.
    """
    interface = _interface(qemu)
    content = b"".join(text for _, text in _sources())
    name = f"armcount-{hashlib.sha256(content).hexdigest()[:12]}-{interface}.so"
    return None if interface is None else folder / name


def compile_plugin(folder: Path, qemu: Path) -> None:
    """Compile the plugin into `folder`, unless it exists or this qemu has no plugins.

    Raises EdgemobileError with the compiler's message.
    """
    plugin = plugin_path(folder, qemu)
    if plugin is None or plugin.is_file():
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix=".armcount-") as partial:
        for name, text in _sources():
            Path(partial, name).write_bytes(text)
        made = Path(partial, plugin.name)
        words = ["cc", "-O2", "-shared", "-fPIC", f"-DPLUGIN_API={_interface(qemu)}", "-o", str(made)]
        done = bounded_run([*words, str(Path(partial, _SOURCE))], timeout_s=120)
        if done.returncode:
            raise EdgemobileError(f"cc cannot compile {_SOURCE}: {exit_reason(done)}. Install gcc and libc6-dev")
        made.rename(plugin)


def _sources() -> Iterator[tuple[str, bytes]]:
    for name in (_SOURCE, _INCLUDED):
        yield name, resources.files("edgemobile.devices.host").joinpath(name).read_bytes()


@cache
def _interface(qemu: Path) -> int | None:
    """The plugin interface of a qemu, as a row of _INTERFACES; None if it has no plugins."""
    if b"-plugin" not in bounded_run([str(qemu), "-help"]).stdout:
        return None
    found = re.search(rb"version (\d+)\.(\d+)", bounded_run([str(qemu), "--version"]).stdout)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    return max((number for first, number in _INTERFACES if first <= version), default=None)
