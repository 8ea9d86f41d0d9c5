"""Cycles of a block of instructions, from LLVM's scheduling model of a core (llvm-mca).

A block is scheduled 50 times in a row, so the result is throughput: what follows a block overlaps with it, as on an
out-of-order core. Every load hits the L1 cache, and every branch is predicted.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgemobile.devices.host.counting import Block
from edgemobile.devices.host.processes import MissingTool, bounded_run, exit_reason
from edgemobile.errors import EdgemobileError
from edgemobile.util.strict_json import parse

__all__ = ["SCHEDULING_MODELS", "Llvm", "disassemble", "find_llvm", "schedule"]

# core -> the core whose scheduling model is used. LLVM has none for the A76; the Neoverse N1 is closely related. Its
# model of the A53 lets no load retire before an older multiply-add, which gives 3.7 times the cycles of a Pi 3.
SCHEDULING_MODELS = {
    "cortex-a53": "cortex-a55",
    "cortex-a72": "cortex-a72",
    "cortex-a76": "neoverse-n1",
}

# Before 19, llvm-mca stops at the first instruction that a model does not know.
_OLDEST, _NEWEST, _CHECKED = 19, 40, 19
_ITERATIONS = 50
_TIMEOUT_S = 600
_MAX_BYTES = 2**28
_INSTALL = f"Run: sudo apt-get install --no-install-recommends llvm-{_CHECKED}"
_NOP = "nop"
_FLAGS = ("-mattr=+all",)


@dataclass(frozen=True)
class Llvm:
    """llvm-mc and llvm-mca of one version, "19.1.7"."""

    mc: Path
    mca: Path
    version: str


@cache
def find_llvm() -> Llvm:
    """The installed LLVM; of several, the version with which docs/estimates.md was checked.

    Raises MissingTool with the command that installs it if it is missing or too old.
    """
    found = []
    for suffix in ("", *(f"-{number}" for number in range(_OLDEST, _NEWEST))):
        mc, mca = shutil.which(f"llvm-mc{suffix}"), shutil.which(f"llvm-mca{suffix}")
        if mc and mca:
            found.append(Llvm(Path(mc), Path(mca), _version(mca)))
    usable = [one for one in found if _major(one) >= _OLDEST]
    if not usable:
        versions = ", ".join(dict.fromkeys(one.version for one in found))
        what = f"llvm {versions} is too old" if found else "llvm-mca not found"
        raise MissingTool(f"{what}: estimated cycles need llvm {_OLDEST} or later. {_INSTALL}")
    return min(usable, key=lambda one: abs(_major(one) - _CHECKED))


def schedule(blocks: Sequence[Block], cpu: str, llvm: Llvm) -> Mapping[Block, float]:
    """Cycles of one run of each block on a core of SCHEDULING_MODELS.

    An instruction that LLVM does not know costs nothing. Raises EdgemobileError with llvm-mca's message if it fails.
    """
    distinct = list(dict.fromkeys(blocks))
    if not distinct:
        return {}
    lines = iter(disassemble([word for block in distinct for word in block.words], llvm))
    text = []
    for number, block in enumerate(distinct):
        text += [f"# LLVM-MCA-BEGIN {number}", *(next(lines) for _ in block.words), "# LLVM-MCA-END"]
    words = [f"-mcpu={SCHEDULING_MODELS[cpu]}", f"-iterations={_ITERATIONS}", "-skip-unsupported-instructions=any"]
    # The views of every instruction are long, and only the summary is read.
    words += ["-json", "-instruction-info=false", "-resource-pressure=false"]
    found = parse(_run(llvm.mca, [*words, "-"], "\n".join([*text, ""])), "llvm-mca", _MAX_BYTES)
    try:
        summaries = {int(region["Name"]): region["SummaryView"] for region in found["CodeRegions"]}
        return {block: _cycles(summaries[number]) for number, block in enumerate(distinct)}
    except (KeyError, TypeError, ValueError) as error:
        raise EdgemobileError(f"llvm-mca {llvm.version} gave no summary of a block: {error!r}") from error


def _cycles(summary: Mapping[str, int]) -> float:
    return summary["TotalCycles"] / summary["Iterations"]


def disassemble(words: Sequence[str], llvm: Llvm) -> list[str]:
    """One line of assembly per word in hex; a word that LLVM does not know becomes a nop."""
    # The bytes of an instruction are little-endian in memory.
    text = "\n".join(" ".join(f"0x{byte}" for byte in re.findall("..", word)[::-1]) for word in words)
    done = bounded_run(
        [str(llvm.mc), "--disassemble", "-triple=aarch64", *_FLAGS], stdin=text.encode(), timeout_s=_TIMEOUT_S
    )
    unknown = {int(line) for line in re.findall(rb"<stdin>:(\d+):\d+: warning: invalid instruction", done.stderr)}
    known = iter([line.strip() for line in done.stdout.decode().splitlines() if line.strip()[:1] not in ("", ".")])
    lines = [_NOP if number in unknown else next(known, "") for number in range(1, len(words) + 1)]
    if "" in lines or next(known, None) is not None:
        raise EdgemobileError(f"llvm-mc {llvm.version} did not read every instruction: {exit_reason(done)}")
    return lines


def _run(program: Path, words: Sequence[str], text: str) -> bytes:
    argv = [str(program), "-mtriple=aarch64", *_FLAGS, *words]
    done = bounded_run(argv, stdin=text.encode(), timeout_s=_TIMEOUT_S, max_bytes=_MAX_BYTES)
    if done.returncode or not done.stdout:
        raise EdgemobileError(f"{program.name} failed: {exit_reason(done)}")
    return done.stdout


@cache
def _version(program: str) -> str:
    found = re.search(rb"version (\d+\.\d+(?:\.\d+)?)", bounded_run([program, "--version"]).stdout)
    return found[1].decode() if found else "0.0"


def _major(llvm: Llvm) -> int:
    return int(llvm.version.partition(".")[0])
