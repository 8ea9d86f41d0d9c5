"""Runs a part of a job in a process of its own, which ends with this one, when the host says so, and when it hangs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from edgemobile import errors
from edgemobile.devices.runtimes.job import JobFile
from edgemobile.errors import EdgemobileError

__all__ = ["PARENT_VARIABLE", "in_a_process"]

# In the environment of the process: the number of this one.
PARENT_VARIABLE = "EDGEMOBILE_WORKER"
# Rare, as it takes time from what is measured.
_POLL_S = 1.0
# A process tells of every file that it opens, and of every round.
_SILENT_S = 600.0


class _Job(Protocol):
    folder: Path

    def check(self) -> None: ...


def in_a_process(job: _Job, files: Sequence[JobFile], *words: str) -> dict[str, Any]:
    """What the worker answers when it is started again with `words`, for a part of the job that runs `files`.

    Raises what it raised; what job.check raises, after killing it; and EdgemobileError if it dies, or is silent for ten
    minutes.
    """
    site = ["-S"] if sys.flags.no_site else []
    argv = [sys.executable, *site, "-m", "edgemobile.devices.board.worker", *words]
    environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        stdout, stderr = _outputs(job, files, process)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    job.check()
    try:
        answer = json.loads(stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise EdgemobileError(_last_words(process.returncode, stderr, files)) from None
    if process.returncode:
        raise getattr(errors, answer["kind"], EdgemobileError)(answer["reason"])
    return answer


def _outputs(job: _Job, files: Sequence[JobFile], process: subprocess.Popen[str]) -> tuple[str, str]:
    heard, size = time.monotonic(), -1
    while True:
        try:
            return process.communicate(timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            job.check()
        told = _size(job.folder / "progress.jsonl")
        if told != size:
            heard, size = time.monotonic(), told
        elif time.monotonic() - heard > _SILENT_S:
            raise EdgemobileError(
                f"{_names(files)}: no inference ended within {_SILENT_S:.0f} s: endless, or far too large"
            )


def _last_words(code: int, stderr: str, files: Sequence[JobFile]) -> str:
    if code < 0:
        return (
            f"{_names(files)} crashed the runtime (signal {-code}): damaged, or it wants more memory than there is. "
            "Measure files one at a time to see which"
        )
    last = (stderr.strip().splitlines() or [f"it ended with code {code}"])[-1]
    return f"a process of the measurement died: {last[:300]}"


def _names(files: Sequence[JobFile]) -> str:
    return ", ".join(row["file"] for row in files[:3]) + (", ..." if files[3:] else "")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
